"""An n-gram language model with interpolated modified Kneser-Ney smoothing, vectorised in numpy.

Report §2.1 ("language models" score text); the model is ours after Chen and Goodman (1999). It is both the
perplexity filter of the data stage and the baseline a base model has to beat.

    model = NgramModel.fit([ids, ids, ...], order=5, vocab_size=4096)
    bits = model.score(ids)                     # total bits of a document, its first token included

An n-gram is known by the number of its first n - 1 tokens among all (n-1)-grams and its last token, so that any
order and any vocabulary fit in 64 bits, and fitting is one sort an order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openqwen.core.errors import DataError

Ids = np.ndarray | Sequence[int]


@dataclass(frozen=True)
class _Order:
    """The tables of one order n."""

    codes: np.ndarray  # (grams,) int64, sorted: context * (vocabulary + 1) + last token
    share: np.ndarray  # (grams,) float64: discounted count over the context's total
    backoff: (
        np.ndarray
    )  # (contexts,) float64: weight of the next lower order; 1 where a context never occurred


class NgramModel:
    """Modified Kneser-Ney over token ids. Documents begin afresh: nothing is predicted across their border."""

    def __init__(self, vocab_size: int, orders: list[_Order]) -> None:
        self.vocab_size, self._orders = vocab_size, orders

    @property
    def order(self) -> int:
        return len(self._orders)

    @property
    def num_grams(self) -> list[int]:
        """Distinct n-grams of each order."""
        return [len(o.codes) for o in self._orders]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything the model holds, by name: what `from_arrays` takes."""
        found = {"vocab_size": np.array([self.vocab_size])}
        for n, order in enumerate(self._orders, 1):
            found |= {f"{n}.codes": order.codes, f"{n}.share": order.share, f"{n}.backoff": order.backoff}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> NgramModel:
        """The model of `arrays`."""
        orders = [
            _Order(arrays[f"{n}.codes"], arrays[f"{n}.share"], arrays[f"{n}.backoff"])
            for n in range(1, len(arrays) // 3 + 1)
        ]
        return cls(int(arrays["vocab_size"][0]), orders)

    @classmethod
    def fit(cls, documents: Sequence[Ids], order: int = 5, vocab_size: int | None = None) -> NgramModel:
        """Counts and smooths. vocab_size: ids that can occur at all (None: the largest seen, plus one)."""
        if order < 1:
            raise ValueError("order must be at least 1")
        tokens, offsets = _join(documents, None)
        if not len(tokens):
            raise DataError("no tokens to fit an n-gram model on", where="NgramModel.fit")
        largest = int(tokens.max(initial=-1))
        vocab_size = largest + 1 if vocab_size is None else vocab_size
        if largest >= vocab_size:
            raise DataError(
                f"token id {largest} is outside a vocabulary of {vocab_size}", where="NgramModel.fit"
            )
        tokens = np.where(tokens < 0, vocab_size, tokens)  # the mark of a document's beginning
        return cls(vocab_size, _smooth(_count(tokens, offsets, order, vocab_size + 1), vocab_size))

    def score(self, ids: Ids | Sequence[Ids]) -> float:
        """Total bits of one document (a sequence of ids) or of several (a sequence of sequences)."""
        documents = ids if len(ids) and not np.isscalar(ids[0]) else [ids]
        return float(self.token_bits(documents).sum())  # type: ignore[arg-type]

    def bits_per_byte(self, documents: Sequence[Ids], num_bytes: int) -> float:
        """Total bits over the number of UTF-8 bytes the documents stand for."""
        return self.score(documents) / max(1, num_bytes)

    def token_bits(self, documents: Sequence[Ids]) -> np.ndarray:
        """-log2 p of every token of the documents end to end, (tokens,) float64."""
        tokens, offsets = _join(documents, self.vocab_size)
        predicted = offsets > 0
        probability = np.full(len(tokens), 1.0 / self.vocab_size)
        found = np.zeros(len(tokens), np.int64)  # number of the (n-1)-gram ending here, -1: unseen
        for n, table in enumerate(self._orders, 1):
            if n == 1:
                context = np.zeros(len(tokens), np.int64)
            else:
                context = np.concatenate([[-1], found[:-1]])
                context[offsets < n - 1] = -1
            known = context >= 0
            code = context * (self.vocab_size + 1) + tokens
            place = np.minimum(np.searchsorted(table.codes, code), len(table.codes) - 1)
            hit = known & (table.codes[place] == code)
            weight = np.where(known, table.backoff[np.where(known, context, 0)], 1.0)
            probability = weight * probability + np.where(hit, table.share[place], 0.0)
            found = np.where(hit, place, -1)
        return -np.log2(probability[predicted])


def _join(documents: Sequence[Ids], vocab_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """All documents end to end, each after a mark (id vocab_size, or -1): tokens and offsets in the document."""
    arrays = [np.asarray(d, np.int64).reshape(-1) for d in documents]
    mark = np.array([-1 if vocab_size is None else vocab_size])
    tokens = np.concatenate([part for array in arrays for part in (mark, array)] or [np.empty(0, np.int64)])
    lengths = np.array([len(a) + 1 for a in arrays], np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    offsets = np.arange(len(tokens)) - starts
    inside = tokens[offsets > 0]
    if vocab_size is not None and len(inside) and not 0 <= inside.min() <= inside.max() < vocab_size:
        raise DataError(f"token ids outside a vocabulary of {vocab_size}", where="NgramModel.score")
    if vocab_size is None and len(inside) and inside.min() < 0:
        raise DataError("negative token id", where="NgramModel.fit")
    return tokens, offsets


@dataclass(frozen=True)
class _Counts:
    codes: np.ndarray  # (grams,) int64 sorted
    raw: np.ndarray  # (grams,) int64 occurrences
    context: np.ndarray  # (grams,) int64 number of the context among the (n-1)-grams
    suffix: np.ndarray  # (grams,) int64 number of the gram without its first token; -1 for unigrams
    at_start: np.ndarray  # (grams,) bool: begins with the mark, so nothing can precede it


def _count(tokens: np.ndarray, offsets: np.ndarray, order: int, width: int) -> list[_Counts]:
    """Distinct n-grams for n = 1..order. Unigrams hold the mark as well: it is a context, never a prediction."""
    orders = []
    ending = np.zeros(len(tokens), np.int64)  # number of the (n-1)-gram ending at each position
    for n in range(1, order + 1):
        valid = offsets >= n - 1
        where = np.flatnonzero(valid)
        if not len(where):
            break  # no document is this long: the order is the longest there is
        context = np.zeros(len(where), np.int64) if n == 1 else ending[where - 1]
        codes, first, inverse, raw = np.unique(
            context * width + tokens[where], return_index=True, return_inverse=True, return_counts=True
        )
        suffix = np.full(len(codes), -1, np.int64) if n == 1 else ending[where[first]]
        orders.append(_Counts(codes, raw, codes // width, suffix, offsets[where[first]] == n - 1))
        ending = np.full(len(tokens), -1, np.int64)
        ending[where] = inverse
    return orders


def _smooth(counts: list[_Counts], vocab_size: int) -> list[_Order]:
    orders = []
    for n, here in enumerate(counts, 1):
        if n == len(counts):
            amount = here.raw.copy()
        else:  # how many different tokens precede the gram; at a document's beginning, how often it occurs
            above = counts[n]
            amount = np.bincount(above.suffix, minlength=len(here.codes))
            amount = np.where(here.at_start & (n > 1), here.raw, amount)
        if n == 1:
            amount = np.where(here.codes == vocab_size, 0, amount)
            if len(counts) == 1:
                amount = np.where(here.codes == vocab_size, 0, here.raw)
        size = 1 if n == 1 else len(counts[n - 2].codes)
        orders.append(_discount(here, amount, size))
    return orders


def _discount(here: _Counts, amount: np.ndarray, contexts: int) -> _Order:
    """Takes D1, D2 or D3 from each count by its size and gives it to the lower order."""
    d = _discounts(amount)[np.minimum(amount, 3)]
    total = np.bincount(here.context, weights=amount, minlength=contexts)
    given = np.bincount(here.context, weights=d, minlength=contexts)
    safe = np.maximum(total, 1)
    share = np.maximum(amount - d, 0) / safe[here.context]
    return _Order(here.codes, share, np.where(total > 0, given / safe, 1.0))


def _discounts(amount: np.ndarray) -> np.ndarray:
    """Discounts for counts 0, 1, 2 and 3 or more, from how many grams occur once, twice, three and four times."""
    n1, n2, n3, n4 = np.bincount(np.minimum(amount, 5), minlength=6)[1:5].astype(float)
    if min(n1, n2, n3) == 0 or n1 + 2 * n2 == 0:
        return np.array([0.0, 0.5, 0.5, 0.5])  # too little data for the estimate
    y = n1 / (n1 + 2 * n2)
    estimate = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    # A discount below zero or above the count would not leave a distribution.
    return np.clip(estimate, [0, 0.05, 0.05, 0.05], [0, 0.95, 1.95, 2.95])
