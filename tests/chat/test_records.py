"""The files and forms in which people have conversations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from openqwen.chat import react
from openqwen.chat.messages import check
from openqwen.chat.records import read_conversations, read_records, to_messages
from openqwen.core.errors import DataError

USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
TALK = {"messages": [USER, REPLY]}
TOOL = {"name_for_model": "clock", "name_for_human": "clock", "description_for_model": "tells the time"}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, REPLY], "id": "1", "answer": "hello"},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"conversations": [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "hello"}]},
        {
            "conversations": [{"from": "user", "value": "hi"}, {"from": "gpt", "value": "hello"}],
            "tools": "[]",
        },
        {"instruction": "hi", "input": "", "output": "hello"},
        {"instruction": "hi", "output": "hello", "history": [], "system": None},
        {"query": "hi", "tools": [], "steps": [], "final": "hello"},
    ],
)
def test_the_forms_people_have(record: dict[str, Any]) -> None:
    found = to_messages(record)
    if "query" in record:
        found[1] = {**found[1], "content": found[1]["content"].partition("Final Answer: ")[2]}
    assert found == [USER, REPLY]


def test_forms_with_more_in_them() -> None:
    system = {"role": "system", "content": "be kind"}
    assert to_messages({"instruction": "add", "input": "1 2", "output": "3", "system": "be kind"}) == [
        system,
        {"role": "user", "content": "add\n1 2"},
        {"role": "assistant", "content": "3"},
    ]
    assert to_messages({"instruction": "hi", "output": "hello", "history": [["a", "b"]]}) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        USER,
        REPLY,
    ]
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    assert to_messages({"conversations": turns, "system": "be kind"}) == [system, USER, REPLY]


def test_tool_use_becomes_react() -> None:
    step = {"thought": "look", "action": "clock", "action_input": {}, "observation": "noon"}
    record = {"query": "time?", "tools": [TOOL], "steps": [step], "final": "It is noon."}
    user, reply = to_messages(record)
    assert user["content"].endswith("Question: time?") and "clock: Call this tool" in user["content"]
    assert "Action: clock" in reply["content"] and reply["content"].endswith("Final Answer: It is noon.")
    for broken in ({**step, "thought": None}, {**step, "action": 3}, {"thought": "look"}, "step"):
        with pytest.raises(DataError, match=r"a step is|not a tool conversation"):
            to_messages({**record, "steps": [broken]})


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "a turn is"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "no tools are given"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "unknown role 'bot'"),
        ({"conversations": [{"from": "human", "value": "x"}], "system": 3}, "content must be text, not int"),
        ({"instruction": "x", "output": "y", "history": 5}, "pairs"),
        ({"instruction": "x", "output": "y", "history": [["a", None]]}, "must be text, not NoneType"),
        ({"tools": []}, "not a tool conversation"),
        ({"tools": 3, "query": "x", "final": "y"}, "not a tool conversation"),
        ({"prompt": "x"}, 'none of "messages", "conversations", "instruction", "tools"'),
    ],
)
def test_what_is_wrong_is_said(record: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as error:
        to_messages(record)
    assert what in error.value.what


CALL = {"from": "function_call", "value": '{"name": "clock", "arguments": {"zone": "UTC"}}'}
NOON = {"from": "observation", "value": "noon"}
ASKS, SAYS = {"from": "human", "value": "time?"}, {"from": "gpt", "value": "It is noon."}
CLOCK = {"name": "clock", "description": "tells the time", "parameters": {"type": "object"}}
OPENAI_CALL = {"function": {"name": "clock", "arguments": '{"zone": "UTC"}'}, "id": "1", "type": "function"}
RECORDED = {
    "sharegpt": {"conversations": [ASKS, CALL, NOON, SAYS], "tools": json.dumps([CLOCK])},
    "tool_calls": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "time?"}]},
            {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
            {"role": "tool", "content": "noon", "tool_call_id": "1"},
            {"role": "assistant", "content": "It is noon."},
        ],
        "tools": [{"type": "function", "function": CLOCK}],
    },
    "function_call": {
        "messages": [
            {"role": "user", "content": "time?"},
            {"role": "assistant", "content": None, "function_call": OPENAI_CALL["function"]},
            {"role": "function", "name": "clock", "content": "noon"},
            {"role": "assistant", "content": "It is noon."},
        ],
        "functions": [CLOCK],
    },
}


@pytest.mark.parametrize("form", RECORDED)
def test_calls_in_the_common_forms_become_the_react_of_serving(form: str) -> None:
    """The same texts as the released server makes of the same messages, which the oracle of from_openai checks."""
    question, reply = to_messages(RECORDED[form])
    assert question["content"] == react.build_prompt("time?", [CLOCK])
    served = react.from_openai(RECORDED["function_call"]["messages"], [CLOCK]).history[0]
    assert reply["content"].partition("Observation")[0] == served[1].partition("Observation")[0]
    assert reply["content"] == (
        'Thought: \nAction: clock\nAction Input: {"zone": "UTC"}\nObservation: noon\n'
        "Thought: I now know the final answer.\nFinal Answer: It is noon."
    )
    assert react.parse_step(reply["content"]).action == "clock"


def test_what_is_said_with_a_call_is_its_thought() -> None:
    record = json.loads(json.dumps(RECORDED["tool_calls"]))
    record["messages"][1]["content"] = "I look."
    assert to_messages(record)[1]["content"].startswith("Thought: I look.\nAction: clock\n")


def test_several_calls_at_once_and_replies_without_one() -> None:
    both = {
        "from": "function_call",
        "value": json.dumps([{"name": "clock"}, {"name": "map", "arguments": "x"}]),
    }
    rome = {"from": "observation", "value": "Rome"}
    talk = [{"from": "system", "value": "be kind"}, ASKS, SAYS, ASKS, both, NOON, rome, SAYS]
    system, first, plain, second, reply = to_messages({"conversations": talk, "tools": [CLOCK]})
    assert system["content"] == "be kind" and second["content"] == "time?"
    assert first["content"].startswith("Answer the following questions")
    assert plain["content"] == react.final_text("It is noon.")
    steps = [line for line in reply["content"].split("\n") if line.startswith(("Action", "Observation"))]
    assert steps == [
        *("Action: clock", "Action Input: {}", "Observation: noon"),
        *("Action: map", "Action Input: x", "Observation: Rome"),
    ]


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([ASKS, CALL, SAYS], "a call has no result"),
        ([ASKS, CALL, CALL, NOON, SAYS], "a call has no result"),
        ([ASKS, NOON, SAYS], "no call before it"),
        ([ASKS, CALL, NOON, ASKS, SAYS], "between a call and the reply"),
        ([ASKS, CALL, NOON], "ends with a call"),
        ([ASKS, CALL], "ends with a call"),
        ([SAYS], "has no question"),
        ([ASKS, {"from": "gpt", "value": " "}], "a reply is empty"),
        ([ASKS, {"from": "gpt", "value": None}], "content must be text"),
        ([ASKS, {"from": "function_call", "value": "clock()"}, NOON, SAYS], "a call is not JSON"),
        ([ASKS, {"from": "function_call", "value": "[]"}, NOON, SAYS], "a call is"),
        ([ASKS, CALL, {"from": "observation", "value": {}}, SAYS], "result must be text"),
    ],
)
def test_calls_that_mean_nothing_are_refused(turns: list[Any], what: str) -> None:
    with pytest.raises(DataError) as error:
        to_messages({"conversations": turns, "tools": [CLOCK]})
    assert what in error.value.what


@pytest.mark.parametrize("tools", ["{", '{"a": 1}', [3], [{"description": "x"}]])
def test_declarations_that_are_none(tools: Any) -> None:
    with pytest.raises(DataError, match="tool"):
        to_messages({"conversations": [ASKS, CALL, NOON, SAYS], "tools": tools})


KEYS = "messages conversations instruction input output history system query tools steps final role content from value"
KEYS += " functions tool_calls function_call function name arguments"
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from(["user", "gpt", "system", "function_call", "observation", "[]", "x", ""]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5)
    ),
    max_leaves=12,
)


@pytest.mark.fault(
    "tokenizer", "any JSON at all is given as a conversation", "a conversation or one clear error"
)
@given(st.one_of(VALUES, st.dictionaries(st.sampled_from(KEYS.split()), VALUES, min_size=1)))
def test_any_record_is_a_conversation_or_a_clear_error(record: Any) -> None:
    try:
        messages = to_messages(record)
    except DataError:
        return
    check(messages)


def lines_of(path: Path) -> list[int]:
    found = list(read_conversations(path))
    assert all(messages == TALK["messages"] for _, messages in found), found
    return [line for line, _ in found]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"{json.dumps(TALK)}\n\n{json.dumps(TALK)}\r\n", [1, 3]),
        (f"\ufeff{json.dumps(TALK)}\n{json.dumps(TALK)}", [1, 2]),
        (json.dumps([TALK, TALK]), [1, 2]),
        (json.dumps([TALK, TALK, TALK], indent=2), [1, 2, 3]),
        ("\ufeff\n " + json.dumps([TALK], indent=1), [1]),
        (json.dumps(TALK, indent=2), [1]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_lines_and_documents_plain_and_compressed(
    tmp_path: Path, text: str, lines: list[int], packed: bool
) -> None:
    path = tmp_path / "talk"  # the content decides, not the name
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert lines_of(path) == lines


def test_parquet_is_read_with_its_empty_columns(tmp_path: Path) -> None:
    """Rows of different forms in one table: a column that a row lacks is null."""
    rows = [TALK, {"instruction": "hi", "output": "hello"}, RECORDED["sharegpt"], {"output": "x"}]
    path = tmp_path / "talk"
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema(rows)), path, row_group_size=2)
    found = dict(read_conversations(path))
    assert found[1] == found[2] == TALK["messages"] and found[3] == to_messages(RECORDED["sharegpt"])
    assert isinstance(found[4], DataError) and "none of" in found[4].what
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        list(read_conversations(path))


def _schema(rows: list[dict[str, Any]]) -> pyarrow.Schema:
    parts = [pyarrow.Table.from_pylist([row]).schema for row in rows]
    return pyarrow.unify_schemas(parts)


def test_broken_lines_are_values(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    good = json.dumps(TALK).encode()
    bad = [b'{"messages": [', b"\xff\xfe\xfd", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
    path.write_bytes(b"\n".join([good, *bad, good]) + b"\n")
    found = dict(read_conversations(path))
    assert found[1] == found[6] == TALK["messages"]
    assert isinstance(found[2], DataError) and found[2].where == "column 15"
    for line in range(2, 6):
        assert "not JSON: " in found[line].what  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("absent", None, "No such file"),
        (".", None, "Is a directory"),
        ("a.json", b'[{"messages": [}', "not a JSON document"),
        ("a.json", b"[" * 100_000, "not a JSON document"),
        ("a.jsonl.gz", gzip.compress(b"x" * 5000, mtime=0)[:-12], "cannot be read"),
        ("a.jsonl.gz", b"\x1f\x8bnonsense", "cannot be read"),
    ],
)
def test_unreadable_files_are_one_error(tmp_path: Path, name: str, data: bytes | None, what: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=what) as error:
        list(read_conversations(path))
    assert str(error.value.where).startswith(str(path))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["alpaca_zh", "sharegpt_zh_1k", "lima", "dummy_conversation", "belle_dev1k"])
def test_every_record_of_real_files_is_a_conversation(shared: Path, name: str) -> None:
    found = list(read_conversations(shared / "data" / "align" / "sft" / f"{name}.jsonl.gz"))
    bad = [record for _, record in found if isinstance(record, DataError)]
    assert len(found) > 100 and len(bad) < 0.01 * len(found), bad[:3]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "lost"), [("glaive_toolcall_en", 0), ("glaive_toolcall_zh", 1)])
def test_real_tool_conversations_become_react(shared: Path, name: str, lost: int) -> None:
    path = shared / "data" / "align" / "tool" / f"{name}.jsonl.gz"
    raw = [record["conversations"] for _, record in read_records(path)]
    found = [messages for _, messages in read_conversations(path)]
    bad = [m for m in found if isinstance(m, DataError)]
    assert [error.what for error in bad] == ["a tool's result has no call before it"] * lost
    calls = 0
    for turns, messages in zip(raw, found):
        if not isinstance(messages, DataError):
            text = "\n".join(m["content"] for m in messages if m["role"] == "assistant")
            calls += sum(turn["from"] == "function_call" for turn in turns)
            calls -= sum(line.startswith("Action Input: ") for line in text.split("\n"))
    assert calls == 0 and len(found) > 150
