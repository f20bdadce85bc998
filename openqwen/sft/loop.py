"""Supervised finetuning, from a base model to one that converses and stops by itself.

Report §3.1.2: next-token prediction on ChatML conversations with system and user turns masked. Ours: packing without
attention across samples, held-out loss, replies before and after. The loop itself is train/trainer.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openqwen.chat import chatml
from openqwen.chat.messages import Message
from openqwen.core.artifact import Artifact, Run, open_inputs, read_jsonl, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.errors import UsageError
from openqwen.model.qwen import Qwen
from openqwen.sft.config import SFTConfig
from openqwen.sft.data import (
    Sample,
    Skipped,
    check_share,
    make_batch,
    of_replies,
    pack,
    read_samples,
    rows_at,
    split_heldout,
)
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train import lora, precision
from openqwen.train.distributed import World
from openqwen.train.flops import flops_of_rows
from openqwen.train.loss import IGNORE, cross_entropy
from openqwen.train.sample import greedy
from openqwen.train.trainer import Batch, fit, run_stage, write_model

SOURCES = ("data", "tools", "safety")  # inputs that hold conversations


def run(resolved: Resolved[SFTConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Finetunes a model on conversations into `out`. Inputs: model, data (a file), optionally tools and safety (files).

    Samples of all files are mixed (report §3.4: agent samples are no stage of their own) and counted apart.
    """
    config = resolved.config
    if config.stages:
        raise UsageError("these are several finetunings, not one", where="stages", fix="run openqwen sft")
    opened = open_inputs(inputs, {"model": "model"})
    tokenizer = load_tokenizer(inputs["model"])
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for source in SOURCES:
        if source in inputs:
            found, bad = read_samples(inputs[source], source, tokenizer, config.max_length, config.mask)
            check_share(found, bad, inputs[source], config.max_bad_share)
            samples, skipped = samples + found, skipped + bad
    body = partial(train, config, samples, skipped, tokenizer, inputs["model"])
    return run_stage(resolved, opened, out, "model", body)


