"""`openqwen show RECIPE` and `config show`: every setting with its value, its source, who set it; errors that help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_artefacts as tiny

from openqwen.cli import main
from openqwen.core.recipe import known_recipes, read_entries
from openqwen.stages import STAGES

OVER = {"tour-laptop": ("tour",), "tour-gpu": ("tour",)}  # recipes that are laid over another


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    """Stage and key -> record of a setting, from the JSON."""
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {f"{stage}.{row['key']}": row for stage, rows in found["stages"].items() for row in rows}


def test_the_report_stands_behind_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, "show", "qwen-7b")
    lr, beta2, rows = (
        found[f"pretrain.{key}"] for key in ("optim.lr", "optim.beta2", "model.vocab_multiple")
    )
    assert (lr["value"], lr["source"], lr["section"], lr["set_by"]) == (3e-4, "report", "Table 1", "default")
    assert (beta2["value"], beta2["source"], beta2["section"]) == (0.95, "report", "§2.4")
    assert (rows["value"], rows["default"], rows["source"]) == (128, 1, "released config")
    assert rows["place"].endswith("qwen-7b.toml:5")


@pytest.mark.parametrize("name", known_recipes())
def test_no_departure_carries_the_reports_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, "show", *OVER.get(name, ()), name)
    own = {entry.key: entry for below in (*OVER.get(name, ()), name) for entry in read_entries(below)}
    assert own.keys() <= found.keys(), "every value of the recipe is shown"
    for key, row in found.items():
        if key in own:
            assert row["set_by"].startswith("recipe ") and row["place"].endswith(f".toml:{own[key].line}")
        if row["value"] != row["default"]:
            said = " ".join(filter(None, (row["source"], row["section"])))
            assert said == own[key].source
        else:
            assert row["default_source"] == " ".join(filter(None, (row["source"], row["section"])))


def test_a_persons_recipe_has_no_source_but_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[pretrain]\ncontext = 1024\n[pretrain.optim]\nlr = 1e-3\n")
    assert main(["show", str(path)]) == 0
    lines = {line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert lines["optim.lr"] == "optim.lr 0.001 recipe mine (report Table 1 has 0.0003) recipe mine, line 4"
    assert lines["optim.clip"] == "optim.clip 1.0 tech memo default"
    assert shown(capsys, "show", str(path), "--changed").keys() == {"pretrain.optim.lr", "pretrain.context"}
    assert shown(capsys, "show", str(path))["pretrain.optim.lr"]["source"] is None


def test_only_what_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "qwen-7b", "--changed"]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    assert main(["show", "tour"]) == 0
    everything = capsys.readouterr().out
    assert all(f"[{name}]" in everything for name in STAGES if name in ("primer", "pretrain", "ppo"))
    assert "[agent]" not in everything, "the tour's recipe has no table for it"


def test_the_last_recipe_counts(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, "show", "tour", "tour-laptop")
    steps, rate = found["pretrain.steps"], found["pretrain.optim.lr"]
    assert (steps["value"], steps["set_by"]) == (2000, "recipe tour-laptop")
    assert (rate["value"], rate["set_by"]) == (4e-3, "recipe tour")


def test_environment_and_flags_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENQWEN_PPO__TOP_P", "0.7")
    assert main(["config", "show", "ppo", "--changed", "--json", "--kl-coef", "0.1"]) == 0
    found = {row["key"]: row for row in json.loads(capsys.readouterr().out)["ppo"]}
    assert found["top_p"]["set_by"] == "environment OPENQWEN_PPO__TOP_P"
    assert found["kl_coef"]["set_by"] == "flag --kl_coef"
    assert found["kl_coef"]["default_source"] == "report §3.2.2" and found["kl_coef"]["source"] is None


def test_an_artefact_comes_before_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer_artefact(Path("tour"))
    assert main(["show", "tour"]) == 0
    assert "tokenizer" in capsys.readouterr().out.split()
    assert main(["show", "tour", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "tokenizer"
    Path("tour/DONE").unlink()
    assert main(["show", "tour"]) == 4
    assert "not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["show", "tuor"], 4, "no artefact and no recipe 'tuor'. Did you mean 'tour'?"),
        (["show", "folder"], 4, "this folder is neither an artefact nor a recipe"),
        (["show", "notes.txt"], 4, "this file is neither an artefact nor a recipe"),
        (["show", "lora-nf4"], 2, "a recipe, and a folder that holds no artefact"),
        (["show", "bad.toml"], 2, "unknown stage [pretrian]. Did you mean 'pretrain'?"),
        (["show", "empty.toml"], 2, "nothing is set there"),
        (["show", "qwen-7b", "--verify"], 2, "--verify is for artefacts"),
        (["show", "made", "--changed"], 2, "--changed is for recipes"),
        (["show", "made", "qwen-7b"], 2, "several names are for recipes"),
        (["config", "show", "sft", "--recipe", "bad.toml"], 2, "bad.toml:1"),
    ],
)
def test_wrong_input_is_one_clear_error(
    words: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "lora-nf4"):
        Path(folder).mkdir()
    tiny.tokenizer_artefact(Path("made"))
    Path("notes.txt").write_text("x")
    Path("empty.toml").write_text("# nothing\n")
    Path("bad.toml").write_text("[pretrian]\nsteps = 3\n")
    assert main(words) == code
    seen = capsys.readouterr()
    assert seen.err.startswith("error: ") and text in seen.err and not seen.out
    assert seen.err.count("\n") <= 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OPENQWEN_PRETRIAN__STEPS", "Did you mean 'PRETRAIN'?"),
        ("OPENQWEN_PRETRAIN_STEPS", "OPENQWEN_PRETRAIN__STEPS, or unset it"),
        ("OPENQWEN_PRETRAIN__STEPZ", "Did you mean 'steps'?"),
        ("OPENQWEN_PRETRAIN__MODEL__HIDEN_SIZE", "Did you mean 'model.hidden_size'?"),
    ],
)
def test_a_variable_that_sets_nothing_is_refused(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "3")
    for words in (["show", "qwen-7b"], ["config", "show", "pretrain"], ["plan", "qwen-7b"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert name in error and text in error


def test_other_variables_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OPENQWEN_API_KEY", "OPENQWEN_HOME"):
        monkeypatch.setenv(name, "x")
    assert main(["config", "show", "pretrain"]) == 0
