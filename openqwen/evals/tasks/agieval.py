"""AGIEval: exams made for people, in English and Chinese.

Report §A.2, Table 15 (0-shot), OpenCompass' modes: single choices compare "The answer is A" and so on as ends of the text,
questions with several right letters and those to fill in are answered in text. The score is the mean over the exams.
Harness (agieval): the exams' own zero-shot prompts, which its copy of the data holds ready made; the texts of all choices
are compared, one of the right letters is enough, and every question counts the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from openqwen.core.errors import DataError
from openqwen.evals import choice, formulas
from openqwen.evals.task import Ask, Item, Task, by_subject, identity, take
from openqwen.evals.tasks import math

_CHINESE = ("gaokao-", "jec-qa-", "logiqa-zh")
_GAOKAO = {
    "chinese": "语文", "english": "英语", "geography": "地理", "history": "历史", "biology": "生物",
    "chemistry": "化学", "physics": "物理", "mathqa": "数学",
}  # fmt: skip
_CHOOSE = "Please select the correct answer."
INTRODUCTIONS = {
    **{f"gaokao-{name}": f"以下是一道中国高考{zh}选择题，请选择正确的答案。" for name, zh in _GAOKAO.items()},
    "gaokao-mathcloze": "以下是一道中国高考数学填空题，请填入正确的答案。",
    "logiqa-zh": "以下是一道中国公务员考试题，请选择正确的答案。",
    "jec-qa-kd": "以下是一道中国司法考试基础知识题，请选择正确的答案。",
    "jec-qa-ca": "以下是一道中国司法考试案例分析题，请选择正确的答案。",
    "lsat-ar": f"The following is a LSAT Analytical Reasoning question. {_CHOOSE}",
    "lsat-lr": f"The following is a LSAT Logical Reasoning question. {_CHOOSE}",
    "lsat-rc": f"The following is a LSAT Reading Comprehension question. {_CHOOSE}",
    "logiqa-en": f"The following is a Logic Reasoning question. {_CHOOSE}",
    "sat-math": f"The following is a SAT Math question. {_CHOOSE}",
    "sat-en": f"The following is a SAT English question. {_CHOOSE}",
    "sat-en-without-passage": f"The following is a SAT English question. {_CHOOSE}",
    "aqua-rat": f"The following is a AQUA-RAT question. {_CHOOSE}",
    "math": f"The following is a Math question. {_CHOOSE}",
}
SEVERAL = ("jec-qa-kd", "jec-qa-ca")


def parse(record: Item, place: str) -> Item:
    """The published form (passage, question, options, label, answer) with the exam's name in `task` or the file's."""
    subject = record.get("task") or re.sub(r"\.jsonl?(\.gz)?:\d+$", "", identity({}, place))
    if subject not in INTRODUCTIONS:
        raise DataError(f"{subject!r} is no exam of AGIEval", where=place)
    options, label = record.get("options") or [], record.get("label")
    gold = "".join(label) if label else str(take(record, place, "answer"))
    gold = re.sub(r"[\s,，、]", "", gold) if options else gold
    if options and (not gold or not set(gold) <= set(choice.LETTERS[: len(options)])):
        raise DataError(f"answer {gold!r} is none of the choices", where=place)
    passage = record.get("passage") or ""
    return {
        "id": identity(record, place),
        "subject": subject,
        "passage": passage,
        "question": passage + take(record, place, "question"),
        "choices": list(options),
        "answer": gold,
        "split": record.get("split", "test"),
    }


def chinese(item: Item) -> bool:
    return item["subject"].startswith(_CHINESE)


def several(item: Item) -> bool:
    """More than one letter may be right."""
    return item["subject"] in SEVERAL or (bool(item["choices"]) and len(item["answer"]) > 1)


def query(item: Item) -> str:
    text = f"{INTRODUCTIONS[item['subject']]}\n{item['question']}"
    options = "\n".join(item["choices"])
    if not item["choices"]:
        return text + hint(item)
    return f"{text}\n{options}\n" + (hint(item) if several(item) else "")


def hint(item: Item) -> str:
    return "答案是：" if chinese(item) else "The answer is "


def options(item: Item) -> list[str]:
    if several(item) or not item["choices"]:
        return []
    return [hint(item) + letter for letter in choice.LETTERS[: len(item["choices"])]]


def answer(item: Item) -> str:
    asked = several(item) or not item["choices"]
    return f"{'' if asked else hint(item)}{item['answer']}\n\n"


def chat_query(item: Item) -> str:
    text = query(item)
    return text if text.endswith(hint(item)) else text + hint(item)


def chat_answer(item: Item) -> str:
    return f"{hint(item)}{item['answer']}"


def judge(text: str, item: Item) -> bool:
    if not item["choices"]:
        said = math.final(text) or formula(text)
        return said is not None and math.equal(said, item["answer"])
    if several(item):
        letters = re.search(r"[A-D]+", text)
        return letters is not None and letters[0] == item["answer"]
    return choice.strict("zh" if chinese(item) else "en")(text, item)


def formula(text: str) -> str | None:
    """The last formula in dollar signs, what stands after the last equals sign, or the last number."""
    if dollars := re.findall(r"\$([^$]+)\$", text):
        return str(dollars[-1]).rpartition("=")[2].strip()
    if "=" in text:
        return text.rpartition("=")[2].strip().rstrip(".").split("\n")[0]
    numbers = re.findall(r"-?\d+(?:\.\d+)?(?:/\d+)?", text)
    return numbers[-1] if numbers else None


def chance(items: Sequence[Item]) -> float | None:
    """Over the exams of single choices only: nothing else is hit by guessing."""
    chosen = [1 / len(item["choices"]) if options(item) else 0.0 for item in items]
    weights = by_subject(items)
    return sum(c * w for c, w in zip(chosen, weights)) / sum(weights) if items else None


def harness_query(item: Item) -> str:
    passage, question, count = item["passage"], item["question"][len(item["passage"]) :], len(item["choices"])
    english = not chinese(item) or item["subject"] == "gaokao-english"
    if not count:
        return (
            f"{passage}Q: {question}\nA: The answer is" if english else f"{passage}问题：{question}\n答案："
        )
    last = choice.LETTERS[count - 1]
    texts = " ".join(item["choices"])
    if english:
        return f"{passage}Q: {question} Answer Choices: {texts}\nA: Among A through {last}, the answer is"
    return f"{passage}问题：{question} 选项：{texts}\n答案：从A到{last}, 我们应选择"


def harness_answer(item: Item) -> str:
    right = item["choices"][choice.LETTERS.index(item["answer"][0])] if item["choices"] else item["answer"]
    return f" {right}\n\n"


def harness_judge(text: str, item: Item) -> bool:
    return formulas.agieval_equal(text, item["answer"])


def harness_chance(items: Sequence[Item]) -> float | None:
    hit = [len(item["answer"]) / len(item["choices"]) if item["choices"] else 0.0 for item in items]
    return sum(hit) / len(hit) if hit else None


TASK = Task(
    name="agieval",
    title="AGIEval",
    parse=parse,
    base=Ask(query, answer, options=options, by="text", judge=judge, stop=("\n\n",)),
    chat=Ask(chat_query, chat_answer, judge=judge),
    chance=chance,
    weights=by_subject,
    harness=Ask(
        harness_query,
        harness_answer,
        options=choice.text_options,
        judge=harness_judge,
        stop=("Q:",),
        tokens=32,
        chance=harness_chance,
    ),
)
