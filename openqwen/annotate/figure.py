"""Figure 4: for each model a bar of wins, ties and losses against the baseline, of all instructions and of each topic.

Report §3.3: "segments of each bar from bottom to top" are wins, ties, losses. Ours: the interval around wins and half the
ties, and how many instructions a bar stands on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwen.core.artifact import replacing
from openqwen.core.errors import UsageError
from openqwen.report.figures import TIE

KINDS = ("png", "svg", "pdf")
PARTS = (("win", "#2b8a6f"), ("tie", TIE), ("loss", "#b8336a"))
WIDE = 13  # bars in a row of panels


def draw(groups: Mapping[str, Sequence[Mapping[str, Any]]], baseline: str, path: Path) -> None:
    """Writes the figure in the form that the file's name ends with. UsageError for another than png, svg, pdf.

    groups: "all" and topics, each with contests.Share records as results.summarise gives them.
    """
    kind = path.suffix[1:].lower()
    if kind not in KINDS:
        raise UsageError(
            f"a figure's name ends with .{', .'.join(KINDS)}", where=str(path), fix="--figure win-rates.png"
        )
    import matplotlib
    from matplotlib.figure import Figure

    shown = {name: rows for name, rows in groups.items() if rows}
    most = max(map(len, shown.values()))
    columns = min(len(shown), max(1, WIDE // most))
    lines = -(-len(shown) // columns)
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "openqwen",
        "font.size": 9,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in SVG the reader's fonts have it
        figure = Figure(
            figsize=(1.1 + columns * (0.5 + 0.62 * most), 0.5 + 2.9 * lines), layout="constrained"
        )
        axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for panel, (name, rows) in zip(axes.flat, shown.items()):
            _panel(panel, name, rows)
        for panel in axes.flat[len(shown) :]:
            panel.set_axis_off()
        for line in axes:
            line[0].set_ylabel("share of answers")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        figure.supxlabel(f"against {_plain(baseline)}", fontsize=9)
        metadata = {} if kind == "png" else {"Date": None} if kind == "svg" else {"CreationDate": None}
        with replacing(path) as file:
            figure.savefig(file, format=kind, dpi=200, metadata=metadata)


def _panel(axes: Any, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    bottom = [0.0] * len(rows)
    for part, colour in PARTS:
        heights = [row[part] for row in rows]
        drawn = axes.bar(places, heights, 0.66, bottom, color=colour, label=part)
        ink = "#000000" if part == "tie" else "#ffffff"
        labels = [f"{100 * height:.0f}" if height >= 0.06 else "" for height in heights]
        axes.bar_label(drawn, labels, label_type="center", fontsize=8, color=ink)
        bottom = [low + height for low, height in zip(bottom, heights)]
    middles = [row["win"] + row["tie"] / 2 for row in rows]
    reach = [
        [middle - row["low"] for middle, row in zip(middles, rows)],
        [row["high"] - middle for middle, row in zip(middles, rows)],
    ]
    aside = [place + 0.4 for place in places]  # beside the bars, so that their numbers stay legible
    axes.errorbar(
        aside, middles, reach, fmt="_", color="#333333", elinewidth=1, capsize=2, markersize=5,
        label="wins + ties/2, 95 %",
    )  # fmt: skip
    axes.axhline(0.5, color="#333333", linewidth=0.6, linestyle=":", zorder=0)
    names = [f"{_plain(row['model'])}\nn = {row['instructions']}" for row in rows]
    axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.5, len(rows) - 0.35)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _plain(name: str) -> str:
    """A name as the figure has room for it, its dollar signs no formula."""
    return (name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$")
