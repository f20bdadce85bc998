"""Tools: declarations from signatures, checks before running, and every failure as an observation."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any, Literal

import pytest
from agent_world import add, weather
from hypothesis import given
from hypothesis import strategies as st

from openqwen.agent import json5, tools
from openqwen.agent.tools import Tool, Toolbox
from openqwen.chat import react
from openqwen.core.errors import UsageError


def test_declaration_from_signature() -> None:
    tool = tools.from_function(weather, human="Weather")
    assert tool.declaration["description_for_model"] == "Tells the weather."
    assert [(p["name"], p["required"], p["schema"]) for p in tool.declaration["parameters"]] == [
        ("city", True, {"type": "string"}),
        ("unit", False, {"type": "string"}),
    ]
    assert "weather: Call this tool to interact with the Weather API." in react.describe_tool(
        tool.declaration
    )


def test_schema_of_types() -> None:
    assert tools.schema_of(list[int]) == {"type": "array", "items": {"type": "integer"}}
    assert tools.schema_of(Literal["a", "b"]) == {"enum": ["a", "b"]}
    assert tools.schema_of(float | None) == {"type": "number"}
    assert tools.schema_of(dict[str, int]) == {"type": "object"}
    with pytest.raises(UsageError):
        tools.schema_of(set)
    with pytest.raises(UsageError, match="no type"):
        tools.from_function(lambda x: x)


@pytest.mark.fault("agent", "arguments break the tool's schema", "the tool is not called")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ('{"a": 1}', "b is missing"),
        ('{"a": 1, "b": "2"}', "b must be integer"),
        ('{"a": true, "b": 2}', "a must be integer"),
        ('{"a": 1, "b": 2, "bb": 3}', "Did you mean 'b'"),
        ("[1, 2]", "not a JSON object"),
        ("1 + 2", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_bad_arguments_never_reach_the_tool(arguments: str, complaint: str) -> None:
    def fail(a: int, b: int) -> int:
        raise AssertionError("ran")

    box = Toolbox([Tool(tools.from_function(add).declaration, fail)])
    observation, error = box.call("add", arguments)
    assert error is not None and complaint in error and observation.startswith("Error: ")


def test_a_good_call() -> None:
    box = Toolbox([tools.from_function(add), tools.from_function(weather)])
    assert box.call("add", '{"a": 1, "b": 2}') == ("3", None)
    assert box.call("weather", '{"city": "巴黎"}') == ("sun in 巴黎, celsius", None)
    assert box.call("weather", '{"city": "\\ud800"}') == ("sun in ?, celsius", None)


def test_openai_declarations_are_checked_too() -> None:
    schema = {
        "type": "object",
        "properties": {"unit": {"enum": ["c", "f"]}, "days": {"type": "array", "items": {"type": "integer"}}},
        "required": ["unit"],
    }
    declaration = {"name": "w", "parameters": schema}
    assert tools.read_arguments('{"unit": "c", "days": [1]}', declaration) == {"unit": "c", "days": [1]}
    for wrong in ('{"unit": "k"}', '{"unit": "c", "days": [1, "2"]}', "{}"):
        with pytest.raises(tools.CallError):
            tools.read_arguments(wrong, declaration)


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


def boom(what: str) -> Any:
    """Goes wrong in the way asked for."""
    if what == "raise":
        raise ZeroDivisionError("by zero")
    if what == "hang":
        time.sleep(1)
    if what == "exit":
        raise SystemExit(3)
    if what == "unspeakable":
        raise Unspeakable
    if what == "shout":
        raise ValueError("x" * 5_000_000)
    found = {"bytes": b"\x00\xff", "big": "x" * 5000, "odd": object(), "deep": DEEP, "zeros": "PK\0\0"}
    return found.get(what, "fine")


class Unspeakable(Exception):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.fault("agent", "a tool raises", "told as an observation")
@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("raise", "ZeroDivisionError: by zero"),
        ("hang", "no result after 0.3 seconds"),
        ("bytes", "2 bytes that are not text"),
        ("odd", "not JSON"),
        ("exit", "SystemExit: 3"),
        ("unspeakable", "Unspeakable"),
        ("deep", "not JSON"),
        ("zeros", "4 characters that are not text"),
        ("shout", "more characters"),
    ],
)
def test_failing_tools_become_observations(what: str, seen: str) -> None:
    box = Toolbox([tools.from_function(boom)], seconds=0.3)
    observation, error = box.call("boom", json.dumps({"what": what}))
    assert error is not None and seen in error and seen in observation
    assert len(error) < 1100 and len(observation) < 1100


def test_a_tool_with_a_limit_of_its_own_is_waited_for() -> None:
    slow = Tool(tools.from_function(boom).declaration, lambda what: time.sleep(0.1), seconds=5.0)
    assert Toolbox([slow], seconds=0.01).call("boom", '{"what": "x"}') == ("null", None)


def test_schemas_that_allow_anything() -> None:
    schema = {"type": "object", "properties": {"x": True, "y": {"type": "array", "items": True}}}
    assert tools.problems({"x": 1, "y": [1, "2"]}, schema) == []


@pytest.mark.fault("agent", "a tool returns megabytes", "cut, and said")
def test_long_results_are_cut_and_say_so() -> None:
    observation, error = Toolbox([tools.from_function(boom)], max_observation=100).call(
        "boom", '{"what": "big"}'
    )
    assert error is None and len(observation) < 140 and observation.endswith("(4900 more characters)")


def test_unknown_tool_is_named_with_the_known_ones() -> None:
    observation, error = Toolbox([tools.from_function(add)]).call("ad", "{}")
    assert error is not None and "no tool 'ad'" in observation and "add" in observation


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_json5_reads_all_json(value: Any) -> None:
    assert json5.loads(json.dumps(value)) == value
    assert json5.loads(json.dumps(value, ensure_ascii=False, indent=1)) == value


def test_json5_reads_what_models_write() -> None:
    assert json5.loads("{a: 'x\\'y', // why\n b: [1, .5, +2, -0x1F,], 'c': null,}") == {
        "a": "x'y", "b": [1, 0.5, 2, -31], "c": None,
    }  # fmt: skip


@pytest.mark.fault("agent", "any text comes as arguments", "a value or one kind of error")
@given(st.text(alphabet="{}[]'\",:ab1\\/* \n"))
def test_json5_fails_only_with_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        json5.loads(text)


@pytest.mark.fault("agent", "arguments are nested without end", "refused")
def test_json5_refuses_deep_nesting() -> None:
    with pytest.raises(ValueError):
        json5.loads("[" * 5000)


def test_calculator() -> None:
    assert tools.calculate("(12 + 3) * -2") == "-30" and tools.calculate(" 7 / 2 ") == "3.5"
    for wrong in (
        "2 ** 999999999",
        "__import__('os')",
        "a",
        "",
        "1 +",
        "(" * 500,
        "1 / 0",
        "9" * 5000,
    ):
        with pytest.raises(tools.CallError):
            tools.calculate(wrong)


def test_unrecorded_calls_run_only_where_they_can() -> None:
    from openqwen.data.primer.tools import TOOLS

    item = {
        "tools": [TOOLS["calculator"].declaration("en"), TOOLS["weather"].declaration("en")],
        "steps": [
            {"action": "weather", "action_input": '{"city": "Oslo"}', "observation": "sun, 20 degrees"}
        ],
    }
    box = Toolbox(tools.tools_for(item))
    assert box.call("weather", '{"city":"Oslo"}') == ("sun, 20 degrees", None)
    assert box.call("weather", '{"city": "Rome"}')[1] == "no result is recorded for these arguments"
    assert box.call("calculator", '{"expression": "61 - 21"}') == ("40", None)
    other = {"tools": [{"name": "calculator", "parameters": {"type": "object", "properties": {"x": {}}}}]}
    assert Toolbox(tools.tools_for(other)).call("calculator", '{"x": 1}')[1] is not None
