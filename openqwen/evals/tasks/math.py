"""MATH: competition problems with a formula as answer.

Report §2.6, Table 2 (4-shot) and Table 12 (the 500-item split). The answer is what \\boxed{} holds, else what stands
after "answer is"; two answers are equal if they are after normalising, or as numbers. Equality of formulas by algebra is
not done. The layout is the one of the Minerva examples that the field uses.
"""

from __future__ import annotations

import re
from fractions import Fraction

from openqwen.core.errors import DataError
from openqwen.evals.task import Ask, Item, Task, constant_guess, identity, take

_SAID = re.compile(r"(?i:answer is)\s*:?\s*(.+?)(?:\.\s|\.?$)", re.MULTILINE)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_DROP = ("\\left", "\\right", "\\!", "\\,", "\\;", "\\ ", "$", "\\%", "%", "^\\circ", "^{\\circ}", "\\$")


def parse(record: Item, place: str) -> Item:
    """The published form (problem, solution with \\boxed) and the primer's (question, answer with ####)."""
    solution = take(record, place, "solution", "answer")
    working, mark, gold = solution.rpartition("#### ")
    answer = gold.strip() if mark else boxed(solution)
    if answer is None:
        raise DataError("solution without \\boxed{answer} or '#### answer'", where=place)
    return {
        "id": identity(record, place, "idx", "unique_id"),
        "question": take(record, place, "problem", "question"),
        "working": working.strip() if mark else solution,
        "answer": answer,
        "split": record.get("split", "test"),
    }


def boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds, braces inside it counted."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for i in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : i]
    return None


def final(text: str) -> str | None:
    """The answer a reply gives."""
    if (found := boxed(text)) is not None:
        return found
    said = _SAID.findall(text.replace("I hope it is correct", ""))
    return said[-1] if said else None


def normal(answer: str) -> str:
    """A form in which equal answers are equal texts: `\\dfrac{1}{2}` -> `1/2`, `$ 3 $.` -> `3`."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer)
    text = _FRACTION.sub(r"\1/\2", text)
    for part in _DROP:
        text = text.replace(part, "")
    return re.sub(r"(?<=\d),(?=\d{3})", "", re.sub(r"\s+", "", text).rstrip("."))


def equal(a: str, b: str) -> bool:
    """Same text after normalising, or same number."""
    a, b = normal(a), normal(b)
    if a == b:
        return a != ""
    try:
        return Fraction(a) == Fraction(b)
    except (ValueError, ZeroDivisionError):
        return False


def judge(text: str, item: Item) -> bool:
    found = final(text)
    return found is not None and equal(found, item["answer"])


def query(item: Item) -> str:
    return f"Problem:\n{item['question']}\n\nSolution:\n"


def answer(item: Item) -> str:
    return (
        f"{item['working']}\nFinal Answer: The final answer is ${item['answer']}$. I hope it is correct.\n\n"
    )


def chat_query(item: Item) -> str:
    return str(item["question"])


def chat_answer(item: Item) -> str:
    return f"{item['working']}\nThe answer is {item['answer']}."


def judge_chat(text: str, item: Item) -> bool:
    """As `judge`; a chat model that only works the sum out is read by the last number it equates to."""
    if final(text) is not None:
        return judge(text, item)
    last = re.findall(r"=\s*(-?[\d./]+)", text)
    return bool(last) and equal(last[-1], item["answer"])


TASK = Task(
    name="math",
    title="MATH",
    parse=parse,
    base=Ask(query, answer, judge=judge, stop=("\n\n", "Problem:")),
    chat=Ask(chat_query, chat_answer, judge=judge_chat),
    chance=constant_guess,
)
