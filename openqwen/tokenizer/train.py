"""Learning a vocabulary: from scratch, or by augmenting a given one as the report did with cl100k_base.

Report §2.2: start from an existing BPE, add merges learnt on multilingual text, split digits one by one. How
the merges are learnt is ours: every distinct piece is held once with its count, all occurrences of a pair are
merged in one vectorised step, and a heap knows the most frequent pair. Time per merge depends on how often
the pair occurs, memory on the number of distinct pieces. bpe.train is the readable twin; results are equal.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from openqwen.tokenizer.bpe import Merge
from openqwen.tokenizer.encoders import make_encoder
from openqwen.tokenizer.pattern import normalise, split
from openqwen.tokenizer.ranks import byte_order

_SHIFT = 24  # a pair is one int64: left << 24 | right; room for 16 million ids
_DIGITS = frozenset(b"0123456789")
_GAP = -1  # the symbol between two pieces
_GONE = -2  # the right half of a merged pair


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """How often each distinct piece occurs: all that training needs to know of a text."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(normalise(text)))
    return counts


def train(
    counts: Mapping[str, int],
    num_tokens: int,
    base: Mapping[bytes, int] | None = None,
    min_count: int = 2,
    progress: Callable[[int], None] | None = None,
) -> list[Merge]:
    """Up to `num_tokens` merges, one for each new token, most frequent first; fewer if no pair occurs often enough.

    base: the vocabulary to augment; None starts from the 256 bytes. Equal counts go to the pair whose tokens
    are older, so neither the order of the texts nor the number of workers changes the result.
    """
    base = base or byte_ranks()
    board = _Board(*_symbols(counts, base), min_count)
    tokens = {rank: token for token, rank in base.items()}
    ids = dict(base)
    merges: list[Merge] = []
    while len(merges) < num_tokens and (pair := board.most_frequent()) is not None:
        left, right = tokens[pair >> _SHIFT], tokens[pair & ((1 << _SHIFT) - 1)]
        known = ids.get(left + right)
        new = len(ids) if known is None else known
        board.merge(pair, new, again=known is not None)
        if known is None:
            ids[left + right], tokens[new] = new, left + right
            merges.append((left, right))
            if progress is not None:
                progress(len(merges))
    return merges


def byte_ranks() -> dict[bytes, int]:
    """The 256 bytes with their ranks: the vocabulary every training from scratch begins with."""
    return {token: rank for rank, token in enumerate(byte_order())}


def extended(base: Mapping[bytes, int], merges: Iterable[Merge]) -> dict[bytes, int]:
    """A vocabulary with the merged tokens after its last rank."""
    ranks = dict(base)
    for left, right in merges:
        ranks[left + right] = len(ranks)
    return ranks


def without_digit_runs(ranks: Mapping[bytes, int]) -> dict[bytes, int]:
    """A vocabulary to augment, renumbered without the longer tokens that hold a digit: digits stand alone (§2.2).

    cl100k_base loses 1,100 tokens of two and three digits; what is left, in its order, is exactly the
    beginning of the released Qwen vocabulary (ranks 0..99155).
    """
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    kept = (token for token, _ in ordered if len(token) == 1 or not _DIGITS.intersection(token))
    return {token: rank for rank, token in enumerate(kept)}


def _symbols(counts: Mapping[str, int], base: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray]:
    """All distinct pieces as ids with a gap after each (and one before): symbols (n,) int32, weights (n,) int64."""
    pieces = sorted(counts)
    if len(base) == 256:
        table = np.zeros(256, np.int32)
        for token, rank in base.items():
            table[token[0]] = rank
        encoded = [piece.encode() for piece in pieces]
        flat = table[np.frombuffer(b"".join(encoded), np.uint8)]
        lengths = np.fromiter((len(e) for e in encoded), np.int64, len(encoded))
    else:
        ids = make_encoder(base).encode_batch(pieces)
        lengths = np.fromiter((len(i) for i in ids), np.int64, len(ids))
        flat = np.fromiter((i for piece in ids for i in piece), np.int32, int(lengths.sum()))
    owner = np.repeat(np.arange(len(pieces)), lengths)  # (n,) which piece a symbol belongs to
    places = np.arange(len(flat)) + owner + 1
    symbols = np.full(len(flat) + len(pieces) + 1, _GAP, np.int32)
    symbols[places] = flat
    weights = np.zeros(len(symbols), np.int64)
    weights[places] = np.fromiter((counts[p] for p in pieces), np.int64, len(pieces))[owner]
    return symbols, weights


