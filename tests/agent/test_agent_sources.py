"""Tools that a person names: Python files and programs with declarations, whatever they do."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from openqwen.agent.sources import open_tools
from openqwen.agent.tools import Toolbox
from openqwen.core.errors import UsageError


def opened(*given: str | Path, seconds: float = 5.0) -> Toolbox:
    with ExitStack() as stack:
        return Toolbox(open_tools([str(g) for g in given], seconds, stack), max_observation=200)


def declared(path: Path, *commands: list[str]) -> Path:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "weather", "description": "Tells it.", "parameters": parameters}
    entries = [
        {"type": "function", "function": {**function, "name": f"tool{i}"}, "command": command}
        for i, command in enumerate(commands)
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def test_functions_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\nfrom os.path import join\nTEN = 10\ndef _hidden(x: int) -> int: return x\n"
        "def scale(x: float) -> float:\n    'Multiplies by ten.'\n    return TEN * x\n"
    )
    box = opened(file)
    assert list(box.tools) == ["scale"] and box.call("scale", '{"x": 1.5}') == ("15.0", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [("1 / 0", "ZeroDivisionError"), ("x = 1", "no public function"), ("def f(x): pass", "has no type")],
)
def test_a_file_without_tools_says_why(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        opened(file)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "cannot be read"),
        ('"x"', "no list of declarations"),
        ('[{"name": "x"}]', "nothing runs this tool"),
        ('[{"parameters": []}]', 'has a "name"'),
        ("[1]", "is an object"),
        ('{"mcpServers": {"a": {}}}', 'no "url"'),
    ],
)
def test_declarations_that_cannot_be_used(tmp_path: Path, value: str, said: str) -> None:
    file = tmp_path / "tools.json"
    file.write_text(value)
    with pytest.raises(UsageError, match=said):
        opened(file)


def test_names_are_told_apart(tmp_path: Path) -> None:
    file = declared(tmp_path / "tools.json", ["cat"])
    with pytest.raises(UsageError, match="two tools are called tool0"):
        opened(file, file)
    with pytest.raises(UsageError, match="names no tools"):
        opened("weather")


def gone(beat: Path) -> bool:
    """Whether nothing makes this file again."""
    beat.unlink(missing_ok=True)
    time.sleep(0.2)
    return not beat.exists()


@pytest.mark.fault("agent", "a tool's program never ends or leaves children", "ended at its limit")
def test_programs_get_json_and_are_bounded(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    file = declared(
        tmp_path / "tools.json",
        ["cat"],
        ["sh", "-c", "echo broken >&2; exit 3"],
        ["sh", "-c", f"(while true; do touch {beat}; sleep 0.05; done) & sleep 60"],
        ["yes"],
        ["head", "-c", "100", "/dev/urandom"],
        ["/no/such/program"],
        ["true"],
        ["sh", "-c", f"(while true; do touch {beat}; sleep 0.05; done) >/dev/null 2>&1 & echo started"],
    )
    box = opened(file, seconds=0.3)

    def call(number: int, city: Any = "巴黎") -> tuple[str, str | None]:
        return box.call(f"tool{number}", json.dumps({"city": city}))

    assert call(0) == ('{"city": "巴黎"}', None)
    assert "exit code 3: broken" in str(call(1)[1])
    began = time.monotonic()
    assert call(2)[1] == "no result after 0.3 seconds" and time.monotonic() - began < 2
    assert gone(beat), "what the program started lives on"
    assert call(7) == ("started\n", None) and gone(beat)
    assert "more than 1048576 bytes" in str(call(3)[1])
    assert "100 bytes that are not text" in str(call(4)[1])
    assert "does not start" in str(call(5)[1])
    assert call(6, "x" * 1_000_000) == ("", None)
    assert "city must be string" in str(call(0, 1)[1])
