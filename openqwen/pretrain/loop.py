"""Pretraining, from token shards to a base model.

Report §2.4: next-token prediction over documents shuffled, merged and cut to the context length, AdamW, cosine
schedule, BFloat16 mixed precision. Ours: exact resume, validation in bits per byte, the n-gram model it must beat.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch

from openqwen.core.artifact import Artifact, Run, find, open_inputs, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError, UsageError
from openqwen.core.shards import Tokens, open_tokens
from openqwen.data.ngram import NgramModel
from openqwen.model.qwen import Qwen
from openqwen.model.weights import save_model
from openqwen.pretrain.config import PretrainConfig
from openqwen.pretrain.heldout import HeldOut, bits_per_byte, held_out
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train import checkpoint, distributed, lora, precision
from openqwen.train.compiled import compile_blocks
from openqwen.train.distributed import GradientTree, World, shard_seed
from openqwen.train.flops import flops_per_token
from openqwen.train.loader import batch_at, num_pieces
from openqwen.train.loss import cross_entropy
from openqwen.train.memory import keep_freed_memory
from openqwen.train.optimizer import make_optimizer
from openqwen.train.sample import greedy
from openqwen.train.schedule import lr_at, set_lr
from openqwen.train.signals import stop_on_signal
from openqwen.train.step import Guard, clip_and_step
from openqwen.train.throughput import Throughput


def run(resolved: Resolved[PretrainConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Trains the base model of `resolved.config` into `out`. Inputs: tokens, tokenizer, optionally a model to go on from."""
    opened = open_inputs(inputs, {"tokens": "tokens", "tokenizer": "tokenizer", "model": "model"})
    tokenizer = load_tokenizer(inputs["tokenizer"])
    tokens = open_tokens(inputs["tokens"], "train")
    check(resolved.config, tokens, tokenizer, inputs["tokens"])
    if resolved.config.lora is not None and "model" not in inputs:
        raise UsageError(
            "adapters need a model to stand beside", where="lora", fix="--model PATH, or leave lora.* out"
        )
    with distributed.join(resolved.config.parallel.timeout) as world:
        distributed.check(resolved.config.parallel, world, resolved.config.batch_size)
        with distributed.stage(world, out, "model", resolved, opened) as stage:
            train(
                resolved.config,
                tokens,
                open_tokens(inputs["tokens"], "valid"),
                tokenizer,
                stage,
                inputs.get("model"),
                world,
            )
        if world.main:
            shutil.rmtree(out / "checkpoints")  # only now: DONE stands, nothing will continue from them
        world.barrier()
    finished = find(out)
    assert finished is not None
    return finished


def check(config: PretrainConfig, tokens: Tokens, tokenizer: Tokenizer, path: Path) -> None:
    """What would otherwise fail, or train nonsense, after the start."""
    if tokens.meta["tokenizer"] != tokenizer.content:
        raise DataError(
            "the token shards were made with another tokenizer",
            where=str(path),
            fix="pack the corpus again with this tokenizer",
        )
    num_pieces(tokens, config.context)


