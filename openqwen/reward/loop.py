"""Trains a preference model: PMP from a language model, the reward model from a PMP model.

Report §3.2.1, Table 4: the language model with a pooling layer that reads the reward at the end token of the reply,
trained on comparisons. Ours: the pairwise logistic loss written out, the measurements. The loop itself is
train/trainer.py. Held-out pairs may be a folder, a file for each data set: each is a column of Table 4, and a file
named as one of the report's (anthropic-helpful-base.jsonl) fills that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openqwen.core.artifact import Artifact, Run, open_inputs, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.tables import published
from openqwen.model.heads import ScalarModel
from openqwen.model.stored import open_checkpoint
from openqwen.model.weights import load_model, load_scalar, save_scalar
from openqwen.reward.accuracy import Accuracy, accuracy, difference, length_margins, of_share, table_4
from openqwen.reward.config import RewardConfig
from openqwen.reward.data import Pair, Pairs, batch_at, read_pairs, refuse_shared, steps_per_epoch
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train import distributed
from openqwen.train.distributed import World
from openqwen.train.flops import flops_of_rows
from openqwen.train.padding import at_end, right_pad
from openqwen.train.precision import autocast, pick_dtype
from openqwen.train.trainer import Batch, Evaluations, fit, run_stage

HELDOUT = "held-out pairs"  # the column of Table 4 that every model of ours has
MEASURED = "heldout_accuracy"  # in metrics.jsonl; of another column: heldout_accuracy/<column>


def run(resolved: Resolved[RewardConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "model" (model or reward artefact), "pairs" and "heldout" (JSONL) to a reward artefact."""
    config = resolved.config
    opened = open_inputs(inputs, {"model": ("model", "reward")})
    source = opened["model"]
    assert isinstance(source, Artifact)
    tokenizer = load_tokenizer(source.path)
    length = min(
        config.max_length, open_checkpoint(source.path, scalar=source.kind == "reward").config.max_length
    )
    train_, heldout = (
        read_pairs(inputs[name], tokenizer, length, config.max_skipped) for name in ("pairs", "heldout")
    )
    refuse_shared(train_, heldout)
    body = partial(train, config, train_, heldout, tokenizer, source)
    return run_stage(resolved, opened, out, "reward", body)


@dataclass(frozen=True)
class Comparisons:
    """What a preference model gives the loop. Items are pairs, those of like length side by side."""

    config: RewardConfig
    model: ScalarModel
    pairs: Sequence[Pair]
    heldout: Sequence[Pair]
    measures: tuple[str, ...] = ("accuracy", "margin")
    sample_interval: int | None = None

    @property
    def label(self) -> str:
        return self.config.label

    @property
    def steps(self) -> int:
        return self.config.epochs * steps_per_epoch(len(self.pairs), self.config.batch_size)

    def batch(self, step: int) -> Batch:
        pairs = by_length(batch_at(self.pairs, step, self.config.batch_size, self.config.seed))
        lengths = [length for pair in pairs for length in pair.lengths]
        scalar_head = self.model.config.model_copy(update={"vocab_size": 1})
        flops = flops_of_rows(scalar_head, lengths, sum(lengths))
        return Batch(pairs, counted=len(pairs), tokens=sum(lengths), flops=flops)

    def losses(self, pairs: Sequence[Pair]) -> list[Tensor]:
        chosen, rejected = score_pairs(self.model, pairs)  # (b,), (b,)
        ahead = (chosen - rejected).detach()
        right = (ahead > 0).sum() + 0.5 * (ahead == 0).sum()
        return [pairwise_loss(chosen, rejected).sum(), right, ahead.sum()]

    def names(self, pairs: Sequence[Pair]) -> Iterator[str]:
        for pair in pairs:
            yield pair.where

    def evaluate(self) -> dict[str, float]:
        """Accuracy on all held-out pairs and on those of each column of Table 4."""
        ahead = [chosen - rejected for chosen, rejected in margins(self.model, self.heldout, self.config)]
        return {
            metric_of(name): accuracy([ahead[i] for i in places]).value
            for name, places in columns(self.heldout).items()
        }

    def samples(self, label: str) -> list[dict[str, Any]]:
        """The first held-out pairs with their scores, after training."""
        shown = self.heldout[: self.config.num_samples] if label == "after" else []
        return [
            _sample(pair, *scores) for pair, scores in zip(shown, margins(self.model, shown, self.config))
        ]


def train(
    config: RewardConfig,
    pairs: Pairs,
    heldout: Pairs,
    tokenizer: Tokenizer,
    source: Artifact,
    stage: Run,
    world: World,
) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    for some in (pairs, heldout):
        if some.skipped:
            stage.log(f"{some.path}: skipped {some.summary()}")
    model = starting_model(source, config.seed).to(world.device).train()
    task = Comparisons(config, model, pairs.items[: config.max_pairs], heldout.items)
    found = fit(task, model, model.backbone.blocks, config, stage, world)

    if (whole := distributed.gathered(model, world, ScalarModel)) is None:
        return
    save_scalar(whole, stage.path)
    tokenizer.save(stage.path)
    stage.fact(steps=task.steps, pairs=len(task.pairs))
    _report(found, whole, task.pairs, heldout, config, source, stage)
    stage.fact(skipped_pairs={reason: len(places) for reason, places in pairs.skipped.items()})


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


