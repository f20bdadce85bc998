"""PIQA: which of two ways reaches a goal in the physical world?

Report §A.2 (0-shot), OpenCompass' mode: letters, answered in text. Harness: the two ways are compared.
"""

from __future__ import annotations

from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, take, uniform_guess
from openqwen.evals.tasks import arc


def parse(record: Item, place: str) -> Item:
    """The published form: goal, sol1, sol2, label."""
    ways = [take(record, place, "sol1"), take(record, place, "sol2")]
    return choice.item(record, place, take(record, place, "goal"), ways, int(take(record, place, "label")))


def query(item: Item) -> str:
    return f"{item['question']}\n{choice.lines(item)}Answer:"


TASK = Task(
    name="piqa",
    title="PIQA",
    parse=parse,
    base=Ask(query, arc.letter, judge=choice.strict("en"), stop=("\n\n",)),
    chat=Ask(query, arc.chat_answer, judge=choice.strict("en")),
    chance=uniform_guess,
    harness=arc.HARNESS,
)
