"""`openqwen report`: what is given finds its place on the page; what cannot be shown is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_artefacts as tiny

from openqwen.cli import main
from openqwen.core.artifact import stage_run, write_json
from openqwen.core.config import Resolved
from openqwen.core.tables import published
from openqwen.reward.config import RewardConfig


def filled(number: int, **cell: object) -> dict[str, object]:
    """A table of the report with a row of ours, its first cell given."""
    data = published(number)
    first = data["columns"][0]["name"]
    data["rows"].append({"model": "ours: mine", "origin": "ours", "cells": {first: cell}})
    return data


def made(path: Path, kind: str, inputs: dict[str, Path], config: object = None, **facts: object) -> Path:
    with stage_run(path, kind, Resolved(config or tiny.NoSettings(), {}), inputs) as run:  # type: ignore[arg-type]
        metrics = run.open_metrics()
        for step in range(1, 4):
            metrics.write(step, loss=1 / step, lr=1e-3, grad_norm=1.0)
        if kind == "reward":
            write_json(
                run.path / "table_04.json", filled(4, value=81.5, low=70.0, high=90.0, n=50, chance=50)
            )
        run.fact(**facts)
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer_artefact(Path("t"))
    for number in (1, 2):
        facts = {"bits_per_byte": 1.25, "parameters": 10, "tokens_seen": 20}
        made(Path(f"all/base-{number}"), "model", {"tokenizer": Path("t")}, **facts)
    made(Path("chat"), "model", {"data": Path("t")})
    made(Path("pmp"), "reward", {"model": Path("t")}, RewardConfig(label="PMP"))
    Path("empty").mkdir()
    return tmp_path


def test_each_artefact_finds_its_place(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", "all/base-1", "all/base-1", "chat", "pmp", "--out", "page", "--title", "My run"]
    assert main(words) == 0
    page = Path("page/report.html").read_text(encoding="utf-8")
    for section in ('id="base"', 'id="chat"', 'id="pmp"', "<h1>My run</h1>", "1.250", "10 parameters"):
        assert section in page
    assert 'id="reward"' not in page and "5-gram" not in page
    assert "70 to 90, n 50, chance 50" in page  # vouched for by the artefact it is in
    names = {path.name for path in Path("page/exhibits").iterdir()}
    assert names == {f"table_04_pmp.{form}" for form in ("md", "tex", "png", "svg")}


def test_filled_tables_stand_on_the_page_and_beside_it(runs: Path) -> None:
    """Folders of `openqwen table --out` are no artefacts; a cell without a card stays a dash there."""
    for folder, card in (("all/mine", {"manifest": "m"}), ("other", {})):
        Path(folder).mkdir()
        cell = {"value": 30.0, "low": 20.0, "high": 42.0, "n": 60, "chance": 25, **card}
        write_json(Path(folder, "table_02.json"), filled(2, **cell))
    assert main(["report", "all/mine", "other", "--out", "page"]) == 0
    page = Path("page/report.html").read_text(encoding="utf-8")
    one, other = page.split('id="filled-other"')
    assert 'id="filled-mine"' in one and "~30<small>20 to 42" in one and "~30" not in other
    written = {path.name for path in Path("page/exhibits").iterdir()}
    stems = ("table_02_mine", "figure_02_mine", "table_02_other")
    assert written == {f"{stem}.{form}" for stem in stems for form in ("md", "tex", "png", "svg")}
    assert "~30 [20, 42]" in Path("page/exhibits/figure_02_mine.md").read_text()
    assert "~30" not in Path("page/exhibits/table_02_other.md").read_text()
    Path("nest").mkdir()
    Path("other").rename("nest/other")
    assert main(["report", "nest", "--out", "again"]) == 0
    assert 'id="filled-other"' in Path("again/report.html").read_text(encoding="utf-8")
    Path("nest/other/table_02.json").write_text("[]")
    assert main(["report", "nest", "--out", "again"]) == 4


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 4, "no artefact that a page could show"),
        (["empty"], 4, "no artefact that a page could show"),
        (["absent"], 4, "no such folder"),
        (["all"], 2, "two artefacts for one place on the page (base): all/base-1 and all/base-2"),
        (["chat", "--titel", "x"], 2, "Did you mean 'title'?"),
    ],
)
def test_wrong_input_is_one_clear_error(
    runs: Path, words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words, "--out", "page"]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and not Path("page").exists()
