"""Scores as pictures: the bars of a table, Figure 2 and Figure 4.

Report Figures 2 and 4. Ours: intervals, and the level of chance wherever a score is not significantly above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan, pi
from typing import TYPE_CHECKING, Any

from openqwen.core.tables import Cell, by_chance
from openqwen.report.figures import COLOURS, INK, INSIDE, TIE, canvas, log_scale, shortened
from openqwen.report.tables import name_of, sheet, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
PARTS = (("win", COLOURS[2]), ("tie", TIE), ("loss", COLOURS[3]))
WIDE = 13  # bars in a row of Figure 4's panels
LONG = 44  # characters of a name in a legend
FAINT = 0.35  # of a bar that guessing may explain
CHANCE = "chance, where a score is not significantly above it"


def scores(data: Mapping[str, Any]) -> Figure:
    """A table's rows of ours and of Qwen as bars, a group a column."""
    columns = [column["name"] for column in data["columns"]]
    rows = [row for row in data["rows"] if row["origin"] == "ours" or row.get("group") == "Qwen"]
    figure, axes = canvas(max(5.2, 0.3 * max(1, len(rows)) * len(columns) + 1.2), 3.6)
    if data.get("table") == 3:
        entries = _lines(axes, rows, columns)
        axes.set_ylabel("perplexity")
    else:
        entries = _bars(axes, rows, columns, lying=False)
        axes.set_ylabel("%")
    axes.set_title(sheet(data).heading.replace("$", r"\$"), fontsize=9, wrap=True)
    if entries:
        figure.legend(handles=entries, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def overview(data: Mapping[str, Any]) -> Figure:
    """Figure 2: the rows of a table as a radar, and beside it as bars with intervals."""
    columns = [column["name"] for column in data["columns"]]
    rows = data["rows"]
    figure, (web, axes) = canvas(10.4, 1.2 + 0.085 * len(columns) * len(rows), 1, 2, width_ratios=(1, 1.25))
    place = web.get_subplotspec()
    web.remove()
    _radar(figure.add_subplot(place, projection="polar"), rows, columns)
    entries = _bars(axes, rows, columns, lying=True)
    axes.set_xlabel("%")
    axes.set_xlim(0, 100)
    figure.legend(handles=entries, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _radar(axes: Any, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A line a row; where a value is not known it is broken."""
    angles = [2 * pi * place / len(columns) for place in range(len(columns))]
    for row, colour in zip(rows, _colours(rows)):
        found = [shown(row, name) for name in columns]
        values = [nan if cell is None else cell["value"] for cell in found]
        ours = row["origin"] == "ours"
        axes.plot(
            [*angles, angles[0]],
            [*values, values[0]],
            color=colour,
            linewidth=1.6 if ours else 1.1,
            linestyle="-" if ours else (0, (4, 1.5)),
            marker="o",
            markersize=2.5,
        )
    axes.set_theta_offset(pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, list(columns), fontsize=8)
    axes.set_ylim(0, 100)
    axes.set_yticks([25, 50, 75, 100], ["25", "50", "75", "100 %"], fontsize=7)
    axes.set_rlabel_position(180 / len(columns))
    axes.spines["polar"].set_alpha(0.25)


def _bars(axes: Axes, rows: Sequence[Row], columns: Sequence[str], lying: bool) -> list[Any]:
    """A group of bars a column, one a row; ours have intervals, and are faint beside chance if that explains them.

    Returns the legend's entries.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    wide = 0.8 / max(1, len(rows))
    draw, across = (axes.barh, axes.vlines) if lying else (axes.bar, axes.hlines)
    entries: list[Any] = []
    guessed = False
    for number, (row, colour) in enumerate(zip(rows, _colours(rows))):
        ours = row["origin"] == "ours"
        style: Any = (
            {"color": colour} if ours else {"facecolor": colour, "edgecolor": INSIDE, "hatch": "////"}
        )
        entries.append(Patch(**style, linewidth=0, label=shortened(name_of(row), LONG)))
        columns_of_row, cells = _known(row, columns)
        places = [place + (number - (len(rows) - 1) / 2) * wide for place in columns_of_row]
        ends = [cell["value"] for cell in cells]
        drawn = draw(places, ends, 0.92 * wide, **style, linewidth=0)
        if not ours:
            continue
        how: Any = {"fmt": "none", "ecolor": INK, "elinewidth": 0.8, "capsize": 1.5}
        if lying:
            axes.errorbar(ends, places, xerr=_reach(cells), **how)
        else:
            axes.errorbar(places, ends, yerr=_reach(cells), **how)
        for bar, at, cell in zip(drawn, places, cells):
            if by_chance(cell):
                bar.set_alpha(FAINT)
                across(cell["chance"], at - 0.6 * wide, at + 0.6 * wide, colors=INK, linewidth=1.6)
                guessed = True
    if lying:
        axes.set_yticks(range(len(columns)), list(columns), fontsize=8)
        axes.set_ylim(len(columns) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
    else:
        turned: Any = {"rotation": 20, "ha": "right"} if len(columns) > 5 else {}
        axes.set_xticks(range(len(columns)), list(columns), fontsize=8, **turned)
        axes.set_xlim(-0.55, len(columns) - 0.45)
        axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    return [*entries, Line2D([], [], color=INK, linewidth=1.6, label=CHANCE)] if guessed else entries


def _lines(axes: Axes, rows: Sequence[Row], columns: Sequence[str]) -> list[Any]:
    """Perplexities, which have no zero for a bar to stand on: a line a row, on a logarithmic scale.

    Returns the legend's entries.
    """
    entries: list[Any] = []
    seen: list[float] = []
    for row, colour in zip(rows, _colours(rows)):
        places, cells = _known(row, columns)
        values, reach = [cell["value"] for cell in cells], _reach(cells)
        style = "-" if row["origin"] == "ours" else "--"
        look: Any = {"color": colour, "linestyle": style, "linewidth": 1.2, "marker": "o", "markersize": 3}
        entries.append(
            axes.errorbar(
                places,
                values,
                yerr=reach,
                capsize=2,
                elinewidth=0.8,
                label=shortened(name_of(row), LONG),
                **look,
            )
        )
        seen += [value - low for value, low in zip(values, reach[0])]
        seen += [value + high for value, high in zip(values, reach[1])]
    if seen:
        log_scale(axes, min(seen), max(seen))
    axes.set_xticks(range(len(columns)), list(columns), fontsize=8)
    return entries


def _known(row: Row, columns: Sequence[str]) -> tuple[list[int], list[Cell]]:
    """(places of the columns a row has a cell in, the cells)."""
    found = [(place, cell) for place, name in enumerate(columns) if (cell := shown(row, name))]
    return [place for place, _ in found], [cell for _, cell in found]


def _reach(cells: Sequence[Cell]) -> list[list[float]]:
    """How far intervals reach below and above their values."""
    below = [cell["value"] - cell.get("low", cell["value"]) for cell in cells]
    return [below, [cell.get("high", cell["value"]) - cell["value"] for cell in cells]]


def _colours(rows: Sequence[Row]) -> list[str]:
    """Ours first, so that they look alike whatever published rows stand beside them."""
    order = sorted(range(len(rows)), key=lambda place: rows[place]["origin"] != "ours")
    return [COLOURS[order.index(place) % len(COLOURS)] for place in range(len(rows))]


def wins(groups: Mapping[str, Sequence[Row]], baseline: str) -> Figure:
    """Figure 4: for each model a bar of wins, ties and losses against the baseline, from bottom to top (report §3.3).

    groups: name of a panel -> rows of {"model", "instructions", "win", "tie", "loss", "low", "high"}, shares of 1;
    low to high is the 95 % interval of wins and half the ties. The dotted line is where neither is better.
    """
    shown_groups = {name: rows for name, rows in groups.items() if rows}
    most = max(map(len, shown_groups.values()))
    columns = min(len(shown_groups), max(1, WIDE // most))
    lines = -(-len(shown_groups) // columns)
    figure, axes = canvas(
        max(4.2, 1.1 + columns * (0.5 + 0.62 * most)),
        0.6 + 2.9 * lines,
        lines,
        columns,
        sharey=True,
        squeeze=False,
    )
    for panel, (name, rows) in zip(axes.flat, shown_groups.items()):
        _stacked(panel, name, rows)
    for panel in axes.flat[len(shown_groups) :]:
        panel.set_axis_off()
    for line in axes:
        line[0].set_ylabel("share of answers")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    figure.supxlabel(f"against {shortened(baseline)}", fontsize=9)
    return figure


def _stacked(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    bottom = [0.0] * len(rows)
    for part, colour in PARTS:
        heights = [row[part] for row in rows]
        drawn = axes.bar(places, heights, 0.66, bottom=bottom, color=colour, label=part)
        labels = [f"{100 * height:.0f}" if height >= 0.06 else "" for height in heights]
        ink = INK if part == "tie" else INSIDE
        axes.bar_label(drawn, labels, label_type="center", fontsize=8, color=ink)
        bottom = [low + height for low, height in zip(bottom, heights)]
    middles = [row["win"] + row["tie"] / 2 for row in rows]
    reach = [
        [middle - row["low"] for middle, row in zip(middles, rows)],
        [row["high"] - middle for middle, row in zip(middles, rows)],
    ]
    aside = [place + 0.4 for place in places]  # beside the bars, so that their numbers stay legible
    axes.errorbar(
        aside, middles, reach, fmt="_", color=INK, elinewidth=1, capsize=2, markersize=5,
        label="wins + ties/2, 95 %",
    )  # fmt: skip
    axes.axhline(0.5, color=INK, linewidth=0.6, linestyle=":", zorder=0)
    names = [f"{shortened(row['model'])}\nn = {row['instructions']}" for row in rows]
    axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.5, len(rows) - 0.35)
    axes.set_title(name.replace("$", r"\$"), fontsize=9)
    axes.grid(visible=False)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
