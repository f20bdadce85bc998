"""Scores of replies: people's, a rule's, a judging model's.

Report §3.2.1: annotators score the responses by a guideline, and the scores make the pairs. Ours: rules and a model as
judges, for who has no annotators, and how the scores of several people become one.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from openqwen.annotate.config import PairsConfig
from openqwen.annotate.models import Answerer, ask
from openqwen.chat.records import read_records
from openqwen.core.artifact import Run
from openqwen.core.errors import DataError
from openqwen.data.primer import true_score

Record = Mapping[str, Any]
SQLITE = b"SQLite format 3\x00"
BEST = 10
ASK = """You judge a reply of an assistant. Consider whether it does what the user asks, whether it is right, complete, \
clear and harmless, and whether it is as long as it needs to be. A longer reply is not better for its length.

[Conversation]
{question}

[Reply]
{reply}

[End of the reply]

Say in one or two sentences what is good and bad about it. Then give a score from 1 (useless) to 10 (perfect), on a line of \
its own, in this form: Score: 7"""
_SCORE = re.compile(r"score\W{0,8}(\d+(?:\.\d+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass
class Scores:
    """One score a reply, and what could not be used, by reason and line (of replies: their line of the prompts)."""

    of: dict[str, float] = field(default_factory=dict)
    judges: dict[str, list[str]] = field(default_factory=dict)  # who scored a reply
    skipped: dict[str, list[int]] = field(default_factory=dict)
    agreement: float | None = None  # of two annotators on two replies to one prompt

    def skip(self, reason: str, line: int) -> None:
        self.skipped.setdefault(reason, []).append(line)

    @property
    def num_skipped(self) -> int:
        return sum(map(len, self.skipped.values()))


# ---- people ------------------------------------------------------------------------------------------------------
def by_people(path: Path, replies: Sequence[Record]) -> Scores:
    """Scores from JSON lines {"reply", "annotator", "score"}, or from the table `scores` of a SQLite file.

    An annotator's later score of a reply replaces the earlier one; of several annotators the mean counts.
    """
    prompt_of = {reply["id"]: reply["prompt"] for reply in replies if "text" in reply}
    scores, given = Scores(), {}
    for line, record in _opinions(path):
        reason = _problem(record, prompt_of)
        if reason is not None:
            scores.skip(reason, line)
            continue
        given[record["reply"], str(record.get("annotator", "unnamed"))] = float(record["score"])
    by_reply: dict[str, dict[str, float]] = {}
    for (reply, annotator), score in given.items():
        by_reply.setdefault(reply, {})[annotator] = score
    for reply, found in by_reply.items():
        scores.of[reply], scores.judges[reply] = fmean(found.values()), sorted(found)
    scores.agreement = agreement(by_reply, prompt_of)
    return scores


def _opinions(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        is_table = file.read(len(SQLITE)) == SQLITE
    if not is_table:
        yield from read_records(path)
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            rows = base.execute("select rowid, reply, annotator, score from scores order by rowid")
            for number, reply, annotator, score in rows:
                yield number, {"reply": reply, "annotator": annotator, "score": score}
    except sqlite3.Error as error:
        raise DataError(f"no table of scores: {error}", where=str(path)) from error


def _problem(record: Any, known: Mapping[str, str]) -> str | None:
    if isinstance(record, DataError):
        return record.what
    if not isinstance(record, dict) or not isinstance(record.get("reply"), str):
        return "names no reply"
    score = record.get("score")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) < 1e9:
        return "has no number as its score"
    return None if record["reply"] in known else "is of a reply that is not there"


def agreement(by_reply: Mapping[str, Mapping[str, float]], prompt_of: Mapping[str, str]) -> float | None:
    """How often two annotators who both tell two replies to a prompt apart prefer the same; None if they never do."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    for reply, found in by_reply.items():
        groups.setdefault(prompt_of[reply], []).append(found)
    same = total = 0
    for group in groups.values():
        for i, a in enumerate(group):
            for b in group[i + 1 :]:
                said = [a[name] > b[name] for name in a.keys() & b.keys() if a[name] != b[name]]
                total += len(said) * (len(said) - 1) // 2
                up = sum(said)
                same += up * (up - 1) // 2 + (len(said) - up) * (len(said) - up - 1) // 2
    return same / total if total else None


# ---- rules -------------------------------------------------------------------------------------------------------
def right_answer(item: Record, reply: str) -> float:
    """1 if the record's answer stands last in the reply: its last number, or the last of the text. Else 0."""
    answer = item.get("answer")
    if not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise DataError("the prompt has no answer to compare with")
    wanted = str(answer).strip()
    if _NUMBER.fullmatch(wanted):
        found = _NUMBER.findall(reply)
        return float(bool(found) and _value(found[-1]) == _value(wanted))
    return float(_plain(reply).endswith(_plain(wanted)))


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


RULES: dict[str, Callable[[Record, str], float]] = {"answer": right_answer, "primer": true_score}


def by_rule(replies: Sequence[Record], prompts: Mapping[str, Record], config: PairsConfig) -> Scores:
    """The rule's score of every reply; one that did not end by itself has one less."""
    rule, scores = RULES[config.rule], Scores()
    for reply in replies:
        if "text" not in reply:
            continue
        try:
            found = rule(prompts[reply["prompt"]], reply["text"])
        except DataError as error:
            scores.skip(error.what, reply["line"])
            continue
        scores.of[reply["id"]] = found - (not reply["finished"])
        scores.judges[reply["id"]] = [f"rule {config.rule}"]
    return scores


# ---- a model -----------------------------------------------------------------------------------------------------
def parse_score(verdict: str) -> float | None:
    """The last score of a verdict, if it is one of 1 to 10."""
    found = _SCORE.findall(verdict)
    value = float(found[-1]) if found else 0.0
    return value if 1 <= value <= BEST else None


def by_model(
    model: Answerer,
    replies: Sequence[Record],
    prompts: Mapping[str, Record],
    config: PairsConfig,
    stage: Run,
) -> Scores:
    """The judge's score of every reply, each by itself: no order that could sway it. A verdict without one is skipped."""
    whole = [reply for reply in replies if "text" in reply]
    questions = [
        ASK.format(question=_conversation(prompts[reply["prompt"]]), reply=reply["text"]) for reply in whole
    ]
    scores = Scores()
    verdicts = ask(model, questions, config.max_tokens, config, stage)
    for reply, verdict in zip(whole, verdicts, strict=True):
        found = parse_score(verdict.text)
        if found is None:
            scores.skip(verdict.problem or "the verdict holds no score", reply["line"])
            continue
        scores.of[reply["id"]], scores.judges[reply["id"]] = found, [model.identity["model"]]
    return scores


def _conversation(prompt: Record) -> str:
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt["messages"])
