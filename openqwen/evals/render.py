"""A table as text for Markdown and LaTeX, and as a chart.

Ours. One rule for all forms: a cell of ours stands with its interval, with ~ before it where guessing may explain it, and
as a dash where no manifest says how it came about.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal

from openqwen.core.tables import Cell, by_chance

DASH = "-"
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def cell_text(row: Mapping[str, Any], column: str) -> str:
    """`61.3 [57.0, 65.4]`, a published value alone, or a dash."""
    found = shown(row, column)
    if found is None:
        return DASH
    value = f"{'~' if by_chance(found) else ''}{found['value']:.4g}"
    return f"{value} [{found['low']:.4g}, {found['high']:.4g}]" if found.get("low") is not None else value


def shown(row: Mapping[str, Any], column: str) -> Cell | None:
    """The cell, if it may be shown: a number, and of ours only one with a manifest."""
    found = row["cells"].get(column)
    if found is None or found.get("value") is None or (row["origin"] == "ours" and not found.get("manifest")):
        return None
    return dict(found)


def _rows(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    names = [column["name"] for column in data["columns"]]
    return names, [[row["model"], *(cell_text(row, name) for name in names)] for row in data["rows"]]


def markdown(data: Mapping[str, Any]) -> str:
    """A pipe table under its title, the notes as a list."""
    names, rows = _rows(data)
    lines = [f"**Table {data['table']}: {data['title']}**", ""]
    for cells in (["model", *names], ["---"] + ["---:"] * len(names), *rows):
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in data.get("notes", []))]) + "\n"


def latex(data: Mapping[str, Any]) -> str:
    """A table environment with booktabs' rules, the notes below it."""
    names, rows = _rows(data)
    body = [
        " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\" for cells in (["Model", *names], *rows)
    ]
    notes = [note.translate(_LATEX) + r"\par" for note in data.get("notes", [])]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{data['title'].translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


def chart(data: Mapping[str, Any], form: Literal["png", "svg"]) -> bytes:
    """Scores as bars, a group a column: our rows with intervals and chance as a line, and the report's Qwen rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "openqwen"  # the same bytes for the same table
    columns = [column["name"] for column in data["columns"]]
    rows = [row for row in data["rows"] if row["origin"] == "ours" or row.get("group") == "Qwen"]
    figure, axes = pyplot.subplots(
        figsize=(max(5.0, 0.32 * len(rows) * len(columns) + 1.5), 3.4), layout="constrained"
    )
    wide = 0.8 / max(1, len(rows))
    for number, row in enumerate(rows):
        at: list[float] = []
        values: list[float] = []
        bounds: tuple[list[float], list[float]] = ([], [])
        for place, name in enumerate(columns):
            if (found := shown(row, name)) is None:
                continue
            x = place + (number - (len(rows) - 1) / 2) * wide
            at.append(x)
            values.append(found["value"])
            bounds[0].append(found["value"] - found.get("low", found["value"]))
            bounds[1].append(found.get("high", found["value"]) - found["value"])
            if found.get("chance") is not None:
                axes.hlines(found["chance"], x - wide / 2, x + wide / 2, colors="#333333", linestyles=":")
        hatch = "" if row["origin"] == "ours" else "//"
        axes.bar(at, values, wide * 0.92, label=row["model"], hatch=hatch, edgecolor="white")
        if row["origin"] == "ours":
            axes.errorbar(at, values, yerr=bounds, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    axes.set_xticks(range(len(columns)), columns, fontsize=8, rotation=20 if len(columns) > 5 else 0)
    axes.set_ylabel("perplexity" if data["table"] == 3 else "%")
    if data["table"] == 3:
        axes.set_yscale("log")
    axes.set_title(f"Table {data['table']}: {data['title']}", fontsize=9)
    if rows:
        axes.legend(fontsize=7, ncols=2)
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    pyplot.close(figure)
    return out.getvalue()
