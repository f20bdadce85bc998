"""The Kneser-Ney model: a distribution, right by hand, better than lower orders, the same however it is asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.core.errors import DataError
from openqwen.data.ngram import NgramModel

DOCUMENTS = st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=12).filter(any)


@settings(max_examples=40)
@given(DOCUMENTS, st.integers(1, 5), st.lists(st.integers(0, 8), max_size=6))
def test_probabilities_sum_to_one(documents: list[list[int]], order: int, context: list[int]) -> None:
    """After any context, seen or not, over the whole vocabulary, tokens never seen included."""
    model = NgramModel.fit(documents, order, vocab_size=9)
    total = sum(2 ** -model.token_bits([[*context, token]])[-1] for token in range(9))
    assert math.isclose(total, 1.0, rel_tol=1e-9)


def naive(documents: list[list[int]], order: int, vocab: int, context: tuple[int, ...], token: int) -> float:
    """Interpolated Kneser-Ney written down from the formulas, one dictionary at a time."""
    mark = vocab
    padded = [(mark, *d) for d in documents]
    raw = {
        n: [p[i : i + n] for p in padded for i in range(len(p) - n + 1) if n > 1 or p[i] != mark]
        for n in range(1, order + 1)
    }
    amounts: dict[int, dict[tuple[int, ...], int]] = {}
    for n in range(1, order + 1):
        table: dict[tuple[int, ...], int] = {}
        for gram in set(raw[n]):
            if n == order or (gram[0] == mark and n > 1):
                table[gram] = raw[n].count(gram)
            else:
                table[gram] = len({g[0] for g in raw[n + 1] if g[1:] == gram})
        amounts[n] = table

    def discount(n: int, count: int) -> float:
        t = [sum(c == k for c in amounts[n].values()) for k in range(5)]
        if min(t[1:4]) == 0:
            return 0.5
        y = t[1] / (t[1] + 2 * t[2])
        k = min(count, 3)
        value = k - (k + 1) * y * t[k + 1] / t[k]
        return min(max(value, 0.05), k - 0.05)

    def probability(n: int, history: tuple[int, ...]) -> float:
        if n == 0:
            return 1 / vocab
        lower = probability(n - 1, history[1:] if n > 1 else ())
        if len(history) < n - 1:
            return lower
        here = history[len(history) - n + 1 :] if n > 1 else ()
        followers = {g: c for g, c in amounts[n].items() if g[:-1] == here}
        total = sum(followers.values())
        if not total:
            return lower
        own = followers.get((*here, token), 0)
        weight = sum(discount(n, c) for c in followers.values()) / total
        return (max(own - discount(n, own), 0) / total if own else 0.0) + weight * lower

    full = (mark, *context)
    best = 0.0
    for n in range(order, 0, -1):
        if len(full) >= n - 1:
            best = probability(n, full[len(full) - n + 1 :] if n > 1 else ())
            break
    return best


def test_equals_the_formulas() -> None:
    rng = np.random.default_rng(3)
    documents = [rng.integers(0, 5, rng.integers(1, 15)).tolist() for _ in range(25)]
    for order in (1, 2, 3, 4):
        model = NgramModel.fit(documents, order, vocab_size=6)
        for context in ((), (0,), (1, 2), (3, 0, 1), (5, 5), tuple(documents[0][:4])):
            for token in range(6):
                ours = 2 ** -model.token_bits([[*context, token]])[-1]
                assert math.isclose(ours, naive(documents, order, 6, context, token), rel_tol=1e-9), (
                    order,
                    context,
                )


def test_learns_structure_and_orders_help() -> None:
    rng = np.random.default_rng(0)
    follow = rng.integers(0, 50, (50, 50))  # the next token is decided by the last two

    def text(length: int) -> list[int]:
        out = [1, 2]
        while len(out) < length:
            out.append(int(follow[out[-2], out[-1]]) if rng.random() < 0.9 else int(rng.integers(50)))
        return out

    train, test = [text(200) for _ in range(200)], [text(200) for _ in range(10)]
    bits = {n: NgramModel.fit(train, n, 50).score(test) / 2000 for n in (1, 2, 3)}
    assert bits[3] < 0.6 * bits[2] < bits[1] <= math.log2(50) + 0.1


def test_score_is_additive_and_takes_arrays() -> None:
    model = NgramModel.fit([[1, 2, 3], [2, 3, 4]], 3, vocab_size=10)
    a, b = np.array([1, 2, 3]), [4, 3, 9]
    assert math.isclose(model.score([a, b]), model.score(a) + model.score(b))
    assert model.score([]) == 0.0
    assert math.isclose(model.bits_per_byte([a], 6), model.score(a) / 6)


def test_refuses_what_it_cannot_know() -> None:
    model = NgramModel.fit([[1, 2, 3]], 2, vocab_size=4)
    with pytest.raises(DataError, match="vocabulary of 4"):
        model.score([4])
    with pytest.raises(DataError, match="vocabulary of 3"):
        NgramModel.fit([[1, 2, 3]], 2, vocab_size=3)
    with pytest.raises(DataError, match="no tokens"):
        NgramModel.fit([], 2)
    with pytest.raises(DataError, match="negative"):
        NgramModel.fit([[-1, 2]], 2)


def test_large_vocabulary_does_not_overflow() -> None:
    """152k ids at order 5 do not fit 64 bits if packed: codes are numbered per order instead."""
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, 151_936, 400) for _ in range(20)]
    model = NgramModel.fit(documents, 5, vocab_size=151_936)
    assert model.score(documents[0]) < 0.5 * 400 * math.log2(151_936)
    assert model.num_grams[4] == sum(
        len(
            set(
                map(
                    tuple,
                    np.lib.stride_tricks.sliding_window_view(np.concatenate([[151_936], d]), 5).tolist(),
                )
            )
        )
        for d in documents
    )
