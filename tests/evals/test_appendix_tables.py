"""Tables 13 to 17: whose subjects a column averages, and every column filled from the published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_artefacts as tiny

from openqwen.cli import main
from openqwen.core.artifact import digest
from openqwen.core.tables import published
from openqwen.evals import sets, tables
from openqwen.evals.harness import Result, score
from openqwen.evals.subjects import PARTS
from openqwen.evals.task import Item
from openqwen.evals.tasks import TASKS

APPENDIX = (13, 14, 15, 16, 17)
HARD = "Avg. (Hard)"


def answered(task: str, shots: int, wrong: set[str]) -> tuple[Result, list[Item]]:
    """Two questions of every subject, answered rightly but in the subjects named."""
    subjects = sorted(set().union(*PARTS[task].values()))
    items = [{"id": f"{name}/{i}", "subject": name, "split": "test"} for name in subjects for i in range(2)]
    records = [{"id": item["id"], "right": item["subject"] not in wrong} for item in items]
    card = {"task": task, "protocol": "report", "shots": {"asked": shots}}
    return Result(card, records, {**score(records, None, 1), "manifest": digest(card), "source": "s"}), items


def test_subjects_are_those_of_the_sets_each_in_one_group() -> None:
    mmlu, ceval = PARTS["mmlu"], dict(PARTS["ceval"])
    hard = ceval.pop(HARD)
    assert {name: len(group) for name, group in mmlu.items()} == {
        "STEM": 19, "Social Sciences": 12, "Humanities": 13, "Others": 13,
    }  # fmt: skip
    assert {name: len(group) for name, group in ceval.items()} == {
        "STEM": 20, "Social Sciences": 10, "Humanities": 11, "Others": 11,
    }  # fmt: skip
    assert len(set().union(*mmlu.values())) == 57 and len(set().union(*ceval.values())) == 52
    assert len(hard) == 8 and set(hard) < set(ceval["STEM"])


@pytest.mark.shared
@pytest.mark.parametrize("task", ["mmlu", "ceval"])
def test_subjects_are_those_of_the_published_files(shared: Path, task: str) -> None:
    found = {item["subject"] for item in sets.load(TASKS[task], shared / "data" / "eval").items}
    assert found == set().union(*PARTS[task].values())


@pytest.mark.parametrize(("number", "task", "whole"), [(13, "mmlu", "Average"), (14, "ceval", "Avg.")])
def test_a_column_averages_its_own_subjects(number: int, task: str, whole: str) -> None:
    for part, group in PARTS[task].items():
        result, items = answered(task, 5, set(group))
        data = tables.build(number, {"m": {(task, 5): result}}, {task: items}, [])
        row = next(row["cells"] for row in data["rows"] if row["origin"] == "ours")
        assert row.keys() == {whole, *PARTS[task]}
        for name, others in PARTS[task].items():
            share = 1 - len(set(others) & set(group)) / len(others)
            assert row[name]["value"] == pytest.approx(100 * share), (part, name)
            assert row[name]["n"] == 2 * len(others) and row[name]["part"] == name
        everything = set().union(*PARTS[task].values())
        assert row[whole]["value"] == pytest.approx(100 * (1 - len(set(group)) / len(everything)))


@pytest.mark.parametrize("number", APPENDIX)
def test_there_is_a_task_for_every_column_of_the_report(number: int) -> None:
    assert set(tables.LAYOUT[number]) == {column["name"] for column in published(number)["columns"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_artefact(tmp_path_factory.mktemp("appendix") / "model")


@pytest.mark.shared
@pytest.mark.parametrize("number", APPENDIX)
def test_every_column_is_filled_from_the_published_files(
    shared: Path, model: Path, tmp_path: Path, number: int
) -> None:
    few = tmp_path / "few.toml"
    few.write_text("[evals]\nchoice_items = 12\ntext_items = 3\nmax_tokens = 4\n", encoding="utf-8")
    words = [
        "table", str(number), "--model", str(model), "--data", str(shared / "data" / "eval"),
        "--recipe", str(few), "--form", "json", "--to", str(tmp_path / "table.json"),
    ]  # fmt: skip
    assert main(words) == 0
    found: dict[str, Any] = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    (row,) = [row for row in found["rows"] if row["origin"] == "ours"]
    # Twelve questions may miss C-Eval's eight hard subjects of 52.
    assert set(tables.LAYOUT[number]) - {HARD} <= row["cells"].keys(), found["notes"]
    assert all(0 <= cell["low"] <= cell["value"] <= cell["high"] <= 100 for cell in row["cells"].values())
