"""MMLU: English multiple choice over many subjects.

Report §2.6, Table 2 (5-shot) and §3.3, Table 5 (0-shot). Base: a header with the subject, examples, and the letter
" A".." D" of the highest probability. Chat: an instruction, and the letter is read from the reply. Both layouts equal
the released scripts'. Harness: the same letters, without "Question:".
"""

from __future__ import annotations

from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, uniform_guess


def header(item: Item) -> str:
    subject = item["subject"].replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def query(item: Item) -> str:
    return f"Question: {item['question']}\n{choice.lines(item)}Answer:"


def harness_query(item: Item) -> str:
    return f"{item['question'].strip()}\n{choice.lines(item)}Answer:"


def answer(item: Item) -> str:
    return f" {item['answer']}\n\n"


def chat_query(item: Item) -> str:
    ask = "Please choose the most suitable one among A, B, C and D as the answer to this question."
    return f"The following is a multiple-choice question. {ask}\n\n{item['question']}\n{choice.lines(item)}"


def chat_answer(item: Item) -> str:
    return f"The answer is {item['answer']}."


TASK = Task(
    name="mmlu",
    title="MMLU",
    parse=choice.parse,
    base=Ask(query, answer, header, letters=(" A", " B", " C", " D")),
    chat=Ask(chat_query, chat_answer, judge=choice.judge("en")),
    chance=uniform_guess,
    harness=Ask(harness_query, answer, header, options=choice.letter_options(" ")),
)
