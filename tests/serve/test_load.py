"""The server under load: every client its own whole reply, in bounded memory, whatever the others do."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from openqwen.engine import Engine, Sampling
from openqwen.model import save_model
from openqwen.serve.connection import allow_connections
from tests.serve.load import Reply, ask, memory, serving, stream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
LETTERS = [chr(code) for code in range(33, 123)]
FREE = 16  # one client in so many gets what the model says, the others a letter that names them


def body(number: int) -> dict[str, Any]:
    """A request whose right reply is known: a letter so many times that no other client's reply is the same."""
    base = {"prompt": f"client {number} asks ", "temperature": 0}
    if number % FREE == 0:
        return {**base, "temperature": 1, "seed": number, "max_tokens": 12}
    letter, length = LETTERS[number % len(LETTERS)], 12 + number // len(LETTERS)
    return {**base, "max_tokens": length, "logit_bias": {str(ord(letter)): 100}}


def expected(engine: Engine, count: int) -> list[tuple[str, str, int]]:
    """Text, finish reason and number of tokens of each reply."""
    asked = [body(number) for number in range(count)]
    free = asked[::FREE]
    settings = [Sampling(seed=one["seed"], max_tokens=one["max_tokens"]) for one in free]
    said = iter(engine.generate([one["prompt"] for one in free], settings))
    found = []
    for number, one in enumerate(asked):
        if number % FREE == 0:
            reply = next(said)
            found.append((reply.text, reply.finish_reason, len(reply.ids)))
        else:
            length = one["max_tokens"]
            found.append((LETTERS[number % len(LETTERS)] * length, "length", length))
    return found


async def all_at_once(url: str, count: int, slow: int) -> tuple[list[Reply], list[int]]:
    """Clients, one in five of which leaves in the middle, beside `slow` that read nothing until all others are done.

    What the others got, and how many bytes each slow one got in the end.
    """
    large = {"prompt": "slow", "max_tokens": 400, "n": 16, "logprobs": 20, "logit_bias": {"65": 100}}
    lazy = [await ask(url, large, buffer=4096) for _ in range(slow)]
    replies = await asyncio.gather(
        *(stream(url, body(number), 3 if number % 5 == 4 else None) for number in range(count))
    )
    sizes = []
    for reader, writer in lazy:
        data = await reader.read()
        sizes.append(len(data) if data.rstrip().endswith(b"data: [DONE]\n\n\r\n0") else 0)
        writer.close()
    return list(replies), sizes


def check(replies: list[Reply], right: list[tuple[str, str, int]]) -> None:
    for number, (reply, (text, reason, length)) in enumerate(zip(replies, right, strict=True)):
        assert reply.status == 200 and len(reply.ids) == 1, number
        if number % 5 == 4:
            assert text.startswith(reply.texts[0]), number
        else:
            assert reply.done and reply.texts == {0: text} and reply.reasons == [reason], number
            assert reply.tokens == length, number
    assert len(set.union(*(reply.ids for reply in replies))) == len(replies)


@pytest.fixture(scope="module")
def saved(model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture
def loaded(saved) -> Iterator[tuple[str, int]]:
    allow_connections()  # this process holds the other ends
    with serving(saved) as found:
        yield found


@pytest.mark.fault("server", "many clients at once", "each gets its own whole reply")
@pytest.mark.parametrize(
    ("count", "slow"), [(200, 2), pytest.param(1000, 4, marks=pytest.mark.long)], ids=["200", "1000"]
)
def test_many_clients_at_once_each_get_their_own_whole_reply(loaded, model, tokenizer, count, slow):
    url, process = loaded
    right = expected(Engine(model, tokenizer), count)
    asyncio.run(all_at_once(url, 64, 1))  # the cache grows to its size, libraries load
    before = memory(process)
    began = time.monotonic()
    replies, sizes = asyncio.run(all_at_once(url, count, slow))
    took, peak = time.monotonic() - began, memory(process, peak=True)
    check(replies, right)
    assert len(sizes) == slow and min(sizes) > 5 * 2**20  # more than a connection holds while nobody reads
    for _ in range(50):  # who left is noticed at the next token
        gauges = httpx.get(url + "/metrics").text
        if "openqwen_running 0.0" in gauges:
            break
        time.sleep(0.1)
    assert "openqwen_running 0.0" in gauges and "openqwen_waiting 0.0" in gauges
    print(f"{count} clients: {took:.1f} s, {before:.0f} MiB before, {peak:.0f} at most")
    assert peak - before < 32 + 0.2 * count  # MiB
    if count >= 1000:
        asyncio.run(all_at_once(url, count, slow))
        again = memory(process, peak=True)
        print(f"once more: {again:.0f} MiB at most")
        assert again < 1.05 * peak
