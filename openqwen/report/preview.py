"""The page that shows what thresholds would drop: one self-contained HTML file without scripts.

Ours. Its content comes from `openqwen.data.preview`; texts are shown as text and never as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log1p, log10
from pathlib import Path
from typing import Any

GROUPS = 8  # rows of a figure; what is left is one more
_LEFT, _WIDE, _RIGHT, _ROW, _GAP = 132, 400, 158, 40, 9  # sizes of a figure in pixels


def render(found: Mapping[str, Any], title: str, subtitle: str) -> str:
    """The page as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"short": short, "share": share}
    scores = [{**score, "svg": figure(score), "anchor": f"s{i}"} for i, score in enumerate(found["scores"])]
    return environment.get_template("preview.html").render(
        title=title,
        subtitle=subtitle,
        found=found,
        scores=scores,
        dropped=sum(g["dropped"] for g in found["groups"]),
    )


def share(part: int, whole: int) -> str:
    """`share(3, 40)` -> `"7.5 %"`; `"none"` and `"below 0.01 %"` are told apart."""
    if not part:
        return "none"
    return f"{100 * part / whole:.3g} %" if part / whole >= 1e-4 else "below 0.01 %"


def short(value: float) -> str:
    """A score as a person reads it: `short(12345.0)` -> `"12,345"`, `short(0.12345)` -> `"0.1235"`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def figure(score: Mapping[str, Any]) -> str:
    """A row for each source and language: bars, the share that a threshold would drop, and the one in force (SVG)."""
    groups = list(score["groups"][:GROUPS])
    if rest := score["groups"][GROUPS:]:
        groups.append(_together(rest))
    height = len(groups) * (_ROW + _GAP) + 34
    parts = [
        f'<svg viewBox="0 0 {_LEFT + _WIDE + _RIGHT} {height}" role="img" '
        f'aria-label="{escape(score["name"])} by source and language">'
    ]
    at = _LEFT + _WIDE * _place(score, score["limit"])
    bottom = len(groups) * (_ROW + _GAP)
    left, right = (_LEFT, at) if score["sign"][0] == "<" else (at, _LEFT + _WIDE)
    parts.append(
        f'<rect class="beyond" x="{left:.1f}" y="0" width="{max(0.0, right - left):.1f}" height="{bottom}"/>'
    )
    for number, group in enumerate(groups):
        parts += _row(score, group, number * (_ROW + _GAP) + _GAP)
    parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{bottom}"/>')
    for tick in ticks(score["edges"][0], score["edges"][-1], score["log"]):
        x = _LEFT + _WIDE * _place(score, tick)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}">{short(tick)}</text>')
    parts.append(
        f'<text class="now" x="{at:.1f}" y="{bottom + 29}">{escape(score["sign"])} {short(score["limit"])}</text>'
    )
    return "".join([*parts, "</svg>"])


def _together(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": f"{len(groups)} others",
        "documents": sum(g["documents"] for g in groups),
        "dropped": sum(g["dropped"] for g in groups),
        "counts": [sum(column) for column in zip(*(g["counts"] for g in groups))],
    }


def _row(score: Mapping[str, Any], group: Mapping[str, Any], top: float) -> list[str]:
    counts, base = group["counts"], top + _ROW
    wide = _WIDE / len(counts)
    # Areas would hide the few that matter beside a peak of thousands: heights are square roots.
    tallest = max(counts) ** 0.5 or 1.0
    parts = [
        f'<text class="group" x="{_LEFT - 8}" y="{top + _ROW / 2 + 4:.1f}">{escape(_cut(group["name"]))}</text>'
    ]
    for i, count in enumerate(counts):
        if count:
            tall = max(1.0, _ROW * count**0.5 / tallest)
            x = _LEFT + i * wide
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{base - tall:.1f}" width="{wide - 0.6:.1f}" height="{tall:.1f}"/>'
            )
    points = " ".join(
        f"{_LEFT + i * wide:.1f},{base - _ROW * y:.1f}" for i, y in enumerate(_curve(score, counts))
    )
    parts.append(f'<polyline class="curve" points="{points}"/>')
    parts.append(f'<line class="base" x1="{_LEFT}" x2="{_LEFT + _WIDE}" y1="{base}" y2="{base}"/>')
    x = _LEFT + _WIDE + 10
    said = f"{group['dropped']:,} of {group['documents']:,}"
    parts.append(
        f'<text class="share" x="{x}" y="{top + 16}">{share(group["dropped"], group["documents"])}</text>'
    )
    parts.append(f'<text class="said" x="{x}" y="{top + 31}">{said}</text>')
    return parts


def _curve(score: Mapping[str, Any], counts: Sequence[int]) -> list[float]:
    """The share of documents beyond each border of the bins, (bins + 1,)."""
    total = max(1, sum(counts))
    below = [0]
    for count in counts:
        below.append(below[-1] + count)
    return [n / total if score["sign"][0] == "<" else 1 - n / total for n in below]


def _place(score: Mapping[str, Any], value: float) -> float:
    """Where a value stands between the first border and the last, 0 to 1."""
    low, high = score["edges"][0], score["edges"][-1]
    if score["log"]:
        low, high, value = log1p(low), log1p(high), log1p(value)
    return (value - low) / (high - low)


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between two values, at most eight."""
    if log:
        powers = [10.0**e for e in range(ceil(log10(high)) + 1)]
        return [t for t in [0.0, *powers] if low <= t <= high]
    step = 10.0 ** floor(log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
    return [round(i * step, 12) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _cut(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