def train(
    config: PretrainConfig,
    tokens: Tokens,
    valid: Tokens,
    tokenizer: Tokenizer,
    stage: Run,
    base: Path | None,
    world: World,
) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    device, parallel = world.device, config.parallel
    dtype = precision.pick_dtype(config.precision, device)
    precision.deterministic(config.seed)
    keep_freed_memory()
    model = begin(config, tokenizer, base).to(device).train()
    if config.compile:
        compile_blocks(model.blocks)
    distributed.prepare(model, model.blocks, parallel, dtype)
    gradients = GradientTree(model, parallel)
    own, shards = distributed.local_parts(parallel, world)
    optimizer = make_optimizer(model, config.optim)
    guard = Guard(config.optim.max_bad_steps)
    text = held_out(valid, tokenizer, config.context, config.eval_tokens)

    modules, optimizers = {"model": lora.trained(model)}, {"adamw": optimizer}
    state = checkpoint.load_latest(stage.checkpoints, modules, optimizers, world=world)
    metrics = stage.open_metrics(state["step"] if state else None)
    speeds = stage.open_metrics(state["step"] if state else None, "throughput.jsonl")
    # Not known with adapters: a step computes no gradients of frozen matrices.
    flops = flops_per_token(model.config, config.context) if config.lora is None else None
    speed = Throughput(flops, dtype, device, world.size)
    if state is None:
        bits = bits_per_byte(model, text, config.micro_batch, dtype)
        metrics.write(0, valid_bits_per_byte=bits)
        state = {"step": 0, "guard": guard.state(), "bits": bits, "before": samples(config, model, tokenizer)}
    guard.restore(state["guard"])
    bits, begun, seconds = state["bits"], state["step"], 0.0

    with Progress("pretrain", config.steps, start=begun) as bar, stop_on_signal() as stop:
        for step in range(begun, config.steps):
            clock = time.perf_counter()
            # ---- one training step --------------------------------------------------------------------------
            lr = lr_at(step, config.steps, config.optim.lr, config.schedule)
            set_lr(optimizer, lr)
            losses = torch.zeros(shards, device=device)
            with world.watch(f"step {step}"):
                for shard in own:
                    torch.manual_seed(shard_seed(config.seed, step, shard))  # dropout
                    place = {"rank": shard, "num_ranks": shards}
                    batch = batch_at(
                        tokens, step, config.batch_size, config.context, config.seed, **place
                    )  # (B, T + 1)
                    for part in batch.split(config.micro_batch):
                        ids = part.to(device, non_blocking=True)
                        with precision.autocast(dtype, device):
                            hidden = model.hidden(ids[:, :-1]).flatten(0, 1)  # (b * T, C)
                            total, _ = cross_entropy(hidden, model.head.weight, ids[:, 1:].flatten())
                        # Of the whole batch: parts add up to its mean.
                        part_loss = total / config.batch_tokens
                        part_loss.backward()
                        losses[shard] += part_loss.detach()
                    gradients.add()
                gradients.finish(world)
                loss = distributed.add_losses(losses, world)
                norm = clip_and_step(optimizer, loss, config.optim, guard, step=step)
                stopping = world.any(bool(stop))
            # ---------------------------------------------------------------------------------------------------
            took = time.perf_counter() - clock
            seconds += took
            done = step + 1
            speed.add(config.batch_tokens, took)
            bar.update(done, tokens=config.batch_tokens, loss=float(loss), lr=lr, **speed.shown())
            if done % config.log_interval == 0 or done == config.steps:
                metrics.write(done, loss=float(loss), lr=lr, grad_norm=norm, skipped=guard.skipped)
                speeds.write(done, **speed.reading())
            if done % config.eval_interval == 0 or done == config.steps:
                bits = bits_per_byte(model, text, config.micro_batch, dtype)
                metrics.write(done, valid_bits_per_byte=bits)
            if done % config.checkpoint_interval == 0 or done == config.steps or stopping:
                state = {**state, "guard": guard.state(), "bits": bits}
                torch.manual_seed(config.seed)  # saved with the rest; every step seeds itself
                saved = checkpoint.save(stage.checkpoints, done, modules, optimizers, state, world=world)
                stage.log(
                    f"step {done}: {(done - begun) * config.batch_tokens / seconds:.0f} tokens/s, saved {saved.name}"
                )
            if stopping and done < config.steps:
                raise stop.interrupted(f"pretraining after step {done}")

    after = samples(config, model, tokenizer, "after")
    if (whole := distributed.gathered(model, world)) is None:
        return
    write_jsonl(stage.path / "samples.jsonl", state["before"] + after)
    if config.lora is not None:
        stage.fact(**lora.sizes(whole))
        lora.save_adapter(whole, stage.path / "adapter")
        lora.merge(whole.cpu())
    save_model(whole, stage.path)
    tokenizer.save(stage.path)
    rate = (config.steps - begun) * config.batch_tokens / seconds if seconds else None
    stage.fact(
        bits_per_byte=bits,
        ngram_bits_per_byte=ngram_bits_per_byte(config, tokens, text, tokenizer),
        parameters=model.config.num_parameters,
        tokens_seen=config.steps * config.batch_tokens,
        tokens_per_epoch=len(tokens),
        tokens_per_second=rate,
        flops_per_second=rate * flops if rate and flops else None,
        skipped_steps=guard.skipped,
        checkpoint=checkpoint.hashes(stage.checkpoints),
    )


def begin(config: PretrainConfig, tokenizer: Tokenizer, base: Path | None) -> Qwen:
    """A new model, or the one to continue from with this run's length and dropout."""
    if base is None:
        model = Qwen(config.model.for_vocabulary(tokenizer.vocab_size, config.context))
        model.init_weights(config.seed)
        if config.model.head_init == "embedding":
            with torch.no_grad():
                model.head.weight.copy_(model.embed.weight)
        return model
    if load_tokenizer(base).content != tokenizer.content:
        raise DataError("the model to continue from has another tokenizer", where=str(base))
    model = lora.load_base(base, config.lora, config.seed, config.model.dropout)
    longer = max(model.config.max_length, config.context)
    model.config = model.config.model_copy(update={"max_length": longer})
    return model


def samples(
    config: PretrainConfig, model: Qwen, tokenizer: Tokenizer, label: str = "before"
) -> list[dict[str, str]]:
    """What the model writes after each fixed prompt."""
    found = []
    for prompt in config.prompts:
        ids = greedy(model, tokenizer.encode(prompt), config.sample_tokens, stop=[tokenizer.eos_id])
        text = tokenizer.decode([i for i in ids if i < tokenizer.vocab_size], skip_special_tokens=True)
        found.append({"label": label, "prompt": prompt, "text": text})
    return found


def ngram_bits_per_byte(
    config: PretrainConfig, tokens: Tokens, text: HeldOut, tokenizer: Tokenizer
) -> float | None:
    """The same held-out text under an n-gram model of the same training tokens: what counting alone can do."""
    if config.ngram_order is None:
        return None
    count = max(1, int(np.searchsorted(tokens.ends, config.ngram_tokens, side="right")))
    documents = [tokens.document(number) for number in range(count)]
    model = NgramModel.fit(documents, config.ngram_order, tokenizer.vocab_size)
    return model.bits_per_byte(text.documents, text.num_bytes)
