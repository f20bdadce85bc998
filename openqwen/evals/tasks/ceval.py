"""C-Eval: Chinese multiple choice over many subjects.

Report §2.6, Table 2 (5-shot) and §3.3, Table 5 (0-shot). Base: no header, and the letter stands without a space, as in
the released script; chat: question and choices, the letter is read from the reply. Harness (ceval-valid): a header that
names the subject in Chinese, and no "问题".
"""

from __future__ import annotations

from openqwen.evals import choice
from openqwen.evals.task import Ask, Item, Task, uniform_guess


def query(item: Item) -> str:
    return f"问题：{item['question']}\n{choice.lines(item)}答案："


def harness_header(item: Item) -> str:
    return f"以下是中国关于{item.get('subject_zh', item['subject'])}的单项选择题，请选出其中的正确答案。\n\n"


def harness_query(item: Item) -> str:
    return f"{item['question'].strip()}\n{choice.lines(item)}答案："


def harness_answer(item: Item) -> str:
    return f" {item['answer']}\n\n"


def answer(item: Item) -> str:
    return f"{item['answer']}\n\n"


def chat_query(item: Item) -> str:
    return f"{item['question']}\n\n{choice.lines(item)}"


def chat_answer(item: Item) -> str:
    return f"答案是 {item['answer']}。"


TASK = Task(
    name="ceval",
    title="C-Eval",
    parse=choice.parse,
    base=Ask(query, answer, letters=("A", "B", "C", "D")),
    chat=Ask(chat_query, chat_answer, judge=choice.judge("zh")),
    chance=uniform_guess,
    harness=Ask(harness_query, harness_answer, harness_header, options=choice.letter_options(" ")),
)
