"""ReAct text: equality with the released behaviour, our stricter reading, and no text that breaks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.chat import react
from openqwen.chat.messages import DEFAULT_SYSTEM
from openqwen.core.errors import UsageError

SEARCH = {
    "name_for_human": "谷歌搜索",
    "name_for_model": "google_search",
    "description_for_model": "搜索。",
    "parameters": [{"name": "query", "required": True, "schema": {"type": "string"}}],
}
ITEM = {
    "query": "How far is it?",
    "tools": [SEARCH],
    "steps": [
        {
            "thought": "I look.",
            "action": "google_search",
            "action_input": {"query": "远"},
            "observation": "42",
        },
        {
            "thought": "Again.",
            "action": "google_search",
            "action_input": '{"query": "b"}',
            "observation": "{}",
        },
    ],
    "final": "It is 42.",
}
# Text in which the format's own labels are frequent.
LABELS = [
    "Thought:",
    "Action:",
    "Action Input:",
    "Observation:",
    "Final Answer:",
    "\n",
    " ",
    "a",
    "{}",
    "```",
    "\r",
]
reactish = st.one_of(st.text(), st.lists(st.sampled_from(LABELS), max_size=24).map("".join))


def oracle(shared: Path, name: str) -> list[dict]:
    return json.loads((shared / "oracle" / "agent" / f"{name}_oracle.json").read_text(encoding="utf-8"))


def chatml_text(messages: list[dict[str, str]]) -> str:
    """ChatML as text, for comparison with the oracle's strings only."""
    blocks = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(blocks) + "<|im_start|>assistant\n"


@pytest.mark.shared
def test_prompts_equal_released(shared: Path) -> None:
    for case in oracle(shared, "react_prompt"):
        messages = [{"role": "system", "content": DEFAULT_SYSTEM}]
        for query, answer in case["chat_history"]:
            messages.append({"role": "user", "content": query})
            if answer:
                messages.append({"role": "assistant", "content": answer})
        assert chatml_text(react.place_tools(messages, case["tools"])) == case["prompt"], case["name"]


@pytest.mark.shared
def test_latest_call_equals_released(shared: Path) -> None:
    for case in oracle(shared, "parse_latest_plugin_call"):
        assert list(react.parse_latest_call(case["text"])) == case["result"]


@pytest.mark.shared
def test_response_equals_released(shared: Path) -> None:
    for case in oracle(shared, "parse_response"):
        content, call = react.parse_response(case["response"])
        assert (content, call) == (case["content"], case["function_call"])
        assert ("function_call" if call else "stop") == case["finish_reason"]


@pytest.mark.shared
def test_messages_equal_released(shared: Path) -> None:
    for case in oracle(shared, "parse_messages"):
        if "error" in case["result"]:
            with pytest.raises(UsageError):
                react.from_openai(case["messages"], case["functions"])
            continue
        mapped = react.from_openai(case["messages"], case["functions"])
        wanted = case["result"]
        assert mapped.query == wanted["query"], case["name"]
        assert mapped.history == wanted["history"], case["name"]
        assert mapped.system == wanted["system"]
        assert (mapped.query is None) == wanted["text_completion"]


def test_openai_system_and_disorder() -> None:
    mapped = react.from_openai(
        [{"role": "system", "content": "\nBe brief. "}, {"role": "user", "content": "\nhi "}], None
    )
    assert (mapped.system, mapped.query, mapped.history) == ("Be brief.", "hi", [])
    assert mapped.messages() == [{"role": "user", "content": "hi"}]
    for wrong in (
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "judge", "content": "b"}],
        [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
    ):
        with pytest.raises(UsageError):
            react.from_openai(wrong, None)


