"""LAMBADA: the last word of a passage.

Report §A.2 (0-shot), OpenCompass' mode: five tokens are generated and their first word counts. Harness: greedy decoding
must give exactly the word. The two are not the same number.
"""

from __future__ import annotations

import re
import string

from openqwen.core.errors import DataError
from openqwen.evals.task import Ask, Item, Task, identity, no_guess, take
from openqwen.evals.tasks.nq import plain


def parse(record: Item, place: str) -> Item:
    """The published forms (text) and (context, continuation); OpenCompass' (prompt, label)."""
    if "text" in record:
        passage, blank, word = record["text"].rpartition(" ")
    else:
        passage, word = take(record, place, "context", "prompt"), take(record, place, "continuation", "label")
        blank = " "
    if not blank or not word.strip():
        raise DataError("a passage without a last word", where=place)
    return {
        "id": identity(record, place),
        "question": passage,
        "answer": word.strip(),
        "split": record.get("split", "test"),
    }


def query(item: Item) -> str:
    return f"Please complete the following sentence:\n{item['question']}"


def answer(item: Item) -> str:
    return f" {item['answer']}\n\n"


def judge(text: str, item: Item) -> bool:
    word = re.split(f"[{re.escape(string.punctuation)}]", text.strip().split(" ")[0])[0]
    return bool(plain(word)) and plain(word) == plain(item["answer"])


def harness_query(item: Item) -> str:
    return str(item["question"])


def options(item: Item) -> list[str]:
    return [f" {item['answer']}"]


TASK = Task(
    name="lambada",
    title="LAMBADA",
    parse=parse,
    base=Ask(query, answer, judge=judge, tokens=5),
    chat=Ask(query, answer, judge=judge, tokens=16),
    chance=no_guess,
    harness=Ask(harness_query, answer, options=options, by="greedy"),
)
