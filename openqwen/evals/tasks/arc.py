"""ARC-e and ARC-c: science questions of American schools.

Report §A.2 (0-shot), OpenCompass' modes: ARC-e is asked with letters and answered in text, ARC-c compares whole texts by
their mean log-probability, so the two columns are not of one kind. Harness: the choices' texts are compared.
"""

from __future__ import annotations

from openqwen.core.errors import DataError
from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, take, uniform_guess


def parse(record: Item, place: str) -> Item:
    """The hub's form (choices with labels, answerKey), the set's own (question.stem), (query, gold), (instruction)."""
    if "instruction" in record:
        return choice.item(record, place, *choice.spelled(record, place))
    if "query" in record:
        question = record["query"].removeprefix("Question: ")
        return choice.item(
            record, place, question, take(record, place, "choices"), take(record, place, "gold")
        )
    question, inner = take(record, place, "question"), record
    if isinstance(question, dict):
        question, inner = take(question, place, "stem"), question
    texts, labels = choice.labelled(take(inner, place, "choices"), place)
    key = take(record, place, "answerKey")
    if key not in labels:
        raise DataError(f"answer {key!r} is none of the choices", where=place)
    return choice.item(record, place, question, texts, labels.index(key))


def query(item: Item) -> str:
    return f"Question: {item['question']}\nAnswer:"


def answer(item: Item) -> str:
    return f" {item['choices'][choice.right(item)]}\n\n"


def lettered(item: Item) -> str:
    return f"Question: {item['question']}\n{choice.lines(item)}Answer:"


def letter(item: Item) -> str:
    return f" {item['answer']}\n\n"


def chat_answer(item: Item) -> str:
    return f"The answer is {item['answer']}."


GENERATED = Ask(lettered, letter, judge=choice.strict("en"), stop=("\n\n",))
CHAT = Ask(lettered, chat_answer, judge=choice.strict("en"))
HARNESS = Ask(query, answer, options=choice.text_options)

EASY = Task(
    name="arc_easy",
    title="ARC-e",
    parse=parse,
    base=GENERATED,
    chat=CHAT,
    chance=uniform_guess,
    harness=HARNESS,
)
CHALLENGE = Task(
    name="arc_challenge",
    title="ARC-c",
    parse=parse,
    base=Ask(query, answer, options=choice.text_options, by="text"),
    chat=CHAT,
    chance=uniform_guess,
    harness=HARNESS,
)
