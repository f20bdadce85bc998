"""Recipes: TOML files with what differs from the defaults, every value with its line and its source.

Ours. A source stands where a setting has it, at the value, as a comment that begins with one: `# report Table 1` or
`# released config: 151,851 ids in 151,936 rows`. It ends at a colon or semicolon. A line `# source: ours` speaks for the
values below it that say nothing themselves.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.core.errors import UsageError, did_you_mean

SOURCES = ("report", "released config", "tech memo", "released script", "ours")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
_SOURCE = re.compile(rf"\s*((?:{'|'.join(SOURCES)})\b[^:;]*)")
_BELOW = re.compile(r"\s*source:(.*)")


@dataclass(frozen=True)
class Entry:
    """A value of a recipe: dotted key with its stage, the value, the line it begins on, its source if it has one."""

    key: str
    value: Any
    line: int
    source: str | None


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or by name (`tour` -> recipes/tour.toml). UsageError if absent."""
    for path in (Path(name), RECIPES / f"{name}.toml"):
        if path.is_file():
            return path
    known = known_recipes()
    raise UsageError(
        f"no recipe {str(name)!r}.{did_you_mean(str(name), known)}",
        where=f"looked for a file of that name and in {RECIPES}",
        fix=f"use one of: {', '.join(known)}" if known else "give the path of a .toml file",
    )


def known_recipes() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name: str | Path, stages: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """The tables of a recipe. Unknown stage tables are refused when `stages` is given."""
    path = find_recipe(name)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe is not valid TOML: {error}", where=str(path)) from error
    for stage, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(
                f"{stage!r} stands outside a stage's table",
                where=f"{path}:{_line_of(path, stage)}",
                fix="put it under its stage, for example [pretrain]",
            )
        if stages is not None and stage not in stages:
            raise UsageError(
                f"unknown stage [{stage}].{did_you_mean(stage, stages)}",
                where=f"{path}:{_line_of(path, stage)}",
                fix=f"use one of: {', '.join(stages)}",
            )
    return tables


def read_entries(name: str | Path) -> list[Entry]:
    """Every value of a recipe in order. UsageError if it is absent or not TOML."""
    read_recipe(name)
    return list(entries(find_recipe(name).read_text(encoding="utf-8")))


def entries(text: str) -> Iterator[Entry]:
    """The values of a valid TOML document in order; a table that is opened and left empty is a value, `{}`.

    >>> [entry.source for entry in entries("# source: ours\\n[sft]\\nsteps = 9\\ndropout = 0.1  # report §3.1.2: all")]
    ['ours', 'report §3.1.2']
    """
    table, below = "", None
    opened: dict[str, Entry] = {}  # a table's header, until a value is found in it
    for line, statement in _statements(text):
        parsed = tomllib.loads(statement)
        comment = _comment(statement, parsed)
        if not parsed:
            if found := _BELOW.match(comment):
                below = _source(found[1])
        elif statement.lstrip().startswith("["):
            table = next(flatten(parsed))[0]
            opened[table] = Entry(table, {}, line, below)
        else:
            for key, value in flatten(parsed, f"{table}." if table else ""):
                yield Entry(key, value, line, _source(comment) or below)
                opened = {name: entry for name, entry in opened.items() if not key.startswith(f"{name}.")}
    yield from opened.values()


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}, "c": {}}` -> ("a.b", 1), ("c", {})."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each header, value or comment: the fewest lines that are TOML by themselves."""
    waiting: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        waiting.append(line)
        statement = "\n".join(waiting)
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a string or list that goes on
        if statement.strip():
            yield number - len(waiting) + 1, statement
        waiting = []


def _comment(statement: str, parsed: Mapping[str, Any]) -> str:
    """What follows the `#` of a statement; signs within strings are none."""
    for found in re.finditer("#", statement):
        try:
            if tomllib.loads(statement[: found.start()]) == parsed:
                return statement[found.end() :]
        except tomllib.TOMLDecodeError:
            continue
    return ""


def _source(comment: str) -> str | None:
    found = _SOURCE.match(comment)
    return found[1].rstrip() if found else None


def _line_of(path: Path, name: str) -> int:
    """The line on which a stage's table, or a value outside of all tables, first stands."""
    inside = False
    for line, statement in _statements(path.read_text(encoding="utf-8")):
        header = statement.lstrip().startswith("[")
        if name in tomllib.loads(statement) and (header or not inside):
            return line
        inside |= header
    raise KeyError(name)
