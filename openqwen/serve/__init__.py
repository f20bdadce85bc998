"""The OpenAI-compatible server, its chat page, and the chat in the terminal.

Ours; the chat format is the report's (§3.1, A.1.1). Importing this package imports no torch.
"""

from __future__ import annotations

from typing import Any

__all__ = ["chat", "serve"]


def __getattr__(name: str) -> Any:
    if name == "serve":
        from openqwen.serve.server import serve

        return serve
    if name == "chat":
        from openqwen.serve.terminal import chat

        return chat
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
