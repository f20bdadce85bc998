"""Math401: arithmetic, from 1+1 to logarithms.

Report §5.2, Table 12 (0-shot, greedy). The last number of the reply counts if it is within 0.001 of the answer, as in the
set's own paper.
"""

from __future__ import annotations

import math
import re

from openqwen.core.errors import DataError
from openqwen.evals.task import Ask, Item, Task, constant_guess, identity, take

_NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?")
NEAR = 1e-3


def parse(record: Item, place: str) -> Item:
    """The published form (query, response) and OpenCompass' (question, answer)."""
    gold = str(take(record, place, "response", "answer")).strip()
    if number(gold) is None:
        raise DataError(f"answer {gold!r} is no number", where=place)
    return {
        "id": identity(record, place),
        "question": take(record, place, "query", "question"),
        "answer": gold,
        "split": record.get("split", "test"),
    }


def number(text: str) -> float | None:
    """The last number of a text."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None


def judge(text: str, item: Item) -> bool:
    said, gold = number(text), number(item["answer"])
    return said is not None and gold is not None and math.isclose(said, gold, rel_tol=0, abs_tol=NEAR)


def query(item: Item) -> str:
    return str(item["question"])


def answer(item: Item) -> str:
    return f"{item['answer']}\n\n"


TASK = Task(
    name="math401",
    title="Math401",
    parse=parse,
    base=Ask(query, answer, judge=judge, stop=("\n",)),
    chat=Ask(query, answer, judge=judge),
    chance=constant_guess,
)
