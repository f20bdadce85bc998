"""Settings: precedence, origins, errors that say where."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.core.config import (
    Config,
    Count,
    dump_toml,
    fields_without_source,
    load_saved,
    parse_count,
    resolve,
    rows,
    setting,
)
from openqwen.core.errors import DataError, UsageError


class Optim(Config):
    lr: float = setting(3e-4, source="report §2.4", gt=0)
    beta1: float = setting(0.9, source="report §2.4")


class Example(Config):
    steps: Count = setting(10, source="ours", gt=0)
    name: str = setting("a", source="ours")
    note: str | None = setting(None, source="ours")
    words: tuple[str, ...] = setting(("x", "y"), source="ours")
    optim: Optim = setting(Optim(), source="ours")


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_precedence_and_origin(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[example]\nsteps = "4M"\nname = "recipe"\n[example.optim]\nlr = 1e-3\n')
    env = {"OPENQWEN_EXAMPLE__NAME": "env", "OPENQWEN_EXAMPLE__OPTIM__BETA1": "0.8"}
    found = resolve(Example, "example", [path], {"optim.lr": "2e-4"}, env)
    assert (found.config.steps, found.config.name) == (4_000_000, "env")
    assert (found.config.optim.lr, found.config.optim.beta1) == (2e-4, 0.8)
    assert found.origin == {
        "steps": "recipe mine",
        "name": "environment OPENQWEN_EXAMPLE__NAME",
        "optim.lr": "flag --optim.lr",
        "optim.beta1": "environment OPENQWEN_EXAMPLE__OPTIM__BETA1",
    }


def test_unknown_key_names_file_line_and_neighbour(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[other]\nlrr = 1\n\n[example.optim]\nlrr = 1e-3\n")
    with pytest.raises(UsageError) as caught:
        resolve(Example, "example", [path])
    assert "optim.lr" in caught.value.what
    assert caught.value.where == f"{path}:5"


def test_names_of_other_trainers_are_understood() -> None:
    with pytest.raises(UsageError, match=r"optim\.lr"):
        resolve(Example, "example", flags={"learning_rate": "1"})


def test_impossible_value_says_who_set_it(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[example]\nname = 'x'\nsteps = -3\n")
    with pytest.raises(UsageError) as caught:
        resolve(Example, "example", [path])
    assert "steps = -3" in caught.value.what and caught.value.where == f"{path}:3"
    assert caught.value.exit_code == 2


def test_value_is_not_a_table() -> None:
    with pytest.raises(UsageError, match="value, not a table"):
        resolve(Example, "example", flags={"steps.more": "1"})


def test_missing_recipe_lists_the_known() -> None:
    with pytest.raises(UsageError, match="no recipe"):
        resolve(Example, "example", ["no-such-recipe"])


def test_recipe_that_is_not_toml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid TOML"):
        resolve(Example, "example", [recipe(tmp_path, "[example\n")])


def test_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"), [("4M", 4 * 10**6), ("2.2T", 22 * 10**11), ("32k", 32000), ("1_000", 1000)]
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


def test_count_that_is_not_whole() -> None:
    with pytest.raises(ValueError, match="whole"):
        parse_count("1.5")


@given(
    st.text(),
    st.lists(st.text(), max_size=3),
    st.floats(allow_nan=False, allow_infinity=False, min_value=1e-9),
)
def test_saved_config_reads_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, words: list[str], lr: float
) -> None:
    if any("\ud800" <= c <= "\udfff" for c in name + "".join(words)):
        return
    config = Example(name=name, words=tuple(words), optim=Optim(lr=lr))
    path = tmp_path_factory.mktemp("c") / "config.toml"
    path.write_text(dump_toml(config), encoding="utf-8")
    assert load_saved(Example, path) == config
    tomllib.loads(path.read_text(encoding="utf-8"))


def test_damaged_saved_config(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_saved(Example, recipe(tmp_path, "steps = 'x'"))


def test_rows_and_sources() -> None:
    keys = {row.key: row.source for row in rows(Example())}
    assert keys["optim.lr"] == "report §2.4" and "optim" not in keys
    assert fields_without_source(Example) == []

    class Bare(Config):
        x: int = 3

    assert fields_without_source(Bare) == ["x"]
    with pytest.raises(ValueError, match="source"):
        setting(1, source="hearsay")
