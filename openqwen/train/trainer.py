"""The training loop of pretraining, finetuning and reward models: one for all of them.

Report §2.4, §3.1.2 and §3.2.1 say what is trained on and with which numbers; a stage gives that as a `Task`. Ours: the
rest of a run, which is here once. What a step does depends on its number and on what checkpoints hold, never on time or
on the number of processes, so a run ends in the same bits however often it is stopped and started.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openqwen.core.artifact import Artifact, Run, find
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.model.qwen import Qwen
from openqwen.model.weights import save_model
from openqwen.train import checkpoint, distributed, lora, precision
from openqwen.train.compiled import compile_blocks
from openqwen.train.config import TrainingConfig
from openqwen.train.distributed import GradientTree, World, shard_seed
from openqwen.train.flops import measured_peak
from openqwen.train.memory import keep_freed_memory
from openqwen.train.optimizer import make_optimizer
from openqwen.train.records import Records
from openqwen.train.schedule import lr_at, set_lr
from openqwen.train.signals import stop_on_signal
from openqwen.train.step import Guard, Spikes, try_step
from openqwen.train.throughput import Throughput

PEAK_SECONDS = 0.2  # long enough to reach the rate, short beside the start of a run
NAMED, SHOWN = 100, 3  # documents of an incident that are named in its record, and in a line


@dataclass(frozen=True)
class Batch:
    """What a step trains on."""

    items: Any  # a sequence of what the task's `losses` reads
    counted: int  # tokens or pairs in the loss: what the sum over all items is divided by
    tokens: int  # that are read, without padding
    flops: float  # of forward and backward pass, if all weights are trained


class Task(Protocol):
    """What is different from stage to stage."""

    @property
    def label(self) -> str:
        """What a person calls the run."""
        ...

    @property
    def steps(self) -> int: ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what `losses` returns behind the loss."""
        ...

    @property
    def sample_interval(self) -> int | None:
        """Steps between samples; None: before and after only."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0. All processes are given the same."""
        ...

    def losses(self, items: Any) -> Sequence[Tensor]:
        """The loss summed over some items of a batch, which is differentiated, and the sums of `measures`."""
        ...

    def names(self, items: Any) -> Iterable[str]:
        """Where a person finds the documents that stand in some items, as file:line."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Measurements on held-out data. Leaves the model in training mode."""
        ...

    def samples(self, label: str) -> list[dict[str, Any]]:
        """What the model says now; each record has `label`. The last label of a run is "after"."""
        ...


@dataclass(frozen=True)
class Evaluations:
    """What was measured before the first step and after the last."""

    first: dict[str, float]
    last: dict[str, float]


def run_stage(
    resolved: Resolved[Any],
    inputs: Mapping[str, Artifact | Path],
    out: Path,
    kind: str,
    train: Callable[[Run, World], None],
) -> Artifact:
    """Lets `train` fill an artefact's folder, in one process or in those that torchrun has started."""
    config = resolved.config
    with distributed.join(config.parallel.timeout) as world:
        distributed.check(config.parallel, world, config.batch_size)
        with distributed.stage(world, out, kind, resolved, inputs) as stage:
            train(stage, world)
        if world.main:
            shutil.rmtree(out / "checkpoints")  # only now: DONE stands, nothing will continue from them
        world.barrier()
    finished = find(out)
    assert finished is not None
    return finished


