"""A long piece in parts has the ids of the piece as a whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.tokenizer import bpe, runs
from openqwen.tokenizer.count import count_pieces
from openqwen.tokenizer.train import byte_ranks, extended, train

WORDS = ["abab" * 9, "abcabcabd" * 5, "aaaaaaaa", "bbbab" * 4, "你好世界" * 3, "好好好好"]
RANKS = extended(byte_ranks(), train(count_pieces([" ".join(WORDS)] * 2), 60, min_count=1))
TOKENS = {rank: token for token, rank in RANKS.items()}


def whole(data: bytes) -> list[int]:
    return bpe.encode_piece(data, RANKS)


@settings(max_examples=400, deadline=None)
@given(
    data=st.one_of(
        st.lists(st.sampled_from(["a", "b", "ab", "aab", "c", "你", "好"]), max_size=300).map("".join),
        st.builds(
            lambda unit, times: unit * times, st.text("abc好", min_size=1, max_size=7), st.integers(1, 150)
        ),
    ),
    part=st.integers(24, 80),
)
def test_parts_join_to_the_ids_of_the_whole(data: str, part: int) -> None:
    assert max(map(len, RANKS)) < 24 * 2
    raw = data.encode()
    assert runs.encode_run(raw, whole, TOKENS, max(part, max(map(len, RANKS)) + 1)) == whole(raw)


def test_no_seam_takes_a_longer_part() -> None:
    # One token spells every power of two letters: no boundary inside a part of 64 survives beside its neighbours.
    ranks = byte_ranks()
    for size in (2, 4, 8, 16, 32):
        ranks[b"a" * size] = len(ranks)
    tokens = {rank: token for token, rank in ranks.items()}
    for size in (1, 63, 64, 129, 1000, 1023):
        expected = bpe.encode_piece(b"a" * size, ranks)
        assert runs.encode_run(b"a" * size, lambda d: bpe.encode_piece(d, ranks), tokens, 40) == expected


@pytest.mark.parametrize("run", ["a", " ", "\n", "!", "你", "\u0301", " \n"])
def test_runs_are_found_wherever_they_are(run: str) -> None:
    rng = random.Random(1)
    long = run * (2 * runs._WINDOW // len(run))
    for _ in range(20):
        before = "word, 1 " * rng.randrange(0, 2000)
        assert runs.has_long_run(before + long + " end.")
    assert not runs.has_long_run("word, 1 " * 5000) and not runs.has_long_run(run * 100)
    assert not runs.has_long_run("7" * 100_000)  # digits are pieces of their own
