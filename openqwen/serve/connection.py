"""A client's connection: what must come has to come in time, and what was asked for has to be read.

Ours. uvicorn waits for a request's head, and for a reader, as long as a client likes; either would let clients keep
connections and replies for ever by doing nothing.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from openqwen.serve import wire

LOG = logging.getLogger("uvicorn.error")
HEAD_SECONDS = 15.0  # for the head of a request, from its first byte or from connecting
LAST_SECONDS = 2.0  # for a client that is refused to stop writing
MAX_FILES = 8192  # open files, thus connections
FULL_SECONDS = 60.0  # between two lines that say that no client can be let in
READ_SECONDS = 30.0  # for 48 KiB of a reply to be read, once 64 KiB wait for its reader


class Timer:
    """Calls once when it has run for some seconds without being stopped."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds, self._call = seconds, call
        self._running: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Harmless while it runs."""
        if self._running is None:
            self._running = asyncio.get_running_loop().call_later(self._seconds, self._call)

    def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None


class _Open:
    """A transport that drops what is written once it is closing. asyncio's own drops it as well and logs each time."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with a limit on how long a client may keep it waiting. Refusals are OpenAI's errors."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Open(transport))  # type: ignore[arg-type]
        self._head = Timer(HEAD_SECONDS, self._no_head)
        self._reader = Timer(READ_SECONDS, self._drop)
        self._last = Timer(LAST_SECONDS, transport.close)
        self._refused = False
        self._head.start()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._reader, self._last):
            timer.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._head.start()
        else:
            self._head.stop()

    def eof_received(self) -> None:
        """The client has stopped writing: asyncio closes now, and what is written from here on goes nowhere."""
        self._client_is_gone()

    def _client_is_gone(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _no_head(self) -> None:
        self._refuse(408, f"the request's head did not arrive within {HEAD_SECONDS:g} s", "too_slow")

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for bytes that are no HTTP."""
        self._refuse(400, msg, "invalid_http")

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answers, if no answer has begun, and closes."""
        self._refused = True
        self._head.stop()
        self._client_is_gone()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json.dumps(wire.error(message, "invalid_request_error", code=code)).encode()
        head = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        self._write(h11.Response(status_code=status, headers=head))
        self._write(h11.Data(data=body))
        self._write(h11.EndOfMessage())
        self.transport.write_eof()
        self._last.start()  # to close at once would take the answer from a client that still writes

    def _write(self, event: h11.Event) -> None:
        self.transport.write(self.conn.send(event) or b"")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.stop()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def _watch_reader(self) -> None:
        if self.transport.get_write_buffer_size():
            self._reader.start()

    def _drop(self) -> None:
        """Ends the connection and what waits in it, also in the system's buffers."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def allow_connections() -> None:
    """Raises this process's limit of open files, usually 1,024, as far as it may: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def say_seldom(loop: asyncio.AbstractEventLoop) -> None:
    """Bounds what is logged where clients cannot be let in for want of files: asyncio does so 2,000 times a second."""
    full, last = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM), -FULL_SECONDS

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal last
        error = context.get("exception")
        if "socket" not in context or not isinstance(error, OSError) or error.errno not in full:
            loop.default_exception_handler(context)
        elif loop.time() - last >= FULL_SECONDS:
            last = loop.time()
            LOG.error("clients wait to be let in: %s", error)

    loop.set_exception_handler(handle)
