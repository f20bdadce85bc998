"""One process or many: who takes part, how gradients are added, what happens when a process hangs.

Report §2.4 trains on clusters and does not say how; all of this is ours, with what PyTorch offers. Start with
`torchrun --nproc-per-node N -m openqwen ...`; without torchrun there is one process and no process group.

    replicate   every process holds the model. A batch is cut into `shards` equal parts whose gradients are added
                pairwise, as a tree over the parts, whoever computed them: 1, 2, 4, ... processes give the same bits.
    shard       parameters, gradients and optimizer state are divided among all processes (FSDP2).
    hybrid      divided within groups of `group_size` processes (a node), replicated among the groups (FSDP2).
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from openqwen.core.artifact import Run, stage_run
from openqwen.core.console import console
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.model.qwen import Qwen
from openqwen.train.config import ParallelConfig
from openqwen.train.pieces import is_divided
from openqwen.train.precision import pick_device


class Heart(threading.Thread):
    """Tells the others, through the store of the process group, that this process lives and how far it is."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(daemon=True)
        self.rank, self.size = rank, size
        store: Any = dist.distributed_c10d._get_default_store()
        self.store = store.clone()  # a thread needs a connection of its own
        self.passed, self.ticks, self.stop = 0, 0, threading.Event()
        self.lock = threading.Lock()

    def run(self) -> None:
        while not self.stop.wait(BEAT):
            self.beat()

    def beat(self) -> None:
        self.ticks += 1
        with self.lock:
            self.store.set(f"openqwen/{self.rank}", f"{self.ticks} {self.passed}")

    def late(self) -> list[int]:
        """Ranks that do not beat any more; if all do, those that are behind this one.

        This one goes on beating, for the others look around at the same time.
        """
        first = [self._read(rank) for rank in range(self.size)]
        time.sleep(3 * BEAT)
        second = [self._read(rank) for rank in range(self.size)]
        time.sleep(3 * BEAT)
        others = [rank for rank in range(self.size) if rank != self.rank]
        frozen = [rank for rank in others if first[rank][0] == second[rank][0]]
        return frozen or [rank for rank in others if second[rank][1] < self.passed]

    def _read(self, rank: int) -> tuple[int, int]:
        key = f"openqwen/{rank}"
        with self.lock:
            if not self.store.check([key]):
                return 0, 0
            ticks, passed = self.store.get(key).split()
        return int(ticks), int(passed)


@dataclass(frozen=True)
class World:
    """The processes of a run as one of them sees them."""

    rank: int
    size: int
    device: torch.device
    heart: Heart | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            with self.watch("waiting for all"):
                dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags)
        return bool(flags)

    def say(self, value: str | None) -> str | None:
        """What the main process says, everywhere."""
        if self.size == 1:
            return value
        store: Any = dist.distributed_c10d._get_default_store()
        if self.main:
            store.set("openqwen/said", json.dumps(value))
        self.barrier()
        said = json.loads(store.get("openqwen/said"))
        self.barrier()
        return said

    @contextmanager
    def watch(self, place: str) -> Iterator[None]:
        """Around what waits for other processes: when one does not answer in time, the error names it."""
        if self.heart is None:
            yield
            return
        self.heart.passed += 1
        try:
            yield
        except RuntimeError as error:
            if not _LOST.search(str(error)):
                raise
            names = ", ".join(map(str, self.heart.late())) or "unknown"
            raise OpenQwenError(
                f"rank {names} does not answer: {str(error).splitlines()[0]}",
                where=f"rank {self.rank} of {self.size}, {place}",
                fix="look at that process and its machine; the same command continues from the last checkpoint",
            ) from error


BEAT = 1.0  # seconds
ALONE = World(0, 1, torch.device("cpu"))
_LOST = re.compile(r"timed? ?out|timeout|connection (closed|reset|refused)|closed by peer|broken pipe", re.I)


@contextmanager
def join(timeout: float) -> Iterator[World]:
    """The world torchrun started, or a single process. timeout: seconds a process may keep the others waiting."""
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1, pick_device())
        return
    device = pick_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    heart = Heart(dist.get_rank(), dist.get_world_size())
    heart.start()
    console.quiet = heart.rank > 0  # one of them tells the story
    try:
        yield World(heart.rank, heart.size, device, heart)
    finally:
        heart.stop.set()
        heart.join()
        dist.destroy_process_group()


class Follower(Run):
    """The stage of a process that is not the main one: it knows the folder and writes nothing."""

    def open_metrics(self, resume_step: int | None = None, name: str = "") -> Any:
        return _NoMetrics()

    def log(self, text: str) -> None:
        pass


class _NoMetrics:
    def write(self, step: int, **values: Any) -> None:
        pass


@contextmanager
def stage(world: World, out: Path, kind: str, resolved: Any, inputs: Any) -> Iterator[Run]:
    """`stage_run` for several processes: the main one writes, the others wait until the folder is ready."""
    if world.main:
        with stage_run(out, kind, resolved, inputs) as run:
            world.barrier()
            yield run
    else:
        world.barrier()
        yield Follower(out, kind, "", False, inputs)
    world.barrier()


