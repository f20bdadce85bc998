"""Math23K: Chinese word problems of elementary schools.

Report §5.2, Table 12 (0-shot, greedy). The last number of the reply counts: a fraction, a mixed number or a percentage is
equal to the decimal that it is. No released script is known; the layout is ours.
"""

from __future__ import annotations

import re
from fractions import Fraction

from openqwen.core.errors import DataError
from openqwen.evals.task import Ask, Item, Task, constant_guess, identity, take

_DECIMAL = r"\d+(?:,\d{3})*(?:\.\d+)?"
# In this order: 1(1/2), \frac{1}{2}, 1/2, 50%, 0.5.
_NUMBER = re.compile(
    rf"(?P<whole>\d+)\((?P<part>\d+)/(?P<parts>\d+)\)"
    rf"|\\[dt]?frac\{{(?P<over>\d+)\}}\{{(?P<under>\d+)\}}"
    rf"|(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>{_DECIMAL})"
    rf"|(?P<plain>{_DECIMAL})\s*(?P<percent>[%％])?"
)
NEAR = Fraction(1, 10_000)  # relative


def parse(record: Item, place: str) -> Item:
    """The published form: original_text, equation, ans."""
    gold = str(take(record, place, "ans")).strip()
    if value(gold) is None:
        raise DataError(f"answer {gold!r} is no number", where=place)
    return {
        "id": identity(record, place),
        "question": take(record, place, "original_text"),
        "answer": gold,
        "split": record.get("split", "test"),
    }


def value(text: str) -> Fraction | None:
    """The last number of a text: "((8)/(5))" and "1(3/5)" are 8/5, "60%" is 3/5. None without one."""
    bare = re.sub(r"\((\d+(?:\.\d+)?)\)", r"\1", text)
    found = list(_NUMBER.finditer(bare))
    if not found:
        return None
    last = found[-1].groupdict()
    sign = -1 if re.search(r"(?:^|[=:：（(\s])[-−]\(?$", bare[: found[-1].start()]) else 1
    try:
        return sign * _exact(last)
    except ZeroDivisionError:
        return None


def _exact(found: dict[str, str | None]) -> Fraction:
    def read(name: str) -> Fraction:
        return Fraction((found[name] or "").replace(",", ""))

    if found["whole"]:
        return read("whole") + read("part") / read("parts")
    if found["over"]:
        return read("over") / read("under")
    if found["top"]:
        return read("top") / read("bottom")
    return read("plain") / (100 if found["percent"] else 1)


def judge(text: str, item: Item) -> bool:
    said, gold = value(text), value(item["answer"])
    return said is not None and gold is not None and abs(said - gold) <= NEAR * abs(gold)


def query(item: Item) -> str:
    return f"问题：{item['question']}\n答案："


def answer(item: Item) -> str:
    return f"{item['answer']}\n\n"


def chat_query(item: Item) -> str:
    return str(item["question"])


def chat_answer(item: Item) -> str:
    return f"答案是 {item['answer']}。"


TASK = Task(
    name="math23k",
    title="Math23K",
    parse=parse,
    base=Ask(query, answer, judge=judge, stop=("\n",)),
    chat=Ask(chat_query, chat_answer, judge=judge),
    chance=constant_guess,
)
