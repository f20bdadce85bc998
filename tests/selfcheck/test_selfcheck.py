"""`openqwen selfcheck` holds as shipped, and each well-known bug makes the right check fail."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import plants
import pytest
import torch

from openqwen.__main__ import main
from openqwen.model import hf
from openqwen.selfcheck import background, checks
from openqwen.selfcheck.bed import Bed
from openqwen.selfcheck.checks import CHECKS
from openqwen.selfcheck.result import Check, Comparison, Result, Skip, make

NAMED = {check.name: check for check in CHECKS}


def result(name: str, folder: Path) -> Result:
    bed = Bed(folder)
    try:
        return make(NAMED[name], bed)
    finally:
        bed.stop()


@pytest.fixture
def no_code_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generating and compiling C++ takes half a minute of a processor."""
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)


@pytest.mark.slow
def test_as_shipped_everything_holds(
    tmp_path: Path, no_code_generator: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_deterministic_debug_mode(), torch.get_num_threads(), torch.get_rng_state()
    code = main(["selfcheck", "--json", str(tmp_path / "result.json")])
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "result.json").read_text())
    assert code == 0 and record["ok"], shown
    by_name = {check["name"]: check for check in record["checks"]}
    assert list(by_name) == list(NAMED)
    for name, check in by_name.items():
        assert name in shown
        if check["status"] == "skipped":
            assert check["skipped"] in shown and not check["comparisons"]
            continue
        assert check["status"] == "ok" and check["comparisons"]
        for comparison in check["comparisons"]:
            # The bound is far from what was found, so that another processor's rounding does not fail it ...
            assert comparison["difference"] <= comparison["bound"] / 5
            assert comparison["bound"] <= 1e-3
            assert comparison["what"] in shown
    assert by_name["Hugging Face round trip"]["status"] == "ok"  # a test dependency: must not be skipped here
    assert "same bits" in shown and "2e-05" in shown and "aot_eager, because no C++ compiler" in shown
    after = torch.get_deterministic_debug_mode(), torch.get_num_threads(), torch.get_rng_state()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


@pytest.mark.parametrize("name", plants.PLANTS)
def test_a_planted_bug_fails_its_check(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function, code = plants.plant(name)
    monkeypatch.setattr(function, "__code__", code)
    found = result(plants.PLANTS[name].check, tmp_path)
    assert found.status == "FAILED"
    assert found.error is None  # a difference was seen; the code did not merely break
    assert any(c.difference > 10 * c.bound for c in found.comparisons)


@pytest.mark.slow
def test_bugs_of_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = str(Path(__file__).with_name("planted_worker.py"))
    monkeypatch.setattr(background, "WORKER", (sys.executable, worker))
    found = result("number of processes", tmp_path)
    assert found.error is None
    assert [c.ok for c in found.comparisons] == [False, True, False]  # the loss is only shown, never averaged


def test_gate_and_up_swapped_on_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    names = hf._BLOCK["qwen2"]
    gate, up = names["mlp.gate.weight"], names["mlp.up.weight"]
    monkeypatch.setitem(names, "mlp.gate.weight", up)
    monkeypatch.setitem(names, "mlp.up.weight", gate)
    assert result("save and load", tmp_path / "own").status == "ok"  # twice swapped: only others see it
    found = result("Hugging Face round trip", tmp_path / "theirs")
    assert [c.ok for c in found.comparisons] == [False, False, True]


def _a_little_more(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *values: function(*values) * 1.001


def test_a_wrong_compiler_is_found(
    tmp_path: Path, no_code_generator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda f, **_: _a_little_more(f))
    found = result("compile", tmp_path)
    assert found.status == "FAILED" and not all(c.ok for c in found.comparisons)


def test_what_is_missing_is_skipped_and_never_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    found = result("Hugging Face round trip", tmp_path)
    assert found.status == "skipped" and "pip install" in str(found.skipped)


def test_a_failing_check_sets_the_exit_code_and_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    function, code = plants.plant("user turns trained")
    monkeypatch.setattr(function, "__code__", code)
    assert main(["selfcheck", "loss mask", "chunked loss", "--json", str(tmp_path / "r.json")]) == 1
    shown = capsys.readouterr().out
    assert "FAILED loss mask: ids and trained tokens" in shown and "look at openqwen/chat/chatml.py" in shown
    assert "1 ok  1 FAILED" in shown
    statuses = {
        check["name"]: check["status"] for check in json.loads((tmp_path / "r.json").read_text())["checks"]
    }
    assert statuses == {"loss mask": "FAILED", "chunked loss": "ok"}


def test_an_unknown_check_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfcheck", "packin"]) == 2
    assert "Did you mean 'packing'?" in capsys.readouterr().err


# ---- the frame ---------------------------------------------------------------------------------------------------
def test_statuses() -> None:
    def nothing(bed: None) -> Iterator[Comparison]:
        return iter(())

    def raises(bed: None) -> Iterator[Comparison]:
        raise ValueError("odd\nmore")

    def lacks(bed: None) -> Iterator[Comparison]:
        raise Skip("no such thing here")

    made = [make(Check("x", run, "y"), None) for run in (nothing, raises, lacks)]
    assert [r.status for r in made] == ["FAILED", "FAILED", "skipped"]
    assert str(made[1].error).startswith("ValueError: odd (test_selfcheck.py:")
    nan = Comparison("x", float("nan"), 1.0)
    assert not nan.ok and not Comparison("x", float("inf"), 1.0).ok and Comparison("x", 0.0, 0.0).ok


def test_a_difference_is_a_share_of_its_own_tensor() -> None:
    truth = {"large": torch.tensor([100.0, 1.0]), "small": torch.tensor([1e-3, 0.0]), "zero": torch.zeros(2)}
    ours = {name: value.clone() for name, value in truth.items()}
    ours["small"][1] = 1e-5
    found = checks.same("x", ours, truth, 1e-3)
    assert found.place == "small" and found.difference == pytest.approx(1e-2) and not found.ok
    ours["zero"][0] = float("nan")
    assert checks.same("x", ours, truth, 1e-3).difference == float("inf")
    assert checks.same("x", {"large": truth["large"]}, truth, 1.0).difference == float("inf")


def test_a_code_generator_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WORKER", (sys.executable, "-c", "raise ValueError('lost')"))
    found = result("compile", tmp_path)
    assert found.status == "ok" and "aot_eager, because inductor failed" in found.comparisons[0].what


def test_a_process_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WORKER", (sys.executable, "-c", "raise ValueError('lost')"))
    found = result("number of processes", tmp_path)
    assert found.status == "FAILED" and "ValueError: lost" in str(found.error)


def test_processes_are_ended_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WORKER", (sys.executable, "-c", "import time; time.sleep(600)"))
    begun = time.monotonic()
    workers = background.start("processes", tmp_path / "w", 2)
    assert not workers.wait(0.3) and time.monotonic() - begun < 30
    assert all(process.poll() is not None for process in workers.running)
