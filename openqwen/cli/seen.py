"""Which training runs made a model, and at which of their steps a document of the corpus was seen."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.config import load_saved
from openqwen.core.errors import DataError
from openqwen.core.metrics import read_metrics
from openqwen.core.shards import open_tokens
from openqwen.pretrain.config import PretrainConfig
from openqwen.rlhf.config import PPOConfig
from openqwen.train.seen import Reading, steps_with

_CHECKPOINT = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Run:
    """A run that trained on tokens of the corpus."""

    path: Path
    stage: str
    tokens: Artifact
    reading: Reading


def runs_on(corpus: Artifact, model: Path) -> list[Run]:
    """The runs on a corpus that led to a model, the first one first. DataError if there is none.

    model: an artefact, or a checkpoint of pretraining that goes on still.
    """
    step = _CHECKPOINT.fullmatch(model.name)
    found = list(
        _unfinished(corpus, model, int(step[1]))
        if step
        else _runs(corpus, artifact.load(model, ("model", "reward")))
    )
    if not found:
        raise DataError(
            "neither this model nor one it came from was trained on this corpus",
            where=str(model),
            fix="openqwen show MODEL prints what it was made from",
        )
    return found


def _runs(corpus: Artifact, model: Artifact) -> Iterator[Run]:
    inputs = model.manifest["inputs"]
    for name in ("model", "policy"):
        if name in inputs:
            yield from _runs(corpus, _input(model, name, ("model", "reward")))
    if "tokens" in inputs:
        tokens = _input(model, "tokens", "tokens")
        if tokens.manifest["inputs"].get("corpus", {}).get("content") == corpus.content:
            stage, reading = _reading(model)
            yield Run(model.path, stage, tokens, reading)


def _unfinished(corpus: Artifact, checkpoint: Path, step: int) -> Iterator[Run]:
    """The runs that led to a checkpoint; the last has come to `step` of it."""
    path = checkpoint.resolve().parent.parent
    known = path / "manifest.json"
    if not checkpoint.is_dir() or not known.is_file():
        raise DataError("no checkpoint there", where=str(checkpoint), fix="give out/RUN/checkpoints/step-N")
    told = json.loads(known.read_text(encoding="utf-8"))
    for run in _runs(corpus, Artifact(path, told["kind"], told["fingerprint"], content="")):
        yield run if run.path != path else replace(run, reading=_until(run.reading, step))


def _until(reading: Reading, step: int) -> Reading:
    """What a run has read that has come to a step."""
    return replace(reading, batches=min(reading.batches, max(0, step - reading.before) * reading.per_step))


def _pretrain(config: PretrainConfig) -> Reading:
    return Reading(config.context, config.batch_size, config.steps, config.seed)


def _input(found: Artifact, name: str, kind: str | tuple[str, ...]) -> Artifact:
    """An input of an artefact as it was then. DataError if it is gone or another one now."""
    known = found.manifest["inputs"][name]
    source = artifact.load(os.path.normpath(found.path / known["path"]), kind)
    if source.content != known["content"]:
        raise DataError(
            f"{name} of {found.path} is not what it was trained with",
            where=str(source.path),
            fix="make it again as it was; the training order depends on it",
        )
    return source


def _reading(model: Artifact) -> tuple[str, Reading]:
    """The stage that made a model from tokens, and how it reads them."""
    path = model.file("config.toml")
    if "policy" not in model.manifest["inputs"]:
        return "pretrain", _pretrain(load_saved(PretrainConfig, path))
    ppo = load_saved(PPOConfig, path)  # the pretrained gradient reads a batch for each update of the policy
    updates = ppo.updates_per_step
    return "ppo", Reading(
        ppo.pretrain_context,
        ppo.pretrain_batch,
        ppo.steps * updates if ppo.pretrain_coef else 0,
        ppo.seed,
        ppo.value_warmup_steps,
        updates,
    )


def seen(run: Run, ident: str) -> dict[str, Any]:
    """{"model", "stage", "copies", "steps", "epochs", "skipped"} of a document in a run.

    copies: how often it stands in the tokens. epochs: steps by epoch. skipped: those of `steps` that changed nothing,
    because loss or gradient was not finite.
    """
    numbers = _numbers(run.tokens.file("documents.train.jsonl"), ident)
    found = steps_with(open_tokens(run.tokens.path), numbers, run.reading)
    steps = sorted({step for _, step in found})
    epochs: dict[int, list[int]] = {}
    for epoch, step in found:
        epochs.setdefault(epoch, []).append(step)
    incidents = read_metrics(run.path / "incidents.jsonl")
    without = {record["step"] for record in incidents if record["kind"] == "not finite"}
    return {
        "model": str(run.path),
        "stage": run.stage,
        "copies": len(numbers),
        "steps": steps,
        "epochs": epochs,
        "skipped": [step for step in steps if step in without],
    }


def _numbers(index: Path, ident: str) -> list[int]:
    """The numbers of a document in the training split: one for each copy."""
    needle = json.dumps(ident, ensure_ascii=False).encode()
    with index.open("rb") as lines:
        return [i for i, line in enumerate(lines) if needle in line and json.loads(line)["id"] == ident]
