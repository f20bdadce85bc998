"""Tools of an MCP server through the official client: a program's pipes, or streamable HTTP.

Ours. The client is asynchronous; it lives in a thread of its own, and every call is checked against the tool's schema
and bounded in time. What is no text comes to the model as a line that says so.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from openqwen.agent.tools import CallError, Tool, ended_by
from openqwen.core.errors import OpenQwenError, UsageError

START = 30.0  # seconds for a server to start and to name its tools
_GRACE = 1.0  # seconds the client has to give up a call by itself


@contextmanager
def open_server(address: str, seconds: float, env: Mapping[str, str] | None = None) -> Iterator[list[Tool]]:
    """The tools of a server while it is connected. address: http(s)://..., or a command line to start it with.

    A program gets `env` and few variables of ours, so no keys. OpenQwenError where it does not start or answer.
    """
    from anyio.from_thread import start_blocking_portal
    from mcp import Client, StdioServerParameters, stdio_client

    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
        if address.startswith(("http://", "https://")):
            target: Any = address
        else:
            command, *arguments = _words(address)
            program = StdioServerParameters(command=command, args=arguments, env=dict(env or {}))
            target = stdio_client(program, log)
        portal = stack.enter_context(start_blocking_portal())
        try:
            client = Client(target, read_timeout_seconds=START)
            stack.enter_context(portal.wrap_async_context_manager(client))
            listed = portal.call(_list, client)
        except Exception as error:
            raise OpenQwenError(
                f"the MCP server does not answer: {_reason(error)}{_last_line(log)}",
                where=address,
                fix="start it by hand and see what it says",
            ) from error
        yield [_tool(found, client, portal, seconds) for found in listed]


def _words(address: str) -> list[str]:
    try:
        words = shlex.split(address)
    except ValueError as error:
        raise UsageError(f"the command cannot be read: {error}", where=address) from error
    if not words:
        raise UsageError(
            "an MCP server has an address or a command", fix="mcp:http://HOST/mcp or mcp:COMMAND"
        )
    return words


async def _list(client: Any) -> list[Any]:
    """All tools, page by page."""
    page = await client.list_tools()
    found = list(page.tools)
    while page.next_cursor is not None:
        page = await client.list_tools(cursor=page.next_cursor)
        found += page.tools
    return found


def _tool(found: Any, client: Any, portal: Any, seconds: float) -> Tool:
    declaration = {
        "name": found.name,
        "name_for_human": found.title or found.name,
        "description": found.description or "",
        "parameters": found.input_schema,
    }
    check = _checker(found.input_schema)

    def call(**arguments: Any) -> str:
        check(arguments)
        try:
            running = portal.start_task_soon(
                partial(client.call_tool, found.name, arguments, read_timeout_seconds=seconds)
            )
            with ended_by(running.cancel):
                result = running.result()
        except CancelledError as error:
            raise CallError("the call was stopped") from error
        except Exception as error:
            raise CallError(_reason(error)) from error
        text = _text(result)
        if result.is_error:
            raise CallError(text)
        return text

    return Tool(declaration, call, seconds + _GRACE)


def _checker(schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """What raises CallError for arguments that the whole of JSON schema forbids; it fetches no reference."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = validator_for(schema)

    def check(arguments: Mapping[str, Any]) -> None:
        try:
            kind.check_schema(schema)
            wrong = [
                f"{error.json_path.removeprefix('$.')}: {error.message[:200]}"
                for error in kind(schema, registry=Registry()).iter_errors(arguments)
            ]
        except (SchemaError, Unresolvable) as error:
            raise CallError(f"the server's schema of this tool cannot be used: {str(error)[:200]}") from error
        if wrong:
            raise CallError("; ".join(wrong))

    return check


def _text(result: Any) -> str:
    """A result as text; pictures, sounds and resources by kind and size."""
    parts = [_block(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return "\n".join(parts) or "(no output)"


def _block(block: Any) -> str:
    if block.type == "text":
        return str(block.text)
    if block.type in ("image", "audio"):
        return f"({block.type} of type {block.mime_type}, {len(block.data) * 3 // 4} bytes, not shown)"
    resource = getattr(block, "resource", block)
    text = getattr(resource, "text", None)
    return str(text) if text is not None else f"(resource {resource.uri}, not shown)"


def _reason(error: BaseException) -> str:
    """The innermost cause: the client wraps what happens in groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _last_line(log: Any) -> str:
    """The last thing a program said before it failed."""
    log.seek(0)
    lines = [line for line in log.read().splitlines() if line.strip()]
    return f"; it said: {lines[-1][:200]}" if lines else ""
