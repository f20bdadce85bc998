"""NaturalQuestions (open): short factual questions.

Report §A.2 (0-shot), OpenCompass' mode: the model is told to begin with "The answer is"; the first line counts, without
articles and punctuation, and must equal one of the answers. Harness: exact match after its own normalising.
"""

from __future__ import annotations

import re
import string

from openqwen.core.errors import DataError
from openqwen.evals.task import Ask, Item, Task, identity, no_guess, take

_ARTICLE = re.compile(r"\b(?:The |the |An |A |a |an )")


def parse(record: Item, place: str) -> Item:
    """The published form: question and a list of answers."""
    answers = take(record, place, "answer")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a for a in answers):
        raise DataError("answer is not a list of texts", where=place)
    return {
        "id": identity(record, place),
        "question": take(record, place, "question").removesuffix("?"),
        "answer": answers,
        "split": record.get("split", "test"),
    }


def plain(text: str) -> str:
    """Up to the first line end, point or comma; without punctuation, articles and double blanks."""
    text = re.sub(r"[^\w\s]", "", re.split(r"[\n.,]", text, maxsplit=1)[0])
    return " ".join(re.sub(r"\b(?:a|an|the)\b", "", text, flags=re.IGNORECASE).split())


def query(item: Item) -> str:
    return (
        "Answer these questions, your answer should be as simple as possible, start your answer with the prompt"
        f" 'The answer is '.\nQ: {item['question']}?\nA:"
    )


def answer(item: Item) -> str:
    return f" The answer is {item['answer'][0]}.\n"


def judge(text: str, item: Item) -> bool:
    said = plain(text.strip().split("\n")[0].lower().split("answer is")[-1])
    return said != "" and said in [plain(answer).lower() for answer in item["answer"]]


def harness_header(item: Item) -> str:
    return "Answer these questions:\n\n"


def harness_query(item: Item) -> str:
    return f"Q: {item['question']}?\nA:"


def harness_answer(item: Item) -> str:
    return f" {item['answer'][0]}\n"


def same(text: str) -> str:
    """The harness' exact match: articles before a blank, case and punctuation do not count."""
    return _ARTICLE.sub("", text).lower().translate(str.maketrans("", "", string.punctuation))


def harness_judge(text: str, item: Item) -> bool:
    return same(text.strip()) in [same(answer) for answer in item["answer"]]


TASK = Task(
    name="nq",
    title="NaturalQuestions",
    parse=parse,
    base=Ask(query, answer, judge=judge, stop=("\n",), tokens=50),
    chat=Ask(query, answer, judge=judge, tokens=50),
    chance=no_guess,
    harness=Ask(
        harness_query,
        harness_answer,
        harness_header,
        judge=harness_judge,
        stop=("\n", ".", ","),
        tokens=256,
    ),
)
