"""Settings: precedence, origins, errors that say where."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import openqwen
from openqwen.core.config import (
    Config,
    Count,
    Resolved,
    dump_toml,
    fields_without_source,
    load_saved,
    parse_count,
    resolve,
    rows,
    setting,
    source_of,
    variable,
)
from openqwen.core.errors import DataError, UsageError


class Optim(Config):
    lr: float = setting(3e-4, source="report §2.4", gt=0)
    beta1: float = setting(0.9, source="report §2.4")


class Slow(Config):
    rate: float = setting(1.0, source="ours", gt=0)
    share: float | None = setting(0.5, source="ours")


class Example(Config):
    steps: Count = setting(10, source="ours", gt=0)
    name: str = setting("a", source="ours")
    note: str | None = setting(None, source="ours")
    words: tuple[str, ...] = setting(("x", "y"), source="ours")
    optim: Optim = setting(Optim(), source="ours")
    tuned: Optim = setting(Optim(lr=2e-6), source="report §3.1.2")
    slow: Slow | None = setting(None, source="ours")


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


@pytest.mark.fault("command line", "a value is impossible", "said who set it and where")
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


@pytest.mark.fault("command line", "a saved configuration is damaged", "one clear error")
def test_damaged_saved_config(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_saved(Example, recipe(tmp_path, "steps = 'x'"))


def test_rows_and_sources() -> None:
    keys = {row.key: row.source for row in rows(Resolved(Example(), {}))}
    assert keys["optim.lr"] == "report §2.4" and "optim" not in keys
    assert fields_without_source(Example) == []

    class Bare(Config):
        x: int = 3

    assert fields_without_source(Bare) == ["x"]
    with pytest.raises(ValueError, match="source"):
        setting(1, source="hearsay")


def test_a_table_that_a_class_fills_otherwise_keeps_its_values_and_their_source() -> None:
    found = resolve(Example, "example", flags={"tuned.beta1": "0.8"}, environ={})
    assert (found.config.tuned.lr, found.config.tuned.beta1, found.config.optim.lr) == (2e-6, 0.8, 3e-4)
    shown = {row.key: row for row in rows(found)}
    assert shown["tuned.lr"].words == "report §3.1.2" and shown["optim.lr"].words == "report §2.4"
    assert shown["tuned.beta1"].words == "flag --tuned.beta1 (report §2.4 has 0.9)"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lr = 1e-3", "recipe mine (report §2.4 has 0.0003)"),
        ("lr = 1e-3  # ours: measured", "ours (report §2.4 has 0.0003)"),
        ("lr = 1e-3  # tech memo; see there", "tech memo (default 0.0003)"),
        ("lr = 3e-4  # ours", "report §2.4"),
    ],
)
def test_a_recipes_value_does_not_carry_the_defaults_source(tmp_path: Path, line: str, words: str) -> None:
    found = resolve(Example, "example", [recipe(tmp_path, f"[example.optim]\n{line}\n")], environ={})
    (row,) = [row for row in rows(found) if row.key == "optim.lr"]
    assert row.words == words and row.place is not None and row.place.endswith("mine.toml:2")


def test_a_flag_over_a_recipe_has_not_the_recipes_source(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[example.optim]\nlr = 1e-3  # tech memo\n")
    found = resolve(Example, "example", [path], {"optim.lr": "1e-2"}, {})
    assert {row.key: row.claim for row in rows(found)}["optim.lr"] == "flag --optim.lr"


def test_the_line_is_that_of_the_table_meant(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[example.optim]\nlr = 1e-3\n[example.tuned]\nlr = -1\n")
    with pytest.raises(UsageError) as caught:
        resolve(Example, "example", [path], environ={})
    assert caught.value.where == f"{path}:4" and "tuned.lr = -1" in caught.value.what


def test_none_switches_off_and_is_saved(tmp_path: Path) -> None:
    flags = {"slow.share": "none", "note": "none"}
    config = resolve(Example, "example", flags=flags, environ={}).config
    assert config.slow is not None and config.slow.share is None
    assert config.note == "none", "a text may be the word itself"
    assert load_saved(Example, recipe(tmp_path, dump_toml(config))) == config
    path = recipe(tmp_path, "[example.slow]\nrate = 2.0\n")
    assert resolve(Example, "example", [path], {"slow": "none"}, {}).config.slow is None
    assert resolve(Example, "example", [path], {"slow.rate": "3"}, {}).config.slow == Slow(rate=3)


def test_an_opened_table_is_a_value(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[example.slow]\n")
    assert resolve(Example, "example", [path], environ={}).config.slow == Slow()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("stepz", "steps"),
        ("optim.lrr", "optim.lr"),
        ("optm.lr", "optim.lr"),
        ("beta1", "optim.beta1"),
        ("tuned.betta1", "tuned.beta1"),
        ("lr", "optim.lr"),
        ("max_iters", "steps"),
        ("out", "out"),
    ],
)
def test_the_nearest_key_is_named_wherever_it_was_mistyped(tmp_path: Path, key: str, meant: str) -> None:
    *tables, leaf = key.split(".")
    path = recipe(tmp_path, f"[{'.'.join(['example', *tables])}]\n\n{leaf} = 1\n")
    name = variable("example", key)
    for where, arguments in {
        f"{path}:3": {"recipes": [path], "environ": {}},
        f"environment variable {name}": {"environ": {name: "1"}},
        f"flag --{key}": {"flags": {key: "1"}, "environ": {}},
    }.items():
        with pytest.raises(UsageError) as caught:
            resolve(Example, "example", also=("out",), **arguments)  # type: ignore[arg-type]
        assert (caught.value.where, f"Did you mean '{meant}'?" in caught.value.what) == (where, True)


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Example, "example", flags={"zzzz": "1"}, environ={})
    assert caught.value.what == "unknown setting 'zzzz'."


def test_a_combination_that_cannot_be_says_who_set_what_it_speaks_of(tmp_path: Path) -> None:
    from pydantic import model_validator

    class Pair(Config):
        rows: int = setting(4, source="ours")
        parts: int = setting(2, source="ours")

        @model_validator(mode="after")
        def _divides(self) -> Pair:
            if self.rows % self.parts:
                raise ValueError(f"rows {self.rows} do not divide into parts {self.parts}")
            return self

    path = recipe(tmp_path, "[pair]\nrows = 6\n")
    with pytest.raises(UsageError) as caught:
        resolve(Pair, "pair", [path], {"parts": "5"}, {})
    assert caught.value.what == "rows 6 do not divide into parts 5"
    assert caught.value.where == f"{path}:2; flag --parts"


# ---- over the whole package ------------------------------------------------------------------------------------------

REPORT_MAP = Path(__file__).parents[2] / "REPORT.md"


def subclasses(cls: type[Config]) -> set[type[Config]]:
    below = set(cls.__subclasses__())
    return below.union(*map(subclasses, below))


@pytest.fixture(scope="module")
def every_config() -> list[type[Config]]:
    """Every class of settings that any module of the package defines."""
    for module in pkgutil.walk_packages(openqwen.__path__, "openqwen."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [cls for cls in subclasses(Config) if cls.__module__.startswith("openqwen.")]
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


def test_every_setting_of_every_config_names_its_source(every_config: list[type[Config]]) -> None:
    assert len(every_config) > 25
    bare = {f"{cls.__module__}.{cls.__name__}": fields_without_source(cls) for cls in every_config}
    assert {name: fields for name, fields in bare.items() if fields} == {}


def test_the_reports_sections_are_sections_of_the_report(every_config: list[type[Config]]) -> None:
    places = set(re.findall(r"§[\d.]*\d|Table \d+|Figure \d+", REPORT_MAP.read_text(encoding="utf-8")))
    for cls in every_config:
        for name, info in cls.model_fields.items():
            source = source_of(info)
            named = re.findall(r"§[\d.]*\d|Table \d+|Figure \d+", source)
            assert set(named) <= places, (cls, name, source)
            assert named or not source.startswith("report"), f"{cls.__name__}.{name}: where in the report?"
