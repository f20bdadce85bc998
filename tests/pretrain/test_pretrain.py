"""Pretraining learns, measures, refuses bad input, and resumes in the same bits."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import pytest
import tiny_artefacts as tiny
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounter

from openqwen.core.artifact import find, load
from openqwen.core.config import Resolved, fields_without_source, resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.core.metrics import read_metrics
from openqwen.core.shards import open_tokens
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model
from openqwen.pretrain.config import PretrainConfig, ShapeConfig
from openqwen.pretrain.heldout import bits_per_byte, held_out
from openqwen.pretrain.loop import run

TINY = {
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.ffn_size": 48,
    "model.dropout": 0.1,
    "optim.lr": 1e-2,
    "schedule.warmup_steps": 4,
    "context": 32,
    "batch_tokens": 256,
    "micro_batch": 3,
    "steps": 30,
    "eval_interval": 10,
    "checkpoint_interval": 4,
    "prompts": ["1 plus 2"],
    "sample_tokens": 8,
    "ngram_order": 3,
}


def config(**changes: object) -> Resolved[PretrainConfig]:
    return resolve(PretrainConfig, "pretrain", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pretrain")
    return {
        "tokenizer": tiny.tokenizer_artefact(folder / "tokenizer"),
        "tokens": tiny.tokens_artefact(folder / "tokens", tiny.sums(0, 300), tiny.sums(1, 20)),
    }


@pytest.fixture(scope="module")
def uninterrupted(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "base"
    run(config(), inputs, out)
    return out


def test_defaults_are_the_reports() -> None:
    assert not fields_without_source(PretrainConfig)
    default = PretrainConfig()
    assert (default.context, default.batch_size, default.optim.lr) == (2048, 2048, 3e-4)
    model = default.model.for_vocabulary(151_851, default.context)
    assert model.ffn == 11008
    padded = ShapeConfig(vocab_multiple=128).for_vocabulary(151_851, 2048)
    assert (padded.vocab_size, padded.num_parameters) == (151_936, 7_721_324_544)
    assert default.steps * default.batch_tokens == pytest.approx(2.4e12, rel=1e-5)


def test_it_learns_and_leaves_a_model(uninterrupted: Path) -> None:
    artifact = load(uninterrupted, "model")
    facts = artifact.manifest["facts"]
    losses = [r["loss"] for r in artifact.metrics if "loss" in r]
    assert len(losses) == 30 and losses[-1] < 0.6 * losses[0]
    validation = {r["step"]: r["valid_bits_per_byte"] for r in artifact.metrics if "valid_bits_per_byte" in r}
    assert sorted(validation) == [0, 10, 20, 30]
    assert validation[0] > 7 and validation[30] < 4  # 464 ids, untrained: about log2(464) bits a byte
    assert facts["bits_per_byte"] == validation[30] and 0.5 < facts["ngram_bits_per_byte"] < 2
    assert facts["tokens_seen"] == 30 * 256 and facts["tokens_per_second"] > 0
    samples = [json.loads(line) for line in (uninterrupted / "samples.jsonl").read_text().splitlines()]
    assert [s["label"] for s in samples] == ["before", "after"]
    model = load_model(uninterrupted)
    assert model.config.num_parameters == facts["parameters"] and not (uninterrupted / "checkpoints").exists()


def test_bits_per_byte_equals_a_slow_count(inputs: dict[str, Path], uninterrupted: Path) -> None:
    model = load_model(uninterrupted, dtype=torch.float64).eval()
    tok = tiny.byte_tokenizer()
    text = held_out(open_tokens(inputs["tokens"], "valid"), tok, context=13, max_tokens=100)
    assert 1 < len(text.documents) < 20 and sum(map(len, text.documents)) <= 100
    stream = [tok.eos_id] + [i for document in text.documents for i in document.tolist()]
    nats, num_bytes = 0.0, sum(i < 256 for i in stream)
    with torch.no_grad():
        for n in range(1, len(stream)):
            start = (n - 1) // 13 * 13
            logits = model(torch.tensor([stream[start:n]]))[0, -1]
            nats -= float(logits.log_softmax(-1)[stream[n]])
    assert bits_per_byte(model, text, 4, torch.float32) == pytest.approx(
        nats / math.log(2) / num_bytes, rel=1e-9
    )


@pytest.mark.fault("training", "pretraining is broken off and started again", "same bits")
def test_killed_and_restarted_it_ends_in_the_same_bits(
    inputs: dict[str, Path], uninterrupted: Path, tmp_path: Path
) -> None:
    out, rng = tmp_path / "base", random.Random(7)
    for step in (3, 13, 22):  # before the first checkpoint, and twice between others
        process = tiny.in_process(run, config(), inputs, out)
        tiny.wait_for_step(out, process, step)
        time.sleep(rng.random() * 0.02)  # some land in a save
        process.kill()
        process.join()
        assert find(out) is None
    process = tiny.in_process(run, config(), inputs, out)
    process.join(120)
    assert process.exitcode == 0
    a, b = load(uninterrupted, "model"), load(out, "model")
    assert (a.path / "metrics.jsonl").read_text() == (b.path / "metrics.jsonl").read_text()
    assert a.content == b.content  # weights, samples, config
    assert (
        a.manifest["facts"]["checkpoint"] == b.manifest["facts"]["checkpoint"]
    )  # optimizer and random state too


@pytest.mark.fault("training", "SIGTERM in the middle", "saved, exit code 130")
def test_sigterm_saves_and_exits_130(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "base"
    process = tiny.in_process(run, config(), inputs, out)
    tiny.wait_for_step(out, process, 5)
    process.terminate()
    process.join(120)
    assert process.exitcode == 130
    said = (tmp_path / "error.txt").read_text()
    assert "stopped by SIGTERM" in said and "to continue" in said
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (out / "checkpoints" / f"step-{last:08d}").is_dir()


def test_speed_and_memory_stand_beside_the_metrics(uninterrupted: Path) -> None:
    records = read_metrics(uninterrupted / "throughput.jsonl")
    assert [record["step"] for record in records] == list(range(1, 31))
    assert all(record["tokens_per_second"] > 0 and 0 < record["mfu"] < 1 for record in records)
    assert all(record["memory"] > 50 << 20 for record in records)  # torch alone takes more
    assert "throughput.jsonl" not in load(uninterrupted, "model").manifest["outputs"]


def test_compiled_blocks_train_the_same_model(
    inputs: dict[str, Path], uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counter, plain = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: plain(function, backend=counter))
    monkeypatch.setattr("openqwen.train.compiled._try_compiler", lambda: None)
    run(config(compile=True), inputs, tmp_path / "base")
    assert counter.frame_count > 0
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "base" / file).read_bytes() == (uninterrupted / file).read_bytes()


def test_micro_batches_do_not_change_the_result(inputs: dict[str, Path], tmp_path: Path) -> None:
    losses = []
    for micro in (8, 3):
        flags = {
            "micro_batch": micro,
            "precision": "fp32",
            "model.dropout": 0.0,
            "steps": 6,
            "ngram_order": 2,
        }
        artifact = run(config(**flags), inputs, tmp_path / str(micro))
        losses.append([r["loss"] for r in artifact.metrics if "loss" in r])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_goes_on_from_a_model(inputs: dict[str, Path], uninterrupted: Path, tmp_path: Path) -> None:
    more = {"context": 64, "batch_tokens": 256, "steps": 5, "schedule.warmup_steps": 1, "optim.lr": 1e-3}
    artifact = run(config(**more), {**inputs, "model": uninterrupted}, tmp_path / "more")
    first = artifact.metrics[0]["valid_bits_per_byte"]
    before = load(uninterrupted, "model").manifest["facts"]["bits_per_byte"]
    assert first == pytest.approx(
        before, rel=0.1
    )  # it begins where the other ended (longer pieces, new positions)
    assert load_model(artifact.path).config.max_length == 64


@pytest.mark.fault("training", "shards were made with another tokenizer", "refused")
def test_another_tokenizers_shards_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    tokens = tiny.tokens_artefact(tmp_path / "tokens", tiny.sums(0, 9), tiny.sums(1, 2))
    meta = json.loads((tokens / "shards.json").read_text())
    (tokens / "shards.json").write_text(json.dumps({**meta, "tokenizer": "other"}))
    with pytest.raises(DataError, match="another tokenizer"):
        run(config(), {**inputs, "tokens": tokens}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_impossible_settings_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a multiple of context"):
        config(batch_tokens=100)
    with pytest.raises(UsageError, match="a warm-up of 40 steps leaves none of 30"):
        config(**{"schedule.warmup_steps": 40})
    with pytest.raises(DataError, match="do not make one sequence of 100000"):
        run(config(context=100_000, batch_tokens=100_000), inputs, tmp_path / "out")


def test_a_new_model_does_not_depend_on_the_global_seed() -> None:
    shape = ShapeConfig(hidden_size=8, num_layers=1, num_heads=2).for_vocabulary(20, 16)
    torch.manual_seed(1)
    a = Qwen(shape)
    torch.manual_seed(2)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), Qwen(shape).parameters()))


# Adapters


@pytest.mark.fault("training", "a run that trains adapters is broken off", "same bits")
@pytest.mark.parametrize("extra", [{}, {"lora.quantize": "nf4"}], ids=["lora", "qlora"])
def test_adapters_go_on_from_a_model_and_end_in_the_same_bits_after_a_kill(
    inputs: dict[str, Path], uninterrupted: Path, extra: dict[str, object], tmp_path: Path
) -> None:
    settings = config(**{"lora.rank": 8, "steps": 12, "optim.lr": 3e-3, "model.dropout": 0.0, **extra})
    from_base = {**inputs, "model": uninterrupted}
    whole = run(settings, from_base, tmp_path / "whole")
    out = tmp_path / "killed"
    process = tiny.in_process(run, settings, from_base, out)
    tiny.wait_for_step(out, process, 6)
    process.kill()
    process.join()
    again = run(settings, from_base, out)
    assert whole.content == again.content
    facts = whole.manifest["facts"]
    assert facts["checkpoint"] == again.manifest["facts"]["checkpoint"]
    before = load(uninterrupted, "model").manifest["facts"]["bits_per_byte"]
    begun = whole.metrics[0]["valid_bits_per_byte"]
    assert begun == before if not extra else 0 < abs(begun - before) < 0.5  # four bits are felt, not fatal
    assert facts["bits_per_byte"] < before and facts["flops_per_second"] is None
    assert facts["trained_parameters"] == sum(
        tensor.numel() for tensor in adapter_tensors(whole.path / "adapter").values()
    )
    text = held_out(open_tokens(inputs["tokens"], "valid"), tiny.byte_tokenizer(), 32, 1_000_000)
    merged = bits_per_byte(load_model(whole.path), text, 3, torch.float32)
    assert merged == pytest.approx(facts["bits_per_byte"], rel=0.01)  # the run measured in bf16


def adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Of an adapter's file, each A shared by query, key and value once."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(("k_proj.lora_A.weight", "v_proj.lora_A.weight"))
    }


def test_adapters_without_a_model_or_with_divided_weights_are_refused(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="adapters need a model to stand beside"):
        run(config(**{"lora.rank": 8}), inputs, tmp_path / "out")
    with pytest.raises(UsageError, match="cannot be divided among processes"):
        config(**{"lora.rank": 8, "parallel.strategy": "shard"})
    assert not (tmp_path / "out").exists()
