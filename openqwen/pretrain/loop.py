"""Pretraining, from token shards to a base model.

Report §2.4: next-token prediction over documents shuffled, merged and cut to the context length, AdamW, cosine
schedule, BFloat16 mixed precision. Ours: validation in bits per byte, the n-gram model it must beat. The loop itself
is train/trainer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openqwen.core.artifact import Artifact, Run, open_inputs
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError, UsageError
from openqwen.core.shards import Tokens, open_tokens
from openqwen.data.ngram import NgramModel
from openqwen.model.qwen import Qwen
from openqwen.pretrain.config import PretrainConfig
from openqwen.pretrain.heldout import HeldOut, bits_per_byte, held_out
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train import lora, precision
from openqwen.train.distributed import World
from openqwen.train.flops import flops_per_token
from openqwen.train.loader import documents_of, num_pieces, rows_of, samples_at
from openqwen.train.loss import cross_entropy
from openqwen.train.sample import greedy
from openqwen.train.trainer import Batch, fit, run_stage, write_model


def run(resolved: Resolved[PretrainConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Trains the base model of `resolved.config` into `out`. Inputs: tokens, tokenizer, optionally a model to go on from."""
    opened = open_inputs(inputs, {"tokens": "tokens", "tokenizer": ("tokenizer", "model"), "model": "model"})
    tokenizer = load_tokenizer(inputs["tokenizer"])
    tokens, valid = open_tokens(inputs["tokens"], "train"), open_tokens(inputs["tokens"], "valid")
    check(resolved.config, tokens, tokenizer, inputs["tokens"])
    if resolved.config.lora is not None and "model" not in inputs:
        raise UsageError(
            "adapters need a model to stand beside", where="lora", fix="--model PATH, or leave lora.* out"
        )
    body = partial(train, resolved.config, tokens, valid, tokenizer, inputs.get("model"))
    return run_stage(resolved, opened, out, "model", body)


def check(config: PretrainConfig, tokens: Tokens, tokenizer: Tokenizer, path: Path) -> None:
    """What would otherwise fail, or train nonsense, after the start."""
    if tokens.meta["tokenizer"] != tokenizer.content:
        raise DataError(
            "the token shards were made with another tokenizer",
            where=str(path),
            fix="pack the corpus again with this tokenizer",
        )
    num_pieces(tokens, config.context)


@dataclass(frozen=True)
class NextToken:
    """What pretraining gives the loop. Items are numbers of samples."""

    config: PretrainConfig
    model: Qwen
    tokens: Tokens
    text: HeldOut
    tokenizer: Tokenizer
    dtype: torch.dtype
    label: str = "pretrain"
    measures: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        return self.config.steps

    @property
    def sample_interval(self) -> int | None:
        return self.config.sample_interval

    def batch(self, step: int) -> Batch:
        config, count = self.config, self.config.batch_tokens
        flops = count * flops_per_token(self.model.config, config.context)
        return Batch(samples_at(step, config.batch_size), counted=count, tokens=count, flops=flops)

    def losses(self, samples: np.ndarray) -> list[Tensor]:
        """Of some samples (B,), summed over all tokens."""
        rows = rows_of(self.tokens, samples, self.config.context, self.config.seed)  # (B, T + 1)
        ids = rows.to(self.model.embed.weight.device, non_blocking=True)
        hidden = self.model.hidden(ids[:, :-1]).flatten(0, 1)  # (B * T, C)
        total, _ = cross_entropy(hidden, self.model.head.weight, ids[:, 1:].flatten())
        return [total]

    def names(self, samples: np.ndarray) -> Iterator[str]:
        for number in documents_of(self.tokens, samples, self.config.context, self.config.seed):
            yield f"documents.train.jsonl:{number + 1}"  # beside the shards: a line a document

    def evaluate(self) -> dict[str, float]:
        return {
            "valid_bits_per_byte": bits_per_byte(self.model, self.text, self.config.micro_batch, self.dtype)
        }

    def samples(self, label: str) -> list[dict[str, Any]]:
        """What the model writes after each fixed prompt."""
        found, tokenizer = [], self.tokenizer
        for prompt in self.config.prompts:
            ids = greedy(
                self.model, tokenizer.encode(prompt), self.config.sample_tokens, stop=[tokenizer.eos_id]
            )
            text = tokenizer.decode([i for i in ids if i < tokenizer.vocab_size], skip_special_tokens=True)
            found.append({"label": label, "prompt": prompt, "text": text})
        return found


def train(
    config: PretrainConfig,
    tokens: Tokens,
    valid: Tokens,
    tokenizer: Tokenizer,
    base: Path | None,
    stage: Run,
    world: World,
) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    model = begin(config, tokenizer, base).to(world.device).train()
    text = held_out(valid, tokenizer, config.context, config.eval_tokens)
    dtype = precision.pick_dtype(config.precision, world.device)
    found = fit(
        NextToken(config, model, tokens, text, tokenizer, dtype), model, model.blocks, config, stage, world
    )

    if not write_model(model, stage, world):
        return
    tokenizer.save(stage.path)
    stage.fact(
        bits_per_byte=found.last["valid_bits_per_byte"],
        ngram_bits_per_byte=ngram_bits_per_byte(config, tokens, text, tokenizer),
        parameters=model.config.num_parameters,
        tokens_seen=config.steps * config.batch_tokens,
        tokens_per_epoch=len(tokens),
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
