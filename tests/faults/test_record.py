"""Long figures: each test replaces its own, however many write at once, and the document shows them."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from faults import catalogue
from faults.record import record


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(catalogue, "FIGURES", tmp_path / "reliability.json")
    monkeypatch.setattr(catalogue, "DOCUMENT", tmp_path / "reliability.md")
    monkeypatch.setattr(catalogue, "rows", list)
    return tmp_path


def test_a_figure_replaces_its_own_last_one_alone(folder: Path) -> None:
    record("bits flipped", trials=10, undetected=0)
    record("processes killed", kills=1000, longest="3.2 s")
    record("bits flipped", trials=20000, undetected=0)
    held = json.loads((folder / "reliability.json").read_text())
    assert {name: one["figures"] for name, one in held.items()} == {
        "bits flipped": {"trials": 20000, "undetected": 0},
        "processes killed": {"kills": 1000, "longest": "3.2 s"},
    }
    text = (folder / "reliability.md").read_text()
    assert "| bits flipped | trials 20,000, undetected 0 | " in text
    assert "| processes killed | kills 1,000, longest 3.2 s | " in text


def test_processes_that_record_at_once_lose_nothing(folder: Path) -> None:
    names = [f"test {number}" for number in range(12)]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=record, args=(name,), kwargs={"count": 1}) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(catalogue.figures()) == sorted(names)


def test_no_figures_no_section(folder: Path) -> None:
    assert catalogue.figures() == {} and "Long figures" not in catalogue.document()