@dataclass(frozen=True)
class Conversations:
    """What finetuning gives the loop. Items are rows: the numbers of the samples in each."""

    config: SFTConfig
    model: Qwen
    training: Sequence[Sample]
    heldout: Sequence[Sample]
    rows: Sequence[Sequence[int]]
    tokenizer: Tokenizer
    dtype: torch.dtype
    files: dict[str, Path]  # by the name that samples have as their source
    label: str = "sft"
    measures: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        return self.config.steps

    @property
    def sample_interval(self) -> int | None:
        return self.config.sample_interval

    def batch(self, step: int) -> Batch:
        numbers = rows_at(len(self.rows), step, self.config.batch_size, self.config.seed)
        rows = [self.rows[number] for number in numbers]
        samples = [self.training[number] for row in rows for number in row]
        counted = sum(sum(sample.trained[1:]) for sample in samples)
        lengths = [len(sample.ids) for sample in samples]  # each attends to itself
        return Batch(rows, counted, sum(lengths), flops_of_rows(self.model.config, lengths, counted))

    def losses(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        part = make_batch(self.training, rows, self.tokenizer.eos_id)
        return [summed_loss(self.model, part.ids, part.labels, part.segments)]

    def names(self, rows: Sequence[Sequence[int]]) -> Iterator[str]:
        for sample in (self.training[number] for row in rows for number in row):
            yield f"{self.files.get(sample.source, sample.source)}:{sample.line}"

    def evaluate(self) -> dict[str, float]:
        return heldout_losses(self.config, self.model, self.heldout, self.tokenizer, self.dtype)

    def samples(self, label: str) -> list[dict[str, Any]]:
        count = max(self.config.num_samples, self.config.stop_prompts if label == "after" else 0)
        return replies(self.config, self.model, self.tokenizer, self.heldout[:count], label)


def train(
    config: SFTConfig,
    samples: Sequence[Sample],
    skipped: Sequence[Skipped],
    tokenizer: Tokenizer,
    base: Path,
    stage: Run,
    world: World,
) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    model = lora.load_base(base, config.lora, config.seed, config.dropout, world.device).train()
    longer = max(model.config.max_length, config.max_length)
    model.config = model.config.model_copy(update={"max_length": longer})
    training, heldout = split_heldout(samples, config.heldout_samples, config.seed)
    heldout = [of_replies(sample, tokenizer) for sample in heldout]
    rows = [[number] for number in range(len(training))]
    if config.packing:
        rows = pack([len(sample.ids) for sample in training], config.max_length, config.seed)
    dtype = precision.pick_dtype(config.precision, world.device)
    files = {name: path for name, path in stage.inputs.items() if isinstance(path, Path)}
    task = Conversations(config, model, training, heldout, rows, tokenizer, dtype, files)
    found = fit(task, model, model.blocks, config, stage, world)

    if not write_model(model, stage, world, [tokenizer.im_end_id, tokenizer.eos_id]):
        return
    tokenizer.save(stage.path)
    after = [record for record in read_jsonl(stage.path / "samples.jsonl") if record["label"] == "after"]
    write_jsonl(stage.path / "skipped.jsonl", [asdict(record) for record in skipped])
    stage.fact(
        heldout_loss=found.last["heldout_loss"],
        heldout_loss_before=found.first["heldout_loss"],
        samples=dict(Counter(sample.source for sample in samples)),
        trained_tokens=_trained_tokens(samples),
        heldout_samples=len(heldout),
        skipped=dict(Counter(record.reason for record in skipped)),
        rows=len(rows),
        epochs=config.steps * config.batch_size / len(rows),
        stopped_by_itself=sum(reply["stopped"] for reply in after) / len(after),
        stop_prompts=len(after),
        max_length=model.config.max_length,
    )


def summed_loss(model: Qwen, ids: Tensor, labels: Tensor, segments: Tensor) -> Tensor:
    """Summed loss of the trained tokens of (B, T) rows, on the model's device."""
    device = model.head.weight.device
    alone = int(segments.max()) <= 1  # one sample a row, padding behind it: plain causal attention is enough
    hidden = model.hidden(ids.to(device), segments=None if alone else segments.to(device))  # (B, T, C)
    total, _ = cross_entropy(hidden.flatten(0, 1), model.head.weight, labels.to(device).flatten())
    return total


def _trained_tokens(samples: Sequence[Sample]) -> dict[str, int]:
    """Tokens that carry loss, by source."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts[sample.source] += sum(sample.trained[1:])
    return dict(counts)


def heldout_losses(
    config: SFTConfig, model: Qwen, heldout: Sequence[Sample], tokenizer: Tokenizer, dtype: torch.dtype
) -> dict[str, float]:
    """Mean loss (nats a trained token) on the held-out samples: `heldout_loss`, and each source's if there are several."""
    parts: dict[str, list[Sample]] = {}
    for sample in heldout:
        parts.setdefault(sample.source, []).append(sample)
    if len(parts) == 1:
        return {"heldout_loss": heldout_loss(config, model, heldout, tokenizer, dtype)}
    losses = {name: heldout_loss(config, model, part, tokenizer, dtype) for name, part in parts.items()}
    tokens = _trained_tokens(heldout)
    mean = sum(losses[name] * tokens[name] for name in parts) / sum(tokens.values())
    return {"heldout_loss": mean, **{f"heldout_loss/{name}": loss for name, loss in losses.items()}}


@torch.no_grad()
def heldout_loss(
    config: SFTConfig, model: Qwen, heldout: Sequence[Sample], tokenizer: Tokenizer, dtype: torch.dtype
) -> float:
    """Mean loss (nats a trained token) on the held-out samples, one a row."""
    model.eval()
    nats, count = 0.0, 0
    for start in range(0, len(heldout), config.micro_batch):
        rows = [[number] for number in range(start, min(start + config.micro_batch, len(heldout)))]
        batch = make_batch(heldout, rows, tokenizer.eos_id)
        with precision.autocast(dtype, model.head.weight.device):
            nats += float(summed_loss(model, batch.ids, batch.labels, batch.segments))
        count += int((batch.labels != IGNORE).sum())
    model.train()
    return nats / count


def replies(
    config: SFTConfig, model: Qwen, tokenizer: Tokenizer, heldout: Sequence[Sample], label: str
) -> list[dict[str, Any]]:
    """Greedy replies to the last question of held-out conversations, beside what the data says."""
    found = []
    for sample in heldout:
        question, expected = sample.messages[:-1], sample.messages[-1]["content"]
        text, stopped = greedy_reply(model, question, tokenizer, config.sample_tokens)
        found.append(
            {
                "label": label,
                "prompt": question[-1]["content"],
                "text": text,
                "expected": expected,
                "stopped": stopped,
            }
        )
    return found


def greedy_reply(
    model: Qwen, messages: Sequence[Message], tokenizer: Tokenizer, max_tokens: int
) -> tuple[str, bool]:
    """The most likely reply to a conversation, and whether it ends by itself."""
    prompt = chatml.render_prompt(messages, tokenizer)
    ids = greedy(model, prompt, max_tokens, stop=chatml.stop_ids(tokenizer))
    text = tokenizer.decode([i for i in ids if i < tokenizer.vocab_size], skip_special_tokens=True)
    return text, ids[-1] == tokenizer.im_end_id
