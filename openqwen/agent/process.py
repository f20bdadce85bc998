"""The functions of a Python file in a process of their own, so that one that hangs or crashes harms nobody else.

Ours. JSON lines over a pair of pipes. A process serves one conversation: what its functions keep is that
conversation's alone. It is ended when a call is over its time or is stopped, and started anew by the next call.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from openqwen.agent.tools import CallError, Tool, as_text, described, ended_by
from openqwen.sandbox.run import kill_group, readable

_START = 30.0  # seconds for the file to be read, with all that it imports
_ANSWER = 1 << 20  # bytes of an answer
_LOOK = 0.5  # seconds between looks at whether the parent is there


def set_apart(tools: Iterable[Tool], seconds: float, stack: ExitStack) -> list[Tool]:
    """The tools, those of Python files run by one process a file. seconds: limit of a call. `stack` ends them."""
    processes: dict[Path, FileProcess] = {}
    found = []
    for tool in tools:
        if tool.file is not None:
            if tool.file not in processes:
                processes[tool.file] = FileProcess(tool.file, seconds)
                stack.callback(processes[tool.file].close)
            call = partial(processes[tool.file].call, tool.name)
            tool = replace(tool, function=call, seconds=_START + seconds + 1)
        found.append(tool)
    return found


class FileProcess:
    """The process of one file. Calls come one after another."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path.resolve(), seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._one = threading.Lock()  # the next call waits until a stopped one has ended its process
        self._closed = False  # a call that still waits would start a process that nobody ends

    def call(self, name: str, **arguments: Any) -> str:
        """What the function returned, as text. CallError: what it raised, no answer in time, a process that died."""
        with self._one:
            if self._closed:
                raise CallError("the process of this tool has ended")
            process, fresh = self._process, self._process is None
            if process is None:
                process = self._process = self._start()
                if self._closed:  # meanwhile, when there was none to kill
                    kill_group(process)
            begun = fresh
            try:
                with ended_by(partial(kill_group, process)):
                    begun = True
                    if fresh:
                        self._answer(process, _START)
                    assert process.stdin is not None
                    request = {"name": name, "arguments": arguments}
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                    answer = self._answer(process, self.seconds)
            except (CallError, OSError) as error:
                if begun:  # one that was stopped while it waited leaves the process, and its state, alone
                    _end(process)
                    self._process = None
                if isinstance(error, OSError):
                    raise CallError("the process of this tool has ended") from error
                raise
        if "error" in answer:
            raise CallError(answer["error"])
        return str(answer["text"])

    def close(self) -> None:
        """Ends the process and all that it started, with the call that runs."""
        self._closed = True
        if (process := self._process) is not None:
            kill_group(process)
        with self._one:
            if self._process is not None:
                _end(self._process)
                self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "openqwen.agent.process", str(self.path)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
        """The next line. CallError where none comes in time, it is too long, or the process ends."""
        assert process.stdout is not None
        descriptor, deadline, line = process.stdout.fileno(), time.monotonic() + seconds, bytearray()
        while not line.endswith(b"\n"):
            if not readable(descriptor, max(0.0, deadline - time.monotonic())):
                raise CallError(f"no result after {seconds:g} seconds")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise CallError("the process of this tool has ended")
            line += chunk
            if len(line) > _ANSWER:
                raise CallError(f"the tool returned more than {_ANSWER} bytes")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    kill_group(process)
    with contextlib.suppress(BrokenPipeError), process:
        pass  # waits, and closes the pipes


def _end_with(parent: int) -> None:
    """Ends this process and what it started once its parent is gone, also one that was killed during a call."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.killpg(0, signal.SIGKILL)


def main(path: Path) -> None:
    """The process: answers each line until there are no more. What functions print goes where errors go."""
    from openqwen.agent.sources import from_file

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    tools = {tool.name: tool.function for tool in from_file(path)}
    answer: dict[str, str] = {}
    while True:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        line = requests.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            answer = {"text": as_text(tools[request["name"]](**request["arguments"]))}
        except CallError as error:
            answer = {"error": str(error)}
        except BaseException as error:  # whatever a tool raises, sys.exit() too, is the model's to read
            answer = {"error": described(error)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
