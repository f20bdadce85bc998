"""`openqwen report`: what is given finds its place on the page; what cannot be shown is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_artefacts as tiny

from openqwen.cli import main
from openqwen.core.artifact import stage_run
from openqwen.core.config import Resolved
from openqwen.reward.config import RewardConfig


def made(path: Path, kind: str, inputs: dict[str, Path], config: object = None, **facts: object) -> Path:
    with stage_run(path, kind, Resolved(config or tiny.NoSettings(), {}), inputs) as run:  # type: ignore[arg-type]
        metrics = run.open_metrics()
        for step in range(1, 4):
            metrics.write(step, loss=1 / step, lr=1e-3, grad_norm=1.0)
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
