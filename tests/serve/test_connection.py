"""Connections of clients that do nothing, or nothing sensible: closed in time, with an answer where one can be given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from openqwen.serve import connection
from openqwen.serve.server import listen
from tests.serve.conftest import wait_until
from tests.serve.test_hostile import connect, head

TEXT = "/v1/completions"


def answer(sock: socket.socket) -> tuple[int, dict]:
    """Status and body of what comes until the server closes."""
    data = b""
    while part := sock.recv(65536):
        data += part
    return int(data.split()[1]), json.loads(data.split(b"\r\n\r\n", 1)[1])


@pytest.mark.fault("server", "headers come byte by byte", "answered and closed in time")
def test_a_head_that_does_not_arrive_is_answered_and_closed(start, monkeypatch):
    """Nothing at all, half a head, and a byte now and then."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)
    with start() as (url, _):
        for sent in (b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "):
            with connect(url) as sock:
                sock.sendall(sent)
                status, error = answer(sock)
                assert status == 408 and error["error"]["code"] == "too_slow"
        with connect(url) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\n")
            begun = time.monotonic()
            with pytest.raises(OSError):
                for number in range(100):  # up to ten seconds
                    sock.sendall(b"X-%d: y\r\n" % number)
                    time.sleep(0.1)
            assert time.monotonic() - begun < 8


def test_a_second_request_has_its_time_too_and_idle_connections_have_theirs(start, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with start() as (url, _):
        with httpx.Client() as client:
            for _ in range(3):
                assert client.get(url + "/health").status_code == 200
                time.sleep(0.5)  # idle, not slow: the connection stays
        with connect(url) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            data = b""
            while b'"ok"' not in data:
                data += sock.recv(65536)
            sock.sendall(b"G")
            assert answer(sock)[0] == 408


def test_slow_heads_leave_room_for_others(server):
    socks = [connect(server[0]) for _ in range(200)]
    try:
        for sock in socks:
            sock.sendall(b"GET /health HTTP/1.1\r\nX-A: ")
        reply = httpx.post(server[0] + TEXT, json={"prompt": "x", "max_tokens": 2}, timeout=5)
        assert reply.status_code == 200
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.fault("server", "what arrives is no HTTP", "an error object")
@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 200_000,
        b"".join([b"GET / HTTP/1.1\r\nHost: a\r\n", *(b"X-%d: y\r\n" % i for i in range(20_000)), b"\r\n"]),
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_no_http_gets_an_openai_error(server, sent, caplog):
    with connect(server[0]) as sock:
        sock.sendall(sent)
        status, error = answer(sock)
    assert 400 <= status < 500 or status == 501
    assert error["error"]["message"] and error["error"]["type"] == "invalid_request_error"
    assert not [r for r in caplog.records if r.name.startswith("uvicorn") and r.levelname == "ERROR"]


@pytest.mark.fault("server", "a chunked body breaks its form", "its own request ends")
def test_a_chunk_that_is_no_chunk_ends_its_own_request(server, caplog):
    """Before the reply has begun, and after."""
    lines = ["POST /v1/completions HTTP/1.1", f"Host: {urlsplit(server[0]).netloc}"]
    lines += ["Content-Type: application/json", "Transfer-Encoding: chunked", "", ""]
    with connect(server[0]) as sock:
        sock.sendall("\r\n".join(lines).encode() + b"5\r\n{}   \r\nzz\r\n")
        assert answer(sock)[0] == 400
    with connect(server[0]) as sock:
        sock.sendall(head(server[0], 10**7) + b"{}")  # refused before it is whole
        assert b"413" in sock.recv(65536)
        sock.sendall(b"x" * 1000)
    assert httpx.get(server[0] + "/health").status_code == 200
    assert not [r for r in caplog.records if r.name.startswith("uvicorn") and r.levelname == "ERROR"]


@pytest.mark.fault("server", "a client never reads", "dropped with what waits for it")
def test_who_does_not_read_is_dropped_with_all_that_waits_for_it(start, monkeypatch):
    monkeypatch.setattr(connection, "READ_SECONDS", 0.5)
    body = {"prompt": "x", "max_tokens": 600, "n": 16, "logprobs": 20, "stream": True}
    data = json.dumps(body).encode()
    with start() as (url, service), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        where = urlsplit(url)
        sock.connect((where.hostname, where.port))
        request = head(url, len(data)).replace(b"/v1/chat/completions", TEXT.encode())
        sock.sendall(request + data)
        wait_until(lambda: len(service.engine.scheduler) == 16)
        wait_until(lambda: service.worker._pending == 0, 30)
        watch = select.poll()
        watch.register(sock, 0)  # tells of errors only
        assert watch.poll(10_000)
        got = b""
        with pytest.raises(ConnectionResetError):
            while part := sock.recv(2**20):
                got += part
        assert b"[DONE]" not in got


@pytest.mark.fault("server", "many clients send large bodies at once", "the sum is bounded")
def test_bodies_held_are_bounded_for_all_clients_together(start, monkeypatch):
    with start(max_held=3 * 2**20) as (url, _):
        socks = [connect(url) for _ in range(2)]
        try:
            for sock in socks:
                sock.sendall(head(url, 2**21) + b" " * (2**20 + 2**19 - 2**16))
            time.sleep(0.3)  # they are read
            reply = httpx.post(url + "/tokenize", json={"prompt": "x" * 2**18})
            assert reply.status_code == 503 and reply.headers["retry-after"]
            assert reply.json()["error"]["code"] == "overloaded"
            assert httpx.post(url + "/tokenize", json={"prompt": "x"}).status_code == 200
        finally:
            for sock in socks:
                sock.close()
        wait_until(lambda: httpx.post(url + "/tokenize", json={"prompt": "x" * 2**18}).status_code == 200)


@pytest.mark.fault(
    "server", "a client goes away while many pieces of its reply are ready", "nothing is logged"
)
def test_pieces_for_a_client_that_has_gone_are_dropped_silently(caplog):
    """asyncio logs each write to a closing connection, from the fifth on."""
    sent, gone = [], threading.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = {"type": "http.response.body", "body": b"x" * 10, "more_body": True}
        await send(piece)
        await asyncio.sleep(0)
        assert gone.wait(10)  # the loop stands still, as under load
        for _ in range(20):
            await send(piece)
            sent.append(piece)

    def leave(address: tuple[str, int]) -> None:
        with socket.create_connection(address) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            while b"x" * 10 not in sock.recv(65536):
                pass
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()

    async def main() -> None:
        config = uvicorn.Config(app, http=connection.Connection, lifespan="off")
        config.load()
        state = uvicorn.Server(config).server_state
        listening = await asyncio.get_running_loop().create_server(
            lambda: connection.Connection(config, state, {}), "127.0.0.1", 0
        )
        await asyncio.to_thread(leave, listening.sockets[0].getsockname())
        await asyncio.gather(*state.tasks)
        listening.close()

    asyncio.run(main())
    assert len(sent) == 20 and not caplog.records


def test_more_files_are_allowed_than_the_shell_did():
    code = "import resource as r; from openqwen.serve.connection import allow_connections as a; "
    code += "h = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (200, h)); a(); "
    code += "print(r.getrlimit(r.RLIMIT_NOFILE)[0] == (8192 if h < 0 else min(8192, h)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search("True", done.stdout), done.stderr


def test_a_body_does_not_wait_for_the_acknowledgement_of_its_head():
    """Else each reply on a kept connection would take the 40 ms after which clients acknowledge by themselves."""
    with listen("127.0.0.1", 0) as sock:
        sock.listen()
        with socket.create_connection(sock.getsockname()), sock.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.fault(
    "server",
    "a request hidden in another: Content-Length with Transfer-Encoding, or line ends in a header",
    "one answer of 400, and the connection is closed",
)
@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 100",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked\r\nContent-Length: 5",
        "X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5",
    ],
)
def test_a_request_hidden_in_another_is_not_answered(server, lines):
    host = urlsplit(server[0]).netloc
    hidden = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n"
    with connect(server[0]) as sock:
        head = f"POST /tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{lines}\r\n\r\n"
        sock.sendall((head + "0\r\n\r\n" + hidden).encode())
        data = b""
        while part := sock.recv(65536):
            data += part
    assert data.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")) and data.count(b"HTTP/1.1") == 1
    assert json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["type"] == "invalid_request_error"


@pytest.mark.fault(
    "server", "no more files can be opened (EMFILE)", "clients wait, are answered later, and fill no log"
)
def test_clients_wait_while_no_file_can_be_opened(start, caplog, capfd):
    waiting = [socket.socket() for _ in range(8)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with start() as (url, _), contextlib.ExitStack() as files:
        for sock in waiting:
            files.enter_context(sock)
        assert httpx.get(url + "/health").status_code == 200
        where = urlsplit(url)
        capfd.readouterr()
        last = os.dup(0)
        os.close(last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last, hard))  # the lowest number that is free, so none is
        try:
            for sock in waiting:
                sock.settimeout(10)
                sock.connect((where.hostname, where.port))
                sock.sendall(f"GET /health HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            time.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert all(sock.recv(65536).startswith(b"HTTP/1.1 200") for sock in waiting)
    assert capfd.readouterr().err.count("\n") == 1 and not caplog.records
