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

from openqwen.core.errors import DataError
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


def batch_at(tokens: Tokens, step: int, batch_size: int, context: int, seed: int) -> Tensor:
    """The batch of a step as (B, context + 1) int64: inputs are [:, :-1], labels [:, 1:]."""
    return rows_of(tokens, samples_at(step, batch_size), context, seed)


def samples_at(step: int, batch_size: int) -> np.ndarray:
    """Global numbers of the samples of a step: (B,) int64."""
    return np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)


def rows_of(tokens: Tokens, samples: np.ndarray, context: int, seed: int) -> Tensor:
    """Samples by their global numbers, (B,) -> (B, context + 1) int64."""
    return torch.from_numpy(take(tokens, positions_of(tokens, samples, context, seed)))


def documents_of(tokens: Tokens, samples: np.ndarray, context: int, seed: int) -> list[int]:
    """Numbers of the documents that stand in some samples, in rising order."""
    positions = positions_of(tokens, samples, context, seed)
    return np.unique(np.searchsorted(tokens.ends, positions, side="right")).tolist()


def samples_with(tokens: Tokens, document: int, epoch: int, context: int, seed: int) -> np.ndarray:
    """Global numbers of the samples of an epoch in which a document stands: `documents_of` read backwards."""
    begin = int(tokens.ends[document - 1]) if document else 0
    order, pieces = _epoch(tokens, epoch, context, seed), num_pieces(tokens, context)
    start = int(order.starts[order.starts + order.shift == begin][0])
    stop = start + int(tokens.ends[document]) - begin
    # Piece p holds the tokens p * context to p * context + context of the merged stream, both included.
    there = (order.pieces * context < stop) & (order.pieces * context + context >= start)
    return epoch * pieces + np.flatnonzero(there)


def positions_of(tokens: Tokens, samples: np.ndarray, context: int, seed: int) -> np.ndarray:
    """Where the tokens of some samples lie in the concatenated shards: (B, context + 1) int64."""
    pieces = num_pieces(tokens, context)
    found = np.empty((len(samples), context + 1), np.int64)  # (B, T + 1)
    for number in np.unique(samples // pieces):
        here = samples // pieces == number
        epoch = _epoch(tokens, int(number), context, seed)
        piece = epoch.pieces[samples[here] % pieces]
        merged = piece[:, None] * context + np.arange(
            context + 1
        )  # (b, T + 1) positions in the merged stream
        document = np.searchsorted(epoch.starts, merged, side="right") - 1
        found[here] = merged + epoch.shift[document]
    return found


def num_pieces(tokens: Tokens, context: int) -> int:
    """Sequences an epoch yields; neighbours share one token, so that each token is predicted once."""
    pieces = (len(tokens) - 1) // context
    if pieces < 1:
        raise DataError(
            f"{len(tokens)} tokens do not make one sequence of {context} + 1",
            where=None if tokens.path is None else str(tokens.path),
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
