"""The messages of a conversation as OpenAI's clients send them, with calls of tools and what the tools answered.

Ours. What OpenAI refuses is refused: a result that answers no call, a call without its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from openqwen.chat.toolcalls import Calls, Event, Result
from openqwen.serve.body import Body
from openqwen.serve.guard import ApiError

MAX_CALLS = 128  # a message
Id = Annotated[str, Field(min_length=1, max_length=1000)]


class TextPart(Body):
    type: Literal["text"]
    text: str


Content = str | list[TextPart]


def as_text(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


class ChatMessage(Body):
    """A message without calls."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    def plain(self) -> dict[str, str]:
        """`{"role", "content"}` as ChatML knows them."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": as_text(self.content)}


class CalledFunction(Body):
    name: str = Field(min_length=1, max_length=1000)  # a model may have called what no tool is named
    arguments: str


class ToolCall(Body):
    id: Id
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolMessage(Body):
    """Any message of a conversation in which tools may be called."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_CALLS)
    tool_call_id: Id | None = None

    @model_validator(mode="after")
    def _complete(self) -> ToolMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant calls tools")
        if self.content is None and not self.tool_calls:
            raise ValueError("a message without tool_calls needs content")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id belongs to messages of role tool, and only there")
        if len({call.id for call in self.tool_calls or []}) < len(self.tool_calls or []):
            raise ValueError("two tool_calls have the same id")
        return self

    def plain(self) -> dict[str, str]:
        """`{"role", "content"}` as ChatML knows them."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": as_text(self.content)}


def events(messages: Sequence[ToolMessage]) -> list[Event]:
    """The conversation with each call's result behind it, in the order of the calls.

    ApiError for a result that answers no open call, and for calls that are left without a result.
    """
    found: list[Event] = []
    answers: dict[str, str | None] = {}  # of the calls made last

    def close(place: int) -> None:
        missing = [key for key, answer in answers.items() if answer is None]
        if missing:
            raise ApiError(
                400,
                f"no tool message answers the call with the id {missing[0][:100]!r}",
                param=f"messages.{place}",
                code="missing_tool_result",
            )
        found.extend(Result(answer or "") for answer in answers.values())
        answers.clear()

    for place, message in enumerate(messages):
        if message.role == "tool":
            key = message.tool_call_id or ""
            if answers.get(key, "") is not None:
                raise ApiError(
                    400,
                    f"no call with the id {key[:100]!r} waits for a result here",
                    param=f"messages.{place}.tool_call_id",
                    code="invalid_tool_call_id",
                )
            answers[key] = as_text(message.content)
            continue
        close(place)
        if message.tool_calls:
            calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]
            found.append(Calls(list(calls), as_text(message.content)))
            answers.update({call.id: None for call in message.tool_calls})
        else:
            found.append(message.plain())
    close(len(messages) - 1)
    return found
