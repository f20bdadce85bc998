"""HellaSwag: which of four endings continues a scene?

Report §A.2 (0-shot), OpenCompass' mode: endings with letters, answered in text. Harness: the endings themselves are
compared, cleaned of the marks that its source left in them.
"""

from __future__ import annotations

import re

from openqwen.core.errors import DataError
from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, take, uniform_guess
from openqwen.evals.tasks import arc


def clean(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def parse(record: Item, place: str) -> Item:
    """The published form (activity_label, ctx_a, ctx_b, label as text) and (ctx, label as number)."""
    scene = take(record, place, "ctx")
    if "activity_label" in record:
        second = take(record, place, "ctx_b").capitalize()
        scene = clean(f"{record['activity_label']}: {take(record, place, 'ctx_a')} {second}")
    endings = [clean(ending) for ending in take(record, place, "endings")]
    label = str(take(record, place, "label"))
    if not label.isdecimal():
        raise DataError(f"label {label!r} is no number", where=place)
    return choice.item(record, place, scene, endings, int(label))


def query(item: Item) -> str:
    return (
        f"{item['question']}\nQuestion: Which ending makes the most sense?\n{choice.lines(item)}"
        "You may choose from 'A', 'B', 'C', 'D'.\nAnswer:"
    )


def harness_query(item: Item) -> str:
    return str(item["question"])


TASK = Task(
    name="hellaswag",
    title="HellaSwag",
    parse=parse,
    base=Ask(query, arc.letter, judge=choice.strict("en"), stop=("\n\n",)),
    chat=Ask(query, arc.chat_answer, judge=choice.strict("en")),
    chance=uniform_guess,
    harness=Ask(harness_query, arc.answer, options=choice.text_options),
)
