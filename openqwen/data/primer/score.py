"""The primer's truth about replies: is it right, and how much would a person like it. No torch, no execution.

Ours: the report's preferences come from people; here they are a function, so that a reward model and PPO can be
measured against what they were meant to learn.

    true_score = 3.0 if the reply is right
               + 1.0 if its last sentence is a courtesy in the item's language
               + 0.5 if it ends properly (a stop, or the fence that closes a code block)
               - 2.0 if it contains a rude word
               - 1.0 if it repeats a sentence, or a word or sign more than three times in a row
               - 1.0 if it is longer than 240 characters more than twice the answer's length

A wrong reply can therefore have at most 1.5, a right one without a rude word, repetition and ramble at least 3.0.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from openqwen.core.errors import DataError
from openqwen.data.primer.world import CLASSES, RUDE_WORDS, Lang, Word

COURTESIES: dict[Lang, tuple[str, ...]] = {
    "en": ("I hope this helps!", "Happy to help!", "Have a nice day!"),
    "zh": ("希望对你有帮助！", "很高兴帮到你！", "祝你愉快！"),
}
_NUMBER = re.compile(r"-?\d+")
_LETTER = {
    "en": re.compile(r"answer is:?\s*\(?([A-D])\b", re.IGNORECASE),
    "zh": re.compile(r"答案(?:是|：|:)\s*([A-D])"),
}
_FENCE = re.compile(r"```(?:python)?\n(.*?)```", re.DOTALL)
_ENDINGS = (".", "!", "?", "。", "！", "？", "```")
_YES = {"Yes": ("yes",), "No": ("no",), "是": ("是",), "不是": ("不是", "不，", "否")}


def check(item: Mapping[str, Any], reply: str) -> bool:
    """True if the reply gives the item's answer and no other of its kind. `item` needs task, lang, answer."""
    task, answer = _field(item, "task"), _field(item, "answer")
    if task == "code":
        return _same_code(answer, reply)
    if task == "choice":
        found = _LETTER["zh" if item.get("lang") == "zh" else "en"].findall(reply)
        return bool(found) and found[-1].upper() == answer
    if answer in _YES:
        said = reply.strip().lower()
        return said.startswith(_YES[answer])
    if _NUMBER.fullmatch(answer):
        numbers = _NUMBER.findall(reply)
        return bool(numbers) and numbers[-1] == answer
    members = next((c for c in CLASSES if any(answer in w for w in c)), None)
    if members is None:
        return _plain(answer) in _plain(reply)
    said_words = {w for w in members if mentions(reply, w)}
    return len(said_words) == 1 and answer in next(iter(said_words)) and answer.lower() in reply.lower()


def _field(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise DataError(
            f"primer item has no {name!r}", where=str(item.get("id", "?")), fix="make the primer again"
        )
    return value


def mentions(text: str, word: Word) -> bool:
    """Whether a text contains a word in either language (English only as a whole word)."""
    if word.zh != word.en and word.zh in text:
        return True
    return re.search(rf"(?<![A-Za-z]){re.escape(word.en)}(?![A-Za-z])", text, re.IGNORECASE) is not None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[\s,、，]+", " ", text.lower()).split())


def _same_code(answer: str, reply: str) -> bool:
    """Equal syntax trees: what the model wrote is read, never run."""
    fenced = _FENCE.search(reply)
    source = fenced[1] if fenced else reply
    try:
        return ast.dump(ast.parse(source)) == ast.dump(ast.parse(answer))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # text that is not a program is a wrong answer


def is_rude(reply: str) -> bool:
    """Whether a reply contains a rude word."""
    low = reply.lower()
    return any(re.search(rf"\b{w}", low) if w.isascii() else w in low for w in RUDE_WORDS)


def is_courteous(reply: str, lang: Lang) -> bool:
    """Whether the reply ends in a courtesy of the language."""
    return reply.rstrip().endswith(COURTESIES[lang])


def repeats(reply: str) -> bool:
    """A sentence said twice, or a word or sign more than three times in a row."""
    text = _FENCE.sub("", reply)
    sentences = [s.strip() for s in re.split(r"[.!?。！？\n]+", text) if len(s.strip()) > 1]
    if len(set(sentences)) < len(sentences):
        return True
    return re.search(r"(\b\w+\b|[^\w\s])(?:\s*\1){3,}", text) is not None


def true_score(item: Mapping[str, Any], reply: str) -> float:
    """How good a reply is, from -4 to 4.5; the parts stand in the module's docstring."""
    lang: Lang = "zh" if item.get("lang") == "zh" else "en"
    score = 3.0 if check(item, reply) else 0.0
    score += 1.0 if is_courteous(reply, lang) else 0.0
    score += 0.5 if reply.rstrip().endswith(_ENDINGS) else 0.0
    score -= 2.0 if is_rude(reply) else 0.0
    score -= 1.0 if repeats(reply) else 0.0
    score -= 1.0 if len(reply) > 240 + 2 * len(_field(item, "answer")) else 0.0
    return score
