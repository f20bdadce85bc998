"""Who is let in without a word: each server's own default is the loopback, and the kernel lists it there alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
