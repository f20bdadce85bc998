"""Supervised finetuning, from a base model to one that converses and stops by itself.

Report §3.1.2: next-token prediction on ChatML conversations with system and user turns masked. Ours: packing without
attention across samples, exact resume, held-out loss, replies before and after.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openqwen.chat import chatml
from openqwen.core.artifact import Artifact, Run, find, open_inputs, stage_run, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.model.qwen import Qwen
from openqwen.model.weights import save_model
from openqwen.sft.config import SFTConfig
from openqwen.sft.data import (
    Sample,
    Skipped,
    check_share,
    make_batch,
    pack,
    read_samples,
    rows_at,
    split_heldout,
)
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train import checkpoint, lora, precision
from openqwen.train.loss import IGNORE, cross_entropy
from openqwen.train.memory import keep_freed_memory
from openqwen.train.optimizer import make_optimizer
from openqwen.train.sample import greedy
from openqwen.train.schedule import lr_at, set_lr
from openqwen.train.signals import stop_on_signal
from openqwen.train.step import Guard, clip_and_step


def run(resolved: Resolved[SFTConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Finetunes a model on conversations into `out`. Inputs: model, data (a file), optionally tools (a file)."""
    config = resolved.config
    opened = open_inputs(inputs, {"model": "model"})
    tokenizer = load_tokenizer(inputs["model"])
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for source in ("data", "tools"):
        if source in inputs:
            found, bad = read_samples(inputs[source], source, tokenizer, config.max_length, config.mask)
            check_share(found, bad, inputs[source], config.max_bad_share)
            samples, skipped = samples + found, skipped + bad
    with stage_run(out, "model", resolved, opened) as stage:
        train(config, samples, skipped, tokenizer, stage, inputs["model"])
    shutil.rmtree(out / "checkpoints")  # only now: DONE stands, nothing will continue from them
    finished = find(out)
    assert finished is not None
    return finished


