"""BBH: reasoning tasks answered in free text.

Report §2.6, Table 2 and §3.3, Table 5 (3-shot chain of thought). The answer is what follows "answer is"; a letter in
brackets counts as the letter. Where a chat reply lacks the phrase, the answer must be the reply itself or, for our own
items, satisfy the primer's check.
"""

from __future__ import annotations

import re

from openqwen.data.primer import check
from openqwen.evals.task import Ask, Item, Task, constant_guess, take

_SAID = re.compile(r"(?i:answer is)\s*:?\s*(.*)")
_STEP = "A: Let's think step by step."


def parse(record: Item, place: str) -> Item:
    """The published form (input, target) and the primer's (question, answer)."""
    return {
        "id": str(take(record, place, "id")),
        "task": str(take(record, place, "task")),
        "question": take(record, place, "input", "question"),
        "answer": str(take(record, place, "target", "answer")),
        "ours": "question" in record,
        "split": record.get("split", "test"),
    }


def query(item: Item) -> str:
    return f"Q: {item['question']}\n{_STEP}"


def answer(item: Item) -> str:
    return f"\nSo the answer is {item['answer']}.\n\n"


def normal(text: str) -> str:
    """`(B).` -> `b`, `True.` -> `true`."""
    text = text.strip().rstrip(".").strip().lower()
    letter = re.match(r"\(([a-z])\)", text)
    return letter[1] if letter else " ".join(text.split())


def judge(text: str, item: Item) -> bool:
    said = _SAID.findall(text)
    return bool(said) and normal(said[-1]) == normal(item["answer"])


def judge_chat(text: str, item: Item) -> bool:
    if _SAID.search(text):
        return judge(text, item)
    if item["ours"]:
        return check({"id": item["id"], "task": "words", "lang": "en", "answer": item["answer"]}, text)
    return normal(text) == normal(item["answer"])


def chat_query(item: Item) -> str:
    return str(item["question"])


def chat_answer(item: Item) -> str:
    return f"The answer is {item['answer']}."


TASK = Task(
    name="bbh",
    title="BBH",
    parse=parse,
    base=Ask(query, answer, judge=judge, stop=("\n\n", "Q:")),
    chat=Ask(chat_query, chat_answer, judge=judge_chat),
    chance=constant_guess,
)
