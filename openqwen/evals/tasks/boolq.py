"""BoolQ: does a passage say yes or no?

Report §A.2 (0-shot), OpenCompass' mode: "Answer: No" and "Answer: Yes" are compared as ends of the text. Harness: the
words " no" and " yes" after "Answer:".
"""

from __future__ import annotations

from openqwen.core.errors import DataError
from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, take, uniform_guess

WORDS = ["no", "yes"]


def parse(record: Item, place: str) -> Item:
    """The published forms (answer: true or false; label: 0 or 1) and (query, choices, gold)."""
    if "query" in record:
        passage, _, question = record["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        gold = take(record, place, "gold")
    else:
        passage, question = take(record, place, "passage"), take(record, place, "question")
        gold = take(record, place, "answer", "label")
    if not passage:
        raise DataError("record without a passage", where=place)
    return choice.item(record, place, question.removesuffix("?"), WORDS, int(gold), passage=passage)


def query(item: Item) -> str:
    return f"Passage: {item['passage']}\nQuestion: {item['question']}?\n"


def options(item: Item) -> list[str]:
    return ["Answer: No", "Answer: Yes"]


def answer(item: Item) -> str:
    return f"{options(item)[choice.right(item)]}\n\n"


def harness_query(item: Item) -> str:
    return f"{item['passage']}\nQuestion: {item['question']}?\nAnswer:"


def harness_answer(item: Item) -> str:
    return f" {WORDS[choice.right(item)]}\n\n"


def chat_answer(item: Item) -> str:
    return f"{WORDS[choice.right(item)].capitalize()}."


def judge(text: str, item: Item) -> bool:
    """The first word decides."""
    word = text.strip().split(maxsplit=1)[:1]
    return bool(word) and word[0].strip(".,:;!").lower() == WORDS[choice.right(item)]


TASK = Task(
    name="boolq",
    title="BoolQ",
    parse=parse,
    base=Ask(query, answer, options=options, by="text"),
    chat=Ask(query, chat_answer, judge=judge),
    chance=uniform_guess,
    harness=Ask(harness_query, harness_answer, options=choice.text_options),
)
