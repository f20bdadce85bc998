"""Batches are a pure function of the step, cover each epoch once, and know their documents."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from openqwen.core.errors import DataError
from openqwen.core.shards import Tokens
from openqwen.train.loader import batch_at, documents_of, num_pieces, rows_of, samples_with, take


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


def test_documents_are_those_whose_tokens_stand_in_the_rows() -> None:
    tokens = corpus()
    for first in (0, 17, 90):  # the last beyond an epoch
        samples = np.arange(first, first + 5)
        rows = rows_of(tokens, samples, 8, seed=1)
        begins = [0, *tokens.ends[:-1].tolist()]
        held = {
            n for n in range(40) if set(range(begins[n], int(tokens.ends[n]))) & set(rows.flatten().tolist())
        }
        assert documents_of(tokens, samples, 8, seed=1) == sorted(held)


@pytest.mark.fault("training", "token shards are missing or of another tokenizer", "refused before a step")
def test_errors() -> None:
    with pytest.raises(DataError, match="do not make one sequence of 5000"):
        batch_at(corpus(), 0, 1, 5000, seed=0)
    with pytest.raises(DataError, match="where: /shards"):
        num_pieces(replace(corpus(), path=Path("/shards")), 5000)


@pytest.mark.parametrize("context", [1, 8, 50, 500])
def test_samples_with_a_document_are_those_it_stands_in(context: int) -> None:
    """Over two epochs and a bit, whatever is longer: documents or pieces; the tail of an epoch is in none."""
    tokens = corpus()
    pieces = num_pieces(tokens, context)
    held = {n: documents_of(tokens, np.array([n]), context, seed=3) for n in range(3 * pieces)}
    for document in range(tokens.num_documents):
        found = [n for epoch in range(3) for n in samples_with(tokens, document, epoch, context, 3).tolist()]
        assert found == [n for n, documents in held.items() if document in documents]
