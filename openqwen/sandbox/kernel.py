"""A Python interpreter that keeps its variables from cell to cell, in the sandbox: report §3.4, §A.3.

Ours: JSON lines over a pair of pipes, so there is no port and no socket. The folder of the conversation lies in
memory inside the sandbox and is reached only through the interpreter: its disk use is bounded, and a link in it
leads nowhere outside. What the interpreter answers is treated as written by the code it ran.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import selectors
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openqwen.core.errors import DataError, UsageError
from openqwen.sandbox.config import Limits
from openqwen.sandbox.run import kill_group, launch, python, readable, required

_PROGRAM = Path(__file__).with_name("inside.py")
_PATH = "/kernel.py"
_GRACE = 0.5  # seconds a cell has to obey its alarm before the interpreter is killed
_START = 10.0  # seconds for the first answer
_NONE = -1  # no descriptor
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Cell:
    """What a cell did. files: names in the conversation's folder that it made or changed.

    figures: what each picture shows, as data: {"suptitle", "axes": [{"title", "lines", ...}]} (inside.describe).
    """

    text: str
    error: str | None = None
    pictures: tuple[bytes, ...] = ()
    figures: tuple[dict[str, Any], ...] = ()
    files: tuple[str, ...] = ()
    left_out: int = 0  # bytes of output beyond the limit
    restarted: bool = False  # the interpreter was killed: variables and made files are gone
    seconds: float = 0.0


# Interpreters are started in a thread that lasts: bubblewrap ends with its parent, to the kernel that is the thread which
# started it, and that of a tool's call ends with the call.
_starter: ThreadPoolExecutor


def _renew_starter() -> None:
    global _starter
    _starter = ThreadPoolExecutor(1, thread_name_prefix="interpreters")


_renew_starter()
os.register_at_fork(after_in_child=_renew_starter)  # only the forking thread is left there


class _Gone(Exception):
    """The interpreter does not answer as it should; it must be replaced."""


class Kernel:
    """One conversation's interpreter. Use as a context manager; NoSandbox (exit code 78) where none is proven."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._given: dict[str, bytes] = {}
        self._backend = required()
        self._start()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def patience(self) -> float:
        """Seconds after which `run` has returned, whatever the code does: its limit, a restart, the files put back."""
        return self.limits.seconds + _GRACE + (1 + len(self._given)) * _START

    def run(self, code: str) -> Cell:
        """Runs a cell to its end or its limit. Never raises for what the code does."""
        began, limits = time.monotonic(), self.limits
        request = {
            "do": "run", "code": code, "seconds": limits.seconds, "limit": limits.output,
            "pictures": limits.pictures, "picture_limit": limits.picture_bytes,
        }  # fmt: skip
        try:
            cell = _cell(self._ask(request, limits.seconds + _GRACE), time.monotonic() - began)
        except _Gone as gone:
            self.restart()
            error = f"{gone}; the interpreter was started anew, its variables are gone"
            return Cell("", error, restarted=True, seconds=time.monotonic() - began)
        return cell

    def kill(self) -> None:
        """Ends the cell that runs, from another thread: `run` returns soon, with a fresh interpreter in its place."""
        kill_group(self._process)

    def put(self, name: str, data: bytes) -> None:
        """Places a file into the conversation's folder; it comes back after a restart. UsageError: name or size."""
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UsageError(f"{name!r} is no file name", fix="give a name without folders")
        if len(data) > self.limits.file_bytes:
            raise UsageError(f"{name} has {len(data)} bytes", fix=f"at most {self.limits.file_bytes} go in")
        self._place(name, data)
        self._given[name] = data

    def get(self, name: str) -> bytes:
        """A file of the conversation's folder; DataError if it is not there, a link, or too large."""
        reply = self._file({"do": "get", "name": name, "limit": self.limits.file_bytes}, name)
        try:
            data = base64.b64decode(reply["data"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise DataError("the interpreter's answer holds no file", where=name) from error
        if len(data) > self.limits.file_bytes:
            raise DataError(f"the file has more than {self.limits.file_bytes} bytes", where=name)
        return data

    def restart(self) -> None:
        """Kills the interpreter and starts a fresh one with the files that were given."""
        self.close()
        self._start()
        for name, data in self._given.items():
            self._place(name, data)

    def close(self) -> None:
        """Ends the interpreter and everything it started."""
        self._in = self._out = _NONE  # their numbers may soon be another file's, also where no start follows
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()  # nothing is buffered in it: we read and write the descriptor itself

    def _start(self) -> None:
        start = partial(
            launch,
            self._backend,
            _PROGRAM.read_text("utf-8"),
            _PATH,
            python(_PATH),
            self.limits.cpu,
            self.limits.memory_mb,
            packages=Path(sysconfig.get_path("purelib")),
            stderr=subprocess.DEVNULL,
        )
        self._process = _starter.submit(start).result()
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def _place(self, name: str, data: bytes) -> None:
        self._file({"do": "put", "name": name, "data": base64.b64encode(data).decode()}, name)

    def _file(self, request: dict[str, Any], name: str) -> dict[str, Any]:
        try:
            reply = self._ask(request, _START)
        except _Gone as gone:
            raise DataError(f"the interpreter does not move the file: {gone}", where=name) from gone
        if "failed" in reply:
            raise DataError(f"the interpreter does not move the file: {reply['failed']}", where=name)
        return reply

    def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Sends a line, reads a line; _Gone for silence, an end, a flood, or what is no answer."""
        if self._out == _NONE:
            raise _Gone("the interpreter was not there")
        if readable(self._out, 0):
            raise _Gone("the interpreter ended or answered unasked")
        rest = memoryview(json.dumps(request).encode() + b"\n")
        reply = bytearray()
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_WRITE)
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in reply[-(1 << 16) :]:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready and time.monotonic() >= deadline:
                    raise _Gone(f"no answer within {seconds:g} s")
                for key, _ in ready:
                    if key.fd == self._out:
                        reply += self._read(len(reply))
                    else:
                        rest = self._write(rest)
                        if not rest:
                            selector.unregister(self._in)
        if not reply.endswith(b"\n") or reply.count(b"\n") > 1:
            raise _Gone("more than one answer")
        try:
            value = json.loads(reply)
        except (ValueError, RecursionError) as error:
            raise _Gone("the answer is no JSON") from error
        if not isinstance(value, dict):
            raise _Gone("the answer is no object")
        return value

    def _read(self, have: int) -> bytes:
        chunk = os.read(self._out, 1 << 16)
        if not chunk:
            raise _Gone("the interpreter ended")
        if have + len(chunk) > self.limits.answer:
            raise _Gone("the answer is too long")
        return chunk

    def _write(self, rest: memoryview) -> memoryview:
        try:
            return rest[os.write(self._in, rest) :]
        except BrokenPipeError as error:
            raise _Gone("the interpreter ended") from error


def _cell(reply: Mapping[str, Any], seconds: float) -> Cell:
    """An answer as a Cell; parts of the wrong kind mean that the code forged it."""
    text, error, left_out = reply.get("text", ""), reply.get("error"), reply.get("left_out", 0)
    drawn, names = reply.get("pictures", []), reply.get("files", [])
    if "failed" in reply:
        error = str(reply["failed"])
    if not (isinstance(text, str) and isinstance(error, str | None) and isinstance(left_out, int)):
        raise _Gone("the answer is malformed")
    if not all(isinstance(part, list) and all(isinstance(v, str) for v in part) for part in (drawn, names)):
        raise _Gone("the answer is malformed")
    figures = reply.get("figures", [])
    if not (isinstance(figures, list) and all(isinstance(figure, dict) for figure in figures)):
        raise _Gone("the answer is malformed")
    try:
        images = tuple(base64.b64decode(image, validate=True) for image in drawn)
    except binascii.Error as bad:
        raise _Gone("a picture is no base64") from bad
    if not all(image.startswith(_PNG) for image in images):
        raise _Gone("a picture is no PNG")
    return Cell(text, error, images, tuple(figures), tuple(names), left_out, seconds=seconds)


class Pool:
    """Interpreters that are started ahead, so that a conversation waits for none. Not for several threads."""

    def __init__(self, size: int = 2, limits: Limits | None = None, warm: str = "") -> None:
        """warm: a cell run in each ahead of time, say imports."""
        self._limits, self._warm = limits, warm
        self._ready = [self._make() for _ in range(size)]

    def take(self) -> Kernel:
        """A fresh interpreter; it is the caller's to close. `refill` starts the next."""
        return self._ready.pop() if self._ready else self._make()

    def refill(self, size: int) -> None:
        """Starts interpreters until `size` are ready."""
        self._ready += [self._make() for _ in range(size - len(self._ready))]

    def close(self) -> None:
        """Ends those that nobody took."""
        while self._ready:
            self._ready.pop().close()

    def _make(self) -> Kernel:
        kernel = Kernel(self._limits)
        kernel.run(self._warm)
        return kernel
