"""Pairwise accuracy as Table 4 counts it, what reply length alone would give, and the difference. Pure Python.

Report §3.2.1, Table 4. Ours: the intervals, ties counted half, the length baseline.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from openqwen.core.intervals import wilson
from openqwen.core.tables import published


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs ranked as people ranked them, with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


def accuracy(margins: Sequence[float]) -> Accuracy:
    """margins: score of the chosen minus score of the rejected reply. A tie counts half."""
    right = math.fsum(map(rightness, margins))
    return of_share(right / len(margins), len(margins)) if margins else Accuracy(math.nan, 0.0, 1.0, 0)


def rightness(margin: float) -> float:
    """1 for a pair ranked as people ranked it, 0 for one ranked otherwise, a half for a tie."""
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0


def of_share(value: float, n: int) -> Accuracy:
    """The accuracy that a share of right pairs among `n` is."""
    return Accuracy(value, *wilson(value * n, n), n)


def length_rule(train: Sequence[tuple[int, int]]) -> int:
    """+1 if in training pairs (length of chosen, of rejected) the longer reply wins more often, else -1."""
    return 1 if accuracy([chosen - rejected for chosen, rejected in train]).value >= 0.5 else -1


def length_margins(train: Sequence[tuple[int, int]], heldout: Sequence[tuple[int, int]]) -> list[float]:
    """Margins of always preferring the longer (or the shorter) reply, the direction learned from `train`."""
    sign = length_rule(train)
    return [sign * (chosen - rejected) for chosen, rejected in heldout]


def difference(
    ours: Sequence[float],
    baseline: Sequence[float],
    prompts: Sequence[Hashable],
    seed: int = 0,
    resamples: int = 2000,
) -> Accuracy:
    """How much more accurate one set of margins is than another on the same pairs, with its 95 % interval.

    The interval is a bootstrap over prompts: pairs that share a prompt are kept together, so that many pairs of few
    prompts do not look like much evidence. All three sequences go pair by pair; there must be at least one.
    """
    if not ours:
        raise ValueError("no pairs")
    groups: dict[Hashable, tuple[float, int]] = {}
    for mine, other, prompt in zip(ours, baseline, prompts, strict=True):
        gain, count = groups.get(prompt, (0.0, 0))
        groups[prompt] = gain + rightness(mine) - rightness(other), count + 1
    rng, drawn = random.Random(seed), list(groups.values())
    found = sorted(_mean(rng.choices(drawn, k=len(drawn))) for _ in range(resamples))
    low, high = found[int(0.025 * resamples)], found[max(0, math.ceil(0.975 * resamples) - 1)]
    return Accuracy(_mean(drawn), low, high, len(ours))


def _mean(groups: Sequence[tuple[float, int]]) -> float:
    """The mean over pairs of groups of them (sum, number)."""
    return math.fsum(total for total, _ in groups) / sum(count for _, count in groups)


def cell(measured: Accuracy) -> dict[str, Any]:
    """One cell of a table file: percentages, as the report prints them."""
    percent = {name: round(100 * getattr(measured, name), 2) for name in ("value", "low", "high")}
    return {**percent, "n": measured.n, "chance": 50.0}


def table_4(rows: Sequence[tuple[str, dict[str, Accuracy]]], notes: Sequence[str]) -> dict[str, Any]:
    """table_04.json: the report's rows and columns, then ours. rows: name -> accuracy by column."""
    table = published(4)
    known = {column["name"] for column in table["columns"]}
    ours = dict.fromkeys(name for _, cells in rows for name in cells if name not in known)
    table["columns"] += [{"name": name, "metric": "pairwise accuracy %", "shots": 0} for name in ours]
    table["rows"] += [
        {
            "model": name,
            "origin": "ours",
            "group": "openqwen",
            "cells": {c: cell(a) for c, a in cells.items()},
        }
        for name, cells in rows
    ]
    table["notes"] += notes
    return table
