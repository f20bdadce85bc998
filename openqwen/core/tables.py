"""Table files: the report's own numbers as data, and cells of ours with their intervals beside them.

Report Tables 2 to 17; what our text copy of the report prints ambiguously is left out and said so in the table's
notes. Ours: the form, {"table", "title", "section", "columns", "rows", "notes"}, all values in percent (Table 3's are
perplexities). A published row says in which lines of the text copy it stands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from openqwen.core.intervals import bootstrap, wilson

Cell = dict[str, Any]
PATH = Path(__file__).with_name("published.json")


@cache
def _document() -> dict[str, Any]:
    return json.loads(PATH.read_text(encoding="utf-8"))


def numbers() -> list[int]:
    """The tables there are."""
    return sorted(int(number) for number in _document()["tables"])


def published(number: int) -> dict[str, Any]:
    """Table `number` as the report prints it, rows of origin "published"; cells that are not printed are absent."""
    data = _document()["tables"][str(number)]
    rows = [
        {
            "model": row["model"] + (f" {row['params']}" if row["params"] else ""),
            "origin": "published",
            "group": row["group"],
            "lines": list(row["lines"]),
            "cells": {name: {"value": value} for name, value in row["cells"].items()},
        }
        for row in data["rows"]
    ]
    columns = [dict(column) for column in data["columns"]]
    return {
        "table": number,
        "title": data["title"],
        "section": data["section"],
        "columns": columns,
        "rows": rows,
        "notes": list(data["notes"]),
    }


def figure(number: int) -> dict[str, Any]:
    """What is known of a figure: title, models, notes."""
    return dict(_document()["figures"][str(number)])


def share(flags: Sequence[bool]) -> Cell:
    """A proportion in percent with its Wilson interval. Needs at least one flag."""
    low, high = wilson(sum(flags), len(flags))
    return {"value": 100 * sum(flags) / len(flags), "low": 100 * low, "high": 100 * high, "n": len(flags)}


def average(values: Sequence[float], seed: int, resamples: int = 1000) -> Cell:
    """A mean of numbers in [0, 1] in percent with its bootstrap interval."""
    low, high = bootstrap(values, seed, resamples)
    return {"value": 100 * sum(values) / len(values), "low": 100 * low, "high": 100 * high, "n": len(values)}


def by_chance(cell: Cell) -> bool:
    """Whether a cell's interval reaches down to what guessing gives."""
    return cell.get("chance") is not None and cell["low"] <= cell["chance"]
