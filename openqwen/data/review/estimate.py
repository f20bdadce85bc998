"""From judgements on a sample to the whole corpus: how right each filter is, how much of what is kept is bad.

Report §2.1 leaves it open; the estimates are ours. A filter's precision is the share of what it drops that people would
drop too. Strata are weighted by their sizes, as they are sampled unevenly, and the interval is Wilson's for the number
of documents of a plain sample that would be as sure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from openqwen.core.intervals import wilson
from openqwen.data.account import Account, Place
from openqwen.data.review.judgements import Judgement
from openqwen.data.review.sample import Stratum


@dataclass(frozen=True)
class Counts:
    """What people said on one stratum."""

    size: int  # documents of the corpus
    judged: int = 0  # documents with a keep or drop
    drop: float = 0.0  # of those, how many people would drop; where they differ, their share


@dataclass(frozen=True)
class Estimate:
    """A share of documents that people would drop, with its 95 % interval; None where nobody judged any."""

    name: str
    size: int
    judged: int
    covered: float  # share of `size` in strata of which some were judged: the share is about those
    share: float | None = None
    low: float | None = None
    high: float | None = None


def weighted(name: str, strata: Sequence[Counts]) -> Estimate:
    """The share over several strata together."""
    size, judged = sum(s.size for s in strata), sum(s.judged for s in strata)
    seen = [s for s in strata if s.judged]
    known = sum(s.size for s in seen)
    if not seen:
        return Estimate(name, size, 0, 0.0)
    share = min(1.0, sum(s.size / known * s.drop / s.judged for s in seen))
    number = _as_many(seen)
    low, high = (share, share) if number == math.inf else wilson(share * number, number)
    return Estimate(name, size, judged, round(known / size, 4), *(round(x, 4) for x in (share, low, high)))


def _as_many(strata: Sequence[Counts]) -> float:
    """Documents of a plain sample with the same variance: of one stratum as many as were judged of it.

    A stratum of which all documents were judged adds no variance. Shares are drawn to a half by two documents, because
    a few equal judgements are no proof that all would be equal.
    """
    total = sum(s.size for s in strata)
    mean, variance = 0.0, 0.0
    for s in strata:
        weight, share = s.size / total, (s.drop + 1) / (s.judged + 2)
        left = (s.size - s.judged) / (s.size - 1) if s.size > 1 else 0.0
        mean += weight * share
        variance += weight**2 * left * share * (1 - share) / s.judged
    return mean * (1 - mean) / variance if variance else math.inf


def summary(account: Account, strata: Sequence[Stratum], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """{"filters", "kept", "agreement", "reviewers"}: the estimates of each step and, as "parts", of its strata."""
    counts = tally(account, judgements)
    steps: dict[str | None, dict[str, Counts]] = defaultdict(dict)
    for stratum in strata:
        judged, drop = counts.get((stratum.step, stratum.label), (0, 0.0))
        steps[stratum.step][stratum.label] = Counts(stratum.size, judged, drop)
    found = {step: _with_parts(step or "kept", parts) for step, parts in steps.items()}
    kept = found.pop(None, None)
    given: dict[str, int] = defaultdict(int)
    for judgement in judgements:
        given[judgement.reviewer] += 1
    return {
        "filters": list(found.values()), "kept": kept, "agreement": agreement(judgements), "reviewers": dict(given)
    }  # fmt: skip


def _with_parts(name: str, parts: Mapping[str, Counts]) -> dict[str, Any]:
    own = [asdict(weighted(label, [counts])) for label, counts in parts.items()]
    return {**asdict(weighted(name, list(parts.values()))), "parts": own}


def tally(
    account: Account, judgements: Iterable[Judgement]
) -> dict[tuple[str | None, str], tuple[int, float]]:
    """(step, reason or source) -> documents judged and how many of them people would drop. Skips count for nothing."""
    votes: dict[Place, list[bool]] = defaultdict(list)
    for place, _, verdict in judgements:
        if verdict != "skip":
            votes[place].append(verdict == "drop")
    found: dict[tuple[str | None, str], tuple[int, float]] = {}
    for place in sorted(votes):
        row, own = account.verdict(place), votes[place]
        key = (row["step"], row["source"] if row["step"] is None else row["reason"])
        judged, drop = found.get(key, (0, 0.0))
        found[key] = judged + 1, drop + sum(own) / len(own)
    return found


def agreement(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """How often two people who judged the same document said the same: {"pairs", "share", "low", "high"}."""
    votes: dict[Place, list[str]] = defaultdict(list)
    for place, _, verdict in judgements:
        if verdict != "skip":
            votes[place].append(verdict)
    pairs = [one == other for own in votes.values() for one, other in combinations(own, 2)]
    low, high = wilson(sum(pairs), len(pairs))
    share = round(sum(pairs) / len(pairs), 4) if pairs else None
    return {"pairs": len(pairs), "share": share, "low": round(low, 4), "high": round(high, 4)}
