"""Conversations with tool calls, in the common forms, as the ReAct text that a model is trained on and asked with.

Report §3.4 (tool use by ReAct, mixed into finetuning). Read are OpenAI's messages with "tool_calls" or "function_call"
and ShareGPT's turns from "function_call" and "observation", both with "tools". Ours: the tools are announced in the
first question, so that every reply that is trained has them before it; up to two questions this is where the released
scripts announce them too. A conversation that waits for a reply has them where the released scripts have them, in its
last question but one. A call without a recorded thought has an empty one: nothing is made up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openqwen.chat import react
from openqwen.chat.messages import ASSISTANT, USER, Message
from openqwen.core.errors import DataError

CALL_KEYS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Calls:
    """What the assistant asks of tools in one go: (name, arguments) of each, and its thought."""

    calls: list[tuple[str, Any]]
    thought: str = ""


@dataclass(frozen=True)
class Result:
    """What a tool answered."""

    text: str


Event = Message | Calls | Result


def read_tools(value: Any) -> list[dict[str, Any]]:
    """The declared functions: a list or its JSON text, with or without OpenAI's {"type": "function", "function": ...}."""
    if isinstance(value, str):
        value = _json(value or "[]", '"tools"')
    tools = value or []
    if not isinstance(tools, list):
        raise DataError('"tools" is not a list')
    functions = [tool.get("function", tool) if isinstance(tool, dict) else tool for tool in tools]
    if not all(isinstance(f, dict) and isinstance(f.get("name"), str) for f in functions):
        raise DataError('a tool is {"name": ..., "description": ..., "parameters": ...}')
    return functions


def read_calls(value: Any) -> list[tuple[str, Any]]:
    """The calls of a message: one {"name", "arguments"}, its JSON text, OpenAI's {"function": ...}, or a list of them."""
    if isinstance(value, str):
        value = _json(value, "a call")
    calls = value if isinstance(value, list) else [value]
    found = [call.get("function", call) if isinstance(call, dict) else call for call in calls]
    if not found or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in found):
        raise DataError('a call is {"name": ..., "arguments": ...}')
    return [(call["name"], call.get("arguments", {})) for call in found]


def to_react(events: Iterable[Event], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation with calls and results inside the assistant's turns. Its messages must be checked before.

    DataError for an order that means nothing, and for calls without tools.
    """
    if not tools:
        raise DataError("a tool is called, but no tools are given")
    turns = _Turns()
    for event in events:
        turns.add(event)
    if turns.waiting or turns.steps:
        raise DataError("the conversation ends with a call, not with a reply")
    return turns.messages_with(tools)


def to_prompt(events: Iterable[Event], tools: Sequence[Mapping[str, Any]]) -> tuple[list[Message], bool]:
    """A conversation that waits for a reply: its messages, and whether the last is the beginning of that reply.

    DataError for a result without a call, a call without a result. A reply may be empty here, and a user may speak
    before the reply to a result: what is asked is for the client to say.
    """
    turns = _Turns(asked=True)
    for event in events:
        turns.add(event)
    if turns.waiting:
        raise DataError("a call has no result")
    messages: list[Message] = [*(react.place_tools(turns.messages, tools) if tools else turns.messages)]
    if turns.steps:
        messages.append({"role": ASSISTANT, "content": react.steps_text(turns.steps)})
    return messages, bool(turns.steps)


@dataclass
class _Turns:
    """The turns so far, and the steps of the one in which tools are being called. asked: as `to_prompt` allows."""

    asked: bool = False
    messages: list[Message] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)  # calls whose results are still to come

    def add(self, event: Event) -> None:
        if isinstance(event, Result):
            if not self.waiting:
                raise DataError("a tool's result has no call before it")
            self.steps.append({**self.waiting.pop(0), "observation": event.text})
            return
        if self.waiting:
            raise DataError("a call has no result")
        if isinstance(event, Calls):
            thoughts = [event.thought] + [""] * (len(event.calls) - 1)
            self.waiting = [
                {"thought": thought, "action": name, "action_input": arguments}
                for thought, (name, arguments) in zip(thoughts, event.calls)
            ]
        elif event["role"] == ASSISTANT:
            if not event["content"].strip() and not self.asked:
                raise DataError("a reply is empty")
            self.messages.append({**event, "content": react.reply_text(self.steps, event["content"])})
            self.steps = []
        else:
            if self.steps and not self.asked:
                raise DataError(f"the {event['role']} speaks between a call and the reply to it")
            if self.steps:
                self.messages.append(
                    {"role": ASSISTANT, "content": react.steps_text(self.steps, opened=False)}
                )
                self.steps = []
            self.messages.append(event)

    def messages_with(self, tools: Sequence[Mapping[str, Any]]) -> list[Message]:
        """All turns, the tools announced in the first question."""
        first = next((i for i, message in enumerate(self.messages) if message["role"] == USER), None)
        if first is None:
            raise DataError("the conversation has no question")
        question = react.build_prompt(self.messages[first]["content"], tools)
        self.messages[first] = {**self.messages[first], "content": question}
        return self.messages


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not JSON: {error}") from error
