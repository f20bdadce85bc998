"""Multiple choice: reading items, laying them out, and finding the letter in a chat model's reply.

Report §2.6, §3.3 (MMLU, C-Eval). Layouts equal the released scripts'. Finding the letter follows their order of rules
(choice texts become letters; a phrase, a judgement, a leading letter, any lone letter) in expressions of ours; what
no rule reads goes to the choice whose text is most alike, where they use another library's measure. The sets that the
released scripts do not know are read by the rules alone: a reply that names no letter is wrong.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from openqwen.core.errors import DataError
from openqwen.evals.task import Item, identity, take

LETTERS = "ABCDEFGHIJ"
Language = Literal["en", "zh"]
_ANSWERS = re.compile(r"Answer(\d): (.*?)(?=\s*Answer\d: |\s*$)", re.DOTALL)


@cache
def rules(lang: Language, count: int) -> tuple[re.Pattern[str], ...]:
    """The expressions for `count` choices, first to last; group 1 is the letter."""
    letter = rf"(?<![A-Za-z])([{LETTERS[:count]}])(?![A-Za-z])"
    english = (
        rf"(?i:answer|choice|option|choose|select)[a-z]*(?:\s+(?i:is|as|was))?\s*:?\s*\(?{letter}",
        rf"{letter}\)?[.,]?\s+(?:is|was)\s+(?:the\s+)?(?:correct|right|true)",
        rf"^\s*\(?{letter}",
        letter,
    )
    chinese = (
        rf"(?:答案|选项|选择|应选|应该选|选)(?:应该是|应为|是|为)?\s*[:：]?\s*[（(]?{letter}",
        rf"{letter}\s*(?:选项)?\s*(?:是|为)?\s*(?:正确|对)",
        rf"^\s*[（(]?{letter}",
        letter,
    )
    return tuple(map(re.compile, english if lang == "en" else chinese))


def item(record: Item, place: str, question: str, choices: Sequence[str], answer: Any, **more: Any) -> Item:
    """An item of a choice set; `answer` is a letter, or an index from 0. DataError if it is none of the choices."""
    index = answer if isinstance(answer, int) else LETTERS.find(answer) if len(str(answer)) == 1 else -1
    if not 0 <= index < len(choices):
        raise DataError(f"answer {answer!r} is none of the choices", where=place)
    return {
        "id": identity(record, place),
        "question": question,
        "choices": list(choices),
        "answer": LETTERS[index],
        "split": record.get("split", "test"),
        **more,
    }


def parse(record: Item, place: str) -> Item:
    """{"id", "subject", "question", "choices", "answer", "split"} of the sets of exams.

    Takes the published form (fields A to D, split in the id or the file name) and the primer's (a list of choices).
    """
    choices = record.get("choices") or [take(record, place, letter) for letter in "ABCD"]
    file = Path(place.rpartition(":")[0]).name
    found = item(
        record,
        place,
        take(record, place, "question"),
        choices,
        take(record, place, "answer"),
        subject=str(take(record, place, "subject")),
    )
    chinese = {"subject_zh": record["subject_zh"]} if "subject_zh" in record else {}
    return {**found, **chinese, "split": record.get("split") or ("dev" if file.startswith("dev") else "test")}


def labelled(choices: Any, place: str) -> tuple[list[str], list[str]]:
    """(texts, labels) of {"text": [...], "label": [...]} or a list of {"text", "label"}."""
    if isinstance(choices, list):
        rows = [(take(row, place, "text"), take(row, place, "label")) for row in choices]
        return [text for text, _ in rows], [label for _, label in rows]
    return list(take(choices, place, "text")), list(take(choices, place, "label"))


def spelled(record: Item, place: str) -> tuple[str, list[str], int]:
    """(question, choices, index) of `... question: Q Answer1: a Answer2: b`, the answer being `answer2`."""
    text = take(record, place, "instruction").partition("\n\nAnswer format:")[0]
    question, _, rest = text.partition("question: ")[2].partition("\n\nAnswer1: ")
    choices = [found[2].strip() for found in _ANSWERS.finditer("Answer1: " + rest)]
    said = re.fullmatch(r"answer(\d)", str(take(record, place, "answer")))
    if not question or not rest or not said:
        raise DataError("not a question with Answer1, Answer2 and so on", where=place)
    return question.strip(), choices, int(said[1]) - 1


def lines(item: Item) -> str:
    """`A. first` and so on, a line each."""
    return "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, item["choices"]))


def right(item: Item) -> int:
    """The index of the right choice."""
    return LETTERS.index(item["answer"])


def letter_options(before: str = "") -> Callable[[Item], list[str]]:
    """The item's letters as options, each after `before`."""

    def options(item: Item) -> list[str]:
        return [before + letter for letter in LETTERS[: len(item["choices"])]]

    return options


def text_options(item: Item) -> list[str]:
    """The texts of the choices, each after a blank, as lm-evaluation-harness asks for them."""
    return [f" {text}" for text in item["choices"]]


def find_letter(
    reply: str, choices: Sequence[str], lang: Language, replace: bool = True
) -> tuple[str, Literal["rule", "fuzzy"]]:
    """(letter, how it was found) in a reply. replace: the choices' texts are turned into letters first."""
    text = reply
    if replace:
        for i in sorted(range(len(choices)), key=lambda i: -len(choices[i])):
            if choices[i]:
                text = re.sub(re.escape(choices[i]), LETTERS[i], text, flags=re.IGNORECASE)
    for rule in rules(lang, len(choices)):
        if found := rule.search(text):
            return found[1], "rule"
    alike = [difflib.SequenceMatcher(None, reply.lower(), choice.lower()).ratio() for choice in choices]
    return LETTERS[alike.index(max(alike))], "fuzzy"


def judge(lang: Language) -> Callable[[str, Item], bool]:
    """A judge of replies as the released scripts have it. An empty reply is never right, by whatever rule."""

    def right(reply: str, item: Item) -> bool:
        if not reply.strip():
            return False
        return find_letter(reply, item["choices"], lang)[0] == item["answer"]

    return right


def strict(lang: Language) -> Callable[[str, Item], bool]:
    """A judge that reads letters only: a reply without one is wrong."""

    def right(reply: str, item: Item) -> bool:
        if not reply.strip():
            return False
        return find_letter(reply, item["choices"], lang, replace=False) == (item["answer"], "rule")

    return right
