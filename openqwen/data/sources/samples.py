"""Instruction samples as plain text for pretraining.

Report §2.1 ("high-quality instruction data" in pretraining, after multi-task instruction pretraining); the template is
ours: what is said, each turn in its order, with an empty line between, no names of speakers and no control tokens.

    {"instruction": "Add.", "input": "2 and 3", "output": "5"}   ->   "Add.\\n2 and 3\\n\\n5"

The forms are those of finetuning (openqwen.chat.records, which stands above this package) where they are plain talk;
calls of tools are no text of people and are skipped. A control token in a turn is text like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openqwen.core.errors import DataError

SOURCE = "instruction"  # the label of all samples, whatever label their record has
COLUMNS = ("messages", "conversations", "instruction", "input", "output", "history", "system")
_FORMS = (("messages", "role", "content"), ("conversations", "from", "value"))
_SPEAKERS = ("system", "user", "human", "assistant", "gpt")


def is_sample(record: Mapping[str, Any]) -> bool:
    """Whether a record is a conversation or an instruction with its output, and no document."""
    talk = any(record.get(key) is not None for key, _, _ in _FORMS)
    return talk or (record.get("instruction") is not None and record.get("output") is not None)


def sample_text(record: Mapping[str, Any]) -> str:
    """A sample's turns as one text. DataError for what is no plain talk with a reply."""
    for key, speaker, content in _FORMS:
        if record.get(key) is not None:
            turns = [_turn(turn, speaker, content) for turn in _list(record, key)]
            break
    else:
        turns = _pairs(record)
    if record.get("system"):
        turns.insert(0, _text(record["system"]))
    if len(turns) < 2 or not turns[-1].strip():
        raise DataError("there is no reply")
    return "\n\n".join(text for turn in turns if (text := turn.strip()))


def _turn(turn: Any, speaker: str, content: str) -> str:
    if not isinstance(turn, Mapping) or turn.get(speaker) not in _SPEAKERS:
        raise DataError(f'a turn is {{"{speaker}": user or assistant, "{content}": text}}')
    text = turn.get(content)
    if isinstance(text, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in text):
        return "".join(_text(part.get("text", "")) for part in text)  # one text in several parts
    return _text(text)


def _pairs(record: Mapping[str, Any]) -> list[str]:
    """Earlier questions and replies, then the instruction and its output."""
    turns = []
    for pair in _list(record, "history"):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError('"history" must be pairs of question and reply')
        turns += [_text(text) for text in pair]
    asked, more = _text(record["instruction"]), _text(record.get("input") or "")
    return [*turns, f"{asked}\n{more}" if more else asked, _text(record["output"])]


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    found = record.get(key) or []
    if not isinstance(found, list):
        raise DataError(f'"{key}" is not a list')
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"what is said must be text, not {type(value).__name__}")
    return value
