"""Several processes: the same bits or the same curve as one, on any number after a kill; a frozen one is named."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny_artefacts as tiny
import torch

from openqwen.core.artifact import load
from openqwen.core.config import resolve
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.train.config import ParallelConfig
from openqwen.train.distributed import ALONE, GradientTree, World, check, local_parts, prepare

SETTINGS = {
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.ffn_size": 48,
    "optim.lr": 1e-2,
    "schedule.warmup_steps": 4,
    "context": 32,
    "batch_tokens": 256,
    "micro_batch": 3,
    "steps": 50,
    "eval_interval": 25,
    "checkpoint_interval": 5,
    "sample_tokens": 4,
    "ngram_order": 3,
    "precision": "fp32",
    "parallel.timeout": 60,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny.tokenizer_artefact(folder / "tokenizer")
    tokens = tiny.tokens_artefact(folder / "tokens", tiny.sums(0, 300), tiny.sums(1, 20))
    return ["--tokens", str(tokens), "--tokenizer", str(tokenizer)]


def start(processes: int, inputs: list[str], out: Path, **changes: object) -> list[Any]:
    settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return forked.together(
        processes, ["pretrain", *inputs, "--out", str(out), *words], out.with_suffix(".logs")
    )


def said(out: Path, rank: int) -> str:
    return (out.with_suffix(".logs") / f"{rank}.txt").read_text(encoding="utf-8")


def finish(processes: int, inputs: list[str], out: Path, **changes: object) -> None:
    codes = forked.end(start(processes, inputs, out, **changes))
    assert codes == [0] * processes, said(out, 0)


def losses(out: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in load(out, "model").metrics if "loss" in r}


def same_curve(one: Path, other: Path) -> bool:
    a, b = losses(one), losses(other)
    assert len(a) == 50
    return a.keys() == b.keys() and all(abs(a[step] - b[step]) <= 1e-5 * a[step] for step in a)


@pytest.fixture(scope="module")
def alone(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "base"
    finish(1, inputs, out)
    return out


@pytest.mark.fault("training", "a run goes on with another number of processes", "same bits")
def test_one_two_and_four_processes_give_the_same_bits(inputs: list[str], tmp_path: Path) -> None:
    """Weights, optimizer, metrics; with dropout, and one of the runs killed in between."""
    changes = {"parallel__shards": 4, "steps": 12, "eval_interval": 6, "model__dropout": 0.1}
    for processes in (1, 2, 4):
        out = tmp_path / str(processes)
        if processes == 2:
            running = start(processes, inputs, out, **changes)
            forked.until_step(out, 7, running)
            for process in running:
                process.kill()
            forked.end(running)
        finish(processes, inputs, out, **changes)
    facts = [load(tmp_path / name, "model").manifest["facts"]["checkpoint"] for name in "124"]
    assert facts[0] == facts[1] == facts[2] and len(facts[0]) == 4
    assert len({(tmp_path / name / "metrics.jsonl").read_bytes() for name in "124"}) == 1
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in "124"}) == 1


def flip_a_bit() -> None:
    """The sign of one number, in the gradient that all processes have added, at the seventh step."""
    real, calls = GradientTree.finish, []

    def finish(tree: GradientTree, world: World) -> None:
        real(tree, world)
        calls.append(world)
        if len(calls) == 7:
            grad = tree.parameters[0].grad
            assert grad is not None
            grad.view(-1)[int(grad.abs().argmax())] *= -1

    GradientTree.finish = finish  # type: ignore[method-assign]


@pytest.mark.fault(
    "training",
    "a bit flips in the gradient of one of several processes",
    "found before the next save: all end, the tensor is named, no other weights are saved",
)
def test_a_bit_that_flips_in_one_process_is_found(inputs: list[str], tmp_path: Path) -> None:
    out, changes = tmp_path / "base", {"parallel__shards": 2, "steps": 12, "eval_interval": 12}
    settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = ["pretrain", *inputs, "--out", str(out), *words]
    codes = forked.end(forked.together(2, command, out.with_suffix(".logs"), {1: flip_a_bit}))
    assert codes == [1, 1]
    for rank in (0, 1):
        assert said(out, rank).startswith("error: ranks 0 and 1 hold other weights, first in ")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000005"]


@pytest.mark.fault(
    "training",
    "a run with divided weights is killed and goes on with another number of processes",
    "the same curve",
)
def test_divided_weights_give_the_curve_of_one_process(
    inputs: list[str], alone: Path, tmp_path: Path
) -> None:
    """FSDP2 on two processes, killed; then on four, killed again; then on one."""
    out, changes = tmp_path / "base", {"parallel__strategy": "shard"}
    for processes, step in ((2, 13), (4, 28)):
        running = start(processes, inputs, out, **changes)
        forked.until_step(out, step, running)
        running[-1].kill()  # the others notice
        codes = forked.end(running)
        assert codes[-1] == -signal.SIGKILL and set(codes[:-1]) == {1}
        kept = sorted((out / "checkpoints").glob("step-*"))[-1]
        assert len(list(kept.glob("model.0*.safetensors"))) == processes
    finish(1, inputs, out, **changes)
    assert same_curve(alone, out)


def test_hybrid_sharding_and_recomputed_activations(inputs: list[str], alone: Path, tmp_path: Path) -> None:
    finish(
        4,
        inputs,
        tmp_path / "base",
        parallel__strategy="hybrid",
        parallel__group_size=2,
        parallel__checkpoint_activations="true",
    )
    assert same_curve(alone, tmp_path / "base")


@pytest.mark.fault(
    "training", "one process stops without dying", "the others end within the limit and name it"
)
@pytest.mark.parametrize("strategy", ["replicate", "shard"])
def test_a_frozen_process_is_named_and_ends_the_run(inputs: list[str], tmp_path: Path, strategy: str) -> None:
    count = 4 if strategy == "shard" else 2
    changes = {"parallel__strategy": strategy, "parallel__shards": 2, "steps": 5000, "parallel__timeout": 4}
    out = tmp_path / "base"
    running = start(count, inputs, out, **changes)
    forked.until_step(out, 6, running)
    forked.until_saved(out, running)
    os.kill(running[-1].pid, signal.SIGSTOP)
    began = time.monotonic()
    codes = forked.end(running[:-1])
    waited = time.monotonic() - began
    running[-1].kill()
    assert codes == [1] * (count - 1)
    for rank in range(count - 1):
        assert f"rank {count - 1} does not answer" in said(out, rank), said(out, rank)
        assert "Traceback" not in said(out, rank)
    assert waited < 4 + 15
    assert sorted((out / "checkpoints").glob("step-*"))


@pytest.mark.fault("training", "SIGTERM reaches one of several processes", "all save and stop, exit code 130")
def test_a_signal_to_one_process_saves_and_stops_all(inputs: list[str], tmp_path: Path) -> None:
    out, changes = tmp_path / "base", {"parallel__shards": 2, "steps": 5000}
    running = start(2, inputs, out, **changes)
    forked.until_step(out, 6, running)
    os.kill(running[1].pid, signal.SIGTERM)
    assert forked.end(running) == [130, 130]
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (out / f"checkpoints/step-{last:08d}/checkpoint.json").is_file()


def test_a_batch_that_does_not_divide_is_refused() -> None:
    three = World(0, 3, torch.device("cpu"))
    with pytest.raises(UsageError, match="do not divide among 3 processes"):
        check(ParallelConfig(shards=4), three, 12)
    with pytest.raises(UsageError, match="into 4 parts"):
        check(ParallelConfig(shards=4), ALONE, 6)
    with pytest.raises(UsageError, match="into 3 parts"):
        check(ParallelConfig(strategy="shard"), three, 8)
    with pytest.raises(UsageError, match="groups of 2"):
        check(ParallelConfig(strategy="hybrid", group_size=2), three, 12)
    with pytest.raises(OpenQwenError, match="power of two"):
        resolve(ParallelConfig, "parallel", flags={"shards": "6"}, environ={})


@pytest.mark.parametrize("shards", [1, 2, 4, 8, 16])
def test_gradients_are_added_as_a_tree(shards: int) -> None:
    """Against a sum over halves, bit for bit; the plain sum in order has other bits."""
    model = torch.nn.Linear(7, 5)
    drawn = torch.Generator().manual_seed(shards)
    gradients = [torch.randn(5, 7, generator=drawn) for _ in range(shards)]

    def halves(some: list[torch.Tensor]) -> torch.Tensor:
        middle = len(some) // 2
        return some[0] if len(some) == 1 else halves(some[:middle]) + halves(some[middle:])

    tree = GradientTree(model, ParallelConfig(shards=shards))
    assert local_parts(ParallelConfig(shards=shards), ALONE) == (range(shards), shards)
    for gradient in gradients:
        model.weight.grad = gradient.clone()
        tree.add()
        assert model.weight.grad is None
    tree.finish(ALONE)
    assert model.weight.grad is not None and torch.equal(model.weight.grad, halves(gradients))


def note(kept: list[int], tensor: torch.Tensor) -> torch.Tensor:
    kept.append(tensor.numel())
    return tensor


def test_recomputed_activations_change_nothing() -> None:
    from openqwen.model.config import ModelConfig
    from openqwen.model.qwen import Qwen

    config = ModelConfig(vocab_size=61, hidden_size=32, num_layers=2, num_heads=2, max_length=16, dropout=0.2)
    ids = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(0))
    results = []
    for again in (False, True):
        model = Qwen(config).train()
        prepare(model, model.blocks, ParallelConfig(checkpoint_activations=again), torch.float32)
        torch.manual_seed(3)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(partial(note, kept), lambda t: t):
            loss = model(ids).logsumexp(-1).sum()
        loss.backward()
        results.append((loss.detach(), [p.grad for p in model.parameters()], sum(kept)))
    (loss, grads, plain), (loss_again, grads_again, less) = results
    assert torch.equal(loss, loss_again) and all(map(torch.equal, grads, grads_again))
    assert less < plain / 2
