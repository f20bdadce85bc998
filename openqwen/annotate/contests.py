"""From places to contests of two models: wins, ties and losses, and ratings with intervals.

Report §3.3 and Figure 4 (wins, ties and losses against one model) and A.2.2 (Elo). Ours: the intervals of ratings, from
instructions drawn again with replacement, as those are what another study would have others of; and Bradley-Terry ratings,
which do not depend on the order of contests. An annotator's answer on an instruction weighs the same for two models however
many replies of theirs it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from openqwen.annotate.ballots import Answer
from openqwen.core.intervals import wilson

CENTRE, SPREAD = 1000.0, 400.0  # A.2.2: Elo ratings lie around 1000; ten to one is 400 apart
STEP = 16.0  # most that one contest changes an Elo rating
ORDERS = 200  # random orders of answers over which Elo ratings are averaged
ELO_RESAMPLES, ELO_ORDERS = 200, 10  # for the interval: draws of instructions, and orders of each
PRIOR = 1.0  # ties of each model with an imagined one in the middle: ratings stay finite when one wins all
RESAMPLES = 1000
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Contest:
    """Shares of an answer in which one model's replies are before, equal to and behind another's."""

    item: str
    annotator: str
    one: str
    other: str
    win: float
    tie: float
    loss: float


def contests(answers: Iterable[Answer], model_of: Mapping[str, str]) -> list[Contest]:
    """One for each two models of each answer, in the order of answers; `one` comes before `other` in the alphabet."""
    found = []
    for answer in answers:
        places: dict[str, list[int]] = {}
        for reply, mark in sorted(answer.marks.items()):
            places.setdefault(model_of[reply], []).append(mark.place)
        names = sorted(places)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                gaps = [b - a for a in places[one] for b in places[other]]
                win, loss = (sum(side) / len(gaps) for side in ([g > 0 for g in gaps], [g < 0 for g in gaps]))
                found.append(
                    Contest(answer.item, answer.annotator, one, other, win, max(0.0, 1 - win - loss), loss)
                )
    return found


@dataclass(frozen=True)
class Share:
    """How a model fares against the baseline. low, high: 95 % interval of wins and half the ties."""

    model: str
    instructions: int
    answers: int
    win: float
    tie: float
    loss: float
    low: float
    high: float


def shares(found: Iterable[Contest], baseline: str) -> list[Share]:
    """Of each model that met the baseline, the most successful first (Figure 4).

    The interval is Wilson's for as many observations as instructions: several answers on one are no more of them.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {}
    items: dict[str, set[str]] = {}
    for c in found:
        if baseline not in (c.one, c.other):
            continue
        first = c.other == baseline
        model = c.one if first else c.other
        rows.setdefault(model, []).append((c.win, c.tie, c.loss) if first else (c.loss, c.tie, c.win))
        items.setdefault(model, set()).add(c.item)
    result = []
    for model, own in rows.items():
        win, tie, loss = (sum(column) / len(own) for column in zip(*own))
        instructions = len(items[model])
        low, high = wilson(min(1.0, win + tie / 2) * instructions, instructions)
        result.append(Share(model, instructions, len(own), win, tie, loss, low, high))
    return sorted(result, key=lambda share: (-(share.win + share.tie / 2), share.model))


def resamples(count: int, seed: int) -> Array:
    """How often each of `count` instructions is drawn, (RESAMPLES, count)."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)


@dataclass(frozen=True)
class Rating:
    """A model's ratings with 95 % intervals; both lie around 1000."""

    model: str
    bradley_terry: float
    bradley_terry_interval: tuple[float, float]
    elo: float
    elo_interval: tuple[float, float]


def ratings(found: Sequence[Contest], seed: int) -> list[Rating]:
    """Of all models, the best first."""
    models = sorted({name for c in found for name in (c.one, c.other)})
    rounds, items = _rounds(found, models)
    points = np.zeros((items.max() + 1, len(models), len(models)))
    np.add.at(points, items, rounds)
    whole = bradley_terry(points.sum(0)[None])[0]
    again = bradley_terry(np.tensordot(resamples(len(points), seed), points, 1))
    low, high = np.percentile(again, (2.5, 97.5), axis=0)
    mean, elo_low, elo_high = _elo_with_interval(rounds, items, seed)
    rows = [
        Rating(
            name,
            float(whole[i]),
            (float(low[i]), float(high[i])),
            float(mean[i]),
            (float(elo_low[i]), float(elo_high[i])),
        )
        for i, name in enumerate(models)
    ]
    return sorted(rows, key=lambda row: -row.bradley_terry)


