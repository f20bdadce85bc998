"""Figures as SVG text: curves, panels of a run, bars, compression, and the family tree of artefacts.

Ours in form; Figures 1 and 3 of the report in content. Text stays text (searchable, any script); the same
data gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from openqwen.core.console import note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, TIE = "#000000", "#c9c9d6"
INSIDE = "#ffffff"  # of words on a bar of one of the colours
COLOURS = ("#5b4ccc", "#d9822b", "#2b8a6f", "#b8336a", "#3d7fc1", "#7a7a7a", "#c2a52b", "#7b4a2d")


@dataclass(frozen=True)
class Series:
    """One curve: label, x and y, and the interval around y where it is known."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Panel:
    """Curves over the steps of a run in one unit. `right`: a second scale, its label and how many of it a unit is."""

    label: str
    series: Sequence[Series]
    log: bool = False
    level: tuple[str, float] | None = None
    right: tuple[str, float] | None = None
    from_zero: bool = False


@dataclass(frozen=True)
class Marks:
    """Steps at which something happened, for the first panel's legend and as lines through all."""

    label: str
    steps: Sequence[float]
    colour: str
    marker: str


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, Any]:
    """A figure of so many inches in the page's style, and its axes; more: as `Figure.subplots` takes it."""
    import matplotlib.style
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {
        "svg.fonttype": "none",  # text as text: the reader's own fonts, every script
        "svg.hashsalt": "openqwen",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
    }
    matplotlib.style.use(settings)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **more)


def svg_text(figure: Figure) -> str:
    """A figure as SVG for a page: without a background."""
    text = _saved(figure, "svg", metadata={"Date": None}, transparent=True).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    return text[text.index("<svg") :]


def picture(figure: Figure, form: str) -> bytes:
    """A figure as a file of its own: png, svg or pdf, legible on a dark page too. The same figure, the same bytes."""
    if form == "svg":
        return standalone(svg_text(figure)).encode()
    return _saved(figure, form, dpi=200, metadata={"CreationDate": None} if form == "pdf" else None)


def _saved(figure: Figure, form: str, **how: Any) -> bytes:
    """The figure's bytes. Characters that no font here has are told, but for SVG: the reader's fonts have them."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure.savefig(buffer, format=form, **how)
    missing = set()
    for one in said:
        if found := re.match(r"Glyph (\d+) .*missing", str(one.message)):
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if missing and form != "svg":
        note(f"no font here has {''.join(sorted(missing))}: boxes in the {form}; take the SVG")
    return buffer.getvalue()


def standalone(svg: str) -> str:
    """A figure as a file of its own, legible on a dark page too."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + svg.replace(
        "<svg ", '<svg style="background:#fff" ', 1
    )


def themed(svg: str) -> str:
    """A figure for a page that has a light and a dark form: its inks become the page's, or stay where it sets none.

    The page's style sets --inside, --tie and --c0, --c1, ... (page.html).
    """
    svg = re.sub(rf"(?<=[: ]){INK}\b", "currentColor", svg)
    names = {colour: f"c{number}" for number, colour in enumerate(COLOURS)} | {TIE: "tie", INSIDE: "inside"}
    for colour, name in names.items():
        svg = re.sub(rf'(?<=[ "]){colour}\b', f"var(--{name}, {colour})", svg)  # in a style, or hatched
    return svg


def curves(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    level: tuple[str, float] | None = None,
) -> str:
    """Line chart; `level` draws a named horizontal line to compare with."""
    figure, axes = canvas(5.2, 2.9)
    for one, colour in zip(series, COLOURS):
        axes.plot(
            one.x,
            one.y,
            color=colour,
            label=one.label,
            linewidth=1.4,
            marker="o" if len(one.x) < 12 else None,
            ms=3,
        )
        if one.low is not None and one.high is not None:
            axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
    if level:
        axes.axhline(level[1], color="#7a7a7a", linestyle="--", linewidth=1, label=level[0])
    if log_x:
        axes.set_xscale("log", base=2)
        ticks = sorted({x for one in series for x in one.x})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    if log_y:
        axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(series) > 1 or level:
        axes.legend(fontsize=8)
    return svg_text(figure)


