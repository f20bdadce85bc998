"""`openqwen chat` and `openqwen serve`: use a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Compiled = Annotated[
    bool | None,
    Parameter(help="Decode by compiled code; left out: where a C++ compiler is, or a line says why not."),
]


def chat(
    model: Path,
    *,
    temperature: float = 0.0,
    top_p: float = 0.8,
    max_tokens: int = 256,
    compiled: Compiled = None,
) -> int:
    """Chats in the terminal: /reset, /system TEXT, /quit; Ctrl-C stops a reply, Ctrl-D ends."""
    from openqwen.serve.terminal import chat as terminal_chat

    terminal_chat(model, temperature=temperature, top_p=top_p, max_tokens=max_tokens, compiled=compiled)
    return 0


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: Annotated[str | None, Parameter(env_var="OPENQWEN_API_KEY")] = None,
    name: str | None = None,
    max_batch: int = 64,
    max_length: int | None = None,
    max_waiting: int = 1024,
    compiled: Compiled = None,
) -> int:
    """Serves an OpenAI-compatible endpoint at /v1 and a chat page at /.

    Parameters
    ----------
    api_key
        What clients must send as their key; every path but the page and /health asks for it.
    name
        What the model is called in the API; left out: its folder's name.
    max_batch
        Replies generated at once.
    max_length
        Tokens of prompt and reply together; left out: what the model can hold.
    max_waiting
        Replies that may wait for their turn; beyond them clients get 429.
    """
    from openqwen.serve.server import serve as run_server

    run_server(
        model,
        host=host,
        port=port,
        api_key=api_key,
        name=name,
        max_batch=max_batch,
        max_length=max_length,
        max_waiting=max_waiting,
        compiled=compiled,
    )
    return 0