def _rounds(found: Sequence[Contest], models: Sequence[str]) -> tuple[Array, Array]:
    """Of each answer the points (answers, models, models) of the first against the second, and its item's number."""
    number = {name: i for i, name in enumerate(models)}
    answers = {key: i for i, key in enumerate(dict.fromkeys((c.item, c.annotator) for c in found))}
    items = {name: i for i, name in enumerate(dict.fromkeys(item for item, _ in answers))}
    rounds = np.zeros((len(answers), len(models), len(models)))
    for c in found:
        i, a, b = answers[c.item, c.annotator], number[c.one], number[c.other]
        rounds[i, a, b], rounds[i, b, a] = c.win + c.tie / 2, c.loss + c.tie / 2
    return rounds, np.array([items[item] for item, _ in answers])


def bradley_terry(points: Array, tolerance: float = 1e-9) -> Array:
    """Ratings (n, models) for points (n, models, models) won by the first of two models against the second.

    They are what makes the points most likely, ties being half a point; the likelihood has one maximum, and Newton's method
    finds it, its steps bounded.
    """
    held = points + points.swapaxes(1, 2)
    values = np.zeros(points.shape[:2])  # natural logarithms of odds against the imagined model
    step = np.full_like(values, np.inf)
    while np.abs(step).max() > tolerance:
        chance = 1 / (1 + np.exp(values[:, None, :] - values[:, :, None]))
        own = 1 / (1 + np.exp(-values))
        slope = (points - held * chance).sum(2) + PRIOR * (0.5 - own)
        bend = -held * chance * (1 - chance)
        diagonal = np.einsum("nii->ni", bend)
        diagonal[:] = PRIOR * own * (1 - own) - bend.sum(2) + diagonal
        step = np.clip(np.linalg.solve(bend, slope[..., None])[..., 0], -1, 1)
        values += step
    return np.asarray(CENTRE + SPREAD / log(10) * (values - values.mean(1, keepdims=True)))


def elo(rounds: Array, orders: Array) -> Array:
    """Ratings (n, models) after `rounds` (answers, models, models) in each of `orders` (n, length); -1 is no round.

    The contests of an answer are one round: all are held against the ratings before it.
    """
    rounds = np.concatenate([rounds, np.zeros_like(rounds[:1])])  # the last one is no round
    held = rounds + rounds.swapaxes(1, 2)
    found = np.full((len(orders), rounds.shape[1]), CENTRE)
    for step in orders.T:
        expected = 1 / (1 + 10 ** ((found[:, None, :] - found[:, :, None]) / SPREAD))
        found += STEP * (rounds[step] - held[step] * expected).sum(2)
    return found


def _elo_with_interval(rounds: Array, items: Array, seed: int) -> tuple[Array, Array, Array]:
    """Mean over random orders, and the interval of such means over instructions drawn again."""
    rng = np.random.default_rng(seed)
    mean = elo(rounds, rng.permuted(np.tile(np.arange(len(rounds)), (ORDERS, 1)), axis=1)).mean(0)
    of_item = [np.flatnonzero(items == item) for item in range(items.max() + 1)]
    drawn = [
        np.concatenate([of_item[item] for item in rng.integers(len(of_item), size=len(of_item))])
        for _ in range(ELO_RESAMPLES)
    ]
    orders = np.full((ELO_RESAMPLES * ELO_ORDERS, max(map(len, drawn))), -1)
    for row, own in zip(orders, (own for own in drawn for _ in range(ELO_ORDERS))):
        row[: len(own)] = rng.permutation(own)
    means = elo(rounds, orders).reshape(ELO_RESAMPLES, ELO_ORDERS, -1).mean(1)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return mean, low, high
