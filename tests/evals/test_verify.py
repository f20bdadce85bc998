"""What an evaluation keeps is scored again: the same numbers, and each kind of difference by its cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openqwen.core.artifact import digest
from openqwen.evals import fill, stats, tables, verify
from openqwen.evals.harness import Result, score
from openqwen.evals.tasks import TASKS, gsm8k
from openqwen.report.tables import cell_text, latex, markdown, sheet

CARD: dict[str, Any] = {
    "protocol": "report", "model": {"name": "m", "kind": "chat", "weights": "w"},
    "shots": {"asked": 0, "fitted": 0.0}, "code": "0",
}  # fmt: skip


def gsm8k_result(name: str, rights: list[bool]) -> tuple[Result, list[dict[str, Any]]]:
    items = [{"id": str(i), "question": "q", "answer": str(i), "split": "test"} for i in range(len(rights))]
    records = [
        {"id": str(i), "output": f"It is {i if right else 99}.", "right": right}
        for i, right in enumerate(rights)
    ]
    card = {
        **CARD, "task": "gsm8k", "model": {**CARD["model"], "name": name},
        "items": {"sha256": digest(items), "ids": [item["id"] for item in items], "seed": 1},
    }  # fmt: skip
    cell = {**score(records, None, 1), "manifest": digest(card), "source": "s"}
    return Result(card, records, cell), items


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    first, items = gsm8k_result("a", [True] * 8 + [False] * 2)
    second, _ = gsm8k_result("b", [True] * 3 + [False] * 7)
    results = {"a": {("gsm8k", 0): first}, "b": {("gsm8k", 0): second}}
    table = tables.build(12, results, {"gsm8k": items}, ["a note"], {"math401": "no file"})
    fill.keep(tmp_path, [table], results, {"gsm8k": items})
    return tmp_path


def change(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    edit(lines[0])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def problems(folder: Path) -> str:
    checks, wrong = verify.verify(folder)
    return "\n".join([*(problem for check in checks for problem in check.problems), *wrong])


def test_kept_outputs_give_the_same_numbers(kept: Path) -> None:
    checks, wrong = verify.verify(kept / "cards.jsonl")
    assert len(checks) == 2 and wrong == [] and all(not check.problems for check in checks)


@pytest.mark.fault("evaluation", "a stored card, item or output is edited", "named by verification")
@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("cards.jsonl", lambda line: line["shots"].update(asked=5), "card was changed"),
        ("items.jsonl", lambda line: line["items"][0].update(answer="7"), "changed data"),
        ("outputs.jsonl", lambda line: line.update(id="x"), "not those of the card"),
        ("outputs.jsonl", lambda line: line.update(output="It is 98."), "the outputs give"),
    ],
)
def test_each_change_is_named(
    kept: Path, file: str, edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    change(kept / file, edit)
    assert said in problems(kept)


def test_a_changed_extractor_is_named_with_its_items(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(gsm8k.TASK, chat=replace(gsm8k.TASK.chat, judge=lambda text, item: item["id"] != "3"))
    monkeypatch.setitem(TASKS, "gsm8k", other)
    assert "changed extractor or scorer" in problems(
        kept
    ) and "3 of 10 items score otherwise: 3, 8, 9" in problems(kept)


def test_a_changed_cell_is_named(kept: Path) -> None:
    path = kept / "table_12.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["rows"][-1]["cells"]["GSM8K"]["value"] = 99.0
    path.write_text(json.dumps(data), encoding="utf-8")
    assert "the table has 99.0, the outputs give 30.0" in problems(kept)


def test_a_table_has_paired_tests_missing_sets_and_no_cell_without_manifest(kept: Path) -> None:
    data = json.loads((kept / "table_12.json").read_text(encoding="utf-8"))
    (test,) = data["tests"]
    assert test["difference"] == pytest.approx(50) and test["p"] == pytest.approx(2 / 32) and test["n"] == 10
    assert "Missing set, Math401: no file." in data["notes"]
    ours = data["rows"][-1]
    assert cell_text(ours, "GSM8K").startswith("30 [") and cell_text(ours, "MATH") == "-"
    del ours["cells"]["GSM8K"]["manifest"]
    assert cell_text(ours, "GSM8K") == "-"
    assert "| Qwen-Chat 7B | 50.3 |" in markdown(sheet(data))
    assert r"Qwen-Chat 7B & 50.3 &" in latex(sheet(data))


def test_guessing_is_marked() -> None:
    row = {
        "origin": "ours",
        "cells": {"x": {"value": 30, "low": 20, "high": 42, "chance": 25, "manifest": "m"}},
    }
    assert cell_text(row, "x") == "~30 [20, 42]"
    row["cells"]["x"]["low"] = 26  # type: ignore[index]
    assert cell_text(row, "x") == "30 [26, 42]"


def test_models_without_common_items_are_not_compared() -> None:
    assert stats.compare([{"id": "a", "right": True}], [{"id": "b", "right": True}], 1) is None
