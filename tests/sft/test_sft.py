"""Finetuning teaches to answer and to stop, and resumes in the same bits."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import tiny_artefacts as tiny
import torch
from safetensors.torch import load_file

from openqwen.cli import main
from openqwen.core.artifact import find, load
from openqwen.core.config import Resolved, fields_without_source, resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.model.weights import load_model
from openqwen.sft.config import SFTConfig, stages_of
from openqwen.sft.loop import run
from openqwen.tokenizer import load_tokenizer
from openqwen.train.lora import load_adapter, merge

TINY = {
    "optim.lr": 1e-2,
    "schedule.warmup_steps": 5,
    "max_length": 300,
    "batch_size": 4,
    "micro_batch": 3,
    "steps": 24,
    "heldout_samples": 8,
    "eval_interval": 8,
    "checkpoint_interval": 5,
    "num_samples": 2,
    "sample_tokens": 6,
}


def config(**changes: object) -> Resolved[SFTConfig]:
    return resolve(SFTConfig, "sft", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sft")
    return {
        "model": tiny.model_artefact(folder / "base"),
        "data": tiny.conversations(folder / "data.jsonl", 0, 120),
    }


@pytest.fixture(scope="module")
def uninterrupted(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "chat"
    run(config(), inputs, out)
    return out


def test_defaults_are_the_reports() -> None:
    assert not fields_without_source(SFTConfig)
    default = SFTConfig()
    assert (default.max_length, default.batch_size, default.steps) == (2048, 128, 4000)
    assert (default.schedule.warmup_steps, default.optim.lr, default.dropout) == (1430, 2e-6, 0.1)
    assert (default.optim.weight_decay, default.optim.clip, default.mask) == (0.1, 1.0, "report")
    assert (default.optim.beta1, default.optim.beta2, default.optim.eps) == (0.9, 0.95, 1e-8)


def test_it_learns_and_leaves_a_chat_model(uninterrupted: Path) -> None:
    artifact = load(uninterrupted, "model")
    facts = artifact.manifest["facts"]
    assert facts["heldout_loss"] < 0.4 * facts["heldout_loss_before"]
    assert facts["samples"] == {"data": 120} and facts["heldout_samples"] == 8 and facts["skipped"] == {}
    assert facts["trained_tokens"] == {"data": sum(len(text.split()[-1]) for text in tiny.sums(0, 120))}
    assert facts["max_length"] == 300 == load_model(uninterrupted).config.max_length
    assert facts["stopped_by_itself"] == 1.0 and facts["stop_prompts"] == 8
    samples = [json.loads(line) for line in (uninterrupted / "samples.jsonl").read_text().split("\n") if line]
    assert [s["label"] for s in samples] == ["before"] * 2 + ["after"] * 8
    assert all(s["text"].isdigit() for s in samples if s["label"] == "after")
    assert load_tokenizer(uninterrupted).content == tiny.byte_tokenizer().content
    assert not (uninterrupted / "checkpoints").exists()


@pytest.mark.fault("training", "finetuning is broken off and started again", "same bits")
def test_killed_and_restarted_it_ends_in_the_same_bits(
    inputs: dict[str, Path], uninterrupted: Path, tmp_path: Path
) -> None:
    out, rng = tmp_path / "chat", random.Random(3)
    for step in (2, 9, 19):
        process = tiny.in_process(run, config(), inputs, out)
        tiny.wait_for_step(out, process, step)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        assert find(out) is None
    process = tiny.in_process(run, config(), inputs, out)
    process.join(120)
    assert process.exitcode == 0
    a, b = load(uninterrupted, "model"), load(out, "model")
    assert (a.path / "metrics.jsonl").read_text() == (b.path / "metrics.jsonl").read_text()
    assert a.content == b.content
    assert a.manifest["facts"]["checkpoint"] == b.manifest["facts"]["checkpoint"]


def test_packing_and_micro_batches_do_not_change_the_first_loss(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """All samples in one batch: however they are laid out, it is the same loss."""
    few = {**inputs, "data": tiny.conversations(tmp_path / "few.jsonl", 1, 20)}
    losses = []
    for number, layout in enumerate(
        (
            {"packing": True, "batch_size": 1, "max_length": 3_000, "micro_batch": 1},
            {"packing": False, "batch_size": 18},
        )
    ):
        flags = {**layout, "steps": 1, "schedule.warmup_steps": 0, "dropout": 0.0, "precision": "fp32"}
        losses.append(run(config(**flags), few, tmp_path / str(number)).metrics[1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bad_input_is_refused_before_anything_is_written(inputs: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"messages": []}\n' * 3)
    with pytest.raises(DataError, match="3 of 3 records cannot be used"):
        run(config(), {**inputs, "data": data}, tmp_path / "out")
    with pytest.raises(DataError, match="a model artefact is needed"):
        run(config(), {**inputs, "model": tiny.tokenizer_artefact(tmp_path / "tok")}, tmp_path / "out")
    with pytest.raises(UsageError, match="leaves none"):
        config(**{"schedule.warmup_steps": 24})
    assert not (tmp_path / "out").exists()


def test_files_are_mixed_but_counted_and_measured_apart(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Safety and tools as inputs of their own: in the same rows, with counts, tokens and held-out loss by source."""
    safety = tmp_path / "safety.jsonl"
    ask = {"role": "user", "content": "how do I hurt him?"}
    talk = [{"messages": [ask, {"role": "assistant", "content": "No."}]}] * 30 + [{"messages": [ask]}]
    safety.write_text("\n".join(map(json.dumps, talk)))
    call = {"from": "function_call", "value": '{"name": "clock", "arguments": {}}'}
    turns = [{"from": "human", "value": "t?"}, call, {"from": "observation", "value": "1"}]
    tool = {"conversations": [*turns, {"from": "gpt", "value": "1."}], "tools": [{"name": "clock"}]}
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([tool] * 30))
    flags = {
        "max_length": 2000,
        "heldout_samples": 18,
        "steps": 6,
        "schedule.warmup_steps": 0,
        "stop_prompts": 2,
    }
    made = run(config(**flags), {**inputs, "safety": safety, "tools": tools}, tmp_path / "chat")
    facts, last = made.manifest["facts"], made.metrics[-1]
    assert facts["samples"] == {"data": 120, "tools": 30, "safety": 30}
    assert facts["skipped"] == {"the conversation has no reply at its end": 1}
    assert facts["trained_tokens"]["safety"] == 30 * len("No.") + 30  # and the end of each turn
    parts = {name: value for name, value in last.items() if name.startswith("heldout_loss/")}
    assert set(parts) == {"heldout_loss/data", "heldout_loss/tools", "heldout_loss/safety"}
    assert min(parts.values()) < last["heldout_loss"] < max(parts.values())
    assert json.loads((made.path / "skipped.jsonl").read_text())["line"] == 31


