"""The catalogue of faults and abuse: every test marked `fault` is a row of docs/reliability.md.

    python tests/faults/catalogue.py            writes the document
    pytest -m "fault and not long"              runs what it promises

Tests marked `long` leave their figures behind (record.py); the last ones stand at the end of the document.

A row says what happens and what is expected in the words of the marker beside the test that shows it, so a promise
without a test cannot be written down, and one whose test goes away is gone.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"
FIGURES = ROOT / "benchmarks" / "results" / "reliability.json"
AREAS = (
    "data", "tokenizer", "training", "checkpoints", "PPO", "engine", "server", "agent", "sandbox", "evaluation",
    "annotation", "artefacts", "files from strangers", "command line",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A fault, what is expected, and the test that does the one and sees the other."""

    area: str
    happens: str
    expected: str
    test: str


def rows() -> list[Row]:
    """All rows, by area and then in the order of files and lines."""
    found = [row for path in sorted((ROOT / "tests").rglob("test_*.py")) for row in _rows_of(path)]
    return sorted(found, key=lambda row: AREAS.index(row.area))


def _rows_of(path: Path) -> Iterator[Row]:
    name = path.relative_to(ROOT)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                yield _row(mark, f"{name}::{node.name}")


def _row(mark: ast.Call, test: str) -> Row:
    words = [ast.literal_eval(argument) for argument in mark.args]
    if len(words) != 3 or mark.keywords or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"{test}: the marker fault takes an area, what happens, what is expected")
    if words[0] not in AREAS:
        raise ValueError(f"{test}: {words[0]!r} is no area; there are {', '.join(AREAS)}")
    if any("|" in word or "\n" in word for word in words):
        raise ValueError(f"{test}: a row is one line of a table")
    return Row(words[0], words[1], words[2], test)


def document() -> str:
    """The text of docs/reliability.md."""
    every = rows()
    counts = Counter(row.area for row in every)
    lines = [HEAD.format(rows=len(every), areas=len(counts))]
    for area in AREAS:
        if not counts[area]:
            continue
        lines += [
            f"## {area[0].upper()}{area[1:]} ({counts[area]})",
            "",
            "| What happens | Expected | Test |",
        ]
        lines += ["|---|---|---|"]
        lines += [
            f"| {row.happens} | {row.expected} | {_link(row.test)} |" for row in every if row.area == area
        ]
        lines += [""]
    return "\n".join([*lines, *_long_figures()])


def figures() -> dict[str, dict[str, Any]]:
    """What the long tests last counted: name -> figures, machine, date."""
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}


def _long_figures() -> list[str]:
    found = sorted(figures().items())
    if not found:
        return []
    table = ["| What was done | Figures | Machine | Date |", "|---|---|---|---|"]
    table += [
        f"| {name} | {_shown(one['figures'])} | {one['machine']} | {one['date']} |" for name, one in found
    ]
    return [f"## Long figures ({len(found)})", "", LONG, "", *table, ""]


def _shown(found: dict[str, int | float | str]) -> str:
    words = [(name.replace("_", " "), value) for name, value in found.items()]
    return ", ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {value:,}" for name, value in words
    )


def _link(test: str) -> str:
    path, name = test.split("::")
    return f"[`{name}`](../{path})"


HEAD = """\
# Faults and abuse

What goes wrong with software of this kind, what openqwen does then, and the test that makes it happen: {rows} rows in
{areas} areas. Each row stands beside its test as a marker; `python tests/faults/catalogue.py` writes this file from
them, a test compares the two, and `pytest -m "fault and not long"` runs them.
"""

LONG = """\
Too long for each change: `python3 run.py test --long` runs these and writes here what it counted."""

if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"{DOCUMENT}: {len(rows())} rows")
