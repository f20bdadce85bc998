"""Tables 2, 5, 10 and 12: published rows, and ours beside them.

Report Tables 2, 5, 10, 12. Our cells say which item set they are from; it is never called the published benchmark, and
a cell without a manifest is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openqwen.core.tables import Cell, published

Cells = Mapping[tuple[str, int], Cell]  # (task, shots) -> cell of one model


def build(
    number: int, columns: Mapping[str, tuple[str, int]], models: Mapping[str, Cells], notes: Sequence[str]
) -> dict[str, Any]:
    """Table `number` with a row for each model of ours that has a cell in it."""
    data = published(number)
    known = {column["name"] for column in data["columns"]}
    assert columns.keys() <= known, f"Table {number} has no column {columns.keys() - known}"
    for model, cells in models.items():
        row = {name: cells[key] for name, key in columns.items() if cells.get(key, {}).get("manifest")}
        if row:
            data["rows"].append({"model": f"ours: {model}", "origin": "ours", "cells": row})
    data["notes"] += notes
    return data
