"""`python -m openqwen ...` in processes forked from one that has imported everything: a start takes no seconds.

Each has its standard error in a file and may be killed, stopped, or prepared to fail by a function of the test's.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.fsdp", "cyclopts", "openqwen.cli.training", "openqwen.pretrain.loop"]
)


def start(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> Any:
    """A process that runs the command line `words` after `prepare`; what it says on standard error goes to `log`."""
    process = _server.Process(target=_run, args=(list(words), log, dict(environment or {}), prepare))
    process.start()
    return process


def _run(
    words: list[str], log: Path, environment: dict[str, str], prepare: Callable[[], None] | None
) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    os.environ.update(environment)
    if prepare is not None:
        prepare()  # a test's bug or bad luck
    sys.argv = ["openqwen", *words]
    runpy.run_module("openqwen", run_name="__main__")


def together(
    size: int,
    words: Sequence[str],
    logs: Path,
    prepare: Mapping[int, Callable[[], None]] | None = None,
    port: int | None = None,
) -> list[Any]:
    """What torchrun does, without its half minute of patience with the frozen. prepare: by rank. logs: a folder.

    port: of a store that the processes find, as torchrun's; None: the first of them makes one.
    """
    logs.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free)}
    if port is not None:
        world["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    running = []
    for rank in range(size):
        place = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else None
        running.append(start(words, logs / f"{rank}.txt", place, (prepare or {}).get(rank)))
    return running


def end(running: Sequence[Any], seconds: float = 120) -> list[int | None]:
    """Exit codes; None for one that had not ended after so many seconds, and is killed."""
    limit = time.monotonic() + seconds
    for process in running:
        process.join(max(0.0, limit - time.monotonic()))
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
        process.join()
    return codes


def until_saved(out: Path, running: Sequence[Any]) -> None:
    """Until a checkpoint is whole: saves are written while training goes on."""
    limit = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step-*")):
        assert all(process.is_alive() for process in running) and time.monotonic() < limit
        time.sleep(0.005)


def until_step(out: Path, step: int, running: Sequence[Any]) -> None:
    """Until the metrics hold a training record of this step."""
    file, limit = out / "metrics.jsonl", time.monotonic() + 120
    while not (file.is_file() and f'{{"step": {step}, "loss"' in file.read_text(encoding="utf-8")):
        assert all(process.is_alive() for process in running) and time.monotonic() < limit
        time.sleep(0.005)