class _Board:
    """The pieces as a linked list over flat arrays, with the places and the count of every frequent pair."""

    def __init__(self, symbols: np.ndarray, weights: np.ndarray, min_count: int) -> None:
        self.symbols, self.weights, self.min_count = symbols, weights, min_count
        self.next = np.arange(1, len(symbols) + 1, dtype=np.int32)
        self.next[-1:] = len(symbols) - 1
        self.prev = np.arange(-1, len(symbols) - 1, dtype=np.int32)
        self.prev[:1] = 0
        self.mark = np.zeros(len(symbols), bool)  # scratch, all False between steps
        self.counts: dict[int, int] = {}
        self.places: dict[int, list[np.ndarray]] = {}
        self.heap: list[tuple[int, int]] = []  # (-count, pair); a stale count is put right when it surfaces
        self._add(np.flatnonzero((symbols[:-1] >= 0) & (symbols[1:] >= 0)).astype(np.int32))

    def most_frequent(self) -> int | None:
        """The pair with the highest count (ties: lowest ids), or None when no pair reaches `min_count`."""
        while self.heap:
            minus, pair = self.heap[0]
            count = self.counts.get(pair, 0)
            if count == -minus:
                return pair
            if count >= self.min_count:
                heapq.heapreplace(self.heap, (-count, pair))
            else:
                heapq.heappop(self.heap)
                self._forget(pair)
        return None

    def merge(self, pair: int, new: int, again: bool) -> None:
        """Joins the pair wherever it stands. again: `new` is not a fresh id, its neighbours may be known pairs."""
        left, right = pair >> _SHIFT, pair & ((1 << _SHIFT) - 1)
        at = np.concatenate(self.places[pair])
        self._forget(pair)
        at = at[(self.symbols[at] == left) & (self.symbols[self.next[at]] == right)]
        if left == right:
            at = self._without_overlaps(np.sort(at))
        gone = self.next[at]
        self._subtract(at, gone)
        self.symbols[at], self.symbols[gone] = new, _GONE
        after = self.next[gone]
        self.next[at], self.prev[after] = after, at
        before = self._unmarked(self.prev[at], marked=at)
        touched = np.concatenate([before[self.symbols[before] >= 0], at[self.symbols[after] >= 0]])
        if again:
            self._recount(touched)
        else:
            self._add(touched)

    def _without_overlaps(self, at: np.ndarray) -> np.ndarray:
        """Of places where a pair of equals stands ("aaaa" has three), every second in each run, from the left."""
        if not len(at):
            return at
        starts = np.ones(len(at), bool)
        starts[1:] = self.next[at[:-1]] != at[1:]
        order = np.arange(len(at))
        return at[(order - np.maximum.accumulate(np.where(starts, order, 0))) % 2 == 0]

    def _unmarked(self, places: np.ndarray, marked: np.ndarray) -> np.ndarray:
        """The places that are not among `marked`."""
        self.mark[marked] = True
        kept = places[~self.mark[places]]
        self.mark[marked] = False
        return kept

    def _pairs_at(self, places: np.ndarray) -> np.ndarray:
        """The pair that begins at each place, as (k,) int64."""
        left = self.symbols[places].astype(np.int64)
        return left << _SHIFT | self.symbols[self.next[places]]

    def _subtract(self, at: np.ndarray, gone: np.ndarray) -> None:
        """Takes the pairs that a merge destroys, left and right of it, out of the counts."""
        before = self._unmarked(self.prev[at], marked=gone)  # a pair between two merges is counted once
        lost = np.concatenate([before[self.symbols[before] >= 0], gone[self.symbols[self.next[gone]] >= 0]])
        pairs, _, sums, _ = self._grouped(lost)
        for pair, total in zip(pairs.tolist(), sums.tolist()):
            if pair in self.counts:
                self.counts[pair] -= total

    def _add(self, places: np.ndarray) -> None:
        """Enters new pairs. One that is rare now stays rare: its places all arise in this one step."""
        pairs, bounds, sums, ordered = self._grouped(places)
        for k in np.flatnonzero(sums >= self.min_count).tolist():
            pair, total = int(pairs[k]), int(sums[k])
            self.counts[pair] = total
            self.places[pair] = [ordered[bounds[k] : bounds[k + 1]]]
            heapq.heappush(self.heap, (-total, pair))

    def _recount(self, places: np.ndarray) -> None:
        """As `_add` for pairs that may stand elsewhere too: counts them over the whole board."""
        wanted = np.unique(self._pairs_at(places))
        live = np.flatnonzero(self.symbols >= 0).astype(np.int32)
        live = live[self.symbols[self.next[live]] >= 0]
        for pair in wanted.tolist():
            self._forget(pair)
        self._add(live[np.isin(self._pairs_at(live), wanted)])

    def _grouped(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Places by pair: pairs (p,), bounds (p + 1,), summed weights (p,), places in that order (k,)."""
        keys = self._pairs_at(places)
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], places[order]
        firsts = np.flatnonzero(np.diff(keys, prepend=-1))
        sums = np.add.reduceat(self.weights[ordered], firsts) if len(firsts) else np.empty(0, np.int64)
        return keys[firsts], np.append(firsts, len(keys)), sums, ordered

    def _forget(self, pair: int) -> None:
        self.counts.pop(pair, None)
        self.places.pop(pair, None)
