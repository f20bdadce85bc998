"""ToolQA: questions that need tools, as far as they can be asked without the set's own corpora.

Report §3.4 (tools for what a model does not know); the set is not the report's. Its questions are about flights, coffee
prices, papers and the like, in tables of several gigabytes that are published apart from them; only those of GSM8K stand
by themselves, and are answered with the interpreter. All are read; what cannot be asked is said, and never scored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.agent.cases import Case
from openqwen.agent.coding import Opening, correct, each, executable
from openqwen.agent.config import AgentEvalConfig
from openqwen.agent.loop import Model
from openqwen.agent.rows import rows, take
from openqwen.core.errors import DataError
from openqwen.core.tables import Cell, share

PUBLISHED = 1530
ALONE = "gsm8k"  # the part whose questions need no corpus
_ID = re.compile(r"(?:easy|hard)-(\w+)-\d+")


@dataclass(frozen=True)
class Question:
    """A question that stands by itself; its answer is a number."""

    id: str
    query: str
    answer: float
    part: str = ALONE


def load(folder: Path) -> tuple[list[Question], list[str]]:
    """The questions of FOLDER/toolqa that can be asked. DataError for a row that is none."""
    home = folder / "toolqa"
    whole = [home / name for name in ("questions.jsonl", "questions.jsonl.gz") if (home / name).is_file()]
    paths = whole[:1] or sorted(home.glob("questions/*/*.jsonl"))
    if not paths:
        return [], [f"no questions.jsonl(.gz) or questions/*/*.jsonl in {home}"]
    asked: list[Question] = []
    other: dict[str, int] = {}
    for path in paths:
        for place, row in rows(path):
            domain, question = _question(row, place)
            if question is None:
                other[domain] = other.get(domain, 0) + 1
            else:
                asked.append(question)
    read = len(asked) + sum(other.values())
    notes = [f"{read} of {PUBLISHED} questions read, {len(asked)} can be asked"]
    if other:
        counts = ", ".join(f"{domain} {count}" for domain, count in sorted(other.items()))
        notes.append(f"not asked, as their corpora are not part of the questions: {counts}")
    return asked, notes


def _question(row: Mapping[str, Any], place: str) -> tuple[str, Question | None]:
    """(domain, the question) of a row; no question where it needs a corpus."""
    identity = take(row, "qid", str, place)
    named = _ID.fullmatch(identity)
    if named is None:
        raise DataError('"qid" is not LEVEL-DOMAIN-NUMBER', where=place)
    query, answer = take(row, "question", str, place), take(row, "answer", (str, int, float), place)
    if named[1] != ALONE:
        return named[1], None
    if isinstance(answer, str) or not abs(answer) < 1e300:
        raise DataError('"answer" of a question from GSM8K is not a number', where=place)
    return ALONE, Question(identity, query, float(answer))


def play(
    model: Model, questions: Sequence[Question], config: AgentEvalConfig, folder: Path
) -> list[dict[str, Any]]:
    """Every question with an interpreter of its own; right if the answer's last number is the known one."""
    cases = [Case(q.id, "math", "en", q.query, "", number=q.answer) for q in questions]
    asked: list[Opening] = [(case.id, case.query, {}) for case in cases]
    return [
        {
            "id": case.id,
            "executable": executable(talk),
            "right": correct(case, talk, python),
            "trace": talk.trace(),
        }
        for case, (talk, python) in zip(
            cases, each(model, "ToolQA", asked, folder / "pictures", config.sets), strict=True
        )
    ]


def cells(records: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Cell]:
    """Shares of right answers and of conversations whose code all ran."""
    return {
        f"toolqa_{ALONE}": share([record["right"] for record in records]),
        f"toolqa_{ALONE}_executable": share([record["executable"] for record in records]),
    }
