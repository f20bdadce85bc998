"""Intervals of one model's score, and comparing two models on the same items.

Ours; the report prints bare percentages. A score over subjects gets an interval that allows for questions of one subject
being alike. McNemar's exact test and the paired bootstrap look only at items on which two models differ, which is what a
small test set needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

from openqwen.core.intervals import bootstrap, clustered
from openqwen.core.tables import Cell, share

Record = Mapping[str, Any]


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact p-value that two models, right or wrong on the same items, are equally good."""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n, k = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)


def paired(
    a: Sequence[float], b: Sequence[float], seed: int, resamples: int = 1000
) -> tuple[float, float, float]:
    """(mean of a - b, low, high) by resampling items."""
    differences = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    low, high = bootstrap(differences, seed, resamples)
    return sum(differences) / len(differences), low, high


def shares(records: Sequence[Record], subjects: Sequence[str] | None) -> Cell:
    """The share of right records in percent; clustered by subject where items have one."""
    flags = [record["right"] for record in records]
    cell = share(flags)
    if subjects is not None:
        low, high = clustered(flags, subjects)
        cell |= {"low": 100 * low, "high": 100 * high, "clusters": len(set(subjects))}
    return cell


def compare(
    a: Sequence[Record], b: Sequence[Record], seed: int, resamples: int = 1000
) -> dict[str, Any] | None:
    """How much better `a` is than `b` on the items both have, in points; None if they share none.

    {"n", "difference", "low", "high", "p"}: the interval by the paired bootstrap, p by McNemar's test, None where items
    count in part.
    """
    others = {record["id"]: record["right"] for record in b}
    both = [(record["right"], others[record["id"]]) for record in a if record["id"] in others]
    if not both:
        return None
    ours, theirs = [x for x, _ in both], [y for _, y in both]
    mean, low, high = paired(ours, theirs, seed, resamples)
    whole = all(isinstance(right, bool) for pair in both for right in pair)
    return {
        "n": len(both),
        "difference": 100 * mean,
        "low": 100 * low,
        "high": 100 * high,
        "p": mcnemar(ours, theirs) if whole else None,
    }
