"""Tools of OpenAI's API over ReAct: what a request says about them, and replies as clients read them.

Report §3.4 (ReAct; chat/react.py). Ours: the mapping. Declared functions are announced as tools are in training. The
thought before a call is the message's content, the one before a final answer its `reasoning_content`. Several calls
in a row, without a result between them, are parallel calls. Arguments follow the function's schema for certain where
it is `strict` or where a call has to come; then decoding is held to a grammar.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from openqwen.chat.react import STOP
from openqwen.chat.react_grammar import grammar
from openqwen.chat.react_stream import Piece, ReplyStream
from openqwen.chat.toolcalls import Calls, to_prompt
from openqwen.core.errors import DataError
from openqwen.engine.constraint import Constraint
from openqwen.engine.sampling import Sampling
from openqwen.serve.body import Body
from openqwen.serve.guard import ApiError
from openqwen.serve.messages import ToolMessage, events
from openqwen.serve.wire import Json

MAX_TOOLS = 128
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Body):
    """A declared function; `parameters` is the JSON schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _of_an_object(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        given = schema or {}
        if given.get("type", "object") != "object":
            raise ValueError("the schema of a function's parameters has type object")
        properties = given.get("properties", {})
        if not isinstance(properties, dict) or not all(
            isinstance(p, (dict, bool)) for p in properties.values()
        ):
            raise ValueError("properties are an object of schemas")
        required = given.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise ValueError("required is a list of names")
        return schema

    def declaration(self) -> dict[str, Any]:
        """As the prompt's builder reads it."""
        described = {"description": self.description} if self.description else {}
        return {"name": self.name, **described, "parameters": self.parameters or {}}


class Tool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str = Field(max_length=1000)


class NamedChoice(Body):
    type: Literal["function"]
    function: FunctionName


class Tooled(Body):
    """What a request says about tools."""

    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tools")
    @classmethod
    def _no_name_twice(cls, tools: list[Tool] | None) -> list[Tool] | None:
        names = [tool.function.name for tool in tools or []]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two functions are called {twice[0]}")
        return tools

    @field_validator("tool_choice")
    @classmethod
    def _of_a_tool(cls, choice: Any, info: ValidationInfo) -> Any:
        names = [tool.function.name for tool in info.data.get("tools") or []]
        if choice == "required" and not names:
            raise ValueError("no tools are given that could be called")
        if isinstance(choice, NamedChoice) and choice.function.name not in names:
            raise ValueError(f"no function {choice.function.name[:100]!r} is given in tools")
        return choice


@dataclass(frozen=True)
class Plan:
    """What the model is shown and how its reply is read.

    opened: the last message is the beginning of the reply. react: the reply is ReAct text; otherwise it is content
    as it is. most: calls that count in it; None: any number. constraint: what holds it to the tools.
    """

    messages: list[dict[str, Any]]
    opened: bool = False
    react: bool = False
    most: int | None = None
    constraint: Constraint | None = None

    def hold(self, sampling: Sampling) -> Sampling:
        """The settings of a reply: it ends where an observation, or a call that may not be, begins."""
        if not self.react:
            return sampling
        if sampling.constraint is not None:
            raise ApiError(
                400,
                "a reply that may call tools can have no other form; leave one of the two away",
                param="tools",
                code="two_forms",
            )
        stop = (f"\n{STOP[0]}", *(["\nAction:"] if self.most == 0 else []))
        return replace(sampling, stop=(*sampling.stop, *stop), constraint=self.constraint)


def make_plan(messages: list[ToolMessage], tooled: Tooled) -> Plan:
    """How a request is put to the model. ApiError if its messages make no conversation."""
    said = events(messages)
    called = any(isinstance(event, Calls) for event in said)
    functions = [tool.function for tool in tooled.tools or []]
    choice = tooled.tool_choice or "auto"
    # Where nothing is or was called, a conversation is what it is without tools.
    if not called and (choice == "none" or not functions):
        return Plan([message.plain() for message in messages])
    if functions and all(message.role != "user" for message in messages):
        raise ApiError(400, "tools need a message of the user", param="messages", code="invalid_messages")
    try:
        shown, opened = to_prompt(said, [function.declaration() for function in functions])
    except DataError as error:
        raise ApiError(400, error.what, param="messages", code="invalid_messages") from None
    if choice == "none" or not functions:
        return Plan([dict(m) for m in shown], opened, react=True, most=0)
    named = [f for f in functions if isinstance(choice, NamedChoice) and f.name == choice.function.name]
    most = 1 if named or tooled.parallel_tool_calls is False else None
    return Plan(
        [dict(m) for m in shown],
        opened,
        react=True,
        most=most,
        constraint=_held(named or functions, opened, choice != "auto", most != 1),
    )


def _held(functions: list[Function], opened: bool, forced: bool, parallel: bool) -> Constraint | None:
    """The grammar of a reply, if a call has to come or if a function is strict."""
    if not forced and not any(function.strict for function in functions):
        return None
    schemas = {
        f.name: {"type": "object", **((f.parameters or {}) if forced or f.strict else {})} for f in functions
    }
    return Constraint.grammar(grammar(schemas, opened=opened, forced=forced, parallel=parallel))


class Reply:
    """One reply as OpenAI's clients read it, whole (`message`) or in deltas that come to the same."""

    def __init__(self, plan: Plan) -> None:
        self._stream = ReplyStream(plan.opened, plan.most) if plan.react else None
        self.message: Json = {"role": "assistant", "content": None if plan.react else "", "refusal": None}

    def begin(self) -> Json:
        """The first delta."""
        return {"role": "assistant", "content": self.message["content"]}

    def push(self, text: str, last: bool = False) -> list[Json]:
        """The deltas of some more text; last: none will follow."""
        if self._stream is None:
            pieces = [Piece("content", text)] if text else []
        else:
            pieces = self._stream.push(text) + (self._stream.finish() if last else [])
        return [self._take(piece) for piece in pieces]

    def finish_reason(self, reason: str) -> str:
        """The engine's reason as OpenAI has it. What is written after the last call may have been cut short."""
        if self._stream is None or not self._stream.calls:
            return reason
        return "tool_calls" if reason == "stop" or self._stream.ended else reason

    def _take(self, piece: Piece) -> Json:
        if piece.kind in ("content", "thought"):
            key = "content" if piece.kind == "content" else "reasoning_content"
            self.message[key] = (self.message.get(key) or "") + piece.text
            return {key: piece.text}
        calls = self.message.setdefault("tool_calls", [])
        if piece.kind == "name":
            function = {"name": piece.text, "arguments": ""}
            calls.append({"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function})
            return {"tool_calls": [{"index": len(calls) - 1, **calls[-1], "function": {**function}}]}
        calls[-1]["function"]["arguments"] += piece.text
        return {"tool_calls": [{"index": len(calls) - 1, "function": {"arguments": piece.text}}]}