def check(config: ParallelConfig, world: World, batch_size: int) -> None:
    """Whether a batch divides among the processes. UsageError before anything is trained."""
    if config.strategy == "replicate":
        if config.shards % world.size:
            raise UsageError(
                f"{config.shards} shards of a batch do not divide among {world.size} processes",
                where="parallel.shards",
                fix="start 1, 2, 4, ... processes, not more than there are shards, or use --parallel.strategy shard",
            )
        parts = config.shards
    else:
        parts = world.size
        group = config.group_size or world.size
        if config.strategy == "hybrid" and world.size % group:
            raise UsageError(
                f"{world.size} processes do not divide into groups of {group}", where="parallel.group_size"
            )
    if batch_size % parts:
        raise UsageError(
            f"a batch of {batch_size} sequences does not divide into {parts} parts",
            where="batch_tokens",
            fix=f"make it a multiple of {parts} sequences",
        )


def prepare(
    model: nn.Module, blocks: Iterable[nn.Module], config: ParallelConfig, dtype: torch.dtype
) -> None:
    """Divides the model among the processes where the strategy says so. dtype: of gathered weights."""
    if config.checkpoint_activations:
        for block in blocks:
            _recompute(block)
    if config.strategy == "replicate" or not dist.is_initialized():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        FSDPModule,
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    kind, size = next(model.parameters()).device.type, dist.get_world_size()
    if config.strategy == "hybrid":
        group = config.group_size or size
        mesh = init_device_mesh(kind, (size // group, group), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (size,))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The outer weights stay gathered until backward is over: the loss reads the head's beside the forward pass.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is already divided by the whole batch
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
    register_fsdp_forward_method(model, "hidden")


def _recompute(block: nn.Module) -> None:
    """Lets a block keep its input alone and compute the rest again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    forward = block.forward

    def again(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False)

    block.forward = again


def local_parts(config: ParallelConfig, world: World) -> tuple[range, int]:
    """Which parts of a batch this process computes, and into how many it is cut."""
    if config.strategy != "replicate":
        return range(world.rank, world.rank + 1), world.size
    share = config.shards // world.size
    return range(world.rank * share, (world.rank + 1) * share), config.shards


def add_losses(own: Tensor, world: World) -> Tensor:
    """own (parts,), zero for the parts of others -> their sum, in one order for any number of processes."""
    if world.size > 1:
        with world.watch("loss"):
            dist.all_reduce(own)  # to each place all but one process add zero
    total = own[0].clone()
    for loss in own[1:]:
        total += loss
    return total


def gathered(model: Qwen, world: World) -> Qwen | None:
    """The whole model on the main process, on the CPU if it was divided; None elsewhere. Every process calls this."""
    if not any(is_divided(parameter) for parameter in model.parameters()):
        return model if world.main else None
    whole = Qwen(model.config) if world.main else None
    target = dict(whole.named_parameters()) if whole is not None else {}
    parameters: dict[str, Any] = dict(model.named_parameters())
    for name, parameter in parameters.items():
        full = parameter.full_tensor() if is_divided(parameter) else parameter  # the outer ones stay gathered
        if whole is not None:
            with torch.no_grad():
                target[name].copy_(full)
    return whole


class GradientTree:
    """Adds the gradients of a batch's shards pairwise, in one order for any number of processes.

    After each shard's backward pass: `add()`; after the last of a process: `finish(world)`, which leaves the sum of
    all shards in `.grad` of every process. Waiting sums are kept as in a binary counter: log2 of the shards at most.
    """

    def __init__(self, model: nn.Module, config: ParallelConfig) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.idle = config.strategy != "replicate"  # the backward pass has divided and added them already
        self._waiting: list[tuple[int, list[Tensor]]] = []  # (level, gradients)

    def add(self) -> None:
        """Takes the gradients now in `.grad`."""
        if self.idle:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        level = 0
        while self._waiting and self._waiting[-1][0] == level:
            _, before = self._waiting.pop()
            torch._foreach_add_(before, grads)
            grads, level = before, level + 1
        self._waiting.append((level, grads))
        for parameter in self.parameters:
            parameter.grad = None

    def finish(self, world: World) -> None:
        """Adds what other processes have and puts the sum into `.grad`."""
        if self.idle:
            return
        ((_, grads),) = self._waiting
        self._waiting.clear()
        if world.size > 1:
            flat = torch.cat([g.flatten() for g in grads])  # (P,)
            with world.watch("gradients"):
                flat = add_in_order(flat, world)
            grads = [part.view(g.shape) for part, g in zip(flat.split([g.numel() for g in grads]), grads)]
        for parameter, grad in zip(self.parameters, grads):
            parameter.grad = grad


def add_in_order(own: Tensor, world: World) -> Tensor:
    """The sum of a tensor over 2^n processes as a tree: neighbours first. The same bits everywhere."""
    distance = 1
    while distance < world.size:
        other = torch.empty_like(own)
        peer = world.rank ^ distance
        for work in dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, own, peer), dist.P2POp(dist.irecv, other, peer)]
        ):
            work.wait()
        own = own + other  # addition of two numbers does not depend on their order
        distance *= 2
    return own


def shard_seed(seed: int, step: int, shard: int) -> int:
    """Seed of what is drawn (dropout) while a shard of a step's batch is computed, whoever computes it."""
    return int(np.random.SeedSequence([seed, step, shard]).generate_state(1, np.uint64)[0] >> 1)
