"""The server held at its most for minutes: no reply lost, crossed or wrong, nothing leaked, memory flat.

OPENQWEN_HELD: seconds of each of the two long tests. A thousand streams of one kind, and clients of all kinds at once;
the right answer of each request is known beforehand.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from faults.record import record

from openqwen.engine import Engine
from openqwen.serve.connection import allow_connections
from tests.serve.load import ask, memory, serving, stream
from tests.serve.test_hostile import CHAT, TEXT
from tests.serve.test_load import LETTERS, body, expected, saved

__all__ = ["saved"]  # the fixture of test_load
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
HELD = float(os.environ.get("OPENQWEN_HELD", "600"))
ROWS = 64  # of the server's engine unless told otherwise
WARM = 0.2  # the share of the time after which memory must be flat
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}},
}
GARBAGE = (
    b"\x16\x03\x01\x02\x00" + bytes(200),
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST " + TEXT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n{}",
    b"POST " + TEXT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"n\": \0\xff}",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + b"[" * 9999,
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"\r\n\r\n\0\0\0",
)  # fmt: skip


@dataclass
class Tally:
    """What clients saw: replies by kind, what was wrong, seconds by kind."""

    replies: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: list[tuple[float, float]] = field(default_factory=list)  # MiB resident at a time
    in_use: list[tuple[float, float]] = field(default_factory=list)  # MiB that malloc has given out
    rows: list[tuple[float, float]] = field(default_factory=list)  # replies running and waiting

    def add(self, kind: str, seconds: float, right: bool, what: object) -> None:
        self.replies[kind] += 1
        self.seconds.setdefault(kind, []).append(seconds)
        if not right:
            self.wrong.append(f"{kind}: {what!r}"[:300])

    def latency(self, kind: str) -> str:
        """Median, 95th and 99th percentile, and the longest, in seconds."""
        times = sorted(self.seconds[kind])
        return " / ".join(
            f"{times[min(len(times) - 1, int(share * len(times)))]:.2f}" for share in (0.5, 0.95, 0.99, 1)
        )

    def grown(self) -> dict[str, float]:
        """MiB by which memory grew after warming up, by the line through the samples, and their scatter about it."""
        found = {}
        for name, samples in {"resident": self.memory, "in_use": self.in_use}.items():
            kept = [sample for sample in samples if sample[0] >= WARM * samples[-1][0]]
            slope, level = statistics.linear_regression(*zip(*kept))
            rest = [size - level - slope * at for at, size in kept]
            found[f"{name}_MiB_grown"] = round(slope * (kept[-1][0] - kept[0][0]), 1)
            found[f"{name}_MiB_scatter"] = round(statistics.pstdev(rest), 1)
        return found

    def load(self) -> dict[str, float]:
        """Medians of what the engine had to do: with others waiting for each of its rows it is at its most."""
        running, waiting = (statistics.median(own) for own in zip(*self.rows, strict=True))
        return {"rows": ROWS, "running_median": running, "waiting_median": waiting}


def gauge(text: str, name: str) -> float:
    return float(text.partition(f"\n{name} ")[2].split("\n")[0])


async def hold(
    tally: Tally, at: tuple[str, int], seconds: float, clients: list[Callable[[], Awaitable[None]]]
) -> None:
    """Each client asks again and again until the time is up, and reads its last reply to the end."""
    began, (url, process) = time.monotonic(), at

    async def client(once: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() - began < seconds:
            await once()

    async def watch() -> None:
        async with httpx.AsyncClient(timeout=60) as asking:
            while (now := time.monotonic() - began) < seconds:
                tally.memory.append((now, memory(process)))
                told = (await asking.get(url + "/metrics")).text
                tally.in_use.append((now, gauge(told, "openqwen_malloc_bytes") / 2**20))
                tally.rows.append((gauge(told, "openqwen_running"), gauge(told, "openqwen_waiting")))
                await asyncio.sleep(seconds / 200)

    await asyncio.gather(watch(), *(client(once) for once in clients))


def flat(grown: dict[str, float], tally: Tally) -> None:
    """What is in use does not grow beyond its scatter; what is resident may by what lies free between it."""
    assert grown["in_use_MiB_grown"] <= grown["in_use_MiB_scatter"], grown
    assert grown["resident_MiB_grown"] < 0.05 * tally.memory[-1][1], grown


def nothing_left(url: str, rows: int) -> None:
    """No reply is running, and every row of the cache can still be had at once."""
    gauges = ""
    for _ in range(100):
        gauges = httpx.get(url + "/metrics").text
        if "openqwen_running 0.0" in gauges and "openqwen_waiting 0.0" in gauges:
            break
        time.sleep(0.1)
    assert "openqwen_running 0.0" in gauges and "openqwen_waiting 0.0" in gauges

    async def all_rows() -> float:
        request = {"prompt": "x", "max_tokens": 100, "logit_bias": {"65": 100}}
        streams = [asyncio.create_task(stream(url, request)) for _ in range(rows)]
        most = 0.0
        async with httpx.AsyncClient() as client:
            while not all(task.done() for task in streams):
                text = (await client.get(url + "/metrics")).text
                most = max(most, gauge(text, "openqwen_running"))
        assert all(reply.texts == {0: "A" * 100} for reply in await asyncio.gather(*streams))
        return most

    assert asyncio.run(all_rows()) == rows


@pytest.fixture(scope="module")
def loaded(saved) -> Iterator[tuple[str, int]]:
    allow_connections()  # this process holds the other ends
    with serving(saved) as found:
        yield found


def streaming(
    url: str, number: int, right: tuple[str, str, int], tally: Tally
) -> Callable[[], Awaitable[None]]:
    """A client whose every reply is known; one in five leaves in the middle of each."""

    async def once() -> None:
        began, leaves = time.monotonic(), number % 5 == 4
        reply = await stream(url, body(number), 3 if leaves else None)
        text, reason, length = right
        if leaves:
            good = reply.status == 200 and text.startswith(reply.texts.get(0, ""))
        else:
            told = (reply.done, reply.texts, reply.reasons, reply.tokens)
            good = reply.status == 200 and told == (True, {0: text}, [reason], length)
        tally.add("left" if leaves else "streams", time.monotonic() - began, good, (number, reply))

    return once


@pytest.mark.fault(
    "server", "a thousand streams are held for ten minutes", "none lost, none wrong, memory flat"
)
@pytest.mark.parametrize(
    ("count", "seconds"), [(60, 1.0), pytest.param(1000, HELD, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_streams_that_are_held_are_all_right(loaded, model, tokenizer, count, seconds):
    url, process = loaded
    right = expected(Engine(model, tokenizer), count)
    tally = Tally()
    asyncio.run(hold(tally, loaded, seconds, [streaming(url, n, right[n], tally) for n in range(count)]))
    assert tally.wrong == [] and tally.replies.total() >= count
    nothing_left(url, ROWS)
    if seconds == HELD:
        grown = tally.grown()
        record(
            "streams held", clients=count, seconds=round(seconds), replies=tally.replies["streams"],
            left_in_the_middle=tally.replies["left"], wrong_or_lost=len(tally.wrong),
            reply_seconds_p50_p95_p99_max=tally.latency("streams"), **grown, **tally.load(),
            resident_MiB_at_most=round(memory(process, peak=True)),
        )  # fmt: skip
        flat(grown, tally)


async def post(url: str, path: str, request: dict[str, Any]) -> tuple[int, Any]:
    """An answer that is not streamed: its status and its JSON."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    data = json.dumps(request).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nConnection: close\r\n"
    writer.write(
        head.encode()
        + f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    whole = await reader.read()
    writer.close()
    first, _, content = whole.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(content)


def mixed(url: str, number: int, known: dict[str, Any], tally: Tally) -> Callable[[], Awaitable[None]]:
    """Client number n is of the kind n modulo seven."""
    draw, letter = random.Random(number), LETTERS[number % len(LETTERS)]
    length = 8 + number // len(LETTERS)
    forced = {"temperature": 0, "max_tokens": length, "logit_bias": {str(ord(letter)): 100}}
    talk = [{"role": "user", "content": f"client {number}"}]

    async def chat() -> bool:
        status, reply = await post(url, CHAT, {"messages": talk, **forced})
        return status == 200 and reply["choices"][0]["message"]["content"] == letter * length

    async def completion() -> bool:
        status, reply = await post(url, TEXT, {"prompt": f"client {number}", **forced})
        return status == 200 and reply["choices"][0]["text"] == letter * length

    async def tools() -> bool:
        status, reply = await post(url, CHAT, known["request"])
        return status == 200 and reply["choices"] == known["choices"]

    async def streamed() -> bool:
        reply = await stream(url, {"prompt": f"client {number}", **forced})
        return reply.done and reply.texts == {0: letter * length}

    async def cancelled() -> bool:
        long = {**forced, "max_tokens": 300}
        reply = await stream(url, {"prompt": f"client {number}", **long}, draw.randrange(1, 9))
        return reply.status == 200 and set(reply.texts.get(0, letter)) == {letter}

    async def slow() -> bool:
        reader, writer = await ask(
            url, {"prompt": f"client {number}", **forced, "max_tokens": 60}, buffer=4096
        )
        data = b""
        while piece := await reader.read(512):
            data += piece
            await asyncio.sleep(0.05)
        writer.close()
        texts = [json.loads(line[6:])["choices"] for line in data.split(b"\n") if line.startswith(b"data: {")]
        said = "".join(choice["text"] for choices in texts for choice in choices)
        return said == letter * 60 and b"data: [DONE]" in data

    async def garbage() -> bool:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(draw.choice(GARBAGE))
        try:
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 60)
        except ConnectionError:
            answer = b""
        writer.close()
        return answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))

    kinds = (chat, completion, tools, streamed, cancelled, slow, garbage)
    kind = kinds[number % len(kinds)]

    async def once() -> None:
        began = time.monotonic()
        good = await kind()
        tally.add(kind.__name__, time.monotonic() - began, good, number)

    return once


