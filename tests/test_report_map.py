"""REPORT.md maps each part of the report once, and every path in it is real."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = """
    1 2 2.1 2.2 2.3 2.4 2.5 2.6 3 3.1 3.1.1 3.1.2 3.2 3.2.1 3.2.2 3.3 3.4 4 4.1 4.2 4.3 5 5.1 5.2
    6 6.1 6.2 6.3 6.4 6.5 7 A A.1 A.1.1 A.2 A.2.1 A.2.2 A.3
"""
PARTS = [
    *(f"§{name}" for name in SECTIONS.split()),
    *(f"Table {number}" for number in range(1, 18)),
    *(f"Figure {number}" for number in range(1, 6)),
]
BUILT = {"measured", "oracle", "small", "partial"}
NOT_BUILT = {"planned", "not ours"}


@dataclass(frozen=True)
class Row:
    """One row of the map."""

    part: str
    claim: str
    code: tuple[str, ...]
    test: tuple[str, ...]
    recipe: tuple[str, ...]
    status: str
    why: str


def named(cell: str) -> tuple[str, ...]:
    """The names in backticks; anything else in the cell but a dash is a mistake."""
    rest = re.sub(r"`[^`]+`|,|\s", "", cell)
    assert rest in ("", "-"), f"not a list of names in backticks: {cell}"
    found = tuple(re.findall(r"`([^`]+)`", cell))
    assert (rest == "-") == (not found), f"either names or a dash: {cell}"
    return found


def rows(text: str) -> list[Row]:
    """All rows of the tables that begin with `part`."""
    found = []
    inside = False
    for line in text.split("\n"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        inside = bool(cells) and (inside or cells[0] == "part")
        if not inside or cells[0] == "part" or set(cells[0]) <= {"-"}:
            continue
        part, claim, code, test, recipe, status = cells
        word, _, why = status.partition(": ")
        found.append(Row(part, claim, named(code), named(test), named(recipe), word, why))
    return found


MAP = rows((ROOT / "REPORT.md").read_text(encoding="utf-8"))


def test_each_part_stands_once_and_in_order() -> None:
    assert [row.part for row in MAP] == PARTS


@pytest.mark.parametrize("row", MAP, ids=lambda row: row.part)
def test_row(row: Row) -> None:
    assert row.status in BUILT | NOT_BUILT
    assert row.claim and row.why, "a claim, and why the status is what it is"
    for path in (*row.code, *row.test):
        assert (ROOT / path).exists(), f"{path} does not exist"
    assert all(path.startswith(("openqwen/", "benchmarks/")) for path in row.code)
    for name in row.recipe:
        assert (ROOT / "recipes" / f"{name}.toml").is_file(), f"no recipe {name}"
    assert all(holds_tests(path) for path in row.test)
    if row.status in BUILT:
        assert row.code and row.test
    else:
        assert not row.code and not row.test and not row.recipe


def holds_tests(path: str) -> bool:
    """True if tests stand in the file, or in a file below the folder."""
    place = ROOT / path
    files = sorted(place.rglob("test_*.py")) if place.is_dir() else [place]
    return any(re.search(r"^(async )?def test_", file.read_text("utf-8"), re.MULTILINE) for file in files)


def test_every_package_serves_a_part() -> None:
    packages = {path.parent.name for path in (ROOT / "openqwen").glob("*/__init__.py")}
    assert packages
    assert packages <= {path.split("/")[1] for row in MAP for path in row.code}


def test_a_slip_in_the_map_is_noticed() -> None:
    header = "| part | claims | code | test | recipe | status |\n|---|---|---|---|---|---|\n"
    good = rows(header + "| §1 | x | `a/b`, `c` | - | `tour` | small: y |\n\n| other | table |\n")
    assert good == [Row("§1", "x", ("a/b", "c"), (), ("tour",), "small", "y")]
    for slip in ("| §1 | x | a/b | - | - | small: y |", "| §1 | x |  | - | - | small: y |"):
        with pytest.raises(AssertionError):
            rows(header + slip)
