"""The files and forms in which people have conversations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.chat.messages import check
from openqwen.chat.records import read_conversations, to_messages
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
        ({"conversations": [{"from": "observation", "value": "x"}]}, "unknown role 'observation'"),
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


KEYS = "messages conversations instruction input output history system query tools steps final role content from value"
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["user", "gpt", "system", "x", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5)
    ),
    max_leaves=12,
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
        ("a.jsonl.gz", gzip.compress(b"x" * 5000)[:-12], "cannot be read"),
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
