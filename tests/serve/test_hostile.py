"""Clients that mean no good: an answer of 4xx in bounded time and memory, and everybody else is served meanwhile."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openqwen.core.errors import UsageError
from openqwen.engine import Engine
from openqwen.serve.body import MAX_NODES
from openqwen.serve.server import create_app
from tests.serve.conftest import wait_until

HELLO = [{"role": "user", "content": "Say something."}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
MEGABYTE = b" " * 2**20


def megabytes(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield MEGABYTE


def connect(url: str) -> socket.socket:
    where = urlsplit(url)
    assert where.hostname and where.port
    return socket.create_connection((where.hostname, where.port), timeout=10)


def head(url: str, length: int, *more: str) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


@pytest.mark.fault("server", "a body of 100 MB", "refused, never held")
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_100_mb_is_refused_and_never_held(server, announced):
    """By the standard library's client, which must be let write before it reads the answer."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    headers = {**JSON, "content-length": str(100 * 2**20)} if announced else JSON
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", CHAT, megabytes(100), headers, encode_chunked=not announced)
        reply = connection.getresponse()
        assert reply.status == 413 and json.load(reply)["error"]["code"] == "body_too_large"
    assert time.monotonic() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024  # kilobytes


def test_who_asks_first_need_not_send(server):
    with connect(server[0]) as sock:
        sock.sendall(head(server[0], 10**12, "Expect: 100-continue"))
        assert sock.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.fault("server", "a body never arrives", "given up in time")
def test_a_body_that_does_not_arrive_is_given_up(start):
    with start(body_seconds=0.3) as (url, _), connect(url) as sock:
        sock.sendall(head(url, 1000) + b'{"messages": ')
        answer = b""
        while b'"too_slow"' not in answer:
            part = sock.recv(4096)
            assert part, answer
            answer += part
        assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.fault("server", "a client goes away within its request", "nothing is left of it")
def test_a_client_that_goes_away_in_its_own_request_leaves_no_trace(server, caplog):
    for _ in range(5):
        with connect(server[0]) as sock:
            sock.sendall(head(server[0], 1000) + b'{"messages": ')
    with connect(server[0]) as sock:
        sock.sendall(head(server[0], 10**9) + b" " * 1000)
    time.sleep(0.2)
    assert httpx.get(server[0] + "/health").status_code == 200
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


COSTLY = [
    b'{"prompt": [' + b"[]," * 1_000_000 + b"[]]}",
    b'{"prompt": [' + b"[]," * (MAX_NODES - 10) + b"[]]}",
    b'{"prompt": [1,' + b'"a",' * 900_000 + b"1]}",
    b'{"prompt": [' + b"1," * 2_000_000 + b"1]}",
    b'{"messages": [' + b"{}," * 250_000 + b"{}]}",
    b'{"prompt": "x", "logit_bias": {' + b",".join(b'"%d": 1' % i for i in range(250_000)) + b', "k": 1}}',
    b'{"prompt": "x", "guided_choice": [' + b'"a",' * 900_000 + b'"a"]}',
    b'{"prompt": "x", "guided_json": ' + b'{"items":' * 900 + b"{}" + b"}" * 900 + b"}",
    b'{"prompt": "x", "guided_json": ' + b'{"items":' * 50_000 + b"}",
    b'{"prompt": "x", "' + b"k" * 4_000_000 + b'": ' + b"9" * 5000 + b"}",
    b'{"prompt": "' + b"\\ud800" * 600_000 + b'"}',
    b'{"prompt": "' + b"a" * 4_000_000 + b'"}',
    b'{"prompt": "\xff' + b"\xc0\x80" * 1_000_000 + b'"}',
]


@pytest.mark.fault(
    "server", "deep JSON, numbers of a million digits", "400 in bounded time, others are served"
)
@pytest.mark.parametrize("body", COSTLY, ids=lambda body: body[:36].decode("ascii", "replace"))
def test_costly_json_is_refused_in_bounded_time_while_others_are_served(server, body):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = time.process_time()
        reply = pool.submit(httpx.post, server[0] + TEXT, content=body, headers=JSON, timeout=30)
        longest = 0.0
        while not reply.done():
            at = time.process_time()  # not the seconds in which the machine did something else
            assert httpx.get(server[0] + "/health").status_code == 200
            longest = max(longest, time.process_time() - at)
        assert reply.result().status_code == 400, reply.result().text
        assert len(reply.result().content) < 2000 and reply.result().json()["error"]["message"]
    assert longest < 2 and time.process_time() - begun < 4


BOMBS = [
    "(a{1,1000}){1,1000}",
    "(x+x+)+y",
    "((a{1,99}){1,99}){1,99}",
    ".*a.{25}",
    "(a|a|aa)*b",
    "|".join("a" * i for i in range(400)),
    "(" + "|".join(f"w{i}x{i}" for i in range(8000)) + ")*",
    "(" * 5000 + "a" + ")" * 5000,
    "(a*)*" * 5000,
]


