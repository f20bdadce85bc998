"""Prompts in the files people have: conversations that end with a question, whole ones, and bare questions.

Ours. A whole conversation gives the prompt that its last reply answers. What else a record holds (an answer, a task, a
language, tags) stays with the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.chat.messages import ASSISTANT, USER, Message, check_turns
from openqwen.chat.records import read_records, to_messages
from openqwen.core.artifact import digest
from openqwen.core.errors import DataError

TEXT_KEYS = ("prompt", "question", "instruction")
TALK_KEYS = ("messages", "conversations")


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user's turn. extra: the record's other fields."""

    id: str
    line: int
    messages: list[Message]
    extra: dict[str, Any]

    @property
    def text(self) -> str:
        """What the user says, all turns."""
        return "\n".join(m["content"] for m in self.messages if m["role"] == USER)

    def record(self, **more: Any) -> dict[str, Any]:
        """As a line of a prompt file: what PPO and `openqwen sample` read."""
        return {"id": self.id, **self.extra, "messages": self.messages, **more}


@dataclass(frozen=True)
class Skipped:
    """A record that holds no prompt."""

    line: int
    reason: str


def read_prompts(path: Path, max_bad_share: float) -> tuple[list[Prompt], list[Skipped]]:
    """The prompts of a file, a question asked twice once, and what was left out.

    DataError when there is none, or when more than `max_bad_share` of the records hold none.
    """
    prompts: dict[str, Prompt] = {}
    skipped: list[Skipped] = []
    total = 0
    for line, record in read_records(path):
        total += 1
        try:
            if isinstance(record, DataError):
                raise record
            prompt = to_prompt(record, line)
        except DataError as error:
            skipped.append(Skipped(line, error.what))
            continue
        prompts.setdefault(digest(prompt.messages), prompt)
    if len(skipped) > max_bad_share * total:
        raise DataError(
            f"{len(skipped)} of {total} records hold no prompt; the first: {skipped[0].reason}",
            where=f"{path}:{skipped[0].line}",
            fix="mend the file, or raise max_bad_share",
        )
    if not prompts:
        raise DataError("the file holds no prompt", where=str(path))
    return _with_own_ids(list(prompts.values())), skipped


def to_prompt(record: Any, line: int) -> Prompt:
    """A record's prompt. DataError says what is wrong."""
    if not isinstance(record, dict):
        raise DataError("the record is not an object")
    messages = _messages(record)
    if messages and messages[-1]["role"] == ASSISTANT:
        messages = messages[:-1]
    if not messages:
        raise DataError("no question is there")
    check_turns(messages)
    if messages[-1]["role"] != USER or not messages[-1]["content"].strip():
        raise DataError("the conversation does not end with a question")
    messages = [{"role": m["role"], "content": m["content"]} for m in messages]
    own = (*TEXT_KEYS, *TALK_KEYS, "input", "output", "history", "system", "id")
    extra = {key: value for key, value in record.items() if key not in own}
    return Prompt(str(record.get("id") or f"line-{line}"), line, messages, extra)


def _messages(record: dict[str, Any]) -> list[Message]:
    if any(record.get(key) is not None for key in TALK_KEYS):
        return to_messages(record)
    key = next((key for key in TEXT_KEYS if record.get(key) is not None), None)
    if key is None:
        raise DataError(f"none of {', '.join((*TALK_KEYS, *TEXT_KEYS))} is there")
    text = record[key]
    if key == "instruction":
        return to_messages({**record, "output": ""})
    if not isinstance(text, str):
        raise DataError(f'"{key}" must be text, not {type(text).__name__}')
    return [{"role": USER, "content": text}]


def _with_own_ids(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same prompts; an id that two have gets the line of the later one behind it."""
    seen: set[str] = set()
    found = []
    for prompt in prompts:
        name = prompt.id if prompt.id not in seen else f"{prompt.id}-line-{prompt.line}"
        seen.add(name)
        found.append(Prompt(name, prompt.line, prompt.messages, prompt.extra))
    return found