def score_pairs(model: ScalarModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Rewards of the chosen and of the rejected sides: (B,), (B,)."""
    rows = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    chosen, rejected = score(model, rows, model.scalar.weight.device).chunk(2)
    return chosen, rejected


def by_length(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of similar length together, so that little of a micro-batch is padding."""
    return sorted(pairs, key=lambda pair: (max(pair.lengths), pair.where))


@torch.no_grad()
def margins(model: ScalarModel, pairs: Sequence[Pair], config: RewardConfig) -> list[tuple[float, float]]:
    """Scores of the chosen and of the rejected side of each pair, in the order of the pairs."""
    device, training = model.scalar.weight.device, model.training
    dtype = pick_dtype(config.precision, device)
    model.eval()
    found: dict[int, tuple[float, float]] = {}
    places = sorted(range(len(pairs)), key=lambda i: max(pairs[i].lengths))
    size = max(1, config.eval_batch // 2)
    for start in range(0, len(places), size):
        few = places[start : start + size]
        with autocast(dtype, device):
            chosen, rejected = score_pairs(model, [pairs[i] for i in few])
        found |= zip(few, zip(chosen.tolist(), rejected.tolist()))
    model.train(training)
    return [found[i] for i in range(len(pairs))]


def columns(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Table 4's columns: the places of all pairs, of each data set's where there are several, of each task's."""
    found: dict[str, list[int]] = {HELDOUT: list(range(len(pairs)))}
    several = len({pair.path for pair in pairs}) > 1
    for place, pair in enumerate(pairs):
        if several:
            found.setdefault(column_of(pair.path), []).append(place)
        if pair.task:
            found.setdefault(f"task: {pair.task}", []).append(place)
    return found


def metric_of(column: str) -> str:
    """What metrics.jsonl calls the accuracy on a column's pairs."""
    return MEASURED if column == HELDOUT else f"{MEASURED}/{column}"


def column_of(file: Path) -> str:
    """The column of Table 4 that a data set's file is named as, or the file's own name.

    `anthropic-helpful-base.jsonl.gz` -> `Anthropic Helpful-base`; `mine.jsonl` -> `mine`
    """
    stem = file.name.partition(".")[0]
    known = {_letters(column["name"]): column["name"] for column in published(4)["columns"]}
    return known.get(_letters(stem), stem)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def _report(
    found: Evaluations,
    model: ScalarModel,
    train: Sequence[Pair],
    heldout: Pairs,
    config: RewardConfig,
    source: Artifact,
    stage: Run,
) -> None:
    """Table 4, the scores of the held-out pairs, and facts."""
    scores = margins(model, heldout.items, config)
    write_jsonl(
        stage.path / "scores.jsonl",
        [
            {"file": pair.path.name, "line": pair.line, "chosen": chosen, "rejected": rejected}
            for pair, (chosen, rejected) in zip(heldout.items, scores)
        ],
    )
    ours = [chosen - rejected for chosen, rejected in scores]
    # The prompt counts in both lengths of a pair, so it does not matter that it is counted.
    length = length_margins(*([pair.lengths for pair in pairs] for pairs in (train, heldout.items)))
    places = columns(heldout.items)
    by_column = [
        {name: accuracy([margin[i] for i in found]) for name, found in places.items()}
        for margin in (ours, length)
    ]
    rows = list(zip((config.label, "longer or shorter reply"), by_column))
    if source.kind == "reward":
        before = {name: of_share(found.first[metric_of(name)], len(of)) for name, of in places.items()}
        rows.insert(0, ("PMP (before finetuning)", before))
        stage.fact(accuracy_before=found.first[MEASURED])
    queries = [pair.query for pair in heldout.items]
    gains = {
        name: difference([ours[i] for i in of], [length[i] for i in of], [queries[i] for i in of])
        for name, of in places.items()
    }
    notes = [
        "Intervals are 95 % Wilson. The report's columns are its own test sets; ours are held-out files.",
        *(f"{name}: {_points(gain)} over length alone, by pairs." for name, gain in gains.items()),
    ]
    write_json(stage.path / "table_04.json", table_4(rows, notes))
    seen = {pair.query for pair in train}
    measured, baseline, gain = (some[HELDOUT] for some in (*by_column, gains))
    stage.fact(
        accuracy=measured.value,
        accuracy_low=measured.low,
        accuracy_high=measured.high,
        heldout_pairs=measured.n,
        heldout_pairs_of_training_queries=sum(query in seen for query in queries),
        length_accuracy=baseline.value,
        over_length=gain.value,
        over_length_low=gain.low,
        over_length_high=gain.high,
    )


def _points(gain: Accuracy) -> str:
    """`+8.1 points (+4.0 to +12.2)`."""
    value, low, high = (f"{100 * number:+.1f}" for number in (gain.value, gain.low, gain.high))
    return f"{value} points ({low} to {high})"


def _sample(pair: Pair, chosen: float, rejected: float) -> dict[str, str]:
    verdict = "right" if chosen > rejected else "wrong"
    return {
        "label": f"{verdict}: {chosen:.2f} preferred, {rejected:.2f} rejected",
        "prompt": pair.prompt,
        "text": f"preferred: {pair.chosen}\nrejected: {pair.rejected}",
    }
