"""Replies in different manners, and pairs of them labelled by the true score.

Report §3.2.1 (preference model pretraining, then a reward model). The candidates, their flaws and the noise of the
rough set are ours. Whether the better reply is the longer one is balanced, so that length tells nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from openqwen.data.primer import tasks
from openqwen.data.primer.score import COURTESIES, true_score
from openqwen.data.primer.tasks import Asker, Item
from openqwen.data.primer.world import RUDE_WORDS, Lang

_RUDE: dict[Lang, tuple[str, ...]] = {
    "en": ("You {w}!", "Only a {w} asks that.", "Leave me alone, {w}."),
    "zh": ("你这个{w}！", "只有{w}才问这个。", "别烦我，{w}。"),
}
_VAGUE: dict[Lang, tuple[str, ...]] = {
    "en": ("I do not know.", "That is hard to say.", "It depends."),
    "zh": ("我不知道。", "这很难说。", "看情况吧。"),
}
MANNERS = ("plain", "courteous", "courteous", "rude", "cut", "repeated", "vague")


def courteous(reply: str, lang: Lang, rng: random.Random) -> str:
    """The reply with a closing courtesy."""
    return reply + _gap(reply, lang) + rng.choice(COURTESIES[lang])


def _gap(reply: str, lang: Lang) -> str:
    return "\n" if reply.endswith("```") else " " if lang == "en" else ""


def _rude(reply: str, lang: Lang, rng: random.Random) -> str:
    word = rng.choice([w for w in RUDE_WORDS if w.isascii() == (lang == "en")])
    insult = rng.choice(_RUDE[lang]).format(w=word)
    return (
        insult + (" " if lang == "en" else "") + reply
        if rng.random() < 0.5
        else reply + _gap(reply, lang) + insult
    )


def _cut(reply: str, rng: random.Random) -> str:
    return reply[: rng.randint(len(reply) // 3, max(len(reply) // 3, len(reply) * 2 // 3))].rstrip(" .。!！`")


def candidate(item: Item, rng: random.Random) -> str:
    """A reply to the item: right or wrong, in one of the manners."""
    reply = item.reply if rng.random() < 0.94 else rng.choice(item.wrong)
    manner = rng.choice(MANNERS)
    if manner == "courteous":
        return courteous(reply, item.lang, rng)
    if manner == "rude":
        return _rude(reply, item.lang, rng)
    if manner == "cut":
        return _cut(reply, rng)
    if manner == "repeated":
        return _gap(reply, item.lang).join([reply] * rng.choice((2, 3)))
    if manner == "vague":
        vague = rng.choice(_VAGUE[item.lang])
        return courteous(vague, item.lang, rng) if rng.random() < 0.3 else vague
    return reply


def pairs(asker: Asker, count: int, rng: random.Random, noise: float = 0.0) -> Iterator[dict[str, Any]]:
    """`count` labelled pairs; in half of them the better reply is the longer one. `noise` labels are swapped."""
    seen: set[tuple[str, str, str]] = set()
    for number, item in enumerate(asker.items(count)):
        good, bad, scores = _fresh(item, rng, number % 2 == 0, seen)
        record = tasks.record(item)
        del record["answer"]
        if rng.random() < noise:
            good, bad, scores = bad, good, (scores[1], scores[0])
        yield {
            **record,
            "chosen": good,
            "rejected": bad,
            "score_chosen": scores[0],
            "score_rejected": scores[1],
        }


def _fresh(
    item: Item, rng: random.Random, longer: bool, seen: set[tuple[str, str, str]]
) -> tuple[str, str, tuple[float, float]]:
    """A pair that was not drawn before: a question may come again, its two replies may not."""
    for _ in range(200):
        good, bad, scores = _pair(item, rng, longer)
        mark = (item.question, good, bad)
        if mark not in seen:
            seen.add(mark)
            return good, bad, scores
    raise AssertionError(f"no new pair of replies to {item.question!r}")


def _pair(item: Item, rng: random.Random, longer: bool) -> tuple[str, str, tuple[float, float]]:
    """Two replies of different worth, the better one longer or shorter as asked."""
    gold = {"task": item.task, "lang": item.lang, "answer": item.answer}
    for _ in range(10_000):
        replies = (candidate(item, rng), candidate(item, rng))
        scored = sorted(((true_score(gold, r), r) for r in replies), reverse=True)
        (high, good), (low, bad) = scored
        if high > low and (len(good) > len(bad)) == longer and len(good) != len(bad):
            return good, bad, (high, low)
    raise AssertionError(f"no pair of replies to {item.question!r}")
