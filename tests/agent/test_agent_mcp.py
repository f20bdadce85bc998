"""Tools of real MCP servers: called, checked, and bounded when they misbehave."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("mcp")

from openqwen.agent.mcp import _checker, open_server
from openqwen.agent.sources import open_tools
from openqwen.agent.tools import CallError, Tool, Toolbox
from openqwen.chat import react
from openqwen.core.errors import OpenQwenError

SERVER = Path(__file__).with_name("mcp_server.py")


@pytest.fixture(scope="module")
def tools() -> Iterator[list[Tool]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENQWEN_SECRET", "a key")
        with open_server(f"{sys.executable} {SERVER}", 20.0) as found:
            yield found


def test_tools_are_declared_and_called(tools: list[Tool]) -> None:
    box = Toolbox(tools)
    assert list(box.tools) == ["add", "repeat", "misbehave"]
    assert "Adds two whole numbers." in react.describe_tool(box.declarations[0])
    assert box.call("add", '{"a": 1, "b": 2}') == ("3", None)


def misbehave(tools: list[Tool], how: str) -> tuple[str, str | None]:
    return Toolbox(tools, max_observation=100).call("misbehave", json.dumps({"how": how}))


@pytest.mark.fault(
    "agent",
    "a tool of an MCP server raises, returns megabytes or pictures",
    "told as an observation, bounded",
)
def test_what_goes_wrong_becomes_an_observation(tools: list[Tool]) -> None:
    assert "Error executing tool misbehave" in str(misbehave(tools, "raise")[1])
    assert misbehave(tools, "long")[0].endswith(f"({(3 << 20) - 100} more characters)")
    seen, error = misbehave(tools, "picture")
    assert error is None and seen.startswith("(image of type image/png, 1")
    assert misbehave(tools, "secret") == ("None", None), "the server sees a key of ours"
    assert "how must be one of" in str(misbehave(tools, "dance")[1])


def test_a_call_that_is_stopped_is_not_waited_for(tools: list[Tool]) -> None:
    box = Toolbox(tools)
    timer = threading.Timer(0.3, box.stop)
    begun = time.monotonic()
    timer.start()
    assert box.call("misbehave", '{"how": "hang"}')[1] == "the call was stopped"
    while any("(work)" in thread.name for thread in threading.enumerate()):  # nor left behind
        assert time.monotonic() - begun < 5
        time.sleep(0.01)
    timer.join()
    assert Toolbox(tools).call("add", '{"a": 1, "b": 2}') == ("3", None)


def test_arguments_are_checked_before_the_server_sees_them(tools: list[Tool]) -> None:
    box = Toolbox(tools)
    assert box.call("repeat", '{"text": "a", "times": 2}') == ("a a", None)
    assert box.call("repeat", '{"text": "a", "times": 0}')[1] == "times: 0 is less than the minimum of 1"
    with pytest.raises(CallError, match="cannot be used"):
        _checker({"type": "nonsense"})({})


@pytest.mark.fault("agent", "a schema refers to an address", "not fetched")
def test_a_schema_sends_us_nowhere() -> None:
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.setblocking(False)
        there = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/schema"
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(0.5)
        try:
            with pytest.raises(CallError, match="cannot be used"):
                _checker({"type": "object", "properties": {"x": {"$ref": there}}})({"x": 1})
        finally:
            socket.setdefaulttimeout(before)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.fault("agent", "an MCP server hangs or dies", "bounded, told as an observation")
def test_a_call_that_hangs_and_a_server_that_dies_are_bounded() -> None:
    with open_server(f"{sys.executable} {SERVER}", 0.3) as found:
        began = time.monotonic()
        assert misbehave(found, "hang")[1] is not None
        assert time.monotonic() - began < 5
    with open_server(f"{sys.executable} {SERVER}", 20.0) as found:
        assert "Connection closed" in str(misbehave(found, "die")[1])
        assert misbehave(found, "raise")[1] is not None


def test_what_does_not_start_says_why() -> None:
    code = "raise SystemExit('no such setting')"
    with (
        pytest.raises(OpenQwenError, match="no such setting"),
        open_server(f'{sys.executable} -c "{code}"', 1),
    ):
        pass


def test_streamable_http(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, SERVER, str(port)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        config = tmp_path / "servers.json"
        config.write_text(json.dumps({"mcpServers": {"x": {"url": f"http://127.0.0.1:{port}/mcp"}}}))
        with ExitStack() as stack:
            found = open_tools([str(config)], 5.0, stack)
            assert Toolbox(found).call("add", '{"a": 20, "b": 22}') == ("42", None)
    finally:
        process.kill()
        process.wait()
