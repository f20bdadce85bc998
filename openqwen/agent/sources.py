"""Tools that a person names on the command line: typed Python functions, declared programs, MCP servers.

Ours. FILE.py: its public functions. FILE.json: a list of declarations, each with the "command" that runs it, or the
"mcpServers" table that other programs read. mcp:...: a server by address or command.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from openqwen.agent.mcp import open_server
from openqwen.agent.tools import CallError, Tool, ended_by, from_function
from openqwen.chat import react
from openqwen.core.errors import UsageError

_OUTPUT = 1 << 20  # bytes of a program's output that are read


def open_tools(given: Iterable[str], seconds: float, stack: ExitStack) -> list[Tool]:
    """The tools of all that is named, in order. `stack` closes connections. UsageError: what cannot be tools."""
    tools: list[Tool] = []
    for text in given:
        if text.startswith("mcp:"):
            tools += stack.enter_context(open_server(text.removeprefix("mcp:"), seconds))
        elif text.endswith(".py"):
            tools += from_file(Path(text))
        elif text.endswith(".json"):
            tools += _from_json(Path(text), seconds, stack)
        else:
            raise UsageError(f"{text!r} names no tools", where="--tools", fix="FILE.py, FILE.json or mcp:...")
    names = [tool.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two tools are called {', '.join(twice)}", where="--tools", fix="rename one")
    return tools


def from_file(path: Path) -> list[Tool]:
    """The public functions that a Python file defines. The file is run: it is the person's own."""
    if not path.is_file():
        raise UsageError("there is no such file", where=str(path))
    spec = importlib.util.spec_from_file_location(f"tools_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"the file does not run: {type(error).__name__}: {error}", where=str(path)
        ) from error
    found = [
        replace(from_function(value), file=path)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__
    ]
    if not found:
        raise UsageError("the file defines no public function", where=str(path))
    return found


def _from_json(path: Path, seconds: float, stack: ExitStack) -> list[Tool]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the declarations cannot be read: {error}", where=str(path)) from error
    if isinstance(value, dict) and isinstance(value.get("mcpServers"), dict):
        tools: list[Tool] = []
        for name, server in value["mcpServers"].items():
            address = _address(server, f"{path}, server {name}")
            tools += stack.enter_context(open_server(address, seconds, server.get("env")))
        return tools
    if not isinstance(value, list):
        raise UsageError('the file is no list of declarations and has no "mcpServers"', where=str(path))
    return [_declared(entry, seconds, f"{path}, tool {number}") for number, entry in enumerate(value, 1)]


def _address(server: Any, where: str) -> str:
    """A server of an "mcpServers" table as `open_server` takes it."""
    if isinstance(server, dict) and isinstance(server.get("url"), str):
        return str(server["url"])
    if isinstance(server, dict) and isinstance(server.get("command"), str):
        return shlex.join([server["command"], *map(str, server.get("args", []))])
    raise UsageError('the server has no "url" and no "command"', where=where)


def _declared(entry: Any, seconds: float, where: str) -> Tool:
    """A declaration in Qwen's or OpenAI's form with its program."""
    if not isinstance(entry, dict):
        raise UsageError("a declaration is an object", where=where)
    declaration = dict(entry.get("function", entry))
    command = entry.get("command") or declaration.get("command")
    declaration.pop("command", None)
    if not react.tool_name(declaration) or not isinstance(declaration.get("parameters", []), (list, dict)):
        raise UsageError('a declaration has a "name" and "parameters"', where=where)
    if not (isinstance(command, list) and command and all(isinstance(word, str) for word in command)):
        raise UsageError(
            "nothing runs this tool",
            where=where,
            fix='"command": ["PROGRAM", ...] gets the arguments as JSON',
        )
    return Tool(declaration, _program(command, seconds), seconds + 1)


def _program(command: Sequence[str], seconds: float) -> Callable[..., str | bytes]:
    """A function that runs a program: arguments as JSON at its input, its output is the result."""

    def call(**arguments: Any) -> str | bytes:
        code, output = _run(command, arguments, seconds)
        try:
            text: str | bytes = output.decode()
        except UnicodeDecodeError:
            text = output
        if code:
            raise CallError(f"exit code {code}: {output.decode(errors='replace')}")
        return text

    return call


def _run(command: Sequence[str], arguments: Mapping[str, Any], seconds: float) -> tuple[int, bytes]:
    """(exit code, output). The program and all that it started are gone afterwards. CallError: too long or too much."""
    with tempfile.TemporaryFile() as given:  # a file, not a pipe: a program may read nothing
        given.write(json.dumps(arguments, ensure_ascii=False).encode("utf-8", "replace"))
        given.seek(0)
        try:
            process = subprocess.Popen(
                command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise CallError(f"{command[0]} does not start: {error}") from error
    late = threading.Event()

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def time_is_up() -> None:
        late.set()
        kill()

    timer = threading.Timer(seconds, time_is_up)
    timer.start()
    with process:
        assert process.stdout is not None
        try:
            with ended_by(kill):
                output = process.stdout.read(_OUTPUT + 1)
                if len(output) <= _OUTPUT:
                    process.wait()
        finally:
            timer.cancel()
            kill()
    if late.is_set():
        raise CallError(f"no result after {seconds:g} seconds")
    if len(output) > _OUTPUT:
        raise CallError(f"the program wrote more than {_OUTPUT} bytes")
    return process.returncode, output
