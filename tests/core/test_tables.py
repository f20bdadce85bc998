"""The report's numbers: every cell is a percentage that the benchmark's number of items can give."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest

from openqwen.core import tables
from openqwen.core.intervals import bootstrap, clustered, wilson

# Item counts implied by the report's percentages; a misread digit rarely stays a multiple of 1/N.
COUNTS = {
    (7, "Math"): 74, (7, "Visualization"): 163, (7, "General"): 58, (7, "All"): 295,
    (8, "Math"): 1319, (8, "VisHard"): 84, (8, "VisEasy"): 79, (8, "VisAll"): 163,
    (9, "Run: Tool Selection"): 108, (9, "Run: Tool Used"): 108, (9, "Chat: Tool Selection"): 188,
    (9, "Chat: Tool Used"): 188, (10, "MBPP"): 500, (12, "Math401"): 401, (12, "Math23K"): 1000,
}  # fmt: skip
# Rounded twice in print: 137/163 = 84.05 became 84.1.
EXCEPT = {(7, "Visualization", "Qwen-Chat 14B")}


def test_all_tables_have_the_same_form() -> None:
    assert tables.numbers() == list(range(2, 18))
    for number in tables.numbers():
        data = tables.published(number)
        names = [column["name"] for column in data["columns"]]
        assert len(set(names)) == len(names) and data["rows"]
        for row in data["rows"]:
            assert row["origin"] == "published" and row["cells"].keys() <= set(names)
            assert number == 3 or all(0 <= cell["value"] <= 100 for cell in row["cells"].values()), row


@pytest.mark.parametrize(("number", "column"), sorted(COUNTS))
def test_percentages_fit_their_item_count(number: int, column: str) -> None:
    total = COUNTS[number, column]
    only = "Qwen" if column == "MBPP" else ""  # other papers' rows come from other subsets
    for row in tables.published(number)["rows"]:
        cell = row["cells"].get(column)
        if cell is None or only not in row["model"] or (number, column, row["model"]) in EXCEPT:
            continue
        k = cell["value"] * total / 100
        near = (100 * n / total for n in (math.floor(k), math.ceil(k)))
        assert any(abs(p - cell["value"]) <= 0.0501 for p in near), (row["model"], cell)


@pytest.mark.shared
@pytest.mark.parametrize("number", tables.numbers())
def test_each_published_row_stands_in_the_lines_it_names(number: int, shared: Path) -> None:
    text = (shared / "report" / "qwen-technical-report.txt").read_text(encoding="utf-8").split("\n")
    for row in tables.published(number)["rows"]:
        there = [
            float(found) for line in row["lines"] for found in re.findall(r"\d+(?:\.\d+)?", text[line - 1])
        ]
        for cell in row["cells"].values():
            assert cell["value"] in there, (row["model"], cell)


def test_known_cells() -> None:
    rows = {row["model"]: row["cells"] for row in tables.published(2)["rows"]}
    assert rows["Qwen 14B"]["C-Eval"]["value"] == 72.1
    assert "C-Eval" not in rows["Llama 2 70B"]
    ours = {row["model"]: row["cells"] for row in tables.published(10)["rows"]}["Qwen-Chat 7B"]
    assert (ours["HumanEval"]["value"], ours["MBPP"]["value"]) == (37.2, 35.8)


def test_a_caller_cannot_change_the_published_numbers() -> None:
    tables.published(6)["rows"].append({"model": "x"})
    tables.published(6)["rows"][0]["cells"].clear()
    assert len(tables.published(6)["rows"]) == 5 and tables.published(6)["rows"][0]["cells"]


def test_cells() -> None:
    cell = tables.share([True] * 9 + [False])
    assert cell["value"] == 90 and cell["n"] == 10
    assert cell["low"] == pytest.approx(59.6, abs=0.1) and cell["high"] == pytest.approx(98.2, abs=0.1)
    mean = tables.average([0.0, 1.0] * 50, seed=1)
    assert mean["value"] == 50 and 35 < mean["low"] < 45 < 55 < mean["high"] < 65
    assert tables.average([0.0, 1.0] * 50, seed=1) == mean


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = random.Random(3)
    hits = 0
    for trial in range(200):
        low, high = bootstrap([rng.gauss(0.5, 0.1) for _ in range(60)], seed=trial, resamples=200)
        hits += low <= 0.5 <= high
    assert 175 <= hits <= 198
    with pytest.raises(ValueError):
        bootstrap([], 1)


def test_a_clustered_interval_covers_where_wilsons_does_not() -> None:
    """Sixty subjects of ten questions, each subject with its own share: independent items are too sure of themselves."""
    rng = random.Random(1)
    hits = {"clustered": 0, "wilson": 0}
    for _ in range(200):
        flags, names = [], []
        for subject in range(60):
            share = rng.choice((0.2, 0.8))
            flags += [rng.random() < share for _ in range(10)]
            names += [subject] * 10
        for name, (low, high) in {
            "clustered": clustered(flags, names),
            "wilson": wilson(sum(flags), len(flags)),
        }.items():
            hits[name] += low <= 0.5 <= high
    assert 180 <= hits["clustered"] <= 198 and hits["wilson"] < 160


def test_one_cluster_or_all_right_is_wilsons_interval() -> None:
    assert clustered([True, False] * 5, ["one"] * 10) == wilson(5, 10)
    assert clustered([True] * 10, list(range(10))) == wilson(10, 10)
    assert clustered([True, False] * 5, list(range(10))) == pytest.approx(wilson(5, 10), abs=0.03)
