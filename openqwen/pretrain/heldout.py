"""Bits per byte of held-out documents: a loss that can be compared between vocabularies.

Ours; the report gives no validation loss. Documents are merged and cut as in training; each piece is read on its own;
every token is predicted once, the first of all after an end-of-text token. End-of-text tokens have to be predicted
too, but count no bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openqwen.core.errors import DataError
from openqwen.core.shards import Tokens
from openqwen.model.qwen import Qwen
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train.loss import IGNORE, cross_entropy
from openqwen.train.precision import autocast


@dataclass(frozen=True)
class HeldOut:
    """The first documents of a split, as many whole ones as a limit allows."""

    documents: list[np.ndarray]  # ids, end-of-text included
    ids: Tensor  # (P, T) int64, what the model reads
    labels: Tensor  # (P, T) int64, what it predicts; -100 after the end
    num_bytes: int


def held_out(tokens: Tokens, tokenizer: Tokenizer, context: int, max_tokens: int) -> HeldOut:
    """Reads whole documents up to `max_tokens` (at least one). DataError for an empty split."""
    if not len(tokens):
        raise DataError(
            "the valid split holds no document", fix="hold out more documents when building the corpus"
        )
    count = max(1, int(np.searchsorted(tokens.ends, max_tokens, side="right")))
    documents = [tokens.document(number) for number in range(count)]
    flat = np.concatenate([[tokenizer.eos_id], *documents])  # (N + 1,)
    pieces = -(-(len(flat) - 1) // context)
    ids = np.full(pieces * context, tokenizer.eos_id, np.int64)
    labels = np.full(pieces * context, IGNORE, np.int64)
    ids[: len(flat) - 1], labels[: len(flat) - 1] = flat[:-1], flat[1:]
    num_bytes = sum(len(tokenizer.decode_bytes(document, skip_special_tokens=True)) for document in documents)
    shape = (pieces, context)
    return HeldOut(
        documents, torch.from_numpy(ids).view(shape), torch.from_numpy(labels).view(shape), num_bytes
    )


@torch.no_grad()
def bits_per_byte(model: Qwen, text: HeldOut, batch_size: int, dtype: torch.dtype) -> float:
    """Bits the model needs for each byte of the text. Leaves the training mode alone."""
    training, device = model.training, model.head.weight.device
    model.eval()
    nats = 0.0
    for ids, labels in zip(text.ids.split(batch_size), text.labels.split(batch_size)):
        with autocast(dtype, device):
            hidden = model.hidden(ids.to(device))  # (B, T, C)
            loss, _ = cross_entropy(hidden.flatten(0, 1), model.head.weight, labels.to(device).flatten())
        nats += float(loss)
    model.train(training)
    return nats / math.log(2) / text.num_bytes
