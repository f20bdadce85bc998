"""The command line: fast help, one-line errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openqwen.cli import COMMANDS, main
from openqwen.cli.common import dotted
from openqwen.core.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def cli(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "openqwen", *words], capture_output=True, text=True, cwd=cwd)


def test_help_is_light_and_in_the_reports_order() -> None:
    code = (
        "import sys; from openqwen.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'tokenizers'} & set(sys.modules)\n"
        "print('LOADED', heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "LOADED set()" in done.stdout, done.stdout + done.stderr
    places = [done.stdout.find(f"\n│ {name} ") for name, _, _ in COMMANDS]
    assert -1 not in places and places == sorted(places)


@pytest.mark.parametrize("name", [name for name, _, _ in COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_no_help_page_loads_torch() -> None:
    code = (
        "import sys; from openqwen.cli import COMMANDS, main\n"
        "for name, _, _ in COMMANDS: main([name, '--help'])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done.stderr


WRONG = {
    "unknown command": (["pretran"], 2, "Did you mean 'pretrain'"),
    "unknown flag value": (["table", "four"], 2, "four"),
    "missing input": (["pack"], 2, "--corpus"),
    "unknown setting": (["config", "show", "ppo", "--kl_coeff", "1"], 2, "kl_coef"),
    "other trainers' name": (["config", "show", "sft", "--learning_rate", "1"], 2, "optim.lr"),
    "impossible value": (["config", "show", "ppo", "--top_p", "1.5"], 2, "top_p = 1.5"),
    "unknown stage": (["config", "show", "pretraining"], 2, "Did you mean 'pretrain'"),
    "unknown recipe": (["config", "show", "ppo", "--recipe", "tuor"], 2, "Did you mean 'tour'"),
    "setting without value": (["config", "show", "ppo", "--top_p"], 2, "needs a value"),
    "not an artefact": (["show", "README.md"], 4, "README.md"),
    "no table": (["table", "4", "--run", "/nonexistent"], 4, "Table 4"),
    "no model": (["chat", "/nonexistent/model"], 4, "/nonexistent/model"),
}


@pytest.mark.fault("command line", "commands and flags that do not exist", "one clear error, exit code 2")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, code, text = WRONG[name]
    assert main(words) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and "Traceback" not in error


@pytest.mark.fault("command line", "a recipe has an unknown key", "its line and the nearest name")
def test_unknown_key_in_a_recipe_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[pretrain]\nsteps = 3\nstepz = 4\n")
    assert main(["config", "show", "pretrain", "--recipe", str(path)]) == 2
    assert f"{path}:3" in capsys.readouterr().err


def test_unknown_stage_in_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[pretrian]\nsteps = 3\n")
    assert main(["tour", "--plan", "--recipe", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "Did you mean 'pretrain'" in capsys.readouterr().err


def test_config_show_names_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "ppo", "--recipe", "tour", "--top_p", "0.8"]) == 0
    shown = capsys.readouterr().out
    assert "report §3.2.2" in shown and "recipe tour" in shown and "flag --top_p" in shown


def test_plan_of_a_stage_reports_missing_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "pack",
        "--corpus",
        str(tmp_path / "no"),
        "--tokenizer",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
        "--plan",
    ]
    assert main(words) == 2
    assert "nothing at" in capsys.readouterr().out and not (tmp_path / "o").exists()


def test_tour_plan_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tour", "--plan", "--out", str(tmp_path / "t")]) == 0
    assert capsys.readouterr().out.count("would run") == 13 and not (tmp_path / "t").exists()


@pytest.mark.parametrize("size", ["small", "laptop", "gpu"])
def test_every_size_of_the_tour_is_valid(size: str, tmp_path: Path) -> None:
    assert main(["tour", "--plan", "--size", size, "--out", str(tmp_path)]) == 0


def test_dotted_settings() -> None:
    assert dotted(["--optim.lr", "2e-4", "--steps=10", "--batch-size", "3"]) == {
        "optim.lr": "2e-4",
        "steps": "10",
        "batch_size": "3",
    }
    with pytest.raises(UsageError, match="unexpected word"):
        dotted(["lr"])


@pytest.mark.fault("command line", "the reader of the output goes away", "ends quietly")
def test_closed_pipe_is_quiet() -> None:
    line = f"{sys.executable} -m openqwen config show ppo | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""


def test_runs_lists_artefacts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "no finished artefact" in capsys.readouterr().out
    made = main(
        [
            "data",
            "primer",
            "--out",
            str(tmp_path / "p"),
            *["--pages", "100", "--sft_train", "50", "--sft_heldout", "10"],
        ]
    )
    assert made == 0
    capsys.readouterr()
    assert main(["runs", str(tmp_path)]) == 0 and main(["show", str(tmp_path / "p")]) == 0
    assert "primer" in capsys.readouterr().out
