"""Policies side by side and PPO without each of its tricks: every number of the tables computed again another way."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import letters
import pytest
import tiny_artefacts as tiny
import torch

from openqwen.cli import main
from openqwen.cli.alignment import models as named
from openqwen.cli.report import inputs_of
from openqwen.core.artifact import Artifact, load, read_jsonl, stage_run, write_json
from openqwen.core.config import Resolved, resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.core.shards import open_tokens
from openqwen.model.weights import load_model
from openqwen.report import stage as report
from openqwen.report.config import ReportConfig
from openqwen.rlhf import comparison, dpo, loop
from openqwen.rlhf.ablation import GAIN, RISEN, WHOLE, folder_of, table, variants
from openqwen.rlhf.comparison import best_of_kl
from openqwen.rlhf.config import CompareConfig, DPOConfig, PPOConfig
from openqwen.tokenizer import load_tokenizer
from openqwen.train.loader import batch_at

TINY: dict[str, Any] = {
    "drawing.max_new_tokens": 12,
    "drawing.rows": 32,
    "max_prompt": 40,
    "max_prompts": 24,
    "best_of": (4,),
    "text_tokens": 128,
    "text_context": 32,
    "true_reward": "primer",
    "precision": "fp32",
}
QUESTIONS = [
    {"task": "fact", "lang": "en", "answer": "a", "messages": letters.query(number)} for number in range(6)
]


def config(**changes: object) -> Resolved[CompareConfig]:
    return resolve(CompareConfig, "compare", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compared")
    flags = {"max_length": 64, "optim.lr": 2e-3, "batch_size": 32, "max_pairs": 320, "precision": "fp32"}
    resolved = resolve(DPOConfig, "dpo", flags=flags, environ={})
    dpo.run(resolved, {name: world[name] for name in ("policy", "pairs", "heldout")}, folder / "dpo")
    return {
        "model-chat": world["policy"],
        "model-dpo": folder / "dpo",
        "reward": world["reward"],
        "prompts": world["prompts"],
        "tokens": world["tokens"],
        "questions": letters.write(folder / "questions.jsonl", QUESTIONS),
    }


@pytest.fixture(scope="module")
def likes_a() -> Any:
    """The true reward of the world of letters in the place of the primer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loop.TRUE_SCORES, "primer", lambda item, reply: float(letters.liking(reply)))
        yield


