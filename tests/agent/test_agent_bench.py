"""The stage of Tables 7 to 9: ours beside the published rows, for a model behind an address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_api
import pytest

from openqwen.agent import bench
from openqwen.agent.cases import all_cases
from openqwen.agent.config import AgentBenchConfig, JudgeConfig
from openqwen.agent.hf_agent import prompt
from openqwen.agent.hf_problems import chat_problems, run_problems
from openqwen.agent.interpreter import NAME
from openqwen.chat import react
from openqwen.cli import main
from openqwen.core.config import resolve
from openqwen.sandbox import backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")


def perfect(body: dict[str, Any]) -> tuple[int, str]:
    """Knows every question; each answer of a talk is worked out anew. Likes every picture."""
    asked = body["messages"][-1]["content"]
    if isinstance(asked, list):
        return 200, "[FINAL SCORE]: 100"
    for problem in (*run_problems(), *chat_problems()):
        for number, turn in enumerate(problem.turns):
            first = body["messages"][0]["content"] == prompt(problem)
            if first and asked == (turn if number else prompt(problem)):
                tools = ", ".join(problem.tools[number])
                used = problem.answers[number][0]
                if number:
                    used = used.replace(problem.answers[number - 1][0], "result")
                return 200, f"I use {tools}.\n```py\nresult = {used}\n```"
    question, _, reply = asked.rsplit("\n\nQuestion: ", 1)[1].partition("\nThought:")
    case = next(case for case in all_cases() if case.query == question)
    if reply:
        return 200, f"Thought: {react.KNOWN}\nFinal Answer: {case.final}"
    return 200, react.call_text("I compute.", NAME, f"```py\n{case.code}\n```")


def test_a_vision_model_scores_the_pictures_beside_the_rules(tmp_path: Path) -> None:
    cases = [case for case in all_cases() if case.id in ("visual-easy-0", "visual-hard-0", "math-0")]
    records = [
        {"id": case.id, "kind": case.kind, "picture": None if case.kind == "visual-hard" else "p.png"}
        for case in cases
    ]
    (tmp_path / "p.png").write_bytes(b"a picture")

    def said(text: str) -> tuple[dict[str, float], str]:
        with chat_api.serving(lambda body: (200, text)) as server:
            config = JudgeConfig(address=f"{server.address}#eyes")
            bench.look(records, cases, config, tmp_path)
        assert len(server.bodies) == 1, "only a question for a picture is judged, and only if one was drawn"
        found = bench.judged(records, seed=1)
        note = bench.judged_note(records, found, f"{server.address}#eyes")
        return {name: cell["value"] for name, cell in found.items()}, note

    scores, note = said("[FINAL SCORE]: 80")
    assert scores == {"VisHard": 0, "VisEasy": 80, "VisAll": 40} and "0 of 2 verdicts" in note
    scores, note = said("80 of 100")
    assert scores == {"VisHard": 0, "VisAll": 0} and "(eyes)" in note and "1 of 2 verdicts" in note


@needs_sandbox
def test_a_perfect_model_fills_the_tables(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with chat_api.serving(perfect) as server:
        flags = {"address": f"{server.address}#m", "limit": 1, "remote.parallel": 1}
        flags["judge.address"] = f"{server.address}#eyes"
        resolved = resolve(AgentBenchConfig, "agentbench", flags=flags, environ={})
        done = bench.run(resolved, {}, tmp_path / "bench")
    facts = done.manifest["facts"]
    assert facts["questions"] == 4
    scores = {name: value for name, value in facts.items() if name.startswith("table_")}
    assert len(scores) == 14 and set(scores.values()) == {1.0}
    assert facts["judged_visall"] == facts["judged_viseasy"] == facts["judged_vishard"] == 1.0
    eight = json.loads(done.file("table_08.json").read_text())
    assert "(eyes) scores our pictures, of 100: VisHard 100.0, VisEasy 100.0" in eight["notes"][-1]
    for number, rows in ((7, 4), (8, 4), (9, 6)):
        table = json.loads(done.file(f"table_{number:02d}.json").read_text())
        ours = table["rows"][-1]
        assert ours["origin"] == "ours" and len(ours["cells"]) == rows and len(table["rows"]) > 5
        assert {cell["manifest"] for cell in ours["cells"].values()} == {done.fingerprint}
        assert set(ours["cells"]) <= {column["name"] for column in table["columns"]}


def test_without_a_sandbox_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("openqwen.sandbox.run.backend", lambda: None)
    words = ["agent-bench", "--address", "http://127.0.0.1:9/v1#m", "--out", str(tmp_path / "x")]
    assert main(words) == 78 and "bubblewrap" in capfd.readouterr().err


def test_each_column_counts_its_own_kinds() -> None:
    flags = {
        "math": (True, False),
        "visual-easy": (True, True),
        "visual-hard": (False, True),
        "general": (False, False),
    }
    records = [{"kind": kind, "executable": ran, "correct": right} for kind, (ran, right) in flags.items()]
    seven = {name: cell["value"] for name, cell in bench.table_7(records).items()}
    assert seven == {"Math": 100, "Visualization": 50, "General": 0, "All": 50}
    eight = {name: cell["value"] for name, cell in bench.table_8(records[:3]).items()}
    assert eight == {"Math": 0, "VisHard": 100, "VisEasy": 100, "VisAll": 100}
    assert bench.table_8(records[3:]) == {}
    turn = {"tool_selection": 1.0, "tool_used": 0.5, "code": 0.3}
    nine = bench.table_9({"Run": [turn, turn], "Chat": []}, seed=1)
    assert {name: round(cell["value"], 6) for name, cell in nine.items()} == {
        "Run: Tool Selection": 100, "Run: Tool Used": 50, "Run: Code Correctness": 30,
    }  # fmt: skip
    few = bench.few(all_cases(), 2)
    assert len(few) == 8 and {case.kind for case in few} == set(flags)
