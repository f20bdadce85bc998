"""ToolQA: all rows are read, those that stand by themselves are asked, the others are named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from agent_world import Script

from openqwen.agent import benchmarks, toolqa
from openqwen.agent.config import AgentEvalConfig, SetsConfig
from openqwen.agent.interpreter import NAME
from openqwen.chat import react
from openqwen.core.errors import DataError
from openqwen.sandbox import backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")
SUM = {
    "qid": "easy-gsm8k-0001",
    "question": "Ann has 40 pens and buys 2. How many are there?",
    "answer": 42.0,
}
FLIGHT = {"qid": "hard-flight-0007", "question": "How many flights were late?", "answer": "4.0%"}


def write(path: Path, *found: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def agent(code: str, final: str) -> Script:
    def speak(user: str, reply: str) -> str:
        return f" {react.KNOWN}\nFinal Answer: {final}" if reply else react.call_text("I add.", NAME, code)

    return Script(speak)


@needs_sandbox
def test_a_perfect_agent_scores_100_and_a_bad_one_0(tmp_path: Path) -> None:
    write(tmp_path / "toolqa" / "questions.jsonl", SUM, FLIGHT)
    loaded = benchmarks.load(tmp_path, SetsConfig(names=("toolqa",)))
    assert loaded.runs_code and [q.id for q in loaded.questions["toolqa"]] == ["easy-gsm8k-0001"]
    assert loaded.notes == [
        "ToolQA: 2 of 1530 questions read, 1 can be asked",
        "ToolQA: not asked, as their corpora are not part of the questions: flight 1",
    ]

    def score(script: Script) -> set[float]:
        found = benchmarks.measure(script, loaded, AgentEvalConfig(), tmp_path)
        assert found.keys() == {"toolqa_gsm8k", "toolqa_gsm8k_executable"}
        return {cell["value"] for cell in found.values()}

    assert score(agent("print(40 + 2)", "There are 42 pens.")) == {100}
    assert score(agent("print(40 + )", "There are 41 pens.")) == {0}


def test_questions_without_their_corpora_are_one_error(tmp_path: Path) -> None:
    write(tmp_path / "toolqa" / "questions" / "hard" / "flight-hard.jsonl", FLIGHT, FLIGHT)
    with pytest.raises(DataError) as error:
        benchmarks.load(tmp_path, SetsConfig(names=("toolqa",)))
    said = str(error.value)
    assert "2 of 1530 questions read, 0 can be asked" in said and "corpora" in said and "flight 2" in said
    write(tmp_path / "toolqa" / "questions" / "easy" / "gsm8k-easy.jsonl", SUM)
    assert len(toolqa.load(tmp_path)[0]) == 1


def test_ids_are_different(tmp_path: Path) -> None:
    write(tmp_path / "toolqa" / "questions.jsonl", SUM, SUM)
    with pytest.raises(DataError, match=r"2 questions of ToolQA .* have the id easy-gsm8k-0001"):
        benchmarks.load(tmp_path, SetsConfig())


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ('"qid" of a row', {"qid": 1}),
        ("LEVEL-DOMAIN-NUMBER", {"qid": "easy-gsm8k/../x-1"}),
        ("LEVEL-DOMAIN-NUMBER", {"qid": "gsm8k-1"}),
        ('"question" of a row', {"question": None}),
        ('"answer" of a row', {"answer": None}),
        ("not a number", {"answer": "42"}),
        ("not a number", {"answer": 10**400}),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, said: str, change: dict[str, Any]) -> None:
    path = write(tmp_path / "toolqa" / "questions.jsonl", FLIGHT, {**SUM, **change})
    with pytest.raises(DataError, match=said) as error:
        toolqa.load(tmp_path)
    assert f"{path}:2" in str(error.value)


@pytest.mark.shared
def test_the_published_rows_are_all_read(shared: Path) -> None:
    questions, notes = toolqa.load(shared / "data" / "eval")
    assert len(questions) == 50 and notes[0] == "766 of 1530 questions read, 50 can be asked"
    other = notes[1].partition(": ")[2].split(", ")
    assert len(other) == 7 and sum(int(one.split()[1]) for one in other) == 716