@pytest.fixture(scope="module")
def made(inputs: dict[str, Path], likes_a: None, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return comparison.run(config(), inputs, tmp_path_factory.mktemp("whole") / "comparison")


def test_the_methods_stand_in_the_right_order(made: Artifact) -> None:
    rows: Mapping[str, Mapping[str, float]] = made.manifest["facts"]["rows"]
    assert list(rows) == ["chat", "best of 4", "dpo"]
    chat, best, trained = rows.values()
    assert best["true"] > chat["true"] + 0.3 and trained["true"] > chat["true"] + 0.3
    assert best["reward"] > chat["reward"] and trained["reward"] > chat["reward"]
    assert chat["win_rate"] is None and best["win_rate"] > 55 and trained["win_rate"] > 55
    assert chat["kl"] == chat["tax"] == 0.0 and trained["kl"] > 0.1 and trained["tax"] > 0.0
    assert best["tax"] is None and best["answered"] is None  # its weights are the chat model's
    assert best["kl"] == pytest.approx(math.log(4) - 0.75)


def test_a_row_is_what_its_replies_and_its_text_say(made: Artifact, inputs: dict[str, Path]) -> None:
    rows = list(read_jsonl(made.path / "rows.jsonl"))
    means = made.manifest["facts"]["rows"]
    model, text = load_model(inputs["model-dpo"]), open_tokens(inputs["tokens"], "valid")
    losses = []
    for number in range(128 // 32):
        ids = batch_at(text, number, 1, 32, 1)
        with torch.no_grad():
            logits = model(ids[:, :-1])
        losses.append(torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).item())
    assert rows[2]["text_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert means["dpo"]["tax"] == pytest.approx(rows[2]["text_loss"] - rows[0]["text_loss"])
    for row in rows:
        assert len(row["true"]) == len(row["reward"]) == 24 and len(row["finished"]) == 48
        assert means[row["model"]]["true"] == pytest.approx(sum(row["true"]) / 24)
    wins = sum(a > b for a, b in zip(rows[2]["true"], rows[0]["true"]))
    ties = sum(a == b for a, b in zip(rows[2]["true"], rows[0]["true"]))
    assert means["dpo"]["win_rate"] == pytest.approx(100 * (wins + ties / 2) / 24)
    assert len(rows[0]["answered"]) == 6
    assert rows[0]["samples"][0]["prompt"] == rows[2]["samples"][0]["prompt"]


def test_the_table_is_what_other_tables_are(made: Artifact) -> None:
    data = json.loads((made.path / "policies.json").read_text())
    names = {column["name"] for column in data["columns"]}
    assert {"true reward", "modelled reward", "KL, nats a reply", "win rate, %", "questions, %"} <= names
    for row in data["rows"]:
        assert row["origin"] == "ours" and row["cells"].keys() <= names
        cell = row["cells"]["true reward"]
        assert cell["low"] <= cell["value"] <= cell["high"] and cell["n"] == 24
        assert all(cell["manifest"] == made.fingerprint for cell in row["cells"].values())


def test_the_page_shows_them(made: Artifact, inputs: dict[str, Path], tmp_path: Path) -> None:
    found = inputs_of([str(made.path), str(inputs["model-dpo"])])
    assert found == {"comparison": made.path, "dpo": inputs["model-dpo"]}
    report.run(resolve(ReportConfig, "report", environ={}), found, tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Policies side by side" in page and "best of 4" in page
    assert "implicit reward of the preferred reply" in page


@pytest.mark.fault(
    "evaluation",
    "a comparison of policies breaks in the middle",
    "the same bits, no finished row measured twice",
)
def test_a_broken_comparison_goes_on(
    made: Artifact, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = comparison.measure, []

    def broken(*args: Any) -> Any:
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(comparison, "measure", broken)
    with pytest.raises(KeyboardInterrupt):
        comparison.run(config(), inputs, tmp_path / "comparison")
    again = comparison.run(config(), inputs, tmp_path / "comparison")
    assert calls == ["chat", "best of 4", "dpo", "dpo"] and again.content == made.content


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_bound_on_the_kl_of_best_of_n_holds_and_is_near_without_ties(count: int) -> None:
    """The best of n of 400 equally likely replies, no two alike: its distribution is known."""
    size = 400
    chosen = [((place + 1) / size) ** count - (place / size) ** count for place in range(size)]
    exact = sum(p * math.log(p * size) for p in chosen)
    assert exact <= best_of_kl(count) <= exact + 0.01


def test_models_are_named_by_hand_or_by_their_folder() -> None:
    assert named(["chat=out/a", "out/ppo"]) == {"model-chat": Path("out/a"), "model-ppo": Path("out/ppo")}
    with pytest.raises(UsageError, match="two models are called ppo"):
        named(["ppo=a", "b/ppo"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("dpo --policy {reward} --pairs {prompts} --heldout {prompts}", "a model artefact is needed"),
        ("rft --policy {model-chat} --reward {model-dpo} --prompts {prompts}", "a reward artefact is needed"),
        ("rrhf --policy {reward} --reward {reward} --prompts {prompts}", "a model artefact is needed"),
        (
            "compare --model a={reward} --reward {reward} --prompts {prompts} --tokens {tokens}",
            "a model artefact",
        ),
    ],
)
def test_a_plan_says_that_an_input_is_of_the_wrong_kind(
    command: str, message: str, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(**inputs) for word in command.split()]
    assert main([*words, "--out", str(tmp_path / "out"), "--plan"]) == 2
    assert message in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("evaluation", "policies that are compared have different tokenizers", "refused")
def test_what_does_not_belong_together_is_refused(
    made: Artifact, inputs: dict[str, Path], likes_a: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no model is to be compared"):
        comparison.run(config(), {k: v for k, v in inputs.items() if "model" not in k}, tmp_path / "a")
    other = load_tokenizer(inputs["model-dpo"])
    other.content = "another"
    monkeypatch.setattr(comparison, "load_tokenizer", lambda path: other)
    with pytest.raises(DataError, match="another tokenizer than the first"):
        comparison.run(config(max_prompts=2), inputs, tmp_path / "b")
    with pytest.raises(UsageError, match="needs different numbers from 2 on"):
        config(best_of=(1,))


# ---- ablation ----------------------------------------------------------------------------------------------------
def test_each_variant_leaves_out_one_trick_and_keeps_the_number_of_replies() -> None:
    base = PPOConfig()
    found = variants(base)
    assert len(found) == 7 and found[WHOLE] == {}
    assert len({folder_of(name, 1) for name in found}) == 7
    for name, changes in found.items():
        changed = resolve(PPOConfig, "ppo", flags=changes, environ={}).config
        assert changed.rows == base.rows
        differs = {k for k in type(base).model_fields if getattr(changed, k) != getattr(base, k)}
        assert differs == changes.keys(), name


def test_the_ablations_table_is_means_over_seeds(tmp_path: Path) -> None:
    rng = random.Random(0)
    keys, made = [*comparison.COLUMNS], []
    for seed in (1, 2, 3):
        rows = {name: {key: rng.uniform(0, 2) for key in keys} for name in ("x", "y z")}
        rows = {"chat": {**dict.fromkeys(keys, 1.0), "win_rate": None}, **rows}
        with stage_run(tmp_path / str(seed), "comparison", Resolved(tiny.NoSettings(), {}), {}) as stage:
            write_json(stage.path / "policies.json", seed)
            stage.fact(rows=rows)
        made.append(load(tmp_path / str(seed), "comparison"))
    by_seed = [found.manifest["facts"]["rows"] for found in made]
    cells = {row["model"]: row["cells"] for row in table(made)["rows"]}
    for name in ("x", "y z"):
        trues = [rows[name]["true"] for rows in by_seed]
        cell = cells[name]["true reward"]
        assert cell["value"] == pytest.approx(sum(trues) / 3)
        assert (cell["low"], cell["high"]) == (min(trues), max(trues)) and cell["manifest"]
        assert cells[name][GAIN]["value"] == pytest.approx(sum(trues) / 3 - 1.0)
        assert cells[name][RISEN.format(3)]["value"] == sum(value > 1.0 for value in trues)
    assert "win rate, %" not in cells["chat"]


def test_the_ablation_runs_each_variant_once(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "# source: ours\n[ppo]\nsteps = 1\nvalue_warmup_steps = 1\nprompts_per_step = 2\nmax_new_tokens = 6\n"
        "max_prompt = 40\nminibatches = 1\npretrain_batch = 1\npretrain_context = 16\nheldout = 2\n"
        'eval_tokens = 16\nprecision = "fp32"\n[compare]\nmax_prompts = 3\nmax_prompt = 40\ntext_tokens = 32\n'
        'text_context = 16\nprecision = "fp32"\n[compare.drawing]\nmax_new_tokens = 6\n'
    )
    words = ["ablate", "ppo", "--policy", inputs["model-chat"], "--seeds", "1", "--recipe", recipe]
    for name in ("reward", "prompts", "tokens"):
        words += [f"--{name}", inputs[name]]
    words += ["--heldout", inputs["prompts"], "--out", tmp_path / "ablation"]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert "PPO without each of its tricks" in shown and "no value clipping" in shown
    assert re.search(r"no value clipping +│ ours +│ -?[0-9]", shown)  # numbers, not dashes
    runs = sorted(path.parent.name for path in (tmp_path / "ablation").glob("*/DONE"))
    assert runs == sorted(
        [folder_of("comparison", 1), *(folder_of(name, 1) for name in variants(PPOConfig()))]
    )
    found = inputs_of([str(tmp_path / "ablation" / folder_of(WHOLE, 1))])
    assert list(found) == ["rlhf"]
    report.run(resolve(ReportConfig, "report", environ={}), found, tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text()
    for shown in (
        "whole distributions",
        "explained variance of values",
        "clipped tokens, share",
        "ratio to the",
    ):
        assert shown in page
    assert "the alignment tax is its rise" in page and "The watchdog named: nothing." in page
    (tmp_path / "ablation" / "no-value-clipping-1" / "DONE").unlink()
    assert main([str(word) for word in words]) == 0
    assert (
        capsys.readouterr().out.count("is already made") == 7
    )  # six runs of PPO and the comparison of equal bits
