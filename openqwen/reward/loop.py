"""Trains a preference model: PMP from a language model, the reward model from a PMP model.

Report §3.2.1, Table 4: the language model with a pooling layer that reads the reward at the end token of the reply,
trained on comparisons. Ours: the pairwise logistic loss written out, the measurements.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openqwen.core.artifact import Artifact, Run, find, open_inputs, stage_run, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.model.heads import ScalarModel
from openqwen.model.weights import load_model, load_scalar, save_scalar
from openqwen.reward.accuracy import Accuracy, accuracy, length_accuracy, table_4
from openqwen.reward.config import RewardConfig
from openqwen.reward.data import Pair, Pairs, batch_at, read_pairs, steps_per_epoch
from openqwen.tokenizer import load_tokenizer
from openqwen.train import checkpoint
from openqwen.train.memory import keep_freed_memory
from openqwen.train.optimizer import make_optimizer
from openqwen.train.padding import at_end, right_pad
from openqwen.train.precision import autocast, deterministic, pick_device, pick_dtype
from openqwen.train.schedule import lr_at, set_lr
from openqwen.train.signals import stop_on_signal
from openqwen.train.step import Guard, clip_and_step

HELDOUT = "held-out pairs"  # the column of Table 4 that every model of ours has


def run(resolved: Resolved[RewardConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "model" (model or reward artefact), "pairs" and "heldout" (JSONL) to a reward artefact."""
    opened = open_inputs(inputs, {"model": ("model", "reward")})
    with stage_run(out, "reward", resolved, opened) as stage:
        source = opened["model"]
        assert isinstance(source, Artifact)
        config = resolved.config
        deterministic(config.seed)
        keep_freed_memory()
        tokenizer = load_tokenizer(source.path)
        train = read_pairs(inputs["pairs"], tokenizer, config.max_length, config.max_skipped)
        heldout = read_pairs(inputs["heldout"], tokenizer, config.max_length, config.max_skipped)
        for pairs in (train, heldout):
            if pairs.skipped:
                stage.log(f"{pairs.path}: skipped {pairs.summary()}")
        _refuse_overlap(train, heldout)
        model = starting_model(source, config.seed).to(pick_device())
        before = margins(model, heldout.items, config) if source.kind == "reward" else None
        _fit(model, train.items[: config.max_pairs], config, stage)
        _report(model, train, heldout, before, config, stage)
        save_scalar(model, out)
        tokenizer.save(out)
    shutil.rmtree(out / "checkpoints")  # only now: DONE stands, nothing will continue from them
    artifact = find(out)
    assert artifact is not None
    return artifact


def starting_model(source: Artifact, seed: int) -> ScalarModel:
    """A language model gets a fresh scalar head; a preference model keeps its own."""
    if source.kind == "reward":
        return load_scalar(source.path)
    return ScalarModel.from_qwen(load_model(source.path), seed)


def pairwise_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected) of each pair: (B,), (B,) -> (B,)."""
    return -F.logsigmoid(chosen - rejected)


def score(model: ScalarModel, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rewards (B,) in fp32, read at the last token of each row, which is the reply's end token."""
    ids, mask = right_pad(rows, device)
    return at_end(model(ids, mask), mask).float()


def micro_batches(pairs: Sequence[Pair], size: int) -> Iterator[list[Pair]]:
    """Pairs of similar length together, so that little of a batch is padding."""
    ordered = sorted(pairs, key=lambda pair: (max(pair.lengths), pair.line))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _fit(model: ScalarModel, pairs: Sequence[Pair], config: RewardConfig, stage: Run) -> None:
    device = next(model.parameters()).device
    dtype = pick_dtype(config.precision, device)
    total = config.epochs * steps_per_epoch(len(pairs), config.batch_size)
    optimizer = make_optimizer(model, config.optim)
    guard = Guard(config.optim.max_bad_steps)
    parts = {"modules": {"model": model}, "optimizers": {"model": optimizer}}
    saved = checkpoint.load_latest(stage.checkpoints, **parts)  # type: ignore[arg-type]
    start = saved["step"] if saved else 0
    if saved:
        guard.restore(saved["guard"])
    metrics = stage.open_metrics(start if saved else None)
    model.train()
    with stop_on_signal() as stop, Progress(config.label, total, start=start) as bar:
        for step in range(start, total):
            began = time.monotonic()
            lr = lr_at(step, total, config.optim.lr, config.schedule)
            set_lr(optimizer, lr)
            batch = batch_at(pairs, step, config.batch_size, config.seed)

            # one training step
            loss = 0.0
            found: list[float] = []
            for few in micro_batches(batch, config.micro_batch):
                rows = [pair.chosen_ids for pair in few] + [pair.rejected_ids for pair in few]
                with autocast(dtype, device):
                    chosen, rejected = score(model, rows, device).chunk(2)  # (b,), (b,)
                part = pairwise_loss(chosen, rejected).sum() / len(batch)
                part.backward()
                loss += part.item()
                found += (chosen - rejected).tolist()
            norm = clip_and_step(optimizer, loss, config.optim, guard, step=step)

            margin = sum(found) / len(found)
            tokens = sum(sum(pair.lengths) for pair in batch)
            measured = accuracy(found).value
            if step % config.log_every == 0 or step + 1 == total:
                metrics.write(
                    step + 1,
                    loss=loss,
                    accuracy=measured,
                    margin=margin,
                    grad_norm=norm,
                    lr=lr,
                    tokens=tokens,
                    seconds=time.monotonic() - began,
                )
            bar.update(step + 1, tokens=tokens, loss=loss, accuracy=measured)
            if stop or (step + 1) % config.checkpoint_every == 0 or step + 1 == total:
                checkpoint.save(stage.checkpoints, step + 1, **parts, state={"guard": guard.state()})  # type: ignore[arg-type]
            if stop and step + 1 < total:
                raise stop.interrupted(f"{config.label} training after step {step + 1}")
    stage.fact(steps=total, skipped_steps=guard.skipped)


