"""Many clients at once: a raw one that costs little, and the server in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Reply:
    """What one client got; kinds: the pieces of the stream in order, without their texts."""

    status: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    tokens: int | None = None
    done: bool = False


async def stream(url: str, body: dict[str, Any], leave_after: int | None = None) -> Reply:
    """POST /v1/completions, streamed and read to its end, or left after some pieces of text."""
    reader, writer = await ask(url, body)
    reply = Reply(int((await reader.readline()).split()[1]))
    pieces = 0
    async for line in reader:
        if not line.startswith(b"data: "):  # a head, the size of a chunk, an empty line
            continue
        if line.startswith(b"data: [DONE]"):
            reply.done = True
            break
        data = json.loads(line[6:])
        reply.ids.add(data["id"])
        if data["usage"]:
            reply.tokens = data["usage"]["completion_tokens"]
        for choice in data["choices"]:
            index = choice["index"]
            reply.texts[index] = reply.texts.get(index, "") + choice["text"]
            if choice["finish_reason"] is not None:
                reply.reasons.append(choice["finish_reason"])
        pieces += 1
        if pieces == leave_after:
            break
    writer.close()
    return reply


async def ask(
    url: str, body: dict[str, Any], buffer: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends a request. buffer: bytes that its client takes before it reads."""
    where, sock = urlsplit(url), socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (where.hostname, where.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=buffer or 2**16)
    data = json.dumps({"stream": True, "stream_options": {"include_usage": True}, **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


@contextlib.contextmanager
def serving(folder: Path, *options: str, files: int = 256) -> Iterator[tuple[str, int]]:
    """`openqwen serve` with so many files allowed at first; its address and the number of its process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    line = [sys.executable, "-m", "openqwen", "serve", str(folder), "--port", "0", "--no-compiled", *options]
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard)),
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert found, process.stderr.read()
        yield found[0], process.pid
        process.send_signal(signal.SIGINT)
        ended, said = process.wait(20), process.stderr.read()
        assert ended == 0 and said == "", said
    finally:
        process.kill()
        process.communicate()


def memory(process: int, peak: bool = False) -> float:
    """MiB of a process that are in memory now, or were at most."""
    key = "VmHWM" if peak else "VmRSS"
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024
