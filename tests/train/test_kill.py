"""`python -m openqwen pretrain`, killed with SIGKILL at 20 random moments: the same bits as a run left alone.

Moments are drawn in time, and among the flushes and renames of saves, evaluations, and the first instructions. Whenever
a run gets to its end, however often it was killed, it is compared, and another begins.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny_artefacts as tiny

from openqwen.core.artifact import find
from openqwen.train import checkpoint, trainer

KILLS = 20
SETTINGS = {
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.ffn_size": 48,
    "model.dropout": 0.1,
    "optim.lr": 1e-2,
    "schedule.warmup_steps": 4,
    "context": 32,
    "batch_tokens": 128,
    "eval_tokens": 300,
    "steps": 120,
    "eval_interval": 10,
    "sample_interval": 25,
    "checkpoint_interval": 3,
    "sample_tokens": 4,
    "ngram_order": 3,
    "precision": "fp32",
}
RECORDS = ("metrics.jsonl", "samples.jsonl", "incidents.jsonl", "model.safetensors", "config.toml")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(place: str, name: str, number: int) -> None:
    """The process dies when a function is called for the `number`-th time."""
    module = importlib.import_module(place)
    real, calls = getattr(module, name), iter(range(number - 1))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            die()
        return real(*arguments, **named)

    setattr(module, name, call)


def no_peak() -> None:
    """Half of a short run's time would be the measurement of the machine, of which nothing depends."""
    trainer.PEAK_SECONDS = 0.01


def prepared(bad: Callable[[], None] | None) -> None:
    no_peak()
    if bad is not None:
        bad()


def moments(rng: random.Random) -> list[Callable[[], None] | None]:
    """How each attempt dies: by what it does, or (None) by the clock."""
    flushes = [
        partial(at_call, "os", "fsync", rng.randint(1, 60)) for _ in range(4)
    ]  # shards, records, saves
    renames = [partial(at_call, "os", "rename", rng.randint(1, 8)) for _ in range(3)]  # of a checkpoint
    writes = [
        partial(at_call, "openqwen.train.checkpoint", "_save_tensors", rng.randint(1, 15)) for _ in range(2)
    ]
    evaluations = [
        partial(at_call, "openqwen.pretrain.loop", "bits_per_byte", rng.randint(1, 3)) for _ in range(2)
    ]
    found: list[Callable[[], None] | None] = [*flushes, *renames, *writes, *evaluations, die]
    found += [None] * (KILLS - len(found))
    rng.shuffle(found)
    return found


def same(out: Path, whole: Path) -> None:
    for name in RECORDS:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    one, other = find(out), find(whole)
    assert one is not None and other is not None
    assert one.content == other.content
    bits = one.manifest["facts"][
        "checkpoint"
    ]  # of weights, optimizer, random state and the rest of the state
    assert len(bits) == 4 and bits == other.manifest["facts"]["checkpoint"]


@pytest.mark.fault(
    "training", "SIGKILL at twenty random moments of a run", "weights, optimizer and records in the same bits"
)
@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    rng = random.Random(20)
    tokens = tiny.tokens_artefact(tmp_path / "tokens", tiny.sums(0, 300), tiny.sums(1, 20))
    tokenizer = tiny.tokenizer_artefact(tmp_path / "tokenizer")
    words = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    command = ["pretrain", "--tokens", str(tokens), "--tokenizer", str(tokenizer), *words]

    def start(out: Path, bad: Callable[[], None] | None = None) -> Any:
        return forked.start([*command, "--out", str(out)], tmp_path / "log.txt", None, partial(prepared, bad))

    forked.end([forked.start(["--version"], tmp_path / "log.txt")])  # imports are done now
    whole, begun = tmp_path / "whole", time.monotonic()
    assert forked.end([start(whole)]) == [0], (tmp_path / "log.txt").read_text()
    seconds = time.monotonic() - begun

    out, killed, torn, done = tmp_path / "out", [], 0, 0
    for bad in moments(rng):
        while True:
            process = start(out, bad)
            process.join(rng.uniform(0, seconds / 2) if bad is None else 60)
            if bad is None:
                process.kill()
            (code,) = forked.end([process])
            if code == -signal.SIGKILL:
                break
            assert code == 0, (tmp_path / "log.txt").read_text()  # it was quicker: once more, from the start
            same(out, whole)
            shutil.rmtree(out)
            done += 1
        saved = checkpoint.steps(out / "checkpoints") if (out / "checkpoints").is_dir() else []
        torn += any((out / "checkpoints").glob(".*.tmp")) if saved else 0
        killed.append(saved[-1][0] if saved else 0)
    assert forked.end([start(out)]) == [0], (tmp_path / "log.txt").read_text()
    same(out, whole)
    assert len(killed) == KILLS and len(set(killed)) >= 5, killed
    assert torn >= 3, torn  # saves were cut short, not only steps between them
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == SETTINGS["steps"]
    print(
        f"{KILLS} kills, {torn} in a save, last checkpoints {killed}, ends {done + 1}, {seconds:.1f} s a run"
    )
