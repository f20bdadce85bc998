"""`openqwen chat` and `openqwen serve`: use a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def chat(model: Path, *, temperature: float = 0.0, top_p: float = 0.8, max_tokens: int = 256) -> int:
    """Chats in the terminal: /reset, /system TEXT, /quit; Ctrl-C stops a reply, Ctrl-D ends."""
    from openqwen.serve.terminal import chat as terminal_chat

    terminal_chat(model, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    return 0


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: Annotated[str | None, Parameter(env_var="OPENQWEN_API_KEY")] = None,
) -> int:
    """Serves an OpenAI-compatible endpoint at /v1 and a chat page at /."""
    from openqwen.serve.server import serve as run_server

    run_server(model, host=host, port=port, api_key=api_key)
    return 0
