"""DABench: the paper's three scores, tables in the interpreter, rows that are none."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from agent_world import Script

from openqwen.agent import benchmarks, dabench
from openqwen.agent.config import AgentEvalConfig, SetsConfig
from openqwen.agent.interpreter import NAME
from openqwen.chat import react
from openqwen.core.errors import DataError
from openqwen.sandbox import backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")
ROW: dict[str, Any] = {
    "id": 3, "question": "What are mean and count of a?", "concepts": ["Summary Statistics"],
    "constraints": "Round the mean to two places.", "format": "@mean[x] @count[n]", "level": "easy",
    "file_name": "t.csv", "common_answers": [["mean", "2.33"], ["count", "3"]],
}  # fmt: skip
CODE = """import csv
a = [int(r['a']) for r in csv.DictReader(open('t.csv'))]
print(round(sum(a) / len(a), 2), len(a))"""


def write(folder: Path, *found: Mapping[str, Any]) -> Path:
    home = folder / "code_interpreter"
    home.mkdir(parents=True, exist_ok=True)
    path = home / "dabench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    with zipfile.ZipFile(home / "dabench_tables.zip", "w") as tables:
        tables.writestr("t.csv", "a,b\n1,x\n2,y\n4,z\n")
    return path


# an answer, labels, what the published scorer (eval_closed_form.py) makes of them
ANSWERS: list[tuple[str, dict[str, str], dict[str, bool]]] = [
    ("@mean[34.65]", {"mean": "34.65"}, {"mean": True}),
    ("@mean[34.650]", {"mean": "34.65"}, {"mean": True}),
    ("@mean[34.6500009]", {"mean": "34.65"}, {"mean": True}),
    ("@mean[34.650002]", {"mean": "34.65"}, {"mean": False}),
    ("@mean[34.7]", {"mean": "34.65"}, {"mean": False}),
    ("The mean is 34.65", {"mean": "34.65"}, {"mean": False}),
    ("@p[1e-3], @q[0.10]", {"p": "0.001", "q": "0.1"}, {"p": True, "q": True}),
    ("@a[no] text @b[Yes]", {"a": "no", "b": "yes"}, {"a": True, "b": False}),
    ("@a[ no]", {"a": "no"}, {"a": False}),
    ("@n[ 5 ]", {"n": "5"}, {"n": True}),
    ("@a[1] @a[2]", {"a": "1"}, {"a": False}),
    ("@a[1] @a[2]", {"a": "2"}, {"a": True}),
    ("@a[x, y]", {"a": "x, y"}, {"a": True}),
    ("@a[[1]]", {"a": "[1]"}, {"a": False}),
    ("@a[1\n]", {"a": "1"}, {"a": False}),
    ("@a[]", {"a": ""}, {"a": True}),
    ("", {"a": ""}, {"a": False}),
    ("@a[nan]", {"a": "nan"}, {"a": True}),
    ("@a[NaN]", {"a": "nan"}, {"a": False}),
    ("@a[inf]", {"a": "Infinity"}, {"a": False}),
    ("@a [1]", {"a": "1"}, {"a": False}),
    ("@a_b[True]", {"a_b": "True", "c": "1"}, {"a_b": True, "c": False}),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "labels", "right"), ANSWERS)
def test_values_are_judged_as_published(answer: str, labels: dict[str, str], right: dict[str, bool]) -> None:
    assert dabench.judge(answer, labels) == right


def test_the_three_scores() -> None:
    rights = [{"a": True}, {"a": True, "b": False, "c": False, "d": False}, {"a": False}]
    records = [{"right": right, "executable": i > 0} for i, right in enumerate(rights)]
    found = {name: round(cell["value"], 4) for name, cell in dabench.cells(records, seed=1).items()}
    assert found == {
        "dabench_question": 33.3333, "dabench_proportional": 41.6667, "dabench_subquestion": 33.3333,
        "dabench_executable": 66.6667,
    }  # fmt: skip


def agent(code: str, answer: str) -> Script:
    def speak(user: str, reply: str) -> str:
        return f" {react.KNOWN}\nFinal Answer: {answer}" if reply else react.call_text("I look.", NAME, code)

    return Script(speak)


@needs_sandbox
def test_a_perfect_agent_scores_100_and_a_bad_one_0(tmp_path: Path) -> None:
    write(tmp_path, ROW, {**ROW, "id": 4})
    loaded = benchmarks.load(tmp_path, SetsConfig(names=("dabench",)))
    assert loaded.runs_code and loaded.notes == ["DABench: 2 of 257"]

    def score(script: Script) -> set[float]:
        found = benchmarks.measure(script, loaded, AgentEvalConfig(), tmp_path)
        assert len(found) == 4
        return {cell["value"] for cell in found.values()}

    good = agent(CODE, "@mean[2.33] @count[3]")
    assert score(good) == {100}
    assert "Round the mean" in good.asked[0][0] and "@mean[x] @count[n]" in good.asked[0][0]
    records = [json.loads(line) for line in (tmp_path / "dabench.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [r["trace"]["turns"][0]["observation"] for r in records] == ["2.33 3"] * 2
    assert score(agent("print(open('u.csv'))", "@mean[1] @count[1]")) == {0}


def test_tables_and_labels_as_published(tmp_path: Path) -> None:
    path = write(tmp_path, ROW)
    home = path.parent
    (home / "da-dev-questions.jsonl").write_text(
        json.dumps({k: v for k, v in ROW.items() if k != "common_answers"}), encoding="utf-8"
    )
    (home / "da-dev-labels.jsonl").write_text(
        json.dumps({"id": 3, "common_answers": [["mean", "2.33"]]}), encoding="utf-8"
    )
    path.unlink()
    (home / "dabench_tables.zip").unlink()
    (home / "da-dev-tables").mkdir()
    (home / "da-dev-tables" / "t.csv").write_text("a\n1\n")
    [question], _ = dabench.load(tmp_path)
    assert question.table == b"a\n1\n" and question.labels == {"mean": "2.33"}
    (home / "da-dev-labels.jsonl").unlink()
    with pytest.raises(DataError, match="common_answers"):
        dabench.load(tmp_path)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ('"id" of a row', {"id": "x"}),
        ('"id" of a row', {"id": True}),
        ('"question" of a row', {"question": 1}),
        ('"format" of a row', {"format": None}),
        ("common_answers", {"common_answers": [["mean"]]}),
        ("common_answers", {"common_answers": []}),
        ("common_answers", {"common_answers": [["mean", 2.5]]}),
        ("is no file name", {"file_name": "../t.csv"}),
        ("the table u.csv is not there", {"file_name": "u.csv"}),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, said: str, change: dict[str, Any]) -> None:
    path = write(tmp_path, ROW, {**ROW, **change})
    with pytest.raises(DataError, match=said) as error:
        dabench.load(tmp_path)
    assert f"{path}:2" in str(error.value)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ROW)
    (path.parent / "dabench_tables.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"the table t\.csv is not there"):
        dabench.load(tmp_path)


@pytest.mark.shared
def test_the_published_rows_have_perfect_answers(shared: Path) -> None:
    questions, notes = dabench.load(shared / "data" / "eval")
    assert len(questions) == 95 and notes == ["95 of 257"]
    for question in questions:
        answer = ", ".join(f"@{name}[{value}]" for name, value in question.labels.items())
        assert all(dabench.judge(f"So {answer}.", question.labels).values()), question.id
        assert not any(dabench.judge("@x[1]", question.labels).values())
        assert question.table and question.file_name in question.query