@torch.no_grad()
def margins(model: ScalarModel, pairs: Sequence[Pair], config: RewardConfig) -> list[tuple[float, float]]:
    """Scores of the chosen and of the rejected side of each pair, in the order of the pairs."""
    device = next(model.parameters()).device
    dtype = pick_dtype(config.precision, device)
    model.eval()
    found: dict[int, tuple[float, float]] = {}
    for few in micro_batches(pairs, max(1, config.eval_batch // 2)):
        rows = [pair.chosen_ids for pair in few] + [pair.rejected_ids for pair in few]
        with autocast(dtype, device):
            chosen, rejected = score(model, rows, device).chunk(2)
        found |= {pair.line: (c, r) for pair, c, r in zip(few, chosen.tolist(), rejected.tolist())}
    return [found[pair.line] for pair in pairs]


def _report(
    model: ScalarModel,
    train: Pairs,
    heldout: Pairs,
    before: list[tuple[float, float]] | None,
    config: RewardConfig,
    stage: Run,
) -> None:
    """Held-out accuracy, Table 4, samples, facts."""
    after = margins(model, heldout.items, config)
    ours = by_task(heldout.items, after)
    # The prompt counts in both lengths of a pair, so it does not matter that it is counted.
    baseline = length_accuracy(*([pair.lengths for pair in pairs.items] for pairs in (train, heldout)))
    rows = [(config.label, ours), ("longer or shorter reply", {HELDOUT: baseline})]
    facts: dict[str, Any] = {}
    if before is not None:
        rows.insert(0, ("PMP (before finetuning)", by_task(heldout.items, before)))
        facts["accuracy_before"] = rows[0][1][HELDOUT].value
    measured = ours[HELDOUT]
    notes = [
        "Intervals are 95 % Wilson. The report's columns are its own test sets; ours is the held-out file."
    ]
    write_json(stage.path / "table_04.json", table_4(rows, notes))
    write_jsonl(stage.path / "samples.jsonl", _samples(heldout.items, after, config.num_samples))
    stage.fact(
        accuracy=measured.value,
        accuracy_low=measured.low,
        accuracy_high=measured.high,
        heldout_pairs=measured.n,
        length_accuracy=baseline.value,
        pairs=len(train.items[: config.max_pairs]),
        skipped_pairs={reason: len(lines) for reason, lines in train.skipped.items()},
        **facts,
    )


def by_task(pairs: Sequence[Pair], scores: Sequence[tuple[float, float]]) -> dict[str, Accuracy]:
    """Accuracy on all pairs and on each task's, by column name."""
    groups: dict[str, list[float]] = defaultdict(list)
    for pair, (chosen, rejected) in zip(pairs, scores):
        groups[HELDOUT].append(chosen - rejected)
        if pair.task:
            groups[f"task: {pair.task}"].append(chosen - rejected)
    return {name: accuracy(values) for name, values in groups.items()}


def _samples(
    pairs: Sequence[Pair], scores: Sequence[tuple[float, float]], count: int
) -> list[dict[str, str]]:
    """The first held-out pairs with their scores."""
    shown = []
    for pair, (chosen, rejected) in list(zip(pairs, scores))[:count]:
        verdict = "right" if chosen > rejected else "wrong"
        shown.append(
            {
                "label": f"{verdict}: {chosen:.2f} preferred, {rejected:.2f} rejected",
                "prompt": pair.prompt,
                "text": f"preferred: {pair.chosen}\nrejected: {pair.rejected}",
            }
        )
    return shown


def _refuse_overlap(train: Pairs, heldout: Pairs) -> None:
    """An accuracy on pairs that were trained on means nothing."""
    known = {(tuple(p.chosen_ids), tuple(p.rejected_ids)): p.line for p in train.items}
    for pair in heldout.items:
        line = known.get((tuple(pair.chosen_ids), tuple(pair.rejected_ids)))
        if line is not None:
            raise DataError(
                f"held-out pair is also a training pair (line {line} of {train.path})",
                where=f"{heldout.path}:{pair.line}",
                fix="take it out of one of the two files",
            )