def test_parse_messages_continues_open_reply() -> None:
    mapped = react.from_openai(
        [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "t", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        [SEARCH],
    )
    messages = mapped.messages()
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[1]["content"] == react.continue_reply(react.call_text("t", "f", "{}"), "1")


def test_training_text_is_what_inference_continues() -> None:
    """Each prefix that the loop would feed to the model is a prefix of the trained reply."""
    user, assistant = react.training_messages(ITEM)
    assert user["content"] == react.build_prompt(ITEM["query"], ITEM["tools"])
    whole, reply = assistant["content"], ""
    for step in ITEM["steps"]:
        reply += whole[len(reply) :].split("\nObservation:")[
            0
        ]  # what a perfect model writes until the stop string
        found = react.parse_step(whole[len(reply) - len(reply) :][: len(reply)])
        assert found.action == "google_search"
        reply = react.continue_reply(reply, step["observation"])
        assert whole.startswith(reply)
    assert react.parse_step("Thought:" + whole[len(reply) :]).final == "It is 42."


def test_training_without_tool_use() -> None:
    text = react.training_messages({**ITEM, "steps": []})[1]["content"]
    assert text == "Thought: I now know the final answer.\nFinal Answer: It is 42."
    assert "\nAction:" not in text


def test_observation_spans() -> None:
    text = react.reply_text(ITEM["steps"], ITEM["final"])
    assert [text[a:b] for a, b in react.observation_spans(text)] == [" 42\n", " {}\n"]


def test_step_reads_action_at_the_start() -> None:
    step = react.parse_step('Action: f\nAction Input: {"a": 1}')
    assert (step.action, step.arguments, step.invented) == ("f", '{"a": 1}', None)


def test_step_notices_invented_observation() -> None:
    step = react.parse_step(
        "Thought: x\nAction: f\nAction Input: {}\nObservation: 7\nThought: y\nFinal Answer: 7"
    )
    assert (step.action, step.final, step.invented) == ("f", None, "7")
    assert step.text == "Thought: x\nAction: f\nAction Input: {}"
    assert react.parse_step("Observation: 7").invented == "7"


def test_step_keeps_code_and_drops_a_cut_stop_string() -> None:
    code = "```py\nprint('Action: no')\n```"
    for cut in range(len("Observation:")):
        tail = "\n" + "Observation:"[:cut]
        step = react.parse_step(f"Thought: x\nAction: run\nAction Input: {code}{tail}")
        assert step.arguments == code, cut
    assert react.parse_step("Final Answer: vitamin\nO").final == "vitamin\nO"


def test_step_first_of_call_and_answer_decides() -> None:
    assert react.parse_step("Final Answer: 1\nAction: f\nAction Input: {}").final == "1"
    step = react.parse_step("Action: f\nAction Input: {}\nFinal Answer: 1")
    assert (step.action, step.final) == ("f", None)


def test_plain_text_is_neither_call_nor_answer() -> None:
    step = react.parse_step("just chatting")
    assert (step.action, step.final, step.thought) == (None, None, "just chatting")


@pytest.mark.fault("agent", "any text comes as a reply in the format", "parsed, never an exception")
@given(reactish)
def test_parsing_never_fails(text: str) -> None:
    step = react.parse_step(text)
    assert text.startswith(step.text)
    assert step.action is None or step.final is None
    react.parse_response(text)
    name, arguments, _ = react.parse_latest_call(text)
    assert name == name.strip() and arguments == arguments.strip()
    assert all(0 <= a <= b <= len(text) for a, b in react.observation_spans(text))


@given(
    st.text(),
    st.text(),
    st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
    st.dictionaries(st.text(), st.integers()),
)
def test_written_call_is_read_back(query: str, thought: str, name: str, arguments: dict[str, int]) -> None:
    thought = " ".join(thought.split()).replace(":", "")
    step = react.parse_step(react.call_text(thought, name, arguments))
    assert step.action == name
    assert json.loads(step.arguments) == arguments
    assert step.thought == thought
    assert react.build_prompt(query, [SEARCH]).endswith(f"Question: {react.clean(query)}")


@given(reactish, st.integers(0, 400))
def test_what_is_certain_of_a_step_is_never_taken_back(text: str, cut: int) -> None:
    begun = react.certain_step(text[:cut])
    assert react.certain_step(text).startswith(begun) and react.parse_step(text).text.startswith(begun)


def test_what_is_certain_of_a_step_comes_at_once() -> None:
    call = "Thought: I look.\nAction: add\nAction Input: {}"
    shown = [react.certain_step(call[:cut]) for cut in range(len(call) + 1)]
    assert max(len(call[:cut]) - len(text) for cut, text in enumerate(shown)) <= len("\nAction Input:")
    assert (
        shown[-1] == call
        and react.certain_step(f"{call}\nThought") == react.certain_step(f"{call}\nA") == call
    )
