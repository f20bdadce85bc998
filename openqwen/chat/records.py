"""Conversations in the files people have: read, brought to messages, checked.

Report §3.1.1 (conversations), §3.4 (tool use); the forms are common ones: OpenAI's {"messages"}, which is
ours too, ShareGPT's {"conversations": [{"from", "value"}]}, both also with "tools" and calls of them (toolcalls.py),
Alpaca's {"instruction", "input", "output"}, and recorded tool use {"query", "tools", "steps", "final"}; as JSON lines
or one JSON document, plain or gzip, or as Parquet.
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
from openqwen.chat.toolcalls import CALL_KEYS, Calls, Event, Result, read_calls, read_tools, to_react
from openqwen.core.errors import DataError

SHAREGPT_ROLES = {"human": USER, "gpt": ASSISTANT}  # ChatML's own names may stand there too
RESULT_ROLES = ("tool", "function", "observation")


def read_conversations(path: Path) -> Iterator[tuple[int, list[Message] | DataError]]:
    """(line, messages) of every record; instead of messages a DataError that says why the record has none."""
    for line, record in read_records(path):
        try:
            found = record if isinstance(record, DataError) else to_messages(record)
        except DataError as error:
            found = error
        yield line, found


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of JSON lines, a DataError for a broken one; (position, value) of a JSON document or of Parquet."""
    try:
        with path.open("rb") as raw:
            if raw.peek(4).startswith(b"PAR1"):
                yield from enumerate(_parquet(path), 1)
                return
            file = gzip.GzipFile(fileobj=raw) if raw.peek(2).startswith(b"\x1f\x8b") else raw
            head = file.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()
            if head.startswith(b"[") or head.partition(b"\n")[0].strip() == b"{":
                yield from enumerate(_document(file.read(), path), 1)
            else:
                yield from ((line, _line(data)) for line, data in enumerate(file, 1) if data.strip())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", str(path)) from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, use_threads=False):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"not a whole Parquet file: {error}", where=str(path)) from error


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
        if record.get(key) is not None:  # a table has every column in every row
            messages = read(record)
            check(messages)
            return messages
    raise DataError(f"none of {', '.join(map(json.dumps, _FORMS))} is there")


def _openai(record: dict[str, Any]) -> list[Message]:
    messages = record["messages"]
    if not isinstance(messages, list):
        raise DataError('"messages" is not a list')
    events: list[Event] = []
    for message in messages:
        if not isinstance(message, dict):
            raise DataError('a message is {"role": ..., "content": ...}')
        called = next((message[key] for key in CALL_KEYS if message.get(key)), None)
        content = _text(message.get("content"))
        if called is not None:
            events.append(Calls(read_calls(called), content if isinstance(content, str) else ""))
        elif message.get("role") in RESULT_ROLES:
            events.append(_result(content))
        else:
            events.append({key: content if key == "content" else message[key] for key in message})
    return _with_tools(events, record)


def _text(content: Any) -> Any:
    """OpenAI's content of several parts as one text, if all of them are texts; anything else as it is."""
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def _result(text: Any) -> Result:
    if not isinstance(text, str):
        raise DataError(f"a tool's result must be text, not {type(text).__name__}")
    return Result(text)


def _sharegpt(record: dict[str, Any]) -> list[Message]:
    events: list[Event] = [*_system(record)]
    if not isinstance(record["conversations"], list):
        raise DataError('"conversations" is not a list')
    for turn in record["conversations"]:
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or "value" not in turn:
            raise DataError('a turn is {"from": ..., "value": ...}')
        speaker, value = turn["from"], turn["value"]
        if speaker == "function_call":
            events.append(Calls(read_calls(value)))
        elif speaker in RESULT_ROLES:
            events.append(_result(value))
        else:
            events.append({"role": SHAREGPT_ROLES.get(speaker, speaker), "content": value})
    return _with_tools(events, record)


def _with_tools(events: list[Event], record: dict[str, Any]) -> list[Message]:
    """As ReAct where tools are given; as they stand where neither tools nor calls are."""
    messages = [event for event in events if not isinstance(event, (Calls, Result))]
    tools = read_tools(record.get("tools") or record.get("functions"))
    if not tools and len(messages) == len(events):
        return messages
    if messages:
        check(messages)
    return to_react(events, tools)


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
