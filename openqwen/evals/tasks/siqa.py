"""SIQA: what people do, feel or want in a situation.

Report §A.2 (0-shot), OpenCompass' mode: "Answer: A" to "Answer: C" are compared as ends of the text. Harness: the texts
of the answers.
"""

from __future__ import annotations

import re

from openqwen.core.errors import DataError
from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, take, uniform_guess
from openqwen.evals.tasks import arc

_LAST = re.compile(r"(.*[.!?\"'])\s+([^.!?]+\?)", re.DOTALL)


def parse(record: Item, place: str) -> Item:
    """The published form (context, question, answerA to answerC, label from 1) and (instruction)."""
    if "instruction" in record:
        text, choices, index = choice.spelled(record, place)
        parted = _LAST.fullmatch(text)
        context, question = (parted[1], parted[2]) if parted else ("", text)
    else:
        context, question = take(record, place, "context"), take(record, place, "question")
        choices = [take(record, place, f"answer{letter}") for letter in "ABC"]
        label = str(take(record, place, "label")).strip()
        if not label.isdecimal():
            raise DataError(f"label {label!r} is no number", where=place)
        index = int(label) - 1
    return choice.item(record, place, question, choices, index, context=context)


def query(item: Item) -> str:
    return f"{item['context']}\nQuestion: {item['question']}\n{choice.lines(item)}"


def answer(item: Item) -> str:
    return f"Answer: {item['answer']}\n\n"


def chat_query(item: Item) -> str:
    return f"{query(item)}Answer:"


def harness_query(item: Item) -> str:
    return f"Q: {item['context']} {item['question']}\nA:"


TASK = Task(
    name="siqa",
    title="SIQA",
    parse=parse,
    base=Ask(query, answer, options=choice.letter_options("Answer: "), by="text"),
    chat=Ask(chat_query, arc.chat_answer, judge=choice.strict("en")),
    chance=uniform_guess,
    harness=Ask(harness_query, arc.answer, options=choice.text_options),
)