@pytest.mark.fault(
    "server", "clients of all kinds for ten minutes, garbage among them", "each its own reply, nothing leaks"
)
@pytest.mark.parametrize(
    ("count", "seconds"), [(28, 1.0), pytest.param(210, HELD, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_mixed_traffic_is_served_and_leaves_nothing(loaded, count, seconds):
    url, process = loaded
    talk = [{"role": "user", "content": "What is one and one?"}]
    request = {"messages": talk, "tools": [TOOL], "seed": 3, "temperature": 0, "max_tokens": 40}
    known = {
        "request": request,
        "choices": httpx.post(url + CHAT, json=request, timeout=60).json()["choices"],
    }
    tally = Tally()
    asyncio.run(hold(tally, loaded, seconds, [mixed(url, number, known, tally) for number in range(count)]))
    assert tally.wrong == [] and len(tally.replies) == 7
    nothing_left(url, ROWS)
    if seconds == HELD:
        grown = tally.grown()
        tails = {f"{kind}_seconds_p50_p95_p99_max": tally.latency(kind) for kind in sorted(tally.seconds)}
        record(
            "mixed traffic", clients=count, seconds=round(seconds), **tally.replies, lost_or_crossed=len(tally.wrong),
            leaked_rows=0, **tally.load(), **grown, resident_MiB_at_most=round(memory(process, peak=True)), **tails,
        )  # fmt: skip
        flat(grown, tally)
