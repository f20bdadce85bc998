"""The same sums with the interpreter and without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent_world import Script, make_items
from test_agent_stage import make_model

from openqwen.agent import arithmetic, stage
from openqwen.agent.config import AgentEvalConfig
from openqwen.agent.tools import CallError
from openqwen.chat import react
from openqwen.core.artifact import read_jsonl, write_jsonl
from openqwen.core.config import Resolved
from openqwen.data.primer.tools import TOOLS
from openqwen.sandbox import Limits, NoSandbox, backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")


def sums(count: int = 4) -> list[dict[str, Any]]:
    items = []
    for i in range(count):
        expression, value = f"{40 + i} * 21", (40 + i) * 21
        step = {"thought": "t", "action": "calculator", "observation": str(value)}
        step["action_input"] = json.dumps({"expression": expression})
        items.append(
            {"id": f"s{i}", "query": f"What is {expression}?", "tools": [TOOLS["calculator"].declaration("en")],
             "gold": {"name": "calculator", "arguments": {"expression": expression}}, "steps": [step],
             "final": f"{expression} = {value}."}
        )  # fmt: skip
    return items


@needs_sandbox
def test_the_interpreter_answers_what_the_model_cannot() -> None:
    """It calls Python rightly and repeats what it said; from its head it says 7."""

    def speak(user: str, reply: str) -> str:
        expression = user.split("What is ")[-1].removesuffix("?")
        if reply:
            value = reply.split("Observation: ")[1].split("\n")[0]
            return f" {react.KNOWN}\nFinal Answer: It is {value}."
        if "Action:" in user:
            return react.call_text("t", "calculator", {"expression": expression})
        return "It is 7."

    found = arithmetic.measure(Script(speak), sums(), AgentEvalConfig())
    assert found["cells"]["arithmetic_interpreter"]["value"] == 100
    assert found["cells"]["arithmetic_own"]["value"] == 0 and len(found["records"]) == 8
    lucky = Script(lambda user, reply: f"It is {eval(user.split('What is ')[-1].removesuffix('?'))}.")
    found = arithmetic.measure(lucky, sums(2), AgentEvalConfig())
    assert found["cells"]["arithmetic_interpreter"]["value"] == 0, "no call was made"
    assert found["cells"]["arithmetic_own"]["value"] == 100


@needs_sandbox
def test_expressions_are_python_in_the_sandbox() -> None:
    assert arithmetic.evaluate("sum(range(10)) ** 2", Limits()) == "2025"
    with pytest.raises(CallError, match="ZeroDivisionError"):
        arithmetic.evaluate("1 / 0", Limits())
    with pytest.raises(CallError, match=r"longer than 0\.3 s"):
        arithmetic.evaluate("9 ** 9 ** 9 % 7", Limits(seconds=0.3))


def test_only_the_calculators_questions_are_asked() -> None:
    assert [q["id"] for q in arithmetic.questions([*make_items(), *sums()], 3)] == ["s0", "s1", "s2"]
    assert arithmetic.last_number("3 * 7 = -21.5。") == -21.5 and arithmetic.last_number("none") is None


def test_without_a_sandbox_it_is_said_and_never_run(
    tmp_path: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "tools.jsonl", sums(2))
    inputs = {"model": make_model(tmp_path / "model", byte_tokenizer), "tools": tmp_path / "tools.jsonl"}
    resolved = Resolved(AgentEvalConfig(max_tokens=4, max_steps=1), {})
    if backend() is not None:
        done = stage.run(resolved, inputs, tmp_path / "with")
        assert len(list(read_jsonl(done.file("arithmetic.jsonl")))) == 4
        assert "2 questions" in json.loads(done.file("table_06.json").read_text())["notes"][-1]
    monkeypatch.setattr("openqwen.sandbox.run.backend", lambda: None)
    monkeypatch.setattr("openqwen.agent.stage.backend", lambda: None)
    with pytest.raises(NoSandbox):
        arithmetic.evaluate("1", Limits())
    done = stage.run(resolved, inputs, tmp_path / "without")
    assert json.loads(done.file("table_06.json").read_text())["notes"][-1] == stage.NO_SANDBOX
    assert "arithmetic_own" not in done.manifest["facts"]
