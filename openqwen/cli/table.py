"""`openqwen table N`: a table of the report, published rows and ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from openqwen.core.console import console
from openqwen.core.errors import DataError


def table(number: int, *, run: Annotated[Path, Parameter(help="A tour's folder.")] = Path("out/tour")) -> int:
    """Prints Table N from the artefacts of a run; a cell that was not computed is a dash."""
    found = sorted(run.glob(f"*/table_{number:02d}.json"))
    if not found:
        have = sorted({int(p.stem[6:]) for p in run.glob("*/table_*.json")})
        raise DataError(
            f"Table {number} was not computed there",
            where=str(run),
            fix=f"computed: {', '.join(map(str, have))}" if have else "run: openqwen tour",
        )
    newest = max(found, key=lambda path: path.stat().st_mtime)  # PMP and RM both fill Table 4
    data = json.loads(newest.read_text(encoding="utf-8"))
    # Wider than a narrow terminal rather than cut: a table is for reading, and pipes have no width.
    width = max(console.width, 50 + 22 * len(data["columns"]))
    Console(width=width, highlight=False).print(render(data), crop=False)
    return 0


def render(data: dict[str, Any]) -> Table:
    """A table artefact as rich shows it; the notes become the caption."""
    columns = [c["name"] for c in data["columns"]]
    shown = Table("model", "origin", *columns, title=data["title"], caption="\n".join(data.get("notes", [])))
    for row in data["rows"]:
        shown.add_row(row["model"], row["origin"], *(_cell(row["cells"].get(c)) for c in columns))
    return shown


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None or cell.get("value") is None:
        return "-"
    value = f"{cell['value']:.4g}"
    return f"{value} [{cell['low']:.4g}, {cell['high']:.4g}]" if cell.get("low") is not None else value
