"""BBH: reasoning tasks answered in free text.

Report §2.6, Table 2 and §3.3, Table 5 (3-shot chain of thought). The answer is what follows "answer is"; a letter in
brackets counts as the letter. Where a chat reply lacks the phrase, the answer must be the reply itself or, for our own
items, satisfy the primer's check. Harness (bbh_cot_fewshot): what follows the first "the answer is", without its last
character, must be the answer to the letter.
"""

from __future__ import annotations

import re

from openqwen.core.errors import DataError
from openqwen.data.primer import check
from openqwen.evals.task import Ask, Item, Task, constant_guess, take

_SAID = re.compile(r"(?i:answer is)\s*:?\s*(.*)")
_STEP = "A: Let's think step by step."
_HARNESS = re.compile(r"(?<=the answer is )(.*)(?=.)")


def parse(record: Item, place: str) -> Item | list[Item]:
    """The published form (input, target), the primer's (question, answer), and the published examples (task, prompt)."""
    if "prompt" in record:
        return examples(record["prompt"], str(take(record, place, "task")), place)
    return {
        "id": str(take(record, place, "id")),
        "task": str(take(record, place, "task")),
        "question": take(record, place, "input", "question"),
        "answer": str(take(record, place, "target", "answer")),
        "ours": "question" in record,
        "split": record.get("split", "test"),
    }


def examples(prompt: str, task: str, place: str) -> list[Item]:
    """A published prompt's examples: after a line of dashes what the task is, then Q, A and working, thrice."""
    told, *blocks = prompt.rpartition("-----\n")[2].split("\n\nQ: ")
    found: list[Item] = []
    for block in blocks:
        question, step, working = block.partition(f"\n{_STEP}")
        gold = working.rpartition("answer is ")[2].strip().removesuffix(".")
        if not step or not gold:
            raise DataError("not an example of the form question, step, working, answer", where=place)
        found.append(
            {
                "id": f"{task}/example/{len(found) + 1}",
                "task": task,
                "question": question,
                "working": working.strip(),
                "answer": gold,
                "told": told,
                "ours": False,
                "split": "dev",
            }
        )
    return found


def join(items: list[Item]) -> list[Item]:
    """Items are told what their task is, as its examples are."""
    told = {item["task"]: item["told"] for item in items if "told" in item}
    return [{"told": told[item["task"]], **item} if item["task"] in told else item for item in items]


def header(item: Item) -> str:
    return f"{item['told']}\n\n" if "told" in item else ""


def query(item: Item) -> str:
    return f"Q: {item['question']}\n{_STEP}"


def answer(item: Item) -> str:
    return f"\n{worked(item)}\n\n"


def worked(item: Item) -> str:
    return str(item.get("working", f"So the answer is {item['answer']}."))


def harness_query(item: Item) -> str:
    return f"{query(item)}\n"


def harness_answer(item: Item) -> str:
    return f"{worked(item)}\n\n"


def harness_judge(text: str, item: Item) -> bool:
    said = _HARNESS.search(text)
    return said is not None and said[1].strip() == item["answer"]


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
    base=Ask(query, answer, header, judge=judge, stop=("\n\n", "Q:")),
    chat=Ask(chat_query, chat_answer, judge=judge_chat),
    chance=constant_guess,
    join=join,
    harness=Ask(
        harness_query,
        harness_answer,
        header,
        judge=harness_judge,
        stop=("</s>", "Q", "\n\n"),
        tokens=1024,
    ),
)
