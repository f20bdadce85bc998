"""The stage on a real, untrained model: every file there, nothing claimed that was not computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent_world import make_items

from openqwen.agent import stage
from openqwen.agent.config import AgentEvalConfig
from openqwen.core.artifact import find, read_jsonl, stage_run, write_jsonl
from openqwen.core.config import Config, Resolved
from openqwen.core.errors import DataError


def make_model(path: Path, tokenizer: Any) -> Path:
    from openqwen.model import ModelConfig, Qwen, save_model

    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, max_length=64
    )
    with stage_run(path, "model", Resolved(Config(), {}), {}):
        model = Qwen(config)
        model.init_weights(1)
        save_model(model, path)
        tokenizer.save(path)
    return path


def test_stage_writes_table_traces_and_facts(tmp_path: Path, byte_tokenizer: Any) -> None:
    model = make_model(tmp_path / "model", byte_tokenizer)
    tools = tmp_path / "tools.jsonl"
    write_jsonl(tools, make_items())
    resolved = Resolved(AgentEvalConfig(max_tokens=8, max_steps=2), {})
    done = stage.run(resolved, {"model": model, "tools": tools}, tmp_path / "agent")
    assert done == find(tmp_path / "agent") and done.kind == "agent-eval"
    table = json.loads(done.file("table_06.json").read_text(encoding="utf-8"))
    ours = table["rows"][-1]
    assert ours["origin"] == "ours" and ours["cells"]["Tool Selection"]["manifest"] == done.fingerprint
    facts = done.manifest["facts"]
    assert {"tool_selection", "rouge_l", "false_positive", "questions"} <= facts.keys()
    assert facts["questions"] == 8 and facts["tool_selection"] == 0
    traces = list(read_jsonl(done.file("traces.jsonl")))
    assert [t["id"] for t in traces] == [i["id"] for i in make_items()]
    assert all({"label", "prompt", "text"} <= s.keys() for s in read_jsonl(done.file("samples.jsonl")))


def test_bad_items_are_located(tmp_path: Path) -> None:
    path = tmp_path / "tools.jsonl"
    items = make_items(2)
    del items[1]["gold"]
    write_jsonl(path, items)
    with pytest.raises(DataError, match="without gold") as error:
        stage.read_items(path)
    assert "record 2" in str(error.value)
    write_jsonl(path, [])
    with pytest.raises(DataError):
        stage.read_items(path)
