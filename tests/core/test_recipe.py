"""Recipes: every value with its line and its source, whatever TOML it is written in; those of the project have both."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openqwen.core.config import Resolved, resolve, rows
from openqwen.core.errors import UsageError
from openqwen.core.recipe import SOURCES, entries, flatten, known_recipes, read_entries, read_recipe
from openqwen.model.table1 import TABLE1
from openqwen.pretrain.config import PretrainConfig

WRITTEN = """
top = 1 # ours
[a]  # released config
x = "# report §9" # report §2.4: why
y = [
  "]", # tech memo
  '#',
]  # released script; more
z = { p = 1, q = "#" } # oursome
'w.w' = '''
[b]
x = 3 # ours
'''
# source: ours, measured
[a.b.c]
v.u = 1979-05-27
# nothing: to say
t = 2  # a note
[empty]
[a.d]
[a.d.e]
s = 0
"""


def test_lines_and_sources_are_those_of_the_text() -> None:
    found = {entry.key: (entry.line, entry.source) for entry in entries(WRITTEN)}
    assert found == {
        "top": (2, "ours"),
        "a.x": (4, "report §2.4"),
        "a.y": (5, "released script"),
        "a.z.p": (9, None),
        "a.z.q": (9, None),
        "a.w.w": (10, None),
        "a.b.c.v.u": (16, "ours, measured"),
        "a.b.c.t": (18, "ours, measured"),
        "empty": (19, "ours, measured"),
        "a.d.e.s": (22, "ours, measured"),
    }


def test_values_are_those_that_toml_reads() -> None:
    assert {e.key: e.value for e in entries(WRITTEN)} == dict(flatten(tomllib.loads(WRITTEN)))


KEYS = st.sampled_from(["a", "b", "lr", "x_1"])
TEXT = st.text(st.sampled_from("a#'[=\n]"), max_size=6)
VALUES = st.one_of(
    st.integers(-99, 99).map(str),
    TEXT.map(lambda text: '"' + text.replace("\n", "\\n") + '"'),
    TEXT.map(lambda text: '"""\n' + text + '"""'),
    TEXT.filter(lambda text: "'" not in text).map(lambda text: f"'''{text}'''"),
    st.lists(TEXT.map(lambda text: '"' + text.replace("\n", "") + '"')).map(
        lambda v: "[\n" + ",\n".join(v) + "]"
    ),
)
COMMENTS = st.sampled_from(["", " # ours", "# report §2.4: b", " # note", '  # "x" # ours'])
SAYS = {" # ours": "ours", "# report §2.4: b": "report §2.4"}


@pytest.mark.fault(
    "files from strangers",
    "any TOML at all is given as a recipe",
    "read as the standard library reads it, with lines",
)
@given(st.dictionaries(KEYS, st.dictionaries(KEYS, st.tuples(VALUES, COMMENTS), max_size=3), max_size=3))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_document_is_read_as_toml_reads_it(tables: dict[str, dict[str, Any]]) -> None:
    lines, expected = [], {}
    for table, values in tables.items():
        lines.append(f"[{table}] # tech memo")
        for key, (value, comment) in values.items():
            expected[f"{table}.{key}"] = ("\n".join(lines).count("\n") + 2, SAYS.get(comment))
            lines.append(f"{key} = {value}{comment}")
    text = "\n".join(lines) + "\n"
    found = list(entries(text))
    assert {e.key: e.value for e in found} == dict(flatten(tomllib.loads(text)))
    assert {e.key: (e.line, e.source) for e in found if e.value != {}} == expected


def test_a_table_of_another_name_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[pretrain]\nsteps = 3\n\n[sfft]\nsteps = 4\n")
    with pytest.raises(UsageError, match="Did you mean 'sft'") as caught:
        read_recipe(path, ("pretrain", "sft"))
    assert caught.value.where == f"{path}:4"
    path.write_text("# a\nsteps = 3\n")
    with pytest.raises(UsageError, match="outside") as caught:
        read_recipe(path)
    assert caught.value.where == f"{path}:2"


# ---- the project's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_recipes())
def test_every_value_of_a_recipe_names_its_source(name: str) -> None:
    assert [f"{e.key}, line {e.line}" for e in read_entries(name) if e.source is None] == []


@pytest.mark.parametrize("name", [name for name, row in TABLE1.items() if row.origin == "report"])
def test_a_recipe_of_the_report_has_table_1s_rate_and_batch(name: str) -> None:
    found: Resolved[PretrainConfig] = resolve(PretrainConfig, "pretrain", [name], environ={})
    claims = {row.key: row.claim for row in rows(found)}
    assert found.config.optim.lr == TABLE1[name].peak_lr == 3.0e-4
    # Table 1 writes 4M; the tech memo, 2048 sequences of 2048. Both are 4 x 2^20.
    assert TABLE1[name].batch_tokens == 4 * 10**6
    assert found.config.batch_tokens == 4 * 2**20 == 2048 * 2048
    assert claims["optim.lr"] == claims["batch_tokens"] == claims["steps"] == "report Table 1"
    assert {claims[f"model.{key}"] for key in ("hidden_size", "num_layers", "num_heads")} <= {
        "report Table 1",
        "report §2.3 Table 1",
    }


def test_sources_are_those_settings_may_have() -> None:
    assert all(source.startswith(SOURCES) for name in known_recipes() for source in _sources(name))


def _sources(name: str) -> list[str]:
    return [entry.source for entry in read_entries(name) if entry.source]
