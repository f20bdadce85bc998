"""`openqwen chat` and `openqwen serve`: use a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from openqwen.cli.common import Tools
from openqwen.core.errors import UsageError

Compiled = Annotated[
    bool | None,
    Parameter(help="Decode by compiled code; left out: where a C++ compiler is, or a line says why not."),
]
Quantise = Annotated[
    Literal["int8", "int4"] | None,
    Parameter(help="Hold the weights in 8 or 4 bits: less memory, a little less exact. Needs torchao."),
]
Cache = Annotated[
    Literal["int8"] | None, Parameter(help="Hold what was read in 8 bits: more and longer replies at once.")
]
Above0 = Annotated[int, Parameter(validator=validators.Number(gt=0))]
Seconds = Annotated[float, Parameter(validator=validators.Number(gt=0))]


def chat(
    model: Path,
    *,
    temperature: float = 0.0,
    top_p: float = 0.8,
    max_tokens: int = 256,
    compiled: Compiled = None,
    quantise: Quantise = None,
    cache: Cache = None,
) -> int:
    """Chats in the terminal: /reset, /system TEXT, /quit; Ctrl-C stops a reply, Ctrl-D ends."""
    from openqwen.serve.terminal import chat as terminal_chat

    terminal_chat(
        model,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        compiled=compiled,
        quantise=quantise,
        cache=cache,
    )
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
    quantise: Quantise = None,
    cache: Cache = None,
    also: list[str] | None = None,
    reward: Path | None = None,
    preferences: Path | None = None,
    tools: Tools = None,
    interpreter: Annotated[
        bool, Parameter(negative="", help="Also give it Python in the sandbox, kept from reply to reply.")
    ] = False,
    max_steps: Above0 = 8,
    max_observation: Above0 = 2000,
    tool_seconds: Seconds = 30.0,
    cell_seconds: Seconds = 30.0,
    conversations: Above0 = 16,
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
    also
        A further model as NAME=PATH, to choose in the API and to compare with in the chat page; repeatable.
    reward
        A reward model, whose score the chat page shows beside each reply.
    preferences
        The folder in which preferences.jsonl grows by a line for each choice made in the chat page.
    max_steps
        Calls a reply with the server's tools may make.
    max_observation
        Characters of a tool's result that the model sees.
    tool_seconds
        Time limit of a tool's call.
    cell_seconds
        Time limit of a cell in the interpreter.
    conversations
        Conversations that may hold an interpreter and tools at once.
    """
    from openqwen.serve.config import AgentConfig
    from openqwen.serve.server import serve as run_server

    limits = AgentConfig().interpreter.model_copy(update={"seconds": cell_seconds})
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
        quantise=quantise,
        cache=cache,
        also=named_paths(also or []),
        reward=reward,
        preferences=preferences,
        tools=tools or (),
        interpreter=interpreter,
        agent=AgentConfig(
            max_steps=max_steps,
            max_observation=max_observation,
            tool_seconds=tool_seconds,
            interpreter=limits,
            conversations=conversations,
        ),
    )
    return 0


def named_paths(given: list[str]) -> dict[str, Path]:
    """The values of --also: NAME=PATH to {name: path}. UsageError for another form or a name twice."""
    found: dict[str, Path] = {}
    for text in given:
        name, mark, path = text.partition("=")
        if not (mark and name.strip() and path.strip()):
            raise UsageError(
                f"--also {text!r} is not NAME=PATH", fix="for example: --also base=out/tour/base"
            )
        if name.strip() in found:
            raise UsageError(f"--also names {name.strip()!r} twice", fix="give each model a name of its own")
        found[name.strip()] = Path(path.strip())
    return found
