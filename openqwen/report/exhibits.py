"""Exhibits: the report's tables and Figures 2 and 4, each as Markdown, LaTeX, PNG and SVG from the same numbers.

Report Tables 2 to 17, Figures 2 and 4. Ours: which published rows stand in Figure 2 beside ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwen.core.artifact import write_atomic
from openqwen.core.errors import DataError
from openqwen.core.intervals import wilson
from openqwen.core.tables import published
from openqwen.report import charts, tables
from openqwen.report.figures import picture
from openqwen.report.tables import Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Figure 2's twelve: the text does not name them, so these are of our choice: Table 2, and five others of its domains.
TWELVE = {
    **dict.fromkeys(("MMLU", "C-Eval", "GSM8K", "MATH", "HumanEval", "MBPP", "BBH"), 2),
    **dict.fromkeys(("CMMLU", "Gaokao-Bench"), 15),
    "NaturalQuestions": 16,
    **dict.fromkeys(("HellaSwag", "PIQA"), 17),
}
ALIGNED = {  # where Table 5 prints GPT-3.5 and GPT-4 with the shots of Table 2
    "MMLU": "MMLU 5-shot",
    "C-Eval": "C-Eval 5-shot",
    "GSM8K": "GSM8K 8-shot",
    "HumanEval": "HumanEval",
    "BBH": "BBH 3-shot",
}
LEVEL = "~ before a share: the interval holds a half, so no difference from the baseline is shown."
BEST = "best earlier 13B"
CHOICE = (
    "The report's text does not name its twelve sets: Table 2's seven and five others stand here.",
    f"{BEST}: the greatest value of other models of 13B, set by set; GPT-3.5 and GPT-4: what Table 5 prints.",
)
Groups = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Exhibit:
    """A table or a figure: its name as a file has it, its numbers as text, its picture."""

    name: str
    sheets: Sequence[Sheet]
    picture: Figure

    def write(self, folder: Path) -> None:
        """Writes NAME.md, NAME.tex, NAME.png and NAME.svg."""
        write_atomic(folder / f"{self.name}.md", tables.markdown(*self.sheets))
        write_atomic(folder / f"{self.name}.tex", tables.latex(*self.sheets))
        for form in ("png", "svg"):
            write_atomic(folder / f"{self.name}.{form}", picture(self.picture, form))


def of_table(data: Mapping[str, Any], also: str = "") -> Exhibit:
    """A table of the report; also: tells apart what has the same number."""
    return Exhibit(f"table_{data['table']:02d}{also}", [tables.sheet(data)], charts.scores(data))


def figure_2(found: Mapping[int, Mapping[str, Any]]) -> Exhibit | None:
    """Figure 2 from tables by number (Table 2 and 15 to 17); None if ours have no cell of the twelve sets."""
    rows: dict[str, dict[str, Any]] = {}
    for name, number in TWELVE.items():
        for row in found[number]["rows"] if number in found else ():
            if row["origin"] == "ours" and (cell := tables.shown(row, name)):
                own = rows.setdefault(row["model"], {"model": row["model"], "origin": "ours", "cells": {}})
                own["cells"][name] = cell
    if not rows:
        return None
    data = {
        "figure": 2,
        "title": "Base models on twelve data sets",
        "columns": [{"name": name} for name in TWELVE],
        "rows": [*rows.values(), *_published_rows()],
        "notes": [*CHOICE, *_shared_notes(found)],
    }
    return Exhibit("figure_02", [tables.sheet(data)], charts.overview(data))


def _shared_notes(found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Notes that every table with rows of ours has: what kind of items they are of."""
    lists = [data["notes"] for number, data in found.items() if number in TWELVE.values()]
    return [note for note in lists[0] if all(note in own for own in lists)]


def _published_rows() -> list[dict[str, Any]]:
    """Qwen-14B, the best of the other models of 13B, and GPT-3.5 and GPT-4 as far as they are printed."""
    qwen: dict[str, Any] = {}
    best: dict[str, Any] = {}
    for name, number in TWELVE.items():
        rows = published(number)["rows"]
        (own,) = [row for row in rows if row["model"] == "Qwen 14B"]
        qwen[name] = own["cells"][name]
        others = [r["cells"][name] for r in rows if r["model"].endswith(" 13B") and name in r["cells"]]
        best[name] = max(others, key=lambda cell: cell["value"])
    chat = {row["model"]: row["cells"] for row in published(5)["rows"]}
    named = {"Qwen 14B": qwen, BEST: best}
    for model in ("GPT-3.5", "GPT-4"):
        named[model] = {name: chat[model][column] for name, column in ALIGNED.items()}
    return [{"model": model, "origin": "published", "cells": cells} for model, cells in named.items()]


def figure_4(groups: Groups, baseline: str, notes: Iterable[str] = ()) -> Exhibit:
    """Figure 4 from groups of rows as charts.wins takes them. DataError if there is no row."""
    if not any(groups.values()):
        raise DataError(f"no model was compared with {baseline}", fix="name another baseline")
    return Exhibit("figure_04", [figure_4_sheet(groups, baseline, notes)], charts.wins(groups, baseline))


def figure_4_sheet(groups: Groups, baseline: str, notes: Iterable[str] = ()) -> Sheet:
    """The numbers of Figure 4; n counts instructions."""
    head = ("", "model", "n", "win", "tie", "loss", "win + tie/2", "95 % interval")
    rows = [
        [name if first else "", row["model"], str(row["instructions"]), *_percent(row)]
        for name, own in groups.items()
        for first, row in ((place == 0, row) for place, row in enumerate(own))
    ]
    level = [LEVEL] if any(_level(row) for own in groups.values() for row in own) else []
    title = f"Wins, ties and losses against {baseline}"
    return Sheet(title, head, rows, [*level, *notes], words=2, place="Figure 4")


def judged(bar: Mapping[str, Any]) -> dict[str, Any]:
    """A bar of `evals` (preference.py) as a row of Figure 4."""
    low, high = wilson((bar["win"] + bar["tie"] / 2) * bar["n"], bar["n"])
    shares = {part: bar[part] for part in ("win", "tie", "loss")}
    return {"model": bar["model"], "instructions": bar["n"], **shares, "low": low, "high": high}


def _percent(row: Mapping[str, Any]) -> list[str]:
    """Shares as text, `~` where no difference is shown."""
    parts = [f"{row[part]:.1%}" for part in ("win", "tie", "loss")]
    middle = f"{'~' if _level(row) else ''}{row['win'] + row['tie'] / 2:.1%}"
    return [*parts, middle, f"{row['low']:.1%} to {row['high']:.1%}"]


def _level(row: Mapping[str, Any]) -> bool:
    return bool(row["low"] <= 0.5 <= row["high"])
