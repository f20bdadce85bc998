"""Who is let in without a word: each server's own default is the loopback, and the kernel lists it there alone."""

from __future__ import annotations

import inspect
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from openqwen.cli import serve as command
from openqwen.core import loopback
from openqwen.serve import server

LOOPBACK = "0100007F"  # 127.0.0.1 as /proc/net/tcp writes it


def listening(port: int) -> list[str]:
    """Addresses on which this machine listens at a port."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            address, _, state = line.split()[1:4]
            host, _, number = address.partition(":")
            if int(number, 16) == port and state == "0A":  # listens
                found.append(host)
    return found


@pytest.mark.parametrize("function", [server.serve, command.serve], ids=["function", "command"])
def test_the_default_is_the_loopback(function) -> None:
    assert inspect.signature(function).parameters["host"].default == "127.0.0.1"


@pytest.mark.fault("server", "a server is started as it is by default", "it listens on the loopback alone")
def test_a_started_server_listens_on_the_loopback_alone(start) -> None:
    host = inspect.signature(server.serve).parameters["host"].default
    with server.listen(host, 0) as sock:
        sock.listen()
        assert listening(sock.getsockname()[1]) == [LOOPBACK]
    with start() as (url, _):
        assert listening(int(url.rpartition(":")[2])) == [LOOPBACK]


def test_an_open_door_is_seen_here() -> None:
    with server.listen("0.0.0.0", 0) as sock:
        sock.listen()
        assert listening(sock.getsockname()[1]) == ["00000000"]


def test_pages_of_our_own_listen_on_the_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `data review` and `annotate` are served by takes no host at all."""
    assert "host" not in inspect.signature(loopback.serve).parameters
    seen: list[list[str]] = []

    @contextmanager
    def held(sock) -> Iterator[None]:
        with sock:
            seen.append(listening(sock.getsockname()[1]))
            yield

    class Server:
        def __init__(self, _: object) -> None:
            pass

        def run(self, sockets: object) -> None:
            pass

    monkeypatch.setattr(loopback, "closing", held)
    monkeypatch.setattr("uvicorn.Server", Server)
    loopback.serve(None, 0, (), "nothing is kept")
    assert seen == [[LOOPBACK]]


CALLS: list[tuple[str, str]] = []  # of the network, by threads other than the tests' own
LISTENING = threading.Event()


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    asked = event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
    if LISTENING.is_set() and asked and threading.current_thread() is not threading.main_thread():
        CALLS.append((event, repr(arguments[1:])))


@pytest.mark.fault(
    "server", "requests full of addresses, in every field", "no connection goes out, no name is looked up"
)
def test_nothing_goes_out(start) -> None:
    away = "http://tracker.invalid/x.png"
    schema = {"type": "object", "properties": {"a": {"$ref": away}}}
    tool = {"type": "function", "function": {"name": "f", "description": away, "parameters": schema}}
    picture = [{"type": "image_url", "image_url": {"url": away}}]
    chat: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": f"![x]({away}) {away}"}]},
        {"messages": [{"role": "user", "content": picture}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool]},
        {"messages": [{"role": "user", "content": "x"}], "model": away},
        {"messages": [{"role": "user", "content": "x"}], "user": away, "agent": {"conversation": away}},
        {
            "messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        },
    ]
    sys.addaudithook(_hear)  # it cannot be taken away again, so it is silent but for here
    with start() as (url, _):
        CALLS.clear()
        LISTENING.set()
        try:
            with httpx.Client(timeout=20) as client:
                codes = [
                    client.post(f"{url}/v1/chat/completions", json={"max_tokens": 3, **c}).status_code
                    for c in chat
                ]
                for path in ("/v1/completions", "/tokenize"):
                    assert client.post(url + path, json={"prompt": away}).status_code == 200
                for path in ("/", "/metrics", "/v1/models", f"/page/{away}", f"/v1/models/{away}"):
                    client.get(url + path, headers={"Referer": away, "Origin": away})
        finally:
            LISTENING.clear()
        assert CALLS == [] and codes[0] == 200 and all(code < 500 for code in codes)


def test_a_call_outwards_would_be_heard() -> None:
    sys.addaudithook(_hear)
    CALLS.clear()
    LISTENING.set()
    try:
        with server.listen("127.0.0.1", 0) as sock:
            sock.listen()
            call = threading.Thread(target=lambda: socket.create_connection(sock.getsockname()).close())
            call.start()
            call.join()
    finally:
        LISTENING.clear()
    assert "socket.connect" in {event for event, _ in CALLS}
