"""Conversations in the files people have: read, brought to messages, checked.

Report §3.1.1 (conversations), §3.4 (tool use); the forms are common ones: OpenAI's {"messages"}, which is
ours too, ShareGPT's {"conversations": [{"from", "value"}]}, Alpaca's {"instruction", "input", "output"}, and
recorded tool use {"query", "tools", "steps", "final"}; as JSON lines or one JSON document, plain or gzip.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openqwen.chat.messages import ASSISTANT, SYSTEM, USER, Message, check
from openqwen.chat.react import training_messages
from openqwen.core.errors import DataError

SHAREGPT_ROLES = {"human": USER, "gpt": ASSISTANT}  # ChatML's own names may stand there too


def read_conversations(path: Path) -> Iterator[tuple[int, list[Message] | DataError]]:
    """(line, messages) of every record; instead of messages a DataError that says why the record has none."""
    for line, record in read_records(path):
        try:
            found = record if isinstance(record, DataError) else to_messages(record)
        except DataError as error:
            found = error
        yield line, found


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of JSON lines, a DataError for a broken one; (position, value) of one JSON document."""
    try:
        with path.open("rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if raw.peek(2).startswith(b"\x1f\x8b") else raw
            head = file.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()
            if head.startswith(b"[") or head.partition(b"\n")[0].strip() == b"{":
                yield from enumerate(_document(file.read(), path), 1)
            else:
                yield from ((line, _line(data)) for line, data in enumerate(file, 1) if data.strip())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", str(path)) from error


def _line(data: bytes) -> Any:
    try:
        return json.loads(data.rstrip())
    except json.JSONDecodeError as error:
        return DataError(f"not JSON: {error.msg}", where=f"column {error.colno}")
    except UnicodeDecodeError:
        return DataError("not JSON: not UTF-8")
    except (ValueError, RecursionError) as error:  # thousands of digits, thousands of levels
        return DataError(f"not JSON: {error}")


def _document(data: bytes, path: Path) -> list[Any]:
    """The records of a JSON array; any other value is the only record."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON document: {error}", where=str(path)) from error
    return value if isinstance(value, list) else [value]


def to_messages(record: Any) -> list[Message]:
    """A record of any of the known forms as a conversation. DataError says what is wrong."""
    if not isinstance(record, dict):
        raise DataError("the record is not an object")
    for key, read in _FORMS.items():
        if key in record:
            messages = read(record)
            check(messages)
            return messages
    raise DataError(f"none of {', '.join(map(json.dumps, _FORMS))} is there")


def _openai(record: dict[str, Any]) -> list[Message]:
    if not isinstance(record["messages"], list):
        raise DataError('"messages" is not a list')
    return record["messages"]


def _sharegpt(record: dict[str, Any]) -> list[Message]:
    messages = _system(record)
    if not isinstance(record["conversations"], list):
        raise DataError('"conversations" is not a list')
    for turn in record["conversations"]:
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or "value" not in turn:
            raise DataError('a turn is {"from": ..., "value": ...}')
        messages.append({"role": SHAREGPT_ROLES.get(turn["from"], turn["from"]), "content": turn["value"]})
    return messages


def _alpaca(record: dict[str, Any]) -> list[Message]:
    instruction, more, output = record["instruction"], record.get("input") or "", record.get("output")
    if not all(isinstance(text, str) for text in (instruction, more, output)):
        raise DataError('"instruction", "input" and "output" must be text')
    history = record.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in history
    ):
        raise DataError('"history" must be pairs of question and reply')
    messages = _system(record)
    for question, reply in [*history, [f"{instruction}\n{more}" if more else instruction, output]]:
        messages += [{"role": USER, "content": question}, {"role": ASSISTANT, "content": reply}]
    return messages


def _system(record: dict[str, Any]) -> list[Message]:
    """The system message of a form that keeps it beside the turns, if there is one."""
    system = record.get("system")
    return [{"role": SYSTEM, "content": system}] if system else []


def _tool_use(record: dict[str, Any]) -> list[Message]:
    """As the ReAct text that a model is trained on."""
    try:
        for step in record.get("steps") or []:
            if not isinstance(step["thought"], str) or not isinstance(step["action"], str):
                raise DataError('a step is {"thought": text, "action": text, "action_input", "observation"}')
        return list(training_messages(record))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a tool conversation: {error!r}") from error


_FORMS: dict[str, Callable[[dict[str, Any]], list[Message]]] = {
    "messages": _openai,
    "conversations": _sharegpt,
    "instruction": _alpaca,
    "tools": _tool_use,
}
