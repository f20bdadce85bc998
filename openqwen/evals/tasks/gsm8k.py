"""GSM8K: word problems with a whole-number answer.

Report §2.6, Table 2 (8-shot) and Tables 5 and 12 (0-shot chat). Extraction equals the released scripts', oddities
included: a base model's answer is the last run of digits, without sign, decimals or thousands ("1,234" is 234, "$18.00"
is 0); a chat model's is the last signed number. Harness (strict match): what follows the first "####".
"""

from __future__ import annotations

import math
import re

from openqwen.core.errors import DataError
from openqwen.evals.task import Ask, Item, Task, constant_guess, identity, take

_GOLD = re.compile(r"#### (-?[0-9.,]+)")
_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d*)?")
STEP = "Let's think step by step"


def parse(record: Item, place: str) -> Item:
    """Records whose answer ends in `#### number`."""
    answer = take(record, place, "answer")
    gold = _GOLD.search(answer)
    if not gold:
        raise DataError("answer without '#### number'", where=place)
    return {
        "id": identity(record, place),
        "question": take(record, place, "question"),
        "working": re.sub(r"<<.*?>>", "", answer[: gold.start()]).strip(),
        "solution": answer,
        "answer": gold[1].replace(",", ""),
        "split": record.get("split", "test"),
    }


def parse_shots(text: str) -> list[Item]:
    """The examples of the released prompt file: Question, "Let's think step by step", working, "The answer is n"."""
    items = []
    for i, block in enumerate(text.strip().split("\n\n")):
        head, _, body = block.partition(f"\n{STEP}\n")
        working, _, gold = body.rpartition("\nThe answer is ")
        if not head.startswith("Question: ") or not gold:
            raise DataError("not an example of the form Question, working, answer", where=f"example {i + 1}")
        question = head.removeprefix("Question: ")
        items.append(
            {
                "id": f"shot-{i}",
                "question": question,
                "working": working,
                "answer": gold.strip(),
                "split": "dev",
            }
        )
    return items


def query(item: Item) -> str:
    return f"Question: {item['question']}\n{STEP}\n"


def answer(item: Item) -> str:
    return f"{item['working']}\nThe answer is {item['answer']}\n\n"


def base_number(text: str) -> int | None:
    """The last run of digits as the released script evaluates it: None if there is none, or for "007"."""
    found = _DIGITS.findall(text)
    if not found or (found[-1].startswith("0") and found[-1].strip("0")):
        return None
    return int(found[-1])


def chat_number(text: str) -> str | None:
    """The last signed number, thousands separators removed."""
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def judge_base(text: str, item: Item) -> bool:
    number = base_number(text)
    return number is not None and float(number) == _value(item["answer"])


def judge_chat(text: str, item: Item) -> bool:
    number = chat_number(text)
    return number is not None and math.isclose(float(number), _value(item["answer"]), rel_tol=0, abs_tol=1e-4)


def _value(gold: str) -> float:
    return float(gold.rstrip("."))


def harness_query(item: Item) -> str:
    return f"Question: {item['question']}\nAnswer:"


def harness_answer(item: Item) -> str:
    return f" {item['solution']}\n\n"


def harness_judge(text: str, item: Item) -> bool:
    found = _GOLD.search(text)
    return found is not None and found[1].replace(",", "").removesuffix(".") == item["answer"].removesuffix(
        "."
    )


def chat_query(item: Item) -> str:
    return str(item["question"])


def chat_answer(item: Item) -> str:
    return f"{item['working']}\nThe answer is {item['answer']}."


TASK = Task(
    name="gsm8k",
    title="GSM8K",
    parse=parse,
    base=Ask(query, answer, judge=judge_base, stop=("\n\n", "Question:")),
    chat=Ask(chat_query, chat_answer, judge=judge_chat),
    chance=constant_guess,
    prompt=parse_shots,
    harness=Ask(
        harness_query,
        harness_answer,
        judge=harness_judge,
        stop=("Question:", "</s>", "<|im_end|>"),
        tokens=256,
    ),
)