def panels(shown: Sequence[Panel], marks: Sequence[Marks] = ()) -> str:
    """A run over its steps: a panel a unit; `marks` stand above the first and run through all."""
    columns = min(4 if len(shown) % 3 == 1 else 3, len(shown))  # no row of a single panel
    rows = ceil(len(shown) / columns)
    figure, grid = canvas(3.4 * min(3, columns), 2.3 * rows + 0.1, rows, columns)
    places = [grid] if len(shown) == 1 else list(grid.flat)
    last = max((x for panel in shown for one in panel.series for x in one.x), default=1)
    for axes, panel in zip(places, shown):
        _panel(axes, panel)
        for mark in marks:
            for step in mark.steps:
                axes.axvline(step, color=mark.colour, linewidth=0.7, alpha=0.35)
        axes.set_xlim(0, 1.02 * last)
        axes.set_xlabel("step")
    for mark in marks:
        top = places[0].get_xaxis_transform()
        label = f"{mark.label} ({len(mark.steps)})"
        places[0].plot(
            mark.steps,
            [1.0] * len(mark.steps),
            mark.marker,
            color=mark.colour,
            transform=top,
            clip_on=False,
            ms=5,
            label=label,
        )
    for axes in places[: len(shown)]:
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(fontsize=7)
    for axes in places[len(shown) :]:
        axes.set_visible(False)
    return svg_text(figure)


def _panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for one, colour in zip(panel.series, COLOURS):
        marker = "o" if len(one.x) < 12 else None
        axes.plot(one.x, one.y, color=colour, label=one.label, linewidth=1.2, marker=marker, ms=3)
        if one.low is not None and one.high is not None:
            axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
    if panel.level:
        axes.axhline(panel.level[1], color="#7a7a7a", linestyle="--", linewidth=1, label=panel.level[0])
    values = [y for one in panel.series for ys in (one.y, one.low or (), one.high or ()) for y in ys]
    if panel.log and min(values) > 0:
        log_scale(axes, min(values), max(values))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(_short_number))
        if panel.from_zero:
            axes.set_ylim(bottom=0, top=1.1 * max(values))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    axes.set_ylabel(panel.label)
    if panel.right:
        label, factor = panel.right
        second = axes.secondary_yaxis("right", functions=(_times(factor), _times(1 / factor)))
        second.set_ylabel(label)


