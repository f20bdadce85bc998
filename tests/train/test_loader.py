"""Batches are a pure function of the step, cover each epoch once, and ignore the number of processes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from openqwen.core.errors import DataError, UsageError
from openqwen.core.shards import Tokens
from openqwen.train.loader import batch_at, num_pieces, take


def corpus(documents: int = 40, shards: int = 3, seed: int = 0) -> Tokens:
    """Token values are unique: a token says where it came from."""
    lengths = np.random.default_rng(seed).integers(1, 30, documents)
    ends = np.cumsum(lengths)
    flat = np.arange(ends[-1], dtype=np.uint16)
    return Tokens(np.array_split(flat, shards), ends, num_bytes=int(ends[-1]), meta={})


def test_take_crosses_shards() -> None:
    tokens = corpus()
    positions = np.random.default_rng(1).integers(0, len(tokens), (5, 7))
    assert (take(tokens, positions) == positions).all()


def test_each_epoch_is_every_document_once_merged_and_cut() -> None:
    tokens = corpus()
    context, pieces = 8, num_pieces(corpus(), 8)
    orders = []
    for epoch in range(2):
        rows = torch.cat([batch_at(tokens, epoch * pieces + i, 1, context, seed=5) for i in range(pieces)])
        starts = {int(r[0]): r for r in rows}
        assert len(starts) == pieces
        seen = rows[:, :-1].flatten().tolist()
        assert len(set(seen)) == len(seen) == pieces * context  # nothing twice; only the tail is left out
        # Inside a document tokens are consecutive; a break happens only where one document ends and another begins.
        ends = set(tokens.ends.tolist())
        begins = {0, *ends}
        for row in rows.tolist():
            for a, b in pairwise(row):
                assert b == a + 1 or (a + 1 in ends and b in begins)
        orders.append(rows)
    assert not torch.equal(orders[0], orders[1])


def test_pure_function_of_step_and_seed() -> None:
    tokens = corpus()
    a = batch_at(tokens, 7, 6, 8, seed=1)
    for step in (0, 31, 2):
        batch_at(tokens, step, 6, 8, seed=1)
    batch_at(corpus(seed=4), 7, 6, 8, seed=1)  # another split in between
    assert torch.equal(a, batch_at(corpus(), 7, 6, 8, seed=1))
    assert not torch.equal(a, batch_at(tokens, 7, 6, 8, seed=2))
    assert a.shape == (6, 9) and a.dtype == torch.int64


@pytest.mark.parametrize("num_ranks", [2, 3, 6])
def test_order_does_not_depend_on_the_number_of_processes(num_ranks: int) -> None:
    tokens = corpus()
    for step in (0, 9, 20):
        whole = batch_at(tokens, step, 6, 8, seed=1)
        parts = [batch_at(tokens, step, 6, 8, seed=1, rank=r, num_ranks=num_ranks) for r in range(num_ranks)]
        assert torch.equal(whole, torch.cat(parts))


def test_errors() -> None:
    with pytest.raises(DataError, match="do not make one sequence of 5000"):
        batch_at(corpus(), 0, 1, 5000, seed=0)
    with pytest.raises(UsageError, match="does not divide"):
        batch_at(corpus(), 0, 5, 8, seed=0, num_ranks=2)
