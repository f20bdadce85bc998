"""Confidence intervals for proportions and means.

Ours: the report prints bare percentages; small test sets need the interval beside them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence


def wilson(successes: float, total: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion (95 % by default); half successes (ties) are allowed.

    `wilson(9, 10)` -> about (0.596, 0.982). `wilson(0, 0)` -> (0.0, 1.0): nothing is known.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total}")
    if total == 0:
        return 0.0, 1.0
    p, z2 = successes / total, z * z
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = z * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered(flags: Sequence[bool], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Wilson interval of a proportion whose items come in clusters, such as the questions of one subject.

    The number of items is divided by the design effect, the variance over clusters against that of independent items
    (Kish 1965; Miller 2024, arXiv 2411.00640, has the variance); an effect below 1 is not used.
    """
    n, names = len(flags), set(clusters)
    share = sum(flags) / n
    if len(names) < 2 or share in (0.0, 1.0):
        return wilson(sum(flags), n)
    off = dict.fromkeys(names, 0.0)
    for flag, name in zip(flags, clusters, strict=True):
        off[name] += flag - share
    over_clusters = sum(x * x for x in off.values()) * len(names) / (len(names) - 1)
    effect = max(1.0, over_clusters / (n * share * (1 - share)))
    return wilson(sum(flags) / effect, n / effect)


def bootstrap(values: Sequence[float], seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of a mean, from resampling with replacement. Needs at least one value."""
    if not values:
        raise ValueError("no values")
    rng = random.Random(seed)
    means = sorted(math.fsum(rng.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[max(0, math.ceil(0.975 * resamples) - 1)]