STAGES = """
[sft]
steps = 4
batch_size = 4
sample_tokens = 2
num_samples = 1
stop_prompts = 2
stages = [{ name = "general" }, { name = "code", steps = 6, "optim.lr" = 2e-3, micro_batch = 2 }]
[sft.schedule]
warmup_steps = 1
[sft.optim]
lr = 1e-3
"""


def test_several_finetunings_are_one_recipe(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, code = tmp_path / "code.toml", tiny.conversations(tmp_path / "code.jsonl", 5, 40)
    recipe.write_text(STAGES)
    words = ["sft", "--model", str(inputs["model"]), "--recipe", str(recipe), "--out", str(tmp_path / "chat")]
    data = ["--data", f"general={inputs['data']}", "--data", f"code={code}"]
    assert main([*words, *data, "--plan"]) == 0 and not (tmp_path / "chat").exists()
    assert main([*words, *data]) == 0
    first, last = load(tmp_path / "chat-general", "model"), load(tmp_path / "chat", "model")
    assert last.manifest["inputs"]["model"]["content"] == first.content
    assert [a.manifest["facts"]["samples"]["data"] for a in (first, last)] == [120, 40]
    assert [a.metrics[-1]["step"] for a in (first, last)] == [4, 6]
    origin = json.loads((last.path / "origin.json").read_text())
    assert (
        origin["steps"]
        == origin["optim.lr"]
        == origin["batch_size"]
        == origin["micro_batch"]
        == "recipe code"
    )
    capsys.readouterr()
    assert main([*words, *data]) == 0 and capsys.readouterr().out.count("already made") == 2
    for wrong in (
        data[:2],
        [*data[:3], f"maths={code}"],
        ["--data", str(code)],
        [*data, "--data", f"code={code}"],
    ):
        assert main([*words, *wrong]) == 2
        assert "fix:" in capsys.readouterr().err
    with pytest.raises(UsageError, match="several finetunings"):
        run(resolve(SFTConfig, "sft", [recipe], environ={}), inputs, tmp_path / "x")


@pytest.mark.parametrize(
    ("stages", "what"),
    [
        ([{}], "needs a name"),
        ([{"name": "A b"}], "needs a name"),
        ([{"name": "a"}, {"name": "a"}], "one name"),
        ([{"name": "a", "stepz": 3}], "unknown setting 'stepz'"),
        ([{"name": "a", "steps": 0}], "steps"),
        ([{"name": "a", "stages": []}], "no stages of its own"),
    ],
)
def test_stages_that_cannot_be(stages: list[dict[str, object]], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        stages_of(resolve(SFTConfig, "sft", flags={"stages": stages}, environ={}))


@pytest.mark.parametrize(
    ("recipes", "expected"),
    [
        (["code-qwen-chat"], ("constant", 0.03, 1e-5, 2048, 4000)),
        (["code-qwen-chat", "code-qwen-chat-14b"], ("constant", 0.03, 2e-6, 2048, 4000)),
        (["math-qwen-chat"], ("cosine", None, 2e-5, 1024, 50_000)),
    ],
)
def test_recipes_of_the_reports_special_models(recipes: list[str], expected: tuple[object, ...]) -> None:
    resolved = resolve(SFTConfig, "sft", recipes, environ={})
    for _, settled in stages_of(resolved) or [("", resolved)]:
        c = settled.config
        assert expected == (c.schedule.shape, c.schedule.warmup_share, c.optim.lr, c.max_length, c.steps)
        assert (c.batch_size, c.dropout, c.mask, c.optim.eps) == (128, 0.1, "report", 1e-8)


# Adapters

LORA = {"lora.rank": 8, "lora.alpha": 16, "dropout": 0.0, "steps": 14}


@pytest.mark.parametrize("extra", [{}, {"lora.quantize": "nf4"}], ids=["lora", "qlora"])
def test_adapters_learn_and_end_in_the_same_bits_after_a_kill(
    inputs: dict[str, Path], extra: dict[str, object], tmp_path: Path
) -> None:
    settings = config(**LORA, **extra)
    whole = run(settings, inputs, tmp_path / "whole")
    out = tmp_path / "killed"
    process = tiny.in_process(run, settings, inputs, out)
    tiny.wait_for_step(out, process, 7)
    process.kill()
    process.join()
    newest = max((out / "checkpoints").glob("step-*"))
    saved = set(load_file(newest / "model.safetensors"))
    frozen = {"blocks/0/attn_norm/weight", "blocks/0/attn/qkv/base/bias"}
    assert "blocks/0/attn/qkv/a" in saved and not saved & frozen  # the base is not saved again
    again = run(settings, inputs, out)
    assert whole.content == again.content  # weights, adapter, samples
    facts = whole.manifest["facts"]
    assert facts["checkpoint"] == again.manifest["facts"]["checkpoint"]
    # The base is untrained: without embedding and head, adapters alone can do little.
    assert facts["heldout_loss"] < (0.98 if extra else 0.7) * facts["heldout_loss_before"]
    each = 2 * 8 * ((32 + 96) + (32 + 32) + 3 * (32 + 48))  # layers, rank, inputs and outputs of the matrices
    assert facts["trained_parameters"] == each + (0 if extra else 2 * 464 * 32)


def test_the_artefact_is_base_and_adapter_merged(inputs: dict[str, Path], tmp_path: Path) -> None:
    made = run(config(**LORA, **{"lora.train_embeddings": False}), inputs, tmp_path / "chat")
    model, chat, base = load_model(inputs["model"]), load_model(made.path), load_model(inputs["model"])
    load_adapter(model, made.path / "adapter")
    merge(model)
    trained = dict(chat.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained[name]), name
    for name, parameter in base.named_parameters():
        adapted = name.endswith(("qkv.weight", "out.weight", "gate.weight", "up.weight", "down.weight"))
        assert torch.equal(parameter, trained[name]) != adapted, name
