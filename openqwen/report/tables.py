"""Tables as sheets of text, and sheets as Markdown and LaTeX.

Ours. One rule for all forms of a table of the report: a cell of ours stands with its interval, with ~ before it where
guessing may explain it, and as a dash where no manifest says how it came about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.core import artifact
from openqwen.core.errors import DataError
from openqwen.core.tables import Cell, by_chance

DASH = "-"
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
    }
)
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|*_`<"} | {"\n": " "})
LUCKY = "~ before a score: its interval reaches down to what guessing gives."


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    words: how many of its first columns hold words, the others being numbers. place: where the report has it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: int = 1
    place: str = ""

    @property
    def heading(self) -> str:
        """`Table 2. Performance of ...`"""
        return f"{self.place}. {self.title}" if self.place else self.title


def read(path: Path) -> dict[str, Any]:
    """A table file. DataError if it is none.

    A cell of ours that names no card of its own is vouched for by the finished artefact it is in.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ours = [row for row in data["rows"] if row["origin"] == "ours"]
        if (made := artifact.find(path.parent)) is not None:
            for cell in (cell for row in ours for cell in row["cells"].values()):
                cell.setdefault("manifest", made.content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"no table: {error}", where=str(path), fix="make it again, or give another folder"
        ) from error
    return data


def place(data: Mapping[str, Any]) -> str:
    """Where the report has it: `Table 2`, `Figure 2`; nothing for what it has not."""
    return next((f"{kind.title()} {data[kind]}" for kind in ("table", "figure") if kind in data), "")


def cell_text(row: Mapping[str, Any], column: str) -> str:
    """`61.3 [57.0, 65.4]`, a published value alone, or a dash."""
    found = shown(row, column)
    if found is None:
        return DASH
    value = f"{'~' if by_chance(found) else ''}{found['value']:.4g}"
    return f"{value} [{found['low']:.4g}, {found['high']:.4g}]" if found.get("low") is not None else value


def name_of(row: Mapping[str, Any]) -> str:
    """A row's model; ours is said to be, as a published one may have the same name."""
    model = str(row["model"])
    return model if row["origin"] != "ours" or model.startswith("ours") else f"ours: {model}"


def shown(row: Mapping[str, Any], column: str) -> Cell | None:
    """The cell, if it may be shown: a number, and of ours only one with a manifest."""
    found = row["cells"].get(column)
    if found is None or found.get("value") is None or (row["origin"] == "ours" and not found.get("manifest")):
        return None
    return dict(found)


def sheet(data: Mapping[str, Any]) -> Sheet:
    """A table of the report as text."""
    names = [column["name"] for column in data["columns"]]
    rows = [[name_of(row), *(cell_text(row, name) for name in names)] for row in data["rows"]]
    return Sheet(data["title"], ["model", *names], rows, notes(data), place=place(data))


def notes(data: Mapping[str, Any]) -> list[str]:
    """What stands below a table: its own notes, and what ~ means if there is one."""
    lucky = any(by_chance(cell) for row in data["rows"] for cell in row["cells"].values())
    return [*([LUCKY] if lucky else []), *data.get("notes", ())]


def markdown(*sheets: Sheet) -> str:
    """Pipe tables, each under its title, the notes as a list."""
    return "\n".join(map(_markdown, sheets))


def _markdown(made: Sheet) -> str:
    marks = ["---" if place < made.words else "---:" for place in range(len(made.head))]
    head, *rows = ([_escaped(cell) for cell in cells] for cells in (made.head, *made.rows))
    lines = [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]
    below = [f"- {_escaped(note)}" for note in made.notes]
    return "\n".join([f"**{_escaped(made.heading)}**", "", *lines, "", *below]) + "\n"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is; brackets stay, unless they would make a link."""
    return text.strip().translate(_MARKDOWN).replace("](", "]\\(")


def latex(*sheets: Sheet) -> str:
    """Table environments with booktabs' rules, the notes below each."""
    return "\n".join(map(_latex, sheets))


def _latex(made: Sheet) -> str:
    head, *rows = (" & ".join(_cell(cell) for cell in cells) + r" \\" for cells in (made.head, *made.rows))
    numbers = len(made.head) - made.words
    caption = made.title + (
        f" ({made.place} of the Qwen report)" if made.place else ""
    )  # LaTeX counts its own
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption.translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{{'l' * made.words}{'r' * numbers}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *(note.translate(_LATEX) + r"\par" for note in made.notes),
            r"\end{table}",
            "",
        ]
    )


def _cell(text: str) -> str:
    """A bracket or star that begins a cell is no argument of the row's end before it."""
    return ("{}" if text.lstrip()[:1] in ("[", "*") else "") + text.translate(_LATEX)
