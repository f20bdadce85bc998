"""What a file of answers says: Figure 4, ratings, agreement, flags, scores; and comparison pairs for the reward model.

Report §3.3 and A.2.2, and §3.2.1 for the pairs. Results are of all instructions and of each topic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from openqwen.annotate.agreement import agreement
from openqwen.annotate.ballots import Answer, Ballots
from openqwen.annotate.config import PairsConfig
from openqwen.annotate.contests import contests, ratings, shares
from openqwen.annotate.items import Item
from openqwen.annotate.judge import by_people
from openqwen.annotate.pairs import form
from openqwen.core.artifact import write_jsonl
from openqwen.core.errors import DataError, UsageError, did_you_mean

ALL = "all"


def summarise(ballots: Ballots, baseline: str | None, seed: int = 0) -> dict[str, Any]:
    """{"baseline", "instructions", "answers", "annotators", "shares", "ratings", "agreement", "models", "comments"}.

    shares: by topic, "all" first; each a list of contests.Share. baseline: by default the first model by name.
    DataError without answers, UsageError for a baseline that is no model.
    """
    answers = ballots.answers()
    if not answers:
        raise DataError("nobody has answered yet", where=str(ballots.path))
    items = {item.id: item for item in ballots.study.items}
    model_of = {r["id"]: r["from"]["model"] for item in items.values() for r in item.replies}
    models = sorted(set(model_of.values()))
    if baseline is not None and baseline not in models:
        raise UsageError(
            f"no model is called {baseline!r}.{did_you_mean(baseline, models)}",
            where="--baseline",
            fix=f"one of {', '.join(models)}",
        )
    found = contests(answers, model_of)
    against = baseline or models[0]
    topics = sorted({items[c.item].topic for c in found} - {""})
    groups = {topic: [c for c in found if items[c.item].topic == topic] for topic in topics}
    return {
        "baseline": against,
        "instructions": {"answered": len({a.item for a in answers}), "all": len(items)},
        "answers": len(answers),
        "annotators": dict(Counter(a.annotator for a in answers)),
        "shares": {
            name: [asdict(share) for share in shares(own, against)]
            for name, own in {ALL: found, **groups}.items()
        },
        "ratings": [asdict(rating) for rating in ratings(found, seed)] if found else [],
        "agreement": agreement([distinct(answer, items[answer.item]) for answer in answers]),
        "models": [_marked(name, answers, model_of) for name in models],
        "comments": [
            {"item": a.item, "annotator": a.annotator, "comment": a.comment} for a in answers if a.comment
        ],
    }


def distinct(answer: Answer, item: Item) -> Answer:
    """The answer with one reply of each text: the others were not judged, they have that reply's place."""
    first = {reply["text"]: reply["id"] for reply in reversed(item.replies)}
    return replace(answer, marks={name: answer.marks[name] for name in sorted(first.values())})


def _marked(model: str, answers: Iterable[Answer], model_of: dict[str, str]) -> dict[str, Any]:
    own = [mark for a in answers for reply, mark in a.marks.items() if model_of[reply] == model]
    scores = [mark.score for mark in own if mark.score is not None]
    return {
        "model": model,
        "marks": len(own),
        "broken": sum(mark.broken for mark in own),
        "unsafe": sum(mark.unsafe for mark in own),
        "scored": len(scores),
        "score": fmean(scores) if scores else None,
    }


def export_scores(ballots: Ballots, path: Path) -> int:
    """Writes annotators' scores from 1 to 10 as `openqwen pairs --scores` reads them. Returns how many there are."""
    rows = [
        {"reply": reply, "annotator": answer.annotator, "score": mark.score}
        for answer in ballots.answers()
        for reply, mark in sorted(answer.marks.items())
        if mark.score is not None
    ]
    if not rows:
        raise DataError("no annotator has given scores", where=str(ballots.path))
    return write_jsonl(path, rows)


def export_pairs(ballots: Ballots, path: Path) -> int:
    """Writes the comparison pairs that follow from places, records of pairs.py. Returns how many there are.

    A reply's worth is the share of the instruction's other replies that it was put before, the mean over annotators; one
    that anybody flagged unsafe is worth nothing, so that it is never the better side.
    """
    items = ballots.study.items
    replies = [reply for item in items for reply in item.replies]
    scores = by_people(ballots.path, replies)
    for answer in ballots.answers():
        scores.of.update({reply: 0.0 for reply, mark in answer.marks.items() if mark.unsafe})
    prompts = {item.id: item.prompt for item in items}
    pairs, _ = form(replies, prompts, scores, PairsConfig(judge="people", max_pairs=len(replies) ** 2))
    if not pairs:
        raise DataError("no reply was put before another", where=str(ballots.path))
    return write_jsonl(path, pairs)
