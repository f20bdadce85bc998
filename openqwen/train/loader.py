"""Training batches as a pure function of the step: nothing to save, nothing to lose.

Report §2.4: documents are shuffled, merged and cut to the context length. Ours: each epoch has its own seeded
order of documents and of the pieces they are cut into, so the sample with global number i is the same for any number
of processes and after any restart. Attention is not masked between merged documents, as the report has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openqwen.core.errors import DataError, UsageError
from openqwen.core.shards import Tokens


@dataclass(frozen=True)
class Epoch:
    """One epoch's order: where each document of the shuffled stream lies, and the order of the pieces."""

    ends: np.ndarray  # identity of the split this was made for
    key: tuple[int, int, int]  # seed, epoch, context
    starts: np.ndarray  # (D,) where a document begins in the merged stream
    shift: np.ndarray  # (D,) position in the shards minus position in the merged stream
    pieces: np.ndarray  # (P,) order of the pieces


_recent: list[Epoch] = []  # training and pretrained-gradient streams each need one epoch or two at its seam


def batch_at(
    tokens: Tokens,
    step: int,
    batch_size: int,
    context: int,
    seed: int,
    *,
    rank: int = 0,
    num_ranks: int = 1,
) -> Tensor:
    """The batch of a step as (B, context + 1) int64: inputs are [:, :-1], labels [:, 1:].

    batch_size counts the sequences of all ranks; a rank gets its consecutive share of the rows.
    """
    if batch_size % num_ranks:
        raise UsageError(
            f"a batch of {batch_size} sequences does not divide among {num_ranks} processes",
            fix=f"use a multiple of {num_ranks}",
        )
    pieces = num_pieces(tokens, context)
    share = batch_size // num_ranks
    first = step * batch_size + rank * share
    samples = np.arange(first, first + share, dtype=np.int64)
    rows = np.empty((share, context + 1), np.int64)  # (B, T + 1)
    for number in np.unique(samples // pieces):
        here = samples // pieces == number
        epoch = _epoch(tokens, int(number), context, seed)
        piece = epoch.pieces[samples[here] % pieces]
        merged = piece[:, None] * context + np.arange(
            context + 1
        )  # (b, T + 1) positions in the merged stream
        document = np.searchsorted(epoch.starts, merged, side="right") - 1
        rows[here] = take(tokens, merged + epoch.shift[document])
    return torch.from_numpy(rows)


def num_pieces(tokens: Tokens, context: int) -> int:
    """Sequences an epoch yields; neighbours share one token, so that each token is predicted once."""
    pieces = (len(tokens) - 1) // context
    if pieces < 1:
        raise DataError(
            f"{len(tokens)} tokens do not make one sequence of {context} + 1",
            fix="use more data or a shorter context",
        )
    return pieces


def take(tokens: Tokens, positions: np.ndarray) -> np.ndarray:
    """Tokens at absolute positions of the concatenated shards, any shape, as int64."""
    if len(tokens.shards) == 1:
        return tokens.shards[0][positions].astype(np.int64)
    bases = np.cumsum([0] + [len(shard) for shard in tokens.shards])
    home = np.searchsorted(bases, positions, side="right") - 1
    found = np.empty(positions.shape, np.int64)
    for number in np.unique(home):
        here = home == number
        found[here] = tokens.shards[number][positions[here] - bases[number]]
    return found


def _epoch(tokens: Tokens, number: int, context: int, seed: int) -> Epoch:
    key = (seed, number, context)
    for epoch in _recent:
        if epoch.ends is tokens.ends and epoch.key == key:
            return epoch
    documents = np.random.default_rng([seed, number, 0]).permutation(tokens.num_documents)
    ends = np.asarray(tokens.ends, np.int64)
    begins = np.concatenate([[0], ends[:-1]])[documents]
    lengths = ends[documents] - begins
    starts = np.cumsum(lengths) - lengths
    pieces = np.random.default_rng([seed, number, 1]).permutation(num_pieces(tokens, context))
    _recent.append(Epoch(tokens.ends, key, starts, begins - starts, pieces))
    del _recent[:-4]
    return _recent[-1]
