"""C-Eval: Chinese multiple choice over many subjects.

Report §2.6, Table 2 (5-shot) and §3.3, Table 5 (0-shot). Base: no header, and the letter stands without a space, as in
the released script; chat: question and choices, the letter is read from the reply.
"""

from __future__ import annotations

from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, uniform_guess


def query(item: Item) -> str:
    return f"问题：{item['question']}\n{choice.lines(item)}答案："


def answer(item: Item) -> str:
    return f"{item['answer']}\n\n"


def chat_query(item: Item) -> str:
    return f"{item['question']}\n\n{choice.lines(item)}"


def chat_answer(item: Item) -> str:
    return f"答案是 {item['answer']}。"


TASK = Task(
    name="ceval",
    title="C-Eval",
    read=choice.read,
    base=Ask(query, answer, letters=("A", "B", "C", "D")),
    chat=Ask(chat_query, chat_answer, judge=choice.judge("zh")),
    chance=uniform_guess,
)
