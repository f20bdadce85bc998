"""Comparing two models on the same items.

Ours; the report compares bare percentages. McNemar's exact test and the paired bootstrap look only at items on which
the two differ, which is what a small test set needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from openqwen.core.intervals import bootstrap


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
