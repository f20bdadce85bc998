"""Conversations as plain data: a list of {"role", "content"}, checked before anything is made of it.

Ours; the roles are ChatML's (report §3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openqwen.core.errors import DataError, did_you_mean

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)
DEFAULT_SYSTEM = "You are a helpful assistant."
Message = Mapping[str, Any]


def check(messages: Sequence[Message], where: str = "messages") -> None:
    """Refuses what is no conversation: unknown roles, content that is not text, a system message not in front."""
    if not messages:
        raise DataError("a conversation needs at least one message", where=where)
    for place, message in enumerate(messages):
        here = f"{where}[{place}]"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise DataError('a message is {"role": ..., "content": ...}', where=here)
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise DataError(f"unknown role {role!r}.{did_you_mean(str(role), ROLES)}", where=here)
        if not isinstance(content, str):
            raise DataError(f"content must be text, not {type(content).__name__}", where=here)
        if role == SYSTEM and place:
            raise DataError("the system message must come first", where=here)


def check_turns(messages: Sequence[Message], where: str = "messages") -> None:
    """As `check`, and user and assistant must take turns, the user first."""
    check(messages, where)
    start = 1 if messages[0]["role"] == SYSTEM else 0
    for place, message in enumerate(messages[start:]):
        expected = USER if place % 2 == 0 else ASSISTANT
        if message["role"] != expected:
            raise DataError(
                f"the {expected} should speak here, not the {message['role']}",
                where=f"{where}[{start + place}]",
            )


def with_system(messages: Sequence[Message], system: str = DEFAULT_SYSTEM) -> list[Message]:
    """The conversation with a system message in front, the default one if it has none."""
    if messages and messages[0]["role"] == SYSTEM:
        return list(messages)
    return [{"role": SYSTEM, "content": system}, *messages]
