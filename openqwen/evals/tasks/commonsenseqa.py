"""CommonsenseQA: everyday questions with five choices.

Report §A.2 (8-shot), OpenCompass' mode: whole texts are compared by their mean log-probability. Ours: the examples are
the first ones of the training part; OpenCompass picks them for each question with a sentence encoder. Harness: letters.
"""

from __future__ import annotations

from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, uniform_guess
from openqwen.evals.tasks import arc


def query(item: Item) -> str:
    return f"Question: {item['question']}\nAnswer: \n"


def options(item: Item) -> list[str]:
    return list(item["choices"])


def answer(item: Item) -> str:
    return f"{item['choices'][choice.right(item)]}\n"


def lettered(item: Item) -> str:
    return f"Question: {item['question'].strip()}\n{choice.lines(item)}Answer:"


TASK = Task(
    name="commonsenseqa",
    title="CommonsenseQA",
    parse=arc.parse,
    base=Ask(query, answer, options=options, by="text"),
    chat=Ask(lettered, arc.chat_answer, judge=choice.strict("en")),
    chance=uniform_guess,
    harness=Ask(lettered, arc.letter, options=choice.letter_options(" ")),
)
