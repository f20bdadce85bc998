"""What thresholds would drop, before they do: histograms of every score, shares beyond a threshold, examples beside it.

Report §2.1 names rules and models and no procedure for their limits; this is ours. Scores are those of a corpus's
account, so any threshold can be tried without a new run. A corpus built with --quality.drop false has every score of
every document; in another, documents that an earlier step dropped have no score from the steps after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openqwen.core.errors import DataError
from openqwen.data.account import Account, Place
from openqwen.data.classifier import JUDGEMENTS, judges
from openqwen.data.config import QualityConfig
from openqwen.data.documents import MEASURE
from openqwen.data.review.sample import random_numbers
from openqwen.data.rules import RULES

BINS = 60
_NEAR = 10  # times as many documents as are shown: the nearest to the threshold, of which the shown are drawn
_SHOWN = 600  # characters of an example
_WIDE = 20.0  # scores that reach further are binned by their logarithm
_COLUMNS = ("source", "lang", "step", "scores")

Group = tuple[str, str]  # source and language


@dataclass(frozen=True)
class Threshold:
    """A limit in force, and which documents it is for."""

    name: str  # the reason that a drop gets
    score: str  # its name in a document's scores
    limit: float
    setting: str
    origin: str  # the paper, or ours
    suits: Callable[[str, str], bool]  # source and language
    below: bool  # drops what lies below, not above
    equal: bool = False  # drops what lies on it

    @property
    def sign(self) -> str:
        return ("<" if self.below else ">") + ("=" if self.equal else "")

    def breaks(self, values: np.ndarray) -> np.ndarray:
        """Which values (n,) lie beyond it, (n,) bool."""
        beyond = values < self.limit if self.below else values > self.limit
        return beyond | (values == self.limit) if self.equal else beyond


def thresholds(config: QualityConfig) -> list[Threshold]:
    """Everything by which these settings drop for quality, in the order of the steps."""

    def judged(name: str) -> Threshold:
        judgement = JUDGEMENTS[name]
        limit, below = getattr(config, name), judgement.drops_below
        return Threshold(
            judgement.reason, name, limit, f"quality.{name}", "ours", judges, below, equal=not below
        )

    rules = [
        Threshold(
            rule.name, f"{MEASURE}{rule.measure}", limit, f"quality.limits.{rule.setting}", rule.source,
            rule.suits, rule.is_least,
        )
        for rule in RULES
        if config.rules and (limit := rule.limit(config.limits)) is not None
    ]  # fmt: skip
    noise = Threshold(
        "noise to the language model", "lm", config.lm_max_bits, "quality.lm_max_bits", "ours",
        lambda source, lang: True, below=False,
    )  # fmt: skip
    return [judged("spam"), judged("offensive"), *rules, judged("quality"), *([noise] if config.lm else [])]


@dataclass
class _Side:
    """Documents on one side of a threshold, the nearest to it of all parts; ties by random number."""

    limit: int
    distances: np.ndarray = field(default_factory=lambda: np.empty(0))
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    places: list[Place] = field(default_factory=list)
    values: np.ndarray = field(default_factory=lambda: np.empty(0))

    def add(self, distances: np.ndarray, part: int, rows: np.ndarray, values: np.ndarray, seed: int) -> None:
        """Takes documents (n,) of a part and keeps the nearest."""
        numbers = np.concatenate([self.numbers, random_numbers(part, rows, seed)])
        distances = np.concatenate([self.distances, distances])
        places = [*self.places, *(Place(part, row) for row in rows.tolist())]
        order = np.lexsort((numbers, distances))[: self.limit]
        self.distances, self.numbers = distances[order], numbers[order]
        self.values = np.concatenate([self.values, values])[order]
        self.places = [places[i] for i in order.tolist()]

    def drawn(self, count: int) -> list[tuple[Place, float]]:
        """Some of them by chance, the nearest first."""
        chosen = np.sort(np.argsort(self.numbers, kind="stable")[:count])
        return [(self.places[i], float(self.values[i])) for i in chosen.tolist()]


@dataclass
class _Seen:
    """What is known of a threshold's score so far."""

    low: float = np.inf
    high: float = -np.inf
    counts: dict[Group, np.ndarray] = field(default_factory=dict)  # (BINS,) int64
    dropped: dict[Group, int] = field(default_factory=dict)
    only: int = 0


