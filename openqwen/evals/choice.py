"""Multiple choice: reading items, laying them out, and finding the letter in a chat model's reply.

Report §2.6, §3.3 (MMLU, C-Eval). Layouts equal the released scripts'. Finding the letter follows their order of rules
(choice texts become letters; a phrase, a judgement, a leading letter, any lone letter) in expressions of ours; what
no rule reads goes to the choice whose text is most alike, where they use another library's measure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from openqwen.core.errors import DataError
from openqwen.evals.task import Item, records, take

LETTERS = "ABCD"
_L = r"(?<![A-Za-z])([ABCD])(?![A-Za-z])"
_ENGLISH = (
    rf"(?i:answer|choice|option|choose|select)[a-z]*(?:\s+(?i:is|as|was))?\s*:?\s*\(?{_L}",
    rf"{_L}\)?[.,]?\s+(?:is|was)\s+(?:the\s+)?(?:correct|right|true)",
    rf"^\s*\(?{_L}",
    _L,
)
_CHINESE = (
    rf"(?:答案|选项|选择|应选|应该选|选)(?:应该是|应为|是|为)?\s*[:：]?\s*[（(]?{_L}",
    rf"{_L}\s*(?:选项)?\s*(?:是|为)?\s*(?:正确|对)",
    rf"^\s*[（(]?{_L}",
    _L,
)
RULES: dict[str, tuple[re.Pattern[str], ...]] = {
    "en": tuple(map(re.compile, _ENGLISH)),
    "zh": tuple(map(re.compile, _CHINESE)),
}


def read(path: Path) -> list[Item]:
    """Items of a choice set: {"id", "subject", "question", "choices", "answer", "split"}.

    Takes the published form (fields A to D, split in the id or the file name) and the primer's (a list of choices).
    """
    items = []
    for place, record in records(path):
        choices = record.get("choices") or [take(record, place, letter) for letter in LETTERS]
        answer = take(record, place, "answer")
        if answer not in LETTERS[: len(choices)] or len(answer) != 1:
            raise DataError(f"answer {answer!r} is none of the choices", where=place)
        items.append(
            {
                "id": str(take(record, place, "id")),
                "subject": str(take(record, place, "subject")),
                "question": take(record, place, "question"),
                "choices": list(choices),
                "answer": answer,
                "split": record.get("split") or ("dev" if path.name.startswith("dev") else "test"),
            }
        )
    return items


def lines(item: Item) -> str:
    """`A. first` and so on, a line each."""
    return "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, item["choices"]))


def find_letter(
    reply: str, choices: Sequence[str], lang: Literal["en", "zh"]
) -> tuple[str, Literal["rule", "fuzzy"]]:
    """(letter, how it was found) in a reply."""
    text = reply
    for i in sorted(range(len(choices)), key=lambda i: -len(choices[i])):
        if choices[i]:
            text = re.sub(re.escape(choices[i]), LETTERS[i], text, flags=re.IGNORECASE)
    for rule in RULES[lang]:
        if found := rule.search(text):
            return found[1], "rule"
    alike = [difflib.SequenceMatcher(None, reply.lower(), choice.lower()).ratio() for choice in choices]
    return LETTERS[alike.index(max(alike))], "fuzzy"


def judge(lang: Literal["en", "zh"]) -> Callable[[str, Item], bool]:
    """A judge of replies. An empty reply is never right, by whatever rule."""

    def right(reply: str, item: Item) -> bool:
        if not reply.strip():
            return False
        return find_letter(reply, item["choices"], lang)[0] == item["answer"]

    return right
