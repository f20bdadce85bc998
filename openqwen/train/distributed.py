"""One process or many: who takes part, how gradients are added, what happens when a process hangs.

Report §2.4 trains on clusters and does not say how; all of this is ours, with what PyTorch offers. Start with
`torchrun --nproc-per-node N -m openqwen ...`; without torchrun there is one process and no process group.

    replicate   every process holds the model. A batch is cut into `shards` equal parts whose gradients are added
                pairwise, as a tree over the parts, whoever computed them: 1, 2, 4, ... processes give the same bits.
    shard       parameters, gradients and optimizer state are divided among all processes (FSDP2).
    hybrid      divided within groups of `group_size` processes (a node), replicated among the groups (FSDP2).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from openqwen.core.artifact import Run, stage_run
from openqwen.core.console import console
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.train.config import ParallelConfig
from openqwen.train.heart import BEAT, FIRST_LOOK, GRACE, LAST_LOOK, Heart, is_lost
from openqwen.train.pieces import is_divided
from openqwen.train.precision import pick_device


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

    def barrier(self, place: str = "waiting for all") -> None:
        """Waits for all processes: for the main one as long as it lives, whatever it does alone."""
        if self.heart is not None:
            self.heart.passed += 1
            self.heart.meet(place)

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        with self.watch("asking all"):
            dist.all_reduce(flags)
        return bool(flags)

    def say(self, value: str | None, place: str) -> str | None:
        """What the main process says, everywhere."""
        return value if self.heart is None else self.heart.say(value, place)

    @contextmanager
    def watch(self, place: str) -> Iterator[None]:
        """Around what waits for other processes: when one does not answer in time, the error names it."""
        if self.heart is None:
            yield
            return
        self.heart.check(place)
        self.heart.passed += 1
        try:
            yield
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise self.heart.broken(error, place) from error


M = TypeVar("M", bound=nn.Module)
ALONE = World(0, 1, torch.device("cpu"))
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what it tells its processes


@contextmanager
def join(timeout: float) -> Iterator[World]:
    """The world torchrun started, or a single process. timeout: seconds a process may keep the others waiting.

    An error in one process ends all: the others say in a line which it was. UsageError for half an environment.
    """
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1, pick_device())
        return
    rank, size, local = _place_among_all()
    device = pick_device()
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}",
                where="LOCAL_RANK",
                fix="start at most one process a GPU: torchrun --nproc-per-node gpu",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    heart = _meet_all(rank, size, device, timeout)
    heart.start()
    # To its end one of them tells the story; errors are told by each.
    console.quiet = console.quiet or rank > 0
    try:
        yield World(heart.rank, heart.size, device, heart)
    except RuntimeError as error:
        if not is_lost(error):
            heart.publish(error)
            raise
        raise heart.broken(error, "waiting for others") from error
    except BaseException as error:
        heart.publish(error)
        raise
    finally:
        dist.destroy_process_group()  # whoever waits in a collective wakes up
        heart.leave()
        heart.stop.set()
        heart.join(2 * BEAT)  # it may wait for a store that has gone


def _place_among_all() -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine, as torchrun says. UsageError if it is not from torchrun."""
    fix = "start with torchrun (under Slurm: recipes/launch/slurm.sh), or unset WORLD_SIZE"
    missing = [name for name in TORCHRUN if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"there is no {', '.join(missing)} beside WORLD_SIZE", where="environment variables", fix=fix
        )
    numbers = {}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ[name].isdecimal():
            raise UsageError(f"{name} is {os.environ[name]!r}, not a number", "environment variables", fix)
        numbers[name] = int(os.environ[name])
    if numbers["RANK"] >= numbers["WORLD_SIZE"]:
        raise UsageError(
            f"RANK is {numbers['RANK']}, of {numbers['WORLD_SIZE']} processes", "environment variables", fix
        )
    return numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"]


