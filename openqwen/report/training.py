"""How a training run went, from the files it leaves: loss, learning rate, gradient norm, speed, memory, incidents.

Ours. metrics.jsonl repeats to the byte; throughput.jsonl holds what does not (tokens a second, MFU, memory);
incidents.jsonl names steps that were skipped because loss or gradient was not finite, and spikes, with their documents.
The last two may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

from openqwen.core.artifact import Artifact
from openqwen.core.metrics import read_metrics
from openqwen.report.figures import Marks, Panel, Series, panels

Records = Sequence[Mapping[str, Any]]
POINTS = 300  # of a curve at most: more than its pixels only make the page heavy
# kind in incidents.jsonl -> how it is drawn
KINDS = {
    "not finite": ("skipped: not finite", "#b8336a", "X"),
    "spike": ("loss spike", "#d9822b", "v"),
}


@dataclass(frozen=True)
class Curve:
    """One key of metrics.jsonl and its name in the legend."""

    key: str
    name: str


@dataclass(frozen=True)
class Unit:
    """A panel: curves that share a unit."""

    label: str
    curves: Sequence[Curve]
    log: bool = False
    level: tuple[str, float] | None = None


RATE = Unit("learning rate", (Curve("lr", "learning rate"),))
NORM = Unit("gradient norm", (Curve("grad_norm", "gradient norm"),), log=True)


def figure(found: Artifact, units: Sequence[Unit], smooth: int) -> str | None:
    """Panels of `units` and, as far as they were recorded, of speed and memory. None if there is nothing to draw.

    smooth: a point is the mean of so many records at least; the band around it reaches from least to greatest.
    """
    metrics = found.metrics
    throughput = read_metrics(found.path / "throughput.jsonl")
    drawn = [panel for unit in units if (panel := _panel(metrics, unit, smooth)).series]
    drawn += _speed(throughput, smooth) if drawn else []
    return panels(drawn, _marks(incidents(found))) if drawn else None


def incidents(found: Artifact) -> list[dict[str, Any]]:
    """The records of incidents.jsonl; none where there is no such file."""
    return read_metrics(found.path / "incidents.jsonl")


def series(records: Records, key: str, name: str, smooth: int = 1) -> Series:
    """A key over the steps as means of consecutive records, with what they span; records without it are left out."""
    points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    window = max(smooth if len(points) > POINTS // 10 else 1, ceil(len(points) / POINTS))
    chunks = [points[i : i + window] for i in range(0, len(points), window)]
    x = [sum(step for step, _ in chunk) / len(chunk) for chunk in chunks]
    values = [[value for _, value in chunk] for chunk in chunks]
    y = [sum(chunk) / len(chunk) for chunk in values]
    if window == 1:
        return Series(name, x, y)
    return Series(name, x, y, [min(chunk) for chunk in values], [max(chunk) for chunk in values])


def _panel(metrics: Records, unit: Unit, smooth: int) -> Panel:
    found = [series(metrics, curve.key, curve.name, smooth) for curve in unit.curves]
    return Panel(unit.label, [one for one in found if one.x], unit.log, unit.level)


def _speed(throughput: Records, smooth: int) -> list[Panel]:
    """Tokens a second, with MFU as a second scale, for one is a multiple of the other; and memory."""
    speed = series(throughput, "tokens_per_second", "tokens a second", smooth)
    memory = series(
        [{**r, "memory": r["memory"] / 2**30} for r in throughput if r.get("memory")],
        "memory",
        "memory",
        smooth,
    )
    shares = [100 * r["mfu"] / r["tokens_per_second"] for r in throughput if r.get("mfu")]
    right = ("MFU, %", median(shares)) if shares else None
    found = [
        Panel("tokens a second", [speed], right=right, from_zero=True),
        Panel("memory, GiB", [memory], from_zero=True),
    ]
    return [panel for panel in found if panel.series[0].x]


def _marks(found: Records) -> list[Marks]:
    marks = []
    for kind, (label, colour, marker) in KINDS.items():
        if steps := sorted({record["step"] for record in found if record["kind"] == kind}):
            marks.append(Marks(label, steps, colour, marker))
    return marks