def train(
    config: SFTConfig,
    samples: Sequence[Sample],
    skipped: Sequence[Skipped],
    tokenizer: Tokenizer,
    stage: Run,
    base: Path,
) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    device = precision.pick_device()
    dtype = precision.pick_dtype(config.precision, device)
    precision.deterministic(config.seed)
    keep_freed_memory()
    model = lora.load_base(base, config.lora, config.seed, config.dropout, device).train()
    model.config = model.config.model_copy(
        update={"max_length": max(model.config.max_length, config.max_length)}
    )
    optimizer = make_optimizer(model, config.optim)
    guard = Guard(config.optim.max_bad_steps)
    training, heldout = split_heldout(samples, config.heldout_samples, config.seed)
    rows = [[number] for number in range(len(training))]
    if config.packing:
        rows = pack([len(sample.ids) for sample in training], config.max_length, config.seed)

    modules, optimizers = {"model": lora.trained(model)}, {"adamw": optimizer}
    state = checkpoint.load_latest(stage.checkpoints, modules, optimizers)
    metrics = stage.open_metrics(state["step"] if state else None)
    if state is None:
        loss_before = heldout_loss(config, model, heldout, tokenizer, dtype)
        metrics.write(0, heldout_loss=loss_before)
        before = replies(config, model, tokenizer, heldout, "before")
        state = {
            "step": 0,
            "guard": guard.state(),
            "heldout": loss_before,
            "first": loss_before,
            "before": before,
        }
    guard.restore(state["guard"])
    held, begun, seconds, num_tokens = state["heldout"], state["step"], 0.0, 0

    with Progress("sft", config.steps, start=begun) as bar, stop_on_signal() as stop:
        for step in range(begun, config.steps):
            clock = time.perf_counter()
            # ---- one training step --------------------------------------------------------------------------
            lr = lr_at(step, config.steps, config.optim.lr, config.schedule)
            set_lr(optimizer, lr)
            chosen = [rows[i] for i in rows_at(len(rows), step, config.batch_size, config.seed)]
            parts = [
                make_batch(training, chosen[i : i + config.micro_batch], tokenizer.eos_id)
                for i in range(0, len(chosen), config.micro_batch)
            ]
            trained = sum(int((part.labels != IGNORE).sum()) for part in parts)
            loss = torch.zeros((), device=device)
            for part in parts:
                with precision.autocast(dtype, device):
                    total = summed_loss(model, part.ids, part.labels, part.segments)
                    part_loss = total / trained  # by the tokens of the whole batch: no mean of means
                part_loss.backward()
                loss += part_loss.detach()
            norm = clip_and_step(optimizer, loss, config.optim, guard, step=step)
            # ---------------------------------------------------------------------------------------------------
            seconds += time.perf_counter() - clock
            count = sum(len(training[number].ids) for row in chosen for number in row)
            done, num_tokens = step + 1, num_tokens + count
            bar.update(done, tokens=count, loss=float(loss), lr=lr)
            if done % config.log_interval == 0 or done == config.steps:
                metrics.write(
                    done,
                    loss=float(loss),
                    lr=lr,
                    grad_norm=norm,
                    trained_tokens=trained,
                    skipped=guard.skipped,
                )
            if done % config.eval_interval == 0 or done == config.steps:
                held = heldout_loss(config, model, heldout, tokenizer, dtype)
                metrics.write(done, heldout_loss=held)
            if done % config.checkpoint_interval == 0 or done == config.steps or stop:
                state = {**state, "guard": guard.state(), "heldout": held}
                saved = checkpoint.save(stage.checkpoints, done, modules, optimizers, state)
                stage.log(f"step {done}: {num_tokens / seconds:.0f} tokens/s, saved {saved.name}")
            if stop and done < config.steps:
                raise stop.interrupted(f"finetuning after step {done}")

    after = replies(config, model, tokenizer, heldout, "after")
    write_jsonl(stage.path / "samples.jsonl", state["before"] + after)
    write_jsonl(stage.path / "skipped.jsonl", [asdict(record) for record in skipped])
    if config.lora is not None:
        stage.fact(**lora.sizes(model))
        lora.save_adapter(model, stage.path / "adapter")
        lora.merge(model.cpu())
    save_model(model, stage.path, eos_ids=[tokenizer.im_end_id, tokenizer.eos_id])
    tokenizer.save(stage.path)
    stage.fact(
        heldout_loss=held,
        heldout_loss_before=state["first"],
        samples=dict(Counter(sample.source for sample in samples)),
        heldout_samples=len(heldout),
        skipped=dict(Counter(record.reason for record in skipped)),
        rows=len(rows),
        epochs=config.steps * config.batch_size / len(rows),
        stopped_by_itself=sum(reply["stopped"] for reply in after) / len(after),
        max_length=model.config.max_length,
        tokens_per_second=num_tokens / seconds if seconds else None,
        skipped_steps=guard.skipped,
        checkpoint=checkpoint.hashes(stage.checkpoints),
    )


def summed_loss(model: Qwen, ids: Tensor, labels: Tensor, segments: Tensor) -> Tensor:
    """Summed loss of the trained tokens of (B, T) rows, on the model's device."""
    device = model.head.weight.device
    alone = int(segments.max()) <= 1  # one sample a row, padding behind it: plain causal attention is enough
    hidden = model.hidden(ids.to(device), segments=None if alone else segments.to(device))  # (B, T, C)
    total, _ = cross_entropy(hidden.flatten(0, 1), model.head.weight, labels.to(device).flatten())
    return total


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
    """Greedy replies to the last question of some held-out conversations, beside what the data says."""
    found = []
    for sample in heldout[: config.num_samples]:
        question, expected = sample.messages[:-1], sample.messages[-1]["content"]
        prompt = chatml.render_prompt(question, tokenizer)
        ids = greedy(model, prompt, config.sample_tokens, stop=chatml.stop_ids(tokenizer))
        text = tokenizer.decode([i for i in ids if i < tokenizer.vocab_size], skip_special_tokens=True)
        found.append(
            {
                "label": label,
                "prompt": question[-1]["content"],
                "text": text,
                "expected": expected,
                "stopped": ids[-1] == tokenizer.im_end_id,
            }
        )
    return found
