"""MBPP: write a function from one sentence and its tests.

Report §2.6, Tables 2 and 10 (3-shot by the table, 0-shot by the text: the table is followed). The layout with [BEGIN]
and [DONE] is the one of the set's own paper. Harness (mbpp): the same layout with the first three tests, the published
line ends, and nothing before or after the code.
"""

from __future__ import annotations

import re

from openqwen.evals.languages import apart
from openqwen.evals.task import Ask, Item, Task, no_guess, take
from openqwen.evals.tasks.humaneval import _FENCE

_DEV = range(2, 5)  # the published set's few-shot examples are its tasks 2, 3 and 4


def parse(record: Item, place: str) -> Item:
    """The published form (text, code, test_list) and the primer's (prompt, test)."""
    tests = record["test_list"] if "test_list" in record else take(record, place, "test").strip().split("\n")
    number = record.get("task_id")
    code = take(record, place, "code", "canonical_solution")
    return {
        "id": str(take(record, place, "task_id", "id")),
        "question": take(record, place, "text", "prompt"),
        "tests": [line for line in tests if line.strip()],
        "setup": record.get("test_setup_code", ""),
        "code": code,
        "answer": code.replace("\r\n", "\n"),
        "split": record.get("split") or ("dev" if number in _DEV else "test"),
    }


def query(item: Item) -> str:
    tests = "\n".join(item["tests"])
    return (
        f"You are an expert Python programmer, and here is your task: {item['question']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def answer(item: Item) -> str:
    return f"{item['answer'].strip()}\n[DONE]\n\n"


def program(text: str, item: Item) -> str:
    return _whole(text.split("[DONE]")[0], item)


def chat_program(text: str, item: Item) -> str:
    fenced = _FENCE.search(text)
    marked = re.search(r"\[BEGIN\]\n(.*?)(?:\[DONE\]|$)", text, re.DOTALL)
    return _whole(fenced[1] if fenced else marked[1] if marked else text, item)


def _whole(code: str, item: Item) -> str:
    tests = "\n".join(item["tests"])
    return apart(code.strip(), f"{item['setup']}\n{tests}")


def harness_query(item: Item) -> str:
    return query({**item, "tests": item["tests"][:3]})


def harness_answer(item: Item) -> str:
    return f"{item['code']}\n[DONE]\n\n"


def harness_program(text: str, item: Item) -> str:
    return apart(text, "\n".join(item["tests"][:3]))


def chat_query(item: Item) -> str:
    return str(item["question"])


def chat_answer(item: Item) -> str:
    return f"```python\n{item['answer'].strip()}\n```"


TASK = Task(
    name="mbpp",
    title="MBPP",
    parse=parse,
    base=Ask(query, answer, program=program, stop=("[DONE]",)),
    chat=Ask(chat_query, chat_answer, program=chat_program),
    chance=no_guess,
    harness=Ask(harness_query, harness_answer, program=harness_program, stop=("[DONE]",), tokens=256),
)
