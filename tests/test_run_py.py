"""run.py: the choice of torch, stamps, and agreement with pyproject.toml."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import run  # noqa: E402


def test_floor_and_pin_agree_with_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floor = ".".join(map(str, run.TORCH_FLOOR))
    assert f"torch>={floor}" in project["dependencies"]
    assert tuple(int(n) for n in run.TORCH_PIN.split(".")[:2]) >= run.TORCH_FLOOR
    assert project["requires-python"] == ">=3.11"


def test_only_the_standard_library() -> None:
    code = "import sys; sys.path.insert(0, '.'); import run; print(sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert not {"numpy", "pip", "pydantic", "rich", "torch"} & set(eval(done.stdout))


@pytest.mark.parametrize(
    ("words", "choice", "rest"),
    [
        (["--torch", "cpu", "tour"], "cpu", ["tour"]),
        (["tour", "--torch=skip", "--size", "gpu"], "skip", ["tour", "--size", "gpu"]),
        (["test", "-x"], None, ["test", "-x"]),
    ],
)
def test_torch_option(words: list[str], choice: str | None, rest: list[str]) -> None:
    assert run.take_torch(words) == (choice, rest)


def choose(
    monkeypatch: pytest.MonkeyPatch, *, nvidia: bool, offered: str, reachable: bool, platform: str = "linux"
):
    monkeypatch.setattr(run, "has_nvidia", lambda: nvidia)
    monkeypatch.setattr(run, "offered", lambda spec: offered)
    monkeypatch.setattr(run, "reachable", lambda host: reachable)
    monkeypatch.setattr(run.sys, "platform", platform)
    return run.choose_torch(None)


def test_site_that_offers_a_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, options, why = choose(
        monkeypatch, nvidia=False, offered="torch-2.13.0+cpu-cp311.whl", reachable=False
    )
    assert (spec, options) == (f"torch=={run.TORCH_PIN}", []) and "site" in why


def test_no_gpu_takes_the_cpu_index(monkeypatch: pytest.MonkeyPatch) -> None:
    _, options, _ = choose(monkeypatch, nvidia=False, offered="torch-2.13.0-cp311.whl", reachable=True)
    assert options == ["--extra-index-url", run.CPU_INDEX]


def test_no_gpu_and_no_index_warns_of_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    _, options, why = choose(monkeypatch, nvidia=False, offered="", reachable=False)
    assert options == [] and "GB" in why


@pytest.mark.parametrize(("nvidia", "platform"), [(True, "linux"), (False, "darwin"), (False, "win32")])
def test_gpu_and_other_systems_take_the_plain_build(
    monkeypatch: pytest.MonkeyPatch, nvidia: bool, platform: str
) -> None:
    _, options, _ = choose(monkeypatch, nvidia=nvidia, offered="x+cpu", reachable=True, platform=platform)
    assert options == []


@pytest.mark.parametrize(
    ("choice", "spec"), [("torch==2.12.1", "torch==2.12.1"), ("cuda", f"torch=={run.TORCH_PIN}")]
)
def test_choice_by_hand(choice: str, spec: str) -> None:
    assert run.choose_torch(choice)[0] == spec


def test_stamp_follows_extras() -> None:
    assert run.stamp("") != run.stamp("[test]") and run.stamp("") == run.stamp("")


def test_unknown_command_shows_the_usage() -> None:
    done = subprocess.run([sys.executable, ROOT / "run.py", "tuor"], capture_output=True, text=True)
    assert done.returncode == 2 and "python3 run.py tour" in done.stdout


def test_ci_calls_run_py_and_installs_at_most_the_sandbox() -> None:
    lines = [
        line
        for line in (ROOT / ".ci/run").read_text().split("\n")
        if line and not line.startswith(("#", "set", "cd"))
    ]
    assert lines[-1] == "exec python3 run.py test"
    assert [line.split()[:3] for line in lines[:-1]] == [["command", "-v", "bwrap"]]
    assert "||" in lines[0] and lines[0].endswith('|| echo "no bubblewrap here"')


@pytest.mark.parametrize(
    ("words", "selected"),
    [
        ([], ["not long and not alone", "alone and not long"]),
        (["-k", "x"], ["not long"]),
        (["--long"], []),
    ],
)
def test_every_test_is_run_once(
    words: list[str], selected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that are not long: side by side, and those that want the machine for themselves."""
    called: list[list[str]] = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(run.subprocess, "run", lambda command, **options: called.append(command[2:]) or done)
    monkeypatch.setattr(run, "audit", lambda: 0)
    assert run.test(words) == 0
    tests = [command for command in called if command[0] == "pytest"]
    assert [command[command.index("-m") + 1] for command in tests if "-m" in command] == selected
    assert len(tests) == max(1, len(selected))


REPORT = {
    "dependencies": [
        {"name": "sound", "version": "1.0", "vulns": []},
        {"name": "leaky", "version": "0.9", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.0", "1.1"]}]},
        {"name": "ours", "skip_reason": "not found"},
    ]
}


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        (
            json.dumps(REPORT),
            1,
            ["leaky 0.9: PYSEC-1, mended in 1.0, 1.1", "2 of 3 libraries looked up, 1 known holes"],
        ),
        (
            json.dumps({"dependencies": REPORT["dependencies"][:1]}),
            0,
            ["1 of 1 libraries looked up, 0 known holes"],
        ),
        (json.dumps({"dependencies": REPORT["dependencies"][2:]}), 0, ["cannot reach its data"]),
        ("", 0, ["cannot reach its data"]),
    ],
)
def test_known_holes_fail_and_a_missing_network_is_said(
    report: str,
    code: int,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = subprocess.CompletedProcess([], 0, stdout=report, stderr="")
    monkeypatch.setattr(run.subprocess, "run", lambda *arguments, **options: done)
    assert run.audit() == code
    printed = capsys.readouterr().out
    assert all(words in printed for words in said)