def _meet_all(rank: int, size: int, device: torch.device, timeout: float) -> Heart:
    """Makes the process group. OpenQwenError if not all come in time."""
    gloo = device.type != "cuda"
    # NCCL ends a process without a word when its time is over: Heart, which knows a name, has its turn before.
    limit = timedelta(seconds=timeout if gloo else timeout + 2 * GRACE)
    backend = "gloo" if gloo else "cpu:gloo,cuda:nccl"
    try:
        store, *_ = next(iter(dist.rendezvous("env://", rank, size, timeout=limit)))
        store = dist.PrefixStore(_agree(store, rank, size, timeout), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except RuntimeError as error:
        raise OpenQwenError(
            f"the processes did not find each other: {str(error).splitlines()[0]}",
            where=f"rank {rank} of {size}, {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            fix="look for an error of another process, and whether all reach that address",
        ) from error
    return Heart(rank, size, timeout)


def _agree(store: Any, rank: int, size: int, timeout: float) -> str:
    """A name for this start of all processes: what is told under it in the store is of no earlier start.

    When torchrun starts its processes again the store keeps all that the last ones told: addresses, and that the run
    has failed. So each comes with a new word; the main process answers the words it finds until all have heard it,
    for it may have found those of the start before. RuntimeError if one does not come in time.
    """
    own, limit = uuid4().hex, time.monotonic() + timeout
    if rank:
        store.set(f"openqwen/word/{rank}", own)
        store.wait([f"openqwen/name/{own}"], timedelta(seconds=timeout))
        name = store.get(f"openqwen/name/{own}").decode()
        store.set(f"openqwen/heard/{name}/{rank}", "")
        return name
    missing, pause = set(range(1, size)), FIRST_LOOK
    while missing:
        for other in sorted(missing):
            if store.check([f"openqwen/word/{other}"]):
                store.set(f"openqwen/name/{store.get(f'openqwen/word/{other}').decode()}", own)
            if store.check([f"openqwen/heard/{own}/{other}"]):
                missing.remove(other)
        if missing and time.monotonic() > limit:
            raise RuntimeError(f"rank {', '.join(map(str, sorted(missing)))} did not come in {timeout:g} s")
        time.sleep(pause)
        pause = min(2 * pause, LAST_LOOK / 5)
    return own


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
        group = config.sharing(world.size)
        if config.strategy == "hybrid" and world.size % group:
            raise UsageError(
                f"{world.size} processes do not divide into groups of {group}", where="parallel.group_size"
            )
    if batch_size % parts:
        raise UsageError(
            f"a batch of {batch_size} rows does not divide into {parts} parts",
            where="batch_size, or batch_tokens over context",
            fix=f"make it a multiple of {parts} rows",
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
        group = config.sharing(size)
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
    if hasattr(model, "hidden"):  # called beside forward
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


def check_same(model: nn.Module, world: World, place: str) -> None:
    """OpenQwenError unless all processes hold the same bits of what is trained. Divided weights exist once: no check.

    A bit that flips in one process's memory would otherwise stay unseen: only the main one's weights are saved.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if world.size == 1 or any(map(is_divided, trained.values())):
        return
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    # One changed bit changes the sum of the integers whose bits these are.
    sums = [p.detach().view(kinds[p.element_size()]).sum(dtype=torch.int64) for p in trained.values()]
    own = torch.stack(sums).cpu()  # (P,)
    found = [torch.empty_like(own) for _ in range(world.size)]
    with world.watch(place):
        dist.all_gather(found, own)
    for rank, theirs in enumerate(found):
        if not torch.equal(theirs, found[0]):
            name = list(trained)[int((theirs != found[0]).nonzero()[0])]
            raise OpenQwenError(
                f"ranks 0 and {rank} hold other weights, first in {name}: a bit has flipped in one of them",
                where=place,
                fix="look at the memory of both machines; the same command continues from the last checkpoint",
            )


def gathered(model: M, world: World, kind: Callable[[Any], M]) -> M | None:
    """The whole model on the main process, on the CPU if it was divided; None elsewhere. Every process calls this.

    kind: the class that makes such a model from its config; a divided one has another.
    """
    if not any(is_divided(parameter) for parameter in model.parameters()):
        return model if world.main else None
    whole = kind(model.config) if world.main else None
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
