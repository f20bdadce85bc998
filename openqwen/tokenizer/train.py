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
from itertools import chain

import numpy as np

from openqwen.tokenizer.bpe import Merge
from openqwen.tokenizer.encoders import make_encoder
from openqwen.tokenizer.pattern import normalise, split
from openqwen.tokenizer.ranks import byte_order

_SHIFT, _LOW = 24, (1 << 24) - 1  # a pair is one int64: left << 24 | right; room for 16 million ids
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
    while len(merges) < num_tokens and (found := board.most_frequent()) is not None:
        pair, places = found
        left, right = tokens[pair >> _SHIFT], tokens[pair & _LOW]
        known = ids.get(left + right)
        new = len(ids) if known is None else known
        board.merge(pair, places, new, fresh=known is None)
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
    if len(base) == 256:
        table = np.zeros(256, np.int32)
        for token, rank in base.items():
            table[token[0]] = rank
        encoded = list(map(str.encode, counts))
        flat = table[np.frombuffer(b"".join(encoded), np.uint8)]
        lengths = np.array(list(map(len, encoded)), np.int64)
    else:
        ids = make_encoder(base).encode_batch(list(counts))
        lengths = np.array(list(map(len, ids)), np.int64)
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
    owner = np.repeat(np.arange(len(counts)), lengths)  # (n,) which piece a symbol belongs to
    places = np.arange(len(flat)) + owner + 1
    symbols = np.full(len(flat) + len(counts) + 1, _GAP, np.int32)
    symbols[places] = flat
    weights = np.zeros(len(symbols), np.int64)
    weights[places] = np.array(list(counts.values()), np.int64)[owner]
    return symbols, weights


class _Board:
    """The pieces as a linked list over flat arrays, and a heap of pairs with the places where they stand.

    A pair's count only ever falls after the step that brings it about, so the heap holds upper bounds and a
    pair is counted afresh when it reaches the top: nothing has to be kept exact on the way.
    """

    def __init__(self, symbols: np.ndarray, weights: np.ndarray, min_count: int) -> None:
        self.symbols, self.weights, self.min_count = symbols, weights, min_count
        self.next = np.arange(1, len(symbols) + 1, dtype=np.int32)
        self.next[-1] = len(symbols) - 1
        self.prev = np.arange(-1, len(symbols) - 1, dtype=np.int32)
        self.prev[0] = 0
        self.heap: list[tuple[int, int, int]] = []  # (-count, pair, serial)
        self.places: dict[int, np.ndarray] = {}  # by serial
        self.serial = 0
        self._add(np.flatnonzero((symbols[:-1] >= 0) & (symbols[1:] >= 0)).astype(np.int32))

    def most_frequent(self) -> tuple[int, np.ndarray] | None:
        """The pair with the highest count (ties: lowest ids) and its places; None if none reaches `min_count`."""
        while self.heap:
            minus, pair, serial = self.heap[0]
            places = self._standing(pair, self.places[serial])
            count = int(self.weights[places].sum())
            if count == -minus:
                heapq.heappop(self.heap)
                return pair, self.places.pop(serial)
            if count >= self.min_count:
                self.places[serial] = places
                heapq.heapreplace(self.heap, (-count, pair, serial))
            else:
                heapq.heappop(self.heap)
                del self.places[serial]
        return None

    def merge(self, pair: int, at: np.ndarray, new: int, fresh: bool) -> None:
        """Joins the pair at its places into `new`. fresh: no such id stood on the board before."""
        at = self._standing(pair, at)
        if pair >> _SHIFT == pair & _LOW:
            at = self._without_overlaps(np.sort(at))
        gone = self.next[at]
        after = self.next[gone]
        self.symbols[at], self.symbols[gone] = new, _GONE
        self.next[at], self.prev[after] = after, at
        before = self.prev[at]
        standing, following = self.symbols[before] >= 0, at[self.symbols[after] >= 0]
        if fresh:
            # Where two merges touch, the pair between them is entered once, with the first.
            standing &= self.symbols[before] != new
            self._add(np.concatenate([before[standing], following]))
        else:
            self._add(self._everywhere(np.concatenate([before[standing], following])))

    def _standing(self, pair: int, places: np.ndarray) -> np.ndarray:
        """Those of the places where the pair still stands."""
        kept = places[self.symbols[places] == pair >> _SHIFT]
        return kept[self.symbols[self.next[kept]] == pair & _LOW]

    def _without_overlaps(self, at: np.ndarray) -> np.ndarray:
        """Of sorted places where a pair of equals stands ("aaaa" has three), every second in each run."""
        starts = np.ones(len(at), bool)
        starts[1:] = self.next[at[:-1]] != at[1:]
        order = np.arange(len(at))
        return at[(order - np.maximum.accumulate(np.where(starts, order, 0))) % 2 == 0]

    def _pairs_at(self, places: np.ndarray) -> np.ndarray:
        """The pair that begins at each place, as (k,) int64."""
        return self.symbols[places].astype(np.int64) << _SHIFT | self.symbols[self.next[places]]

    def _everywhere(self, touched: np.ndarray) -> np.ndarray:
        """All places of the pairs that begin at `touched`: an id that is not fresh has neighbours elsewhere too."""
        live = np.flatnonzero(self.symbols >= 0).astype(np.int32)
        live = live[self.symbols[self.next[live]] >= 0]
        return live[np.isin(self._pairs_at(live), np.unique(self._pairs_at(touched)))]

    def _add(self, places: np.ndarray) -> None:
        """Enters the pairs at these places. One that is rare now stays rare: all its places are here."""
        if not len(places):
            return
        pairs = self._pairs_at(places)
        order = _order(pairs)
        pairs, places = pairs[order], places[order]
        firsts = np.concatenate([[0], np.flatnonzero(pairs[1:] != pairs[:-1]) + 1])
        sums = np.add.reduceat(self.weights[places], firsts)
        frequent = np.flatnonzero(sums >= self.min_count)
        lasts = np.append(firsts, len(places))[frequent + 1]
        rows = zip(*(x.tolist() for x in (sums[frequent], pairs[firsts[frequent]], firsts[frequent], lasts)))
        for total, pair, first, last in rows:
            self.places[self.serial] = places[first:last]
            heapq.heappush(self.heap, (-total, pair, self.serial))
            self.serial += 1


def _order(pairs: np.ndarray) -> np.ndarray:
    """An order that brings equal pairs together; pairs of single bytes, the first and longest list, by radix."""
    if not np.any(pairs & ~np.int64(0xFF << _SHIFT | 0xFF)):
        return np.argsort((pairs >> _SHIFT << 8 | pairs & 0xFF).astype(np.uint16), kind="stable")
    return np.argsort(pairs)