@pytest.mark.fault("server", "a constraint that explodes", "its own request alone pays")
@pytest.mark.parametrize("pattern", BOMBS, ids=lambda pattern: pattern[:20])
def test_a_pattern_that_explodes_costs_its_own_request_bounded_time(server, pattern):
    pytest.importorskip("llguidance")
    begun = time.process_time()
    body = {"prompt": "x", "guided_regex": pattern, "max_tokens": 40}
    reply = httpx.post(server[0] + TEXT, json=body, timeout=30)
    assert reply.status_code in (200, 400) and time.process_time() - begun < 5
    assert httpx.post(server[0] + TEXT, json={"prompt": "x", "max_tokens": 2}).status_code == 200


def test_prompts_beyond_the_limit_are_not_even_read(server):
    for body in ({"prompt": ["x"] * 1025}, {"prompt": ["x"] * 100, "n": 16}, {"prompt": [[1]] * 1025}):
        reply = httpx.post(server[0] + TEXT, json=body)
        assert reply.status_code == 400 and reply.json()["error"]["param"].startswith("prompt")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 10**9, 2**31, 2**63, 2**64, -(2**63)])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "\0", "user", "json_object", "json_schema", "regex", "text", "auto", "<|im_end|>"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "json_schema", "schema", "role", "content", "0", "regex", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@pytest.mark.fault("server", "any value in any field", "an answer or a 4xx")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_stands_in_a_field_the_answer_is_no_fault_of_the_servers(server, data):
    path = data.draw(st.sampled_from([CHAT, TEXT, "/tokenize", "/detokenize"]))
    document = server_document(server[0])
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    good = (
        {"messages": HELLO} if path == CHAT else {"tokens": [1]} if path == "/detokenize" else {"prompt": "x"}
    )
    chosen = data.draw(
        st.dictionaries(st.sampled_from(sorted(schema["properties"])), values, min_size=1, max_size=3)
    )
    body = {**good, "max_tokens": 3, **chosen}
    reply = httpx.post(server[0] + path, json=body, timeout=20)
    assert reply.status_code < 500, reply.text
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]


def server_document(url: str, known: dict[str, dict] = {}) -> dict:  # noqa: B006
    if url not in known:
        known[url] = httpx.get(url + "/openapi.json").json()
    return known[url]


@pytest.mark.fault(
    "server", "a client reads a byte now and then", "others are not slowed, what waits is bounded"
)
def test_a_slow_reader_slows_nobody(server):
    """Its connection is full and stays full; what waits for it is bounded by what it asked for."""
    url, service = server
    body = json.dumps(
        {"messages": HELLO, "max_tokens": 600, "n": 16, "stream": True, "logprobs": True}
    ).encode()
    with connect(url) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(head(url, len(body)) + body)
        wait_until(lambda: len(service.engine.scheduler) == 16)
        for _ in range(3):
            reply = httpx.post(url + TEXT, json={"prompt": "x", "max_tokens": 4}, timeout=5)
            assert reply.json()["usage"]["completion_tokens"] == 4
    wait_until(lambda: service.worker._pending == 0)
    assert len(service.engine.scheduler) == 0


@pytest.mark.fault("server", "an empty key", "no key")
def test_an_empty_key_is_no_key(model, tokenizer):
    for key in ("", "  "):
        with pytest.raises(UsageError, match="API key is empty"):
            create_app(Engine(model, tokenizer), api_key=key)


def test_a_fault_of_ours_is_said_in_the_same_shape(server, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise ValueError("planted")

    url = server[0]
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    monkeypatch.setattr("openqwen.serve.wire.usage", broken)
    with pytest.raises(openai.InternalServerError) as error:
        client.completions.create(model="tiny", prompt="x", max_tokens=2)
    assert error.value.code == "internal_error" and "planted" not in str(error.value)
    with pytest.raises(openai.APIError, match="failed to answer"):
        options = {"include_usage": True}
        list(
            client.completions.create(
                model="tiny", prompt="x", max_tokens=2, stream=True, stream_options=options
            )
        )
    wait_until(lambda: caplog.text.count("ValueError: planted") >= 2)  # the log has both
    assert httpx.get(url + "/health").status_code == 200


@pytest.mark.fault("server", "the engine fails while requests arrive", "each gets an error")
def test_requests_that_arrive_while_the_engine_fails_are_answered_too(start, monkeypatch):
    with start() as (url, service):
        go = threading.Event()

        def broken() -> None:
            go.wait(20)
            raise ValueError("planted")

        monkeypatch.setattr(service.engine, "step", broken)
        monkeypatch.setattr("threading.excepthook", lambda *_: None)
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(httpx.post, url + TEXT, json={"prompt": "x"}, timeout=10) for _ in range(6)]
            wait_until(lambda: service.worker._pending == 6)
            go.set()
            replies = [one.result() for one in asked]
        assert [reply.status_code for reply in replies] == [503] * 6
        assert all(reply.headers["retry-after"] for reply in replies)
