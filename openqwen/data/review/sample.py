"""Which documents people look at: a random sample of each reason for dropping, and of what each source keeps.

Ours. A document's random number is a hash of the seed and of its place, and a stratum's sample are those of least
number: the same for everyone with the same seed, and a larger sample holds the smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openqwen.data.account import Account, Place
from openqwen.data.mix import STEP as MIX
from openqwen.data.text import mix

_PART_BITS = 32


@dataclass
class Stratum:
    """Documents of one fate: dropped by a step for a reason, or kept of a source (step None)."""

    step: str | None
    label: str  # the reason, or the source
    size: int = 0  # documents in the corpus's account
    sample: list[Place] = field(default_factory=list)  # in random order
    _numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, part: int, rows: np.ndarray, seed: int, limit: int) -> None:
        """Counts the rows (n,) int64 of a part that belong here, and keeps those of the least random numbers."""
        self.size += len(rows)
        places = [*self.sample, *(Place(part, row) for row in rows.tolist())]
        numbers = np.concatenate([self._numbers, random_numbers(part, rows, seed)])
        order = np.argsort(numbers, kind="stable")[:limit]
        self.sample, self._numbers = [places[i] for i in order.tolist()], numbers[order]


def random_numbers(part: int, rows: np.ndarray, seed: int) -> np.ndarray:
    """One number for each document, (rows,) uint64."""
    places = rows.astype(np.uint64) + np.uint64(part << _PART_BITS)
    return mix(places ^ mix(np.array([seed + 1], np.uint64)))


def strata(account: Account, dropped: int, kept: int, seed: int) -> list[Stratum]:
    """All strata, those of drops in the order of the steps. dropped, kept: documents sampled of each such stratum."""
    found: dict[tuple[str | None, str], Stratum] = {}
    for part, table in enumerate(account.tables(["step", "reason", "source"])):
        columns = (table[name].to_pylist() for name in ("step", "reason", "source"))
        rows: dict[tuple[str | None, str], list[int]] = {}
        for row, (step, reason, source) in enumerate(zip(*columns)):
            if step == MIX:  # dropped by chance: nothing to judge
                continue
            rows.setdefault((step, source if step is None else reason), []).append(row)
        for key, own in rows.items():
            stratum = found.setdefault(key, Stratum(*key))
            stratum.add(part, np.array(own), seed, kept if key[0] is None else dropped)
    order = {step: i for i, step in enumerate(account.steps)}
    return sorted(found.values(), key=lambda s: (order.get(s.step or "", len(order)), -s.size, s.label))


def queue(found: list[Stratum]) -> list[Place]:
    """All sampled documents in the order in which people see them.

    Strata take turns in proportion to their samples, so that whoever stops early has seen the same share of each.
    """
    turns = [
        ((rank + 0.5) / len(stratum.sample), number, place)
        for number, stratum in enumerate(found)
        for rank, place in enumerate(stratum.sample)
    ]
    return [place for _, _, place in sorted(turns)]