def fit(
    task: Task,
    model: nn.Module,
    blocks: nn.ModuleList,
    config: TrainingConfig,
    stage: Run,
    world: World,
) -> Evaluations:
    """Trains a model from the last checkpoint, or from the start, to the task's last step."""
    device, parallel = world.device, config.parallel
    dtype = precision.pick_dtype(config.precision, device)
    precision.deterministic(config.seed)
    keep_freed_memory()
    if config.compile:
        compile_blocks(blocks)
    distributed.prepare(model, blocks, parallel, dtype)
    own, shards = distributed.local_parts(parallel, world)
    gradients, optimizer = GradientTree(model, parallel), make_optimizer(model, config.optim)
    modules, optimizers = {"model": lora.trained(model)}, {"adamw": optimizer}
    guard, spikes = Guard(config.optim.max_bad_steps), Spikes(config.spikes)
    known = not lora.adapters(model)  # a step computes no gradients of frozen matrices
    peak = world.size * measured_peak(dtype, device, seconds=PEAK_SECONDS) if known else None
    speed = Throughput(device, peak)

    state = checkpoint.load_latest(stage.checkpoints, modules, optimizers, world=world)
    begun = state["step"] if state else 0
    with (
        Records(stage, world, begun if state else None) as records,
        Progress(task.label, task.steps, start=begun) as bar,
        stop_on_signal() as stop,
        checkpoint.Saver(stage.checkpoints, modules, optimizers, world=world) as saver,
    ):
        if state is None:
            first = task.evaluate()
            records.write("metrics", 0, **first)
            for sample in task.samples("before"):
                records.write("samples", 0, **sample)
            state = {"guard": guard.state(), "losses": [], "first": first, "last": first}
        guard.restore(state["guard"])
        spikes.losses, first, last = state["losses"], state["first"], state["last"]

        for step in range(begun, task.steps):
            clock = time.perf_counter()
            # ---- one training step --------------------------------------------------------------------------
            lr = lr_at(step, task.steps, config.optim.lr, config.schedule)
            set_lr(optimizer, lr)
            batch = task.batch(step)
            passes = num_passes(len(batch.items), shards, config.micro_batch)
            sums = torch.zeros(shards * passes, 1 + len(task.measures), device=device)
            with world.watch(f"step {step}"):
                for shard in own:
                    torch.manual_seed(shard_seed(config.seed, step, shard))  # dropout
                    parts = micro_batches(batch.items, shard, shards, config.micro_batch)
                    for number, (items, share) in enumerate(parts, shard * passes):
                        with precision.autocast(dtype, device):
                            # By all that counts in the whole batch: parts add up to its mean.
                            found = [share * total / batch.counted for total in task.losses(items)]
                        found[0].backward()
                        sums[number] = torch.stack(found).detach()
                    gradients.add()
                gradients.finish(world)
                loss, *measured = distributed.add_losses(sums, world).tolist()
                norm = try_step(optimizer, loss, config.optim, guard)
                stopping = world.any(bool(stop))
            # ---------------------------------------------------------------------------------------------------
            took, done = time.perf_counter() - clock, step + 1
            at_end = done == task.steps
            speed.add(batch.tokens, batch.flops, took)
            bar.update(done, tokens=batch.tokens, seconds=took, loss=loss, lr=lr, **speed.shown())

            height = spikes.height(loss)
            if world.main and (guard.in_a_row or height):
                documents = by_loss(task, batch.items, shards, config.micro_batch, sums)
                said = incident(records, done, loss, norm, None if guard.in_a_row else height, documents)
                stage.log(said)
                bar.note(said)
            guard.check(done, loss, norm)

            if done % config.log_interval == 0 or at_end:
                values = dict(zip(task.measures, measured))
                read = {"tokens": batch.tokens, "counted": batch.counted}
                records.write(
                    "metrics", done, loss=loss, **values, lr=lr, grad_norm=norm, **read, skipped=guard.skipped
                )
                records.write("throughput", done, **speed.reading())
            if done % config.eval_interval == 0 or at_end:
                last = task.evaluate()
                records.write("metrics", done, **last)
            if at_end or (task.sample_interval and done % task.sample_interval == 0):
                for sample in task.samples("after" if at_end else f"step {done}"):
                    records.write("samples", done, **sample)
            if done % config.checkpoint_interval == 0 or at_end or stopping:
                distributed.check_same(model, world, f"{task.label} after step {done}")
                records.sync()
                torch.manual_seed(config.seed)  # saved with the rest; every step seeds itself
                state = {"guard": guard.state(), "losses": spikes.losses, "first": first, "last": last}
                saved = saver.save(done, state)
                stage.log(
                    f"step {done}: {speed.total.tokens_per_second or 0:.0f} tokens/s, saving {saved.name}"
                )
            if stopping and not at_end:
                raise stop.interrupted(f"{task.label} after step {done}")

        if world.any(bool(stop)):  # asked in the last step, in one process perhaps
            raise stop.interrupted(f"{task.label} after its last step")
    stage.fact(
        tokens_per_second=speed.total.tokens_per_second,
        flops_per_second=speed.total.flops_per_second if known else None,
        skipped_steps=guard.skipped,
    )
    if world.main:
        stage.fact(checkpoint=checkpoint.hashes(stage.checkpoints))
    return Evaluations(first, last)


def write_model(model: Qwen, stage: Run, world: World, eos_ids: Sequence[int] = ()) -> bool:
    """Writes the trained model, adapters merged into it and beside it by themselves. Every process calls this.

    eos_ids: as of `save_model`. False where another process wrote it, and writes the rest of the artefact.
    """
    if (whole := distributed.gathered(model, world, Qwen)) is None:
        return False
    if lora.adapters(whole):
        stage.fact(**lora.sizes(whole))
        lora.save_adapter(whole, stage.path / "adapter")
        lora.merge(whole.cpu())
    save_model(whole, stage.path, eos_ids=eos_ids)
    return True


def num_passes(count: int, shards: int, size: int) -> int:
    """Micro-batches of the shard with the most items."""
    return ceil(ceil(count / shards) / size)


def micro_batches(items: Any, shard: int, shards: int, size: int) -> Iterator[tuple[Any, float]]:
    """A shard's items, every `shards`-th of the batch, `size` at a time, each with its share in the loss: 1.

    Where weights are divided all processes gather them together: a shard with fewer items than others goes through
    the first item again, with a share of 0.
    """
    mine = items[shard::shards]
    for start in range(0, len(mine), size):
        yield mine[start : start + size], 1.0
    for _ in range(num_passes(len(items), shards, size) - num_passes(len(mine), 1, size)):
        yield items[:1], 0.0


def by_loss(task: Task, items: Any, shards: int, size: int, sums: Tensor) -> list[str]:
    """Names of all documents of a batch, those of the micro-batch with the greatest loss first, or with none at all.

    sums: (shards * passes, 1 + measures), as the step leaves it.
    """
    parts = [part for shard in range(shards) for part, _ in micro_batches(items, shard, shards, size)]
    losses = [loss if loss == loss else inf for loss in sums[:, 0].tolist()]
    order = sorted(range(len(parts)), key=lambda number: -losses[number])
    return list(dict.fromkeys(name for number in order for name in task.names(parts[number])))


def incident(
    records: Records, step: int, loss: float, norm: float, height: float | None, documents: Sequence[str]
) -> str:
    """Records a step that was skipped (height None) or whose loss is a spike; returns a line about it."""
    records.write(
        "incidents",
        step,
        kind="not finite" if height is None else "spike",
        loss=loss,
        grad_norm=norm,
        num_documents=len(documents),
        documents=documents[:NAMED],
    )
    more = f" and {len(documents) - SHOWN} more" if len(documents) > SHOWN else ""
    what = "skipped, not finite" if height is None else f"spike, {height:.1f} standard deviations high"
    return f"step {step}: {what}: loss {loss:.4g}, gradient norm {norm:.4g}; {', '.join(documents[:SHOWN])}{more}"
