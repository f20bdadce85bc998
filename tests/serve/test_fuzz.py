"""A hundred thousand requests that mean no good: schemathesis' own, and each again with its bytes spoilt.

Three phases: schemathesis' command line tries the bounds of every field of the document (its coverage phase, NUL bytes
allowed); requests are drawn from the document, valid and invalid; each is sent again with NUL bytes, flipped bits,
pieces cut, doubled and taken from others. OPENQWEN_REQUESTS: how many in all.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from faults.record import record
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.serve.conftest import wait_until
from tests.serve.test_hostile import CHAT, TEXT, server_document

schemathesis = pytest.importorskip("schemathesis")
REQUESTS = int(os.environ.get("OPENQWEN_REQUESTS", "100000"))
SPOILT = 16  # a drawn request comes so many times more with its bytes changed
LONGEST = 144  # tokens of prompt and reply: who spoils max_tokens gets all that fit
IDLE = 2.0  # seconds
AT_ONCE = 400  # drawn from one strategy before the next has its turn
CASES = [(TEXT, "positive"), ("/detokenize", "negative"), (CHAT, "negative"), ("/tokenize", "positive")]
CASES += [(TEXT, "negative"), ("/detokenize", "positive"), (CHAT, "positive"), ("/tokenize", "negative")]


class Client:
    """One connection that is kept; counts answers by status and keeps what was a fault of the server's."""

    def __init__(self, url: str) -> None:
        self.where = urlsplit(url)
        self.link = http.client.HTTPConnection(self.where.netloc, timeout=600)
        self.answered = time.monotonic()
        self.statuses: Counter[int] = Counter()
        self.faults: list[tuple[str, bytes, str]] = []

    def post(self, path: str, body: bytes) -> None:
        if time.monotonic() - self.answered > IDLE:
            self.link.close()  # the server may have done so too: a kept connection is not kept for ever
        self.link.request("POST", path, body, {"content-type": "application/json"})
        reply = self.link.getresponse()
        text = reply.read()
        self.answered = time.monotonic()
        self.statuses[reply.status] += 1
        if reply.status >= 500 or (reply.status >= 400 and not _says_what_is_wrong(text)):
            self.faults.append((path, body, f"{reply.status} {text[:200]!r}"))


def _says_what_is_wrong(text: bytes) -> bool:
    error = json.loads(text)["error"]
    return bool(error["message"]) and bool(error["type"]) and {"param", "code"} <= error.keys()


def bounds(url: str, folder: Path) -> int:
    """Runs schemathesis' coverage phase over all routes; how many requests it sent, none answered by a 5xx."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--phases", "coverage"]
    command += ["--mode", "all", "--checks", "not_a_server_error", "--generation-allow-x00", "true"]
    command += ["--continue-on-failure", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert done.returncode == 0 and counted and counted[1] == counted[2], done.stdout[-4000:] + done.stderr
    return int(counted[1])


def drawn(url: str, path: str, mode: str, count: int, number: int) -> list[bytes]:
    """Bodies that the document of the server allows (positive) or forbids (negative)."""
    operation = schemathesis.openapi.from_dict(server_document(url))[path]["POST"]
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))
    found: list[bytes] = []

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def draw(case: Any) -> None:
        body = case.body
        if isinstance(body, dict) and mode == "positive":
            body.pop("model", None)  # no drawn name is a model's: all would end there
        if isinstance(body, dict) and body.get("max_tokens") is None:
            body["max_tokens"] = 2  # or each reply would be as long as the context
        if isinstance(body, dict | list | str | int | float | bool | None):
            found.append(json.dumps(body).encode())

    draw()
    return found


def spoilt(body: bytes, others: list[bytes], draw: random.Random) -> Iterator[bytes]:
    """The body with NUL bytes, escaped NULs, flipped bits, cuts, doubled pieces and pieces of others."""
    for number in range(SPOILT):
        at, to = sorted(draw.randrange(len(body) + 1) for _ in range(2))
        other = draw.choice(others)
        piece = other[draw.randrange(len(other) + 1) :][: draw.randrange(1, 40)]
        kind = number % 6
        if kind == 0:
            yield body[:at] + b"\0" + body[at:]
        elif kind == 1:
            yield body.replace(b'"', b'"\\u0000', draw.randrange(1, 8))
        elif kind == 2:
            changed = bytearray(body)
            for _ in range(draw.randrange(1, 4)):
                changed[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
            yield bytes(changed)
        elif kind == 3:
            yield body[:at] + body[to:]
        elif kind == 4:
            yield body[:to] + body[at:]
        else:
            yield body[:at] + piece + body[to:]


def test_bodies_are_spoilt_in_every_way() -> None:
    made = list(spoilt(b'{"prompt": "x"}', [b'{"n": 1}'], random.Random(0)))
    assert len(made) == SPOILT and len(set(made)) > SPOILT // 2
    assert any(b"\0" in body for body in made) and any(b"\\u0000" in body for body in made)


@pytest.mark.fault(
    "server", "requests of every kind with their bytes spoilt", "no 5xx, and errors say what is wrong"
)
@pytest.mark.parametrize(
    "requests", [400, pytest.param(REQUESTS, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_no_spoilt_request_makes_the_server_fail(start, tmp_path, requests):
    with start(max_length=LONGEST) as (url, service):
        _spoil(url, service, tmp_path, requests)


def _spoil(url: str, service: Any, tmp_path: Path, requests: int) -> None:
    began, many = time.monotonic(), requests == REQUESTS
    by_bounds = bounds(url, tmp_path) if many else 0
    client, draw, by_schema, turn = Client(url), random.Random(12), 0, 0
    while by_bounds + client.statuses.total() < requests:
        path, mode = CASES[turn % len(CASES)]
        bodies = drawn(url, path, mode, AT_ONCE if many else 12, turn)
        by_schema, turn = by_schema + len(bodies), turn + 1
        for body in bodies:
            client.post(path, body)
            for changed in spoilt(body, bodies, draw):
                client.post(path, changed)
    assert client.faults == []
    answered = client.statuses[200]
    client.post(TEXT, b'{"prompt": "x", "max_tokens": 2}')  # right requests are still answered
    assert client.statuses[200] == answered + 1 and client.statuses[400] > 0
    wait_until(lambda: service.worker._pending == 0)
    assert len(service.engine.scheduler) == 0 and httpx.get(url + "/health").status_code == 200
    if many:
        record(
            "requests fuzzed",
            requests=by_bounds + client.statuses.total(),
            at_the_bounds_of_fields=by_bounds,
            drawn_from_the_document=by_schema,
            with_spoilt_bytes=client.statuses.total() - by_schema,
            answered_with_200=client.statuses[200],
            server_errors=len(client.faults),
            seconds=round(time.monotonic() - began),
        )