@dataclass(frozen=True)
class _Part:
    """The scores of one part's documents."""

    number: int
    groups: list[Group]
    group: np.ndarray  # (documents,) int64 into groups
    steps: list[str | None]
    names: list[str]
    name: np.ndarray  # (scores,) int64 into names
    row: np.ndarray  # (scores,) int64
    value: np.ndarray  # (scores,) float64

    def held(self, threshold: Threshold) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values (n,) of the documents that have the score and that the threshold is for."""
        if threshold.score not in self.names:
            return np.empty(0, np.int64), np.empty(0)
        own = np.flatnonzero(self.name == self.names.index(threshold.score))
        suits = np.array([threshold.suits(*group) for group in self.groups], bool)
        own = own[suits[self.group[self.row[own]]]]
        return self.row[own], self.value[own]


def _parts(account: Account) -> Iterator[_Part]:
    for number, table in enumerate(account.tables(_COLUMNS)):
        pairs = list(zip(table["source"].to_pylist(), table["lang"].to_pylist()))
        groups = sorted(set(pairs))
        index = {group: i for i, group in enumerate(groups)}
        scores = table["scores"].combine_chunks()
        sizes = np.diff(scores.offsets.to_numpy())
        keys = scores.keys.dictionary_encode()
        yield _Part(
            number, groups, np.array([index[pair] for pair in pairs], np.int64), table["step"].to_pylist(),
            keys.dictionary.to_pylist(), keys.indices.to_numpy().astype(np.int64),
            np.repeat(np.arange(len(sizes)), sizes), scores.items.to_numpy(),
        )  # fmt: skip


def preview(account: Account, found: Sequence[Threshold], examples: int, seed: int) -> dict[str, Any]:
    """What these thresholds would drop of a corpus's documents, all together and each alone.

    {"documents", "unscored", "groups": [{"name", "documents", "dropped"}], "scores": [...]}: for each threshold that
    some document has the score for {"name", "score", "setting", "origin", "sign", "limit", "documents", "dropped",
    "only" (that no other one drops), "log", "edges" (BINS + 1), "groups": [{"name", "documents", "dropped",
    "counts"}], "beyond", "within"}, where the last two are random documents near the threshold on its two sides:
    {"id", "group", "value", "step", "text", "characters"}. Reads the account twice, one part at a time.
    """
    seen = [_Seen() for _ in found]
    for part in _parts(account):
        for threshold, own in zip(found, seen):
            _, values = part.held(threshold)
            own.low, own.high = (
                min(own.low, values.min(initial=np.inf)),
                max(own.high, values.max(initial=-np.inf)),
            )
    if not any(own.high >= own.low for own in seen):
        raise DataError(
            "no document has a score",
            where=str(account.corpus.path),
            fix="build it with --quality.drop false: every score of every document is kept, nothing is dropped",
        )
    edges = [_edges(own.low, own.high, t.limit) for t, own in zip(found, seen)]
    sides = [(_Side(_NEAR * examples), _Side(_NEAR * examples)) for _ in found]
    totals: dict[Group, list[int]] = {}
    unscored = 0
    for part in _parts(account):
        broken = np.zeros(len(part.group), np.int64)  # how many thresholds
        scored = np.zeros(len(part.group), bool)
        beyond = []
        for threshold, own, bounds, (out, inside) in zip(found, seen, edges, sides):
            rows, values = part.held(threshold)
            breaks = threshold.breaks(values)
            broken[rows[breaks]] += 1
            scored[rows] = True
            beyond.append(rows[breaks])
            _count(own, part, rows, values, breaks, bounds)
            distances = np.abs(values - threshold.limit)
            for side, chosen in ((out, breaks), (inside, ~breaks)):
                side.add(distances[chosen], part.number, rows[chosen], values[chosen], seed)
        for own, rows in zip(seen, beyond):
            own.only += int(np.count_nonzero(broken[rows] == 1))
        unscored += int(np.count_nonzero(~scored))
        for i, group in enumerate(part.groups):
            total = totals.setdefault(group, [0, 0])
            total[0] += int(np.count_nonzero(part.group == i))
            total[1] += int(np.count_nonzero(broken[part.group == i]))
    shown = _Examples(account, [side.drawn(examples) for pair in sides for side in pair])
    return {
        "documents": sum(total for total, _ in totals.values()),
        "unscored": unscored,
        "groups": [{"name": _name(g), "documents": n, "dropped": k} for g, (n, k) in sorted(totals.items())],
        "scores": [
            {
                "name": t.name, "score": t.score, "setting": t.setting, "origin": t.origin, "sign": t.sign,
                "limit": t.limit, "documents": sum(int(c.sum()) for c in own.counts.values()),
                "dropped": sum(own.dropped.values()), "only": own.only, "log": _is_wide(own.high, t.limit),
                "edges": bounds.tolist(),
                "groups": [
                    {"name": _name(g), "documents": int(c.sum()), "dropped": own.dropped[g], "counts": c.tolist()}
                    for g, c in sorted(own.counts.items(), key=lambda item: (-int(item[1].sum()), item[0]))
                ],
                "beyond": shown.of(2 * i), "within": shown.of(2 * i + 1),
            }
            for i, (t, own, bounds) in enumerate(zip(found, seen, edges))
            if own.counts
        ],
    }  # fmt: skip


def _name(group: Group) -> str:
    return "/".join(group)


def _is_wide(high: float, limit: float) -> bool:
    return bool(max(high, limit) > _WIDE)


def _edges(low: float, high: float, limit: float) -> np.ndarray:
    """Borders of the bins, (BINS + 1,): from the least to the greatest of all values and the limit."""
    low, high = min(low, limit), max(high, limit)
    if high == low:
        high = low + 1
    if _is_wide(high, limit):
        return np.expm1(np.linspace(np.log1p(low), np.log1p(high), BINS + 1))
    return np.linspace(low, high, BINS + 1)


def _count(
    own: _Seen, part: _Part, rows: np.ndarray, values: np.ndarray, breaks: np.ndarray, edges: np.ndarray
) -> None:
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
    for i in np.unique(part.group[rows]).tolist():
        group, chosen = part.groups[i], part.group[rows] == i
        counts = np.bincount(bins[chosen], minlength=BINS)
        own.counts[group] = own.counts.get(group, 0) + counts
        own.dropped[group] = own.dropped.get(group, 0) + int(np.count_nonzero(breaks[chosen]))


class _Examples:
    """The documents that are shown, each text read once."""

    def __init__(self, account: Account, drawn: Sequence[Sequence[tuple[Place, float]]]) -> None:
        self._drawn = drawn
        places = sorted({place for own in drawn for place, _ in own})
        self._rows = {place: account.verdict(place) for place in places}
        self._texts = account.texts(places)

    def of(self, number: int) -> list[dict[str, Any]]:
        """One list of them."""
        return [
            {
                "id": (row := self._rows[place])["id"], "group": _name((row["source"], row["lang"])), "value": value,
                "step": row["step"], "text": self._texts[place][:_SHOWN], "characters": len(self._texts[place]),
            }
            for place, value in self._drawn[number]
        ]  # fmt: skip
