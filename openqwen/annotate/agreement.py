"""How far annotators agree: Cohen's kappa of two, Krippendorff's alpha of all.

Report §3.3 asks three annotators for each instruction and does not say how they agreed; this is ours. Kappa is about which
of two replies is better, alpha about places; 1 is full agreement, 0 what chance would give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

from openqwen.annotate.ballots import Answer

Metric = Callable[[Counter[int]], Callable[[int, int], float]]


def agreement(answers: Sequence[Answer]) -> dict[str, Any]:
    """{"alpha", "kappa", "pairs"}, the last a list of what two annotators each have in common; None where nothing is known.

    kappa: mean over these, weighted by the comparisons both have made; same: their share of equal ones.
    """
    by: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        by.setdefault(answer.annotator, {})[answer.item] = answer
    pairs: list[dict[str, Any]] = []
    for one, other in combinations(sorted(by), 2):
        both = sorted(by[one].keys() & by[other].keys())
        said = [found for item in both for found in outcomes(by[one][item], by[other][item])]
        if said:
            same = sum(a == b for a, b in said) / len(said)
            pairs.append(
                {
                    "annotators": [one, other],
                    "instructions": len(both),
                    "comparisons": len(said) // 2,
                    "kappa": cohen(said),
                    "same": same,
                }
            )
    known = [(pair["kappa"], pair["comparisons"]) for pair in pairs if pair["kappa"] is not None]
    mean = sum(kappa * n for kappa, n in known) / sum(n for _, n in known) if known else None
    return {"alpha": krippendorff(units(answers), ordinal), "kappa": mean, "pairs": pairs}


def outcomes(one: Answer, other: Answer) -> list[tuple[int, int]]:
    """What two annotators say of each two replies, both ways round: 1 the first is better, 0 equal, -1 worse.

    Both ways, because which of two comes first means nothing and must not change what chance would give.
    """

    def sign(answer: Answer, a: str, b: str) -> int:
        gap = answer.marks[b].place - answer.marks[a].place
        return (gap > 0) - (gap < 0)

    return [(sign(one, a, b), sign(other, a, b)) for a, b in permutations(sorted(one.marks), 2)]


def cohen(said: Iterable[tuple[Any, Any]]) -> float | None:
    """Cohen's kappa of two raters' values, pair by pair; None where both always say the same one value."""
    counts = Counter(said)
    total = counts.total()
    first, second = Counter[Any](), Counter[Any]()
    for (a, b), n in counts.items():
        first[a] += n
        second[b] += n
    seen = sum(n for (a, b), n in counts.items() if a == b) / total
    chance = sum(first[value] * second[value] for value in first) / total**2
    return (seen - chance) / (1 - chance) if chance < 1 else None


def units(answers: Iterable[Answer]) -> list[list[int]]:
    """The places that annotators gave each reply. Places of an answer are made dense: 1, 3, 3 are 1, 2, 2."""
    found: dict[str, list[int]] = {}
    for answer in answers:
        dense = {place: n for n, place in enumerate(sorted({m.place for m in answer.marks.values()}), 1)}
        for reply, mark in answer.marks.items():
            found.setdefault(reply, []).append(dense[mark.place])
    return list(found.values())


def ordinal(counts: Counter[int]) -> Callable[[int, int], float]:
    """Krippendorff's distance of ranks: how many values lie from one to the other, squared."""
    below: dict[int, float] = {}
    total = 0
    for value in sorted(counts):
        below[value] = total + counts[value] / 2
        total += counts[value]
    return lambda a, b: (below[a] - below[b]) ** 2


def krippendorff(found: Iterable[Sequence[int]], metric: Metric) -> float | None:
    """Krippendorff's alpha of the values given to each unit; None with nothing given twice, or one value only."""
    paired = [values for values in found if len(values) > 1]
    counts = Counter(value for values in paired for value in values)
    total = counts.total()
    distance = metric(counts)
    seen = sum(_spread(Counter(values), distance) / (len(values) - 1) for values in paired)
    expected = _spread(counts, distance) / (total - 1) if total > 1 else 0.0
    return 1 - seen / expected if expected else None


def _spread(counts: Mapping[int, int], distance: Callable[[int, int], float]) -> float:
    """Distances of all ordered pairs of values, summed."""
    return sum(counts[a] * counts[b] * distance(a, b) for a in counts for b in counts)
