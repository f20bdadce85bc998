"""`openqwen agent-eval --data`: published sets beside our own questions, for our models and for an address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_api
import pytest
from agent_world import make_items
from test_agent_stage import make_model

from openqwen.agent import unseen
from openqwen.chat import react
from openqwen.cli import main
from openqwen.core.artifact import find, read_jsonl, write_jsonl

ASKED = "What is 2 and 2?"
FUNCTION = {
    "name": "sum.of", "description": "adds", "parameters":
    {"type": "dict", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]},
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    row = {
        "id": "simple_python_0",
        "question": [[{"role": "user", "content": ASKED}]],
        "function": [FUNCTION],
        "ground_truth": [{"sum.of": {"a": [2], "b": [2]}}],
    }
    folder = tmp_path / "data"
    (folder / "bfcl").mkdir(parents=True)
    write_jsonl(folder / "bfcl" / "BFCL_v4_simple_python.json", [row])
    return folder


def perfect(body: dict[str, Any]) -> tuple[int, str]:
    """Knows the unseen tools' questions and the one of the set."""
    asked, _, reply = body["messages"][-1]["content"].rsplit("\n\nQuestion: ", 1)[1].partition("\nThought:")
    if asked == ASKED:
        return 200, react.call_text("I add.", "sum.of", {"a": 2, "b": 2})
    item = next(item for item in unseen.items() if item["query"] == asked)
    if item["gold"] is None or reply:
        return 200, f"Thought: {react.KNOWN}\nFinal Answer: {item['final']}"
    return 200, react.call_text("I ask.", item["gold"]["name"], item["gold"]["arguments"])


def test_an_address_is_asked_our_questions_and_the_sets(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    with chat_api.serving(perfect) as server:
        words = ["--address", f"{server.address}#m", "--data", str(data), "--limit", "6", "--out", str(out)]
        assert main(["agent-eval", *words, "--sets.names", '["bfcl"]']) == 0
    tokens = {body["max_tokens"] for body in server.bodies if ASKED in body["messages"][-1]["content"]}
    assert tokens == {512} != {server.bodies[0]["max_tokens"]}
    done = find(out)
    assert done is not None
    facts = done.manifest["facts"]
    assert facts["bfcl_simple_python"] == facts["bfcl_simple_python_tool"] == 1
    assert facts["tool_selection"] == facts["same_arguments"] == 1 and "rouge_l" not in facts
    sets = json.loads((out / "sets.json").read_text("utf-8"))
    assert sets["notes"] == ["BFCL: simple_python 1 of 400"] and sets["manifest"] == done.fingerprint
    assert sets["cells"]["bfcl_simple_python"]["n"] == 1
    [record] = read_jsonl(out / "bfcl.jsonl")
    assert record["right"] and record["trace"]["query"] == ASKED
    table = json.loads((out / "table_06.json").read_text("utf-8"))
    ours = table["rows"][-1]
    assert ours["model"].startswith("m, ") and "Tool Input" not in ours["cells"]


def test_a_model_of_ours_is_asked_the_sets(tmp_path: Path, data: Path, byte_tokenizer: Any) -> None:
    model = make_model(tmp_path / "model", byte_tokenizer)
    write_jsonl(tmp_path / "tools.jsonl", make_items(2))
    words = ["--model", str(model), "--tools", str(tmp_path / "tools.jsonl"), "--data", str(data)]
    more = ["--max-tokens", "4", "--sets.max-tokens", "4", "--out", str(tmp_path / "out")]
    assert main(["agent-eval", *words, *more]) == 0
    done = find(tmp_path / "out")
    assert done is not None and done.manifest["facts"]["bfcl_simple_python"] == 0
    assert "rouge_l" in done.manifest["facts"]
    notes = json.loads((tmp_path / "out" / "sets.json").read_text("utf-8"))["notes"]
    assert len(notes) == 4 and any("MatPlotBench: no matplotbench.jsonl" in note for note in notes)


def test_one_model_is_asked(tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["agent-eval", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "needs one model" in capfd.readouterr().err


def test_code_of_a_set_needs_a_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("openqwen.sandbox.run.backend", lambda: None)
    row = {"qid": "easy-gsm8k-0001", "question": "?", "answer": 1}
    (tmp_path / "toolqa").mkdir()
    write_jsonl(tmp_path / "toolqa" / "questions.jsonl", [row])
    words = ["--address", "http://127.0.0.1:9/v1#m", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["agent-eval", *words]) == 78 and "bubblewrap" in capfd.readouterr().err