def _short_number(value: float, _: object = None) -> str:
    """`_short_number(12_000)` -> `"12k"`, `_short_number(0.0002)` -> `"2e-4"`."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{unit}"
    if 0 < abs(value) < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor


def log_scale(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers at three places or more, also within one decade."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log")
    inside: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        ticks = [d * 10.0**e for e in range(floor(log10(low)), ceil(log10(high)) + 1) for d in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) > 2:
            break
    else:  # less than one step of the finest: what is there
        inside = inside or [low, high]
    axes.set_yticks(inside, [f"{tick:.3g}" for tick in inside])
    axes.yaxis.set_minor_locator(NullLocator())


def bars(names: Sequence[str], values: Mapping[str, Sequence[float]], label: str) -> str:
    """Horizontal grouped bars: one group a name, one bar a key of `values`."""
    figure, axes = canvas(5.2, 0.6 + 0.26 * len(names) * max(1, len(values)))
    height = 0.8 / len(values)
    for i, ((key, row), colour) in enumerate(zip(values.items(), COLOURS)):
        places = [n + (i - (len(values) - 1) / 2) * height for n in range(len(names))]
        drawn = axes.barh(places, row, height=height * 0.92, color=colour, label=key)
        axes.bar_label(drawn, [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in row], fontsize=7, padding=2)
    axes.set_yticks(range(len(names)), list(names))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    if len(values) > 1:
        axes.legend(fontsize=8)
    return svg_text(figure)


def compression(
    languages: Sequence[str],
    rates: Mapping[str, Sequence[float | None]],
    base: str,
    doubtful: Mapping[str, Sequence[bool]],
) -> str:
    """Figure 3: a group of bars a language, one bar a tokenizer, and a line where the base is.

    rates: tokens over those of the base; None leaves a gap. doubtful: which bars are drawn hollow.
    """
    from matplotlib.patches import Patch

    thick = 0.13 if len(rates) < 3 else 0.1  # inches
    group = thick * len(rates) + 0.09
    columns = max(
        1, min(4, int(7 / (0.5 + 0.08 * max(len(shortened(name)) for name in [*rates, base + " = 1"]))))
    )
    figure, axes = canvas(7.0, 1.0 + 0.2 * ceil((len(rates) + 1) / columns) + group * len(languages))
    keys: list[Any] = []
    for number, (name, row) in enumerate(rates.items()):
        colour, height = COLOURS[number % len(COLOURS)], thick / group
        places = [n + (number - (len(rates) - 1) / 2) * height for n in range(len(languages))]
        drawn = axes.barh(places, [rate or 0.0 for rate in row], height * 0.92, color=colour)
        for bar in (bar for bar, hollow in zip(drawn, doubtful[name]) if hollow):
            bar.set(facecolor="none", edgecolor=colour, linewidth=0.6)
        labels = ["" if rate is None else f"{rate:.2f}" for rate in row]
        for label in axes.bar_label(drawn, labels, fontsize=72 * thick * 0.8, padding=2):
            label.set_in_layout(False)  # thousands of them; the limit of x leaves them room
        keys.append(Patch(color=colour, label=shortened(name)))
    line = axes.axvline(1, color="#333333", linestyle="--", linewidth=0.9, label=f"{shortened(base)} = 1")
    axes.set_yticks(range(len(languages)), list(map(shortened, languages)), fontsize=8)
    axes.set_ylim(len(languages) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * max([1.0, *(rate for row in rates.values() for rate in row if rate)]))
    axes.tick_params(top=True, labeltop=True)  # the figure may be taller than a screen
    axes.grid(axis="y", visible=False)
    axes.set_axisbelow(True)
    hollow = "\nhollow: unknown tokens swallow text" if any(map(any, doubtful.values())) else ""
    figure.supxlabel(
        f"tokens over those of {shortened(base)} on the same text; shorter is tighter{hollow}", fontsize=9
    )
    figure.legend(handles=[*keys, line], loc="outside upper left", ncols=columns, fontsize=8)
    return svg_text(figure)


def shortened(name: str, limit: int = 30) -> str:
    """A name as a figure has room for it, its dollar signs no formula."""
    return (name if len(name) <= limit else name[: limit - 1] + "…").replace("$", r"\$")


def lineage(nodes: Mapping[str, tuple[str, str]], edges: Sequence[tuple[str, str]]) -> str:
    """Figure 1: artefacts as boxes from left to right, arrows from what each was made of.

    nodes: name -> (kind, short digest). edges: (source name, target name); other names are left out.
    """
    depth: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in depth:
            depth[name] = 0
            depth[name] = 1 + max((level(a) for a, b in edges if b == name and a in nodes), default=-1)
        return depth[name]

    columns: dict[int, list[str]] = {}
    for name in nodes:
        columns.setdefault(level(name), []).append(name)
    wide, tall, gap_x, gap_y = 108, 40, 34, 20
    rows = max(len(c) for c in columns.values())
    width, height = len(columns) * (wide + gap_x) - gap_x + 8, rows * (tall + gap_y) - gap_y + 8
    place: dict[str, tuple[float, float]] = {}
    for number, column in columns.items():
        top = (height - len(column) * (tall + gap_y) + gap_y) / 2
        for y, name in enumerate(column):
            place[name] = (4 + number * (wide + gap_x), top + y * (tall + gap_y))
    parts = [
        f'<svg viewBox="0 0 {width} {height}" style="max-width: {1.3 * width:.0f}px" role="img" '
        'aria-label="lineage of the artefacts" class="lineage">'
    ]
    for source, target in edges:
        if source in place and target in place:
            x1, y1 = place[source][0] + wide, place[source][1] + tall / 2
            x2, y2 = place[target][0], place[target][1] + tall / 2
            bend = max(18.0, (x2 - x1) / 2)
            curve = f"M{x1:.0f} {y1:.0f} C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
            parts.append(f'<path d="{curve}"/>')
    for name, (kind, short) in nodes.items():
        left, above = place[name]
        parts.append(f'<rect x="{left:.0f}" y="{above:.0f}" width="{wide}" height="{tall}" rx="6"/>')
        parts.append(
            f'<text x="{left + wide / 2:.0f}" y="{above + 17:.0f}" class="name">{escape(name)}</text>'
        )
        parts.append(
            f'<text x="{left + wide / 2:.0f}" y="{above + 31:.0f}" class="kind">{escape(kind)} {escape(short)}</text>'
        )
    return "".join([*parts, "</svg>"])
