"""OCNLI: does a Chinese sentence follow from another?

Report §A.2 (0-shot), OpenCompass' mode: three letters, and the reply's first capital decides. Rows on which the annotators
did not agree (label "-") belong to no score. lm-evaluation-harness has no such task: its xnli_zh is another set.
"""

from __future__ import annotations

import re

from openqwen.core.errors import DataError
from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, take, uniform_guess

RELATIONS = {"entailment": "蕴含", "contradiction": "矛盾", "neutral": "无关"}
_HUB = ("neutral", "entailment", "contradiction")  # CLUE's order of numbers


def parse(record: Item, place: str) -> Item | None:
    """The published form: sentence1, sentence2 and a label in words or in CLUE's numbers."""
    label = take(record, place, "label")
    if label in ("-", -1):
        return None
    label = _HUB[label] if label in range(3) else label
    if label not in RELATIONS:
        raise DataError(f"label {label!r} is none of {', '.join(RELATIONS)}", where=place)
    first, second = take(record, place, "sentence1"), take(record, place, "sentence2")
    index = list(RELATIONS).index(label)
    return choice.item(record, place, second, list(RELATIONS.values()), index, premise=first)


def query(item: Item) -> str:
    return (
        f"语句一：“{item['premise']}”\n语句二：“{item['question']}”\n请问这两句话是什么关系？\n"
        "A. 蕴含\n B. 矛盾\n C. 无关\n请从“A”，“B”，“C”中进行选择。\n答："
    )


def answer(item: Item) -> str:
    return f"{item['answer']}\n\n"


def judge(text: str, item: Item) -> bool:
    first = re.search(r"[A-Z]", text)
    return first is not None and first[0] == item["answer"]


TASK = Task(
    name="ocnli",
    title="OCNLI",
    parse=parse,
    base=Ask(query, answer, judge=judge, stop=("\n\n",)),
    chat=Ask(query, answer, judge=judge),
    chance=uniform_guess,
)
