"""Gaokao-Bench: the objective questions of China's college entrance examinations.

Report §A.2 (0-shot), OpenCompass' modes: single choices compare the marked letters as ends of the text; questions with
several parts or several right letters are answered in text. Ours: each question counts by its points, as the set's own
scoring has it; a subset of the right letters of a physics question gets half.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from openqwen.core.errors import DataError
from openqwen.evals.task import Ask, Item, Task, identity, take

SUBJECTS = {
    "Math_II": "数学", "Math_I": "数学", "History": "历史", "Biology": "生物", "Political_Science": "政治",
    "Chemistry": "化学", "English": "英语", "Physics": "物理",
}  # fmt: skip
PARTS = {
    "Chinese_Modern_Lit": "请你做一道语文阅读理解题，其中包含三个小题。",
    "English_Fill_in_Blanks": "请你做一道英语完形填空题,其中包含二十个小题。",
    "Geography_MCQs": "请你做一道地理选择题，其中包含两到三个小题。",
    "English_Reading_Comp": "请你做一道英语阅读理解题，其中包含三到五个小题。",
}
_MARKED = "并写在【答案】和<eoa>之间。\n"
_THINK = "请你一步一步思考并将思考过程写在【解析】和<eoe>之间。"
_FORM = "请你严格按照上述格式作答。\n"


def parse(record: Item, place: str) -> Item:
    """The published form (question, answer: a list of letters, score) with the kind in `task` or the file's name."""
    kind = record.get("task") or re.sub(r"\.jsonl?(\.gz)?:\d+$", "", identity({}, place))
    gold = take(record, place, "answer")
    if not isinstance(gold, list) or not gold or not all(re.fullmatch("[A-G]+", str(part)) for part in gold):
        raise DataError(f"answer {gold!r} is not a list of letters", where=place)
    return {
        "id": identity(record, place),
        "subject": kind,
        "question": take(record, place, "question"),
        "answer": gold,
        "points": float(take(record, place, "score")) * len(gold),
        "split": record.get("split", "test"),
    }


def single(item: Item) -> bool:
    """One question with one letter, by its kind: not what its answer happens to be."""
    return any(f"{name}_MCQs" in item["subject"] for name in SUBJECTS if name != "Physics")


def query(item: Item) -> str:
    return _instruction(item) + item["question"]


def _instruction(item: Item) -> str:
    kind = item["subject"]
    if single(item):
        subject = next(zh for name, zh in SUBJECTS.items() if f"{name}_MCQs" in kind)
        return (
            f"请你做一道{subject}选择题\n{_THINK}你将从A，B，C，D中选出正确的答案，{_MARKED}例如：【答案】: A <eoa>\n"
            f"完整的题目回答的格式如下：\n【解析】 ... <eoe>\n【答案】 ... <eoa>\n{_FORM}题目如下："
        )
    if "Physics" in kind:
        return (
            f"请你做一道物理选择题。\n{_THINK}你将从A，B，C，D中选出所有符合题意的答案，{_MARKED}例如：【答案】 AB <eoa>\n"
            f"完整的题目回答的格式如下：\n【解析】 ... <eoe>\n【答案】... <eoa>\n{_FORM}"
        )
    if "English_Cloze" in kind:
        return (
            "请回答下面的问题，将符合题意的五个选项的字母写在【答案】和<eoa>之间，例如“【答案】 A B C D E <eoa>\n"
            "请严格按照上述格式作答。\n"
        )
    head = next((text for name, text in PARTS.items() if name in kind), None)
    if head is not None:
        return (
            f"{head}\n请你一步一步思考。每一题你将从A，B，C，D中选出正确的答案，{_MARKED}"
            f"例如：（1）【答案】 A <eoa>\n（2）【答案】 B <eoa>\n{_FORM}"
        )
    return (
        f"请你做一道语文选择题\n{_THINK}你将从A，B，C，D中选出正确的答案，{_MARKED}例如：【答案】: A <eoa>\n"
        "完整的题目回答的格式如下：\n（1）【解析】 ... <eoe>\n【答案】 ... <eoa>\n（2）【解析】 ... <eoe>\n"
        "【答案】 ... <eoa>\n请你严格按照上述格式作答。如果不止一道题，请分别作答\n题目如下："
    )


def options(item: Item) -> list[str]:
    return [f"\n【答案】{letter} <eoa>" for letter in "ABCD"] if single(item) else []


def answer(item: Item) -> str:
    return "\n" + " ".join(f"【答案】{part} <eoa>" for part in item["answer"]) + "\n\n"


def letters(reply: str, item: Item) -> list[str]:
    """The letters that a reply gives, in the set's own order of rules; one entry for each part of the question."""
    parts = len(item["answer"])
    if single(item):
        return re.findall("[A-D]", reply)[-1:]
    if "Physics" in item["subject"]:
        text = re.sub(r"\s+", "", reply)
        marked = text.find("【答案】")
        found = "".join(re.findall("[A-D]", text[marked:] if marked >= 0 else text[-10:]))
        return [found] if found else []
    if "English_Cloze" in item["subject"]:
        return re.findall("[A-G]", reply)[:5]
    marks = re.findall(r"【答案】\s*[:：]*\s*([A-Z])", reply)
    return marks if len(marks) == parts else re.findall("[A-Z]", reply)[:parts]


def judge(text: str, item: Item) -> float:
    """The share of the points. Another number of letters than there are parts gets none."""
    said, gold = letters(text, item), item["answer"]
    if len(said) != len(gold):
        return 0.0
    if "Physics" in item["subject"]:
        return 1.0 if said == gold else 0.5 if set(said[0]) <= set(gold[0]) else 0.0
    return sum(s == g for s, g in zip(said, gold)) / len(gold)


def points(items: Sequence[Item]) -> list[float]:
    return [item["points"] for item in items]


def chance(items: Sequence[Item]) -> float | None:
    """A quarter of the points of single choices; other kinds count as none."""
    total = sum(points(items))
    return sum(item["points"] / 4 for item in items if single(item)) / total if items else None


TASK = Task(
    name="gaokao",
    title="Gaokao-Bench",
    parse=parse,
    base=Ask(query, answer, options=options, by="text", judge=judge),
    chat=Ask(query, answer, judge=judge),
    chance=chance,
    weights=points,
)
