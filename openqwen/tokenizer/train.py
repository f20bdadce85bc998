"""Learning a vocabulary: from scratch, or by augmenting a given one as the report did with cl100k_base.

Report §2.2: start from an existing BPE, add merges learnt on multilingual text, split digits one by one. How
the merges are learnt is ours: every distinct piece is held once with its count, a heap knows the most frequent
pairs and where they stand, and as many of them as cannot influence each other are merged in one vectorised step.
bpe.train is the readable twin; results are equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from openqwen.tokenizer.bpe import Merge
from openqwen.tokenizer.encoders import make_encoder
from openqwen.tokenizer.ranks import byte_order

_SHIFT, _LOW = 24, (1 << 24) - 1  # a pair is one int64: left << 24 | right; room for 16 million ids
_DIGITS = frozenset(b"0123456789")
_GAP = -1  # the symbol between two pieces
_GONE = -2  # the right half of a merged pair
_BATCH_PAIRS, _BATCH_PLACES = 64, 8192  # looked at together: more pairs rarely stay independent
_FLOOR_STEP = 8


def train(
    counts: Mapping[bytes, int],
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
    board = _Board(*_symbols(counts, base), min_count, num_tokens)
    tokens = [token for token, _ in sorted(base.items(), key=lambda item: item[1])]
    ids = dict(base)
    merges: list[Merge] = []
    while len(merges) < num_tokens and (batch := board.most_frequent()):
        spelled = [(tokens[c.pair >> _SHIFT], tokens[c.pair & _LOW]) for c in batch]
        known = ids.get(b"".join(spelled[0]))
        if known is not None:
            board.merge_into_known(batch, known)
            continue
        first_known = next((i for i, (a, b) in enumerate(spelled) if a + b in ids), len(spelled))
        taken = board.merge(batch, len(ids), min(first_known, num_tokens - len(merges)))
        for left, right in spelled[:taken]:
            ids[left + right] = len(ids)
            tokens.append(left + right)
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


def _symbols(counts: Mapping[bytes, int], base: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray]:
    """All distinct pieces as ids with a gap after each (and one before): symbols (n,) int32, weights (n,) int64."""
    if len(base) == 256:
        table = np.zeros(256, np.int32)
        for token, rank in base.items():
            table[token[0]] = rank
        flat = table[np.frombuffer(b"".join(counts), np.uint8)]
        lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    else:
        ids, lengths = make_encoder(base).encode_flat([piece.decode() for piece in counts])
        flat = ids.astype(np.int32)
    owner = np.repeat(np.arange(len(counts)), lengths)  # (n,) which piece a symbol belongs to
    places = np.arange(len(flat)) + owner + 1
    symbols = np.full(len(flat) + len(counts) + 1, _GAP, np.int32)
    symbols[places] = flat
    weights = np.zeros(len(symbols), np.int64)
    weights[places] = np.fromiter(counts.values(), np.int64, len(counts))[owner]
    return symbols, weights


class _Candidate(NamedTuple):
    """A pair with its exact count and the places where it stands. Ordered as merges are chosen."""

    minus_count: int
    pair: int
    places: np.ndarray  # (k,) int32


class _Board:
    """The pieces as a linked list over flat arrays, and a heap of pairs with the places where they stand.

    A pair's count only ever falls after the step that brings it about, so the heap holds upper bounds and a
    pair is counted afresh when it reaches the top: nothing has to be kept exact on the way. Pairs below the floor
    are left out of the heap; when it runs dry the floor is lowered and all pairs are entered anew.
    """

    def __init__(self, symbols: np.ndarray, weights: np.ndarray, min_count: int, num_tokens: int) -> None:
        self.symbols, self.weights, self.min_count = symbols, weights, min_count
        self.next = np.arange(1, len(symbols) + 1, dtype=np.int32)
        self.next[-1] = len(symbols) - 1
        self.prev = np.arange(-1, len(symbols) - 1, dtype=np.int32)
        self.prev[0] = 0
        self.heap: list[tuple[int, int, int]] = []  # (-count, pair, serial)
        self.places: dict[int, np.ndarray] = {}  # by serial
        self.serial = 0
        # Counts fall about as one over the rank, so this lies somewhat below the last count that will be needed.
        self.floor = max(min_count, int(weights.sum()) // (32 * max(num_tokens, 1)))
        self._enter_all()

    def most_frequent(self) -> list[_Candidate]:
        """The most frequent pairs in the order of choice (by count, then lowest ids), as far as that is certain now."""
        while True:
            found = self._recounted(self._popped())
            bound = self.heap[0][:2] if self.heap else (0, 0)
            certain = sum(candidate[:2] < bound for candidate in found)
            self._push(found[certain:])
            if certain:
                return found[:certain]
            if not self.heap:
                if self.floor <= self.min_count:
                    return []
                self.floor = max(self.min_count, self.floor // _FLOOR_STEP)
                self._enter_all()

    def _popped(self) -> list[tuple[int, np.ndarray]]:
        """(pair, places) of the first few entries of the heap."""
        taken: list[tuple[int, np.ndarray]] = []
        size = 0
        while self.heap and len(taken) < _BATCH_PAIRS and size < _BATCH_PLACES:
            _, pair, serial = heapq.heappop(self.heap)
            taken.append((pair, self.places.pop(serial)))
            size += len(taken[-1][1])
        return taken

    def _recounted(self, entries: list[tuple[int, np.ndarray]]) -> list[_Candidate]:
        """The entries with the places where the pair still stands, sorted; those below the floor are dropped."""
        if not entries:
            return []
        pairs = np.array([pair for pair, _ in entries], np.int64)
        places = np.concatenate([places for _, places in entries])
        owner = np.repeat(np.arange(len(entries)), [len(places) for _, places in entries])
        standing = self.symbols[places] == (pairs >> _SHIFT)[owner]
        standing &= self.symbols[self.next[places]] == (pairs & _LOW)[owner]
        places, owner = places[standing], owner[standing]
        counts = np.bincount(owner, self.weights[places], len(entries)).astype(np.int64).tolist()
        ends = np.bincount(owner, minlength=len(entries)).cumsum().tolist()
        found = [
            _Candidate(-count, pair, places[start:end])
            for count, (pair, _), start, end in zip(counts, entries, [0, *ends], ends)
            if count >= self.floor
        ]
        return sorted(found, key=lambda candidate: candidate[:2])

    def _push(self, candidates: Iterable[_Candidate]) -> None:
        for minus_count, pair, places in candidates:
            self.places[self.serial] = places
            heapq.heappush(self.heap, (minus_count, pair, self.serial))
            self.serial += 1

    def merge(self, batch: list[_Candidate], new: int, at_most: int) -> int:
        """Joins the first pairs of the batch into ids new, new + 1, ...: as many as come one after the other anyway.

        Returns how many; the others go back. No id from `new` on stands on the board before.
        """
        if batch[0].pair >> _SHIFT == batch[0].pair & _LOW:
            self._push(batch[1:])
            at = self._without_overlaps(np.sort(batch[0].places))
            self._join(at, np.full(len(at), new, np.int32), new)
            return 1
        number = min(_disjoint(batch), at_most)
        places = np.concatenate([c.places for c in batch[:number]])
        owner = np.repeat(np.arange(number, dtype=np.int32), [len(c.places) for c in batch[:number]])
        if number > 1:
            number = self._undisturbed(batch[:number], places, owner, new)
            places = places[: sum(len(c.places) for c in batch[:number])]
        self._push(batch[number:])
        self._join(places, owner[: len(places)] + np.int32(new), new)
        return number

    def _undisturbed(self, batch: list[_Candidate], places: np.ndarray, owner: np.ndarray, new: int) -> int:
        """How many of the batch are chosen before any pair that merging the earlier ones of them brings about."""
        ids = owner.astype(np.int64) + new
        left = self.symbols[self.prev[places]].astype(np.int64)
        right = self.symbols[self.next[self.next[places]]].astype(np.int64)
        pairs = np.concatenate([(left << _SHIFT | ids)[left >= 0], (ids << _SHIFT | right)[right >= 0]])
        weights = self.weights[places]
        weights = np.concatenate([weights[left >= 0], weights[right >= 0]])
        order, firsts = _grouped(pairs)
        sums = np.add.reduceat(weights[order], firsts) if len(firsts) else weights[:0]
        rivals = np.flatnonzero(sums >= -batch[-1].minus_count)
        first_rival: dict[int, tuple[int, int]] = {}
        for total, pair in zip(sums[rivals].tolist(), pairs[order[firsts[rivals]]].tolist()):
            maker = max(pair >> _SHIFT, pair & _LOW) - new
            first_rival[maker] = min(first_rival.get(maker, (0, 0)), (-total, pair))
        rival = (0, 0)
        for number, candidate in enumerate(batch):
            if candidate[:2] > rival:
                return number
            rival = min(rival, first_rival.get(number, rival))
        return len(batch)

    def merge_into_known(self, batch: list[_Candidate], known: int) -> None:
        """Joins the first pair into an id that stands elsewhere already; the others of the batch go back."""
        self._push(batch[1:])
        at = batch[0].places
        if batch[0].pair >> _SHIFT == batch[0].pair & _LOW:
            at = self._without_overlaps(np.sort(at))
        before, after = self._link(at, np.int32(known))
        touched = np.concatenate([before[self.symbols[before] >= 0], at[self.symbols[after] >= 0]])
        self._enter(self._everywhere(touched))

    def _join(self, at: np.ndarray, ids: np.ndarray, new: int) -> None:
        """Joins the pairs at these places into fresh ids, the lowest of them `new`, and enters the pairs they form."""
        before, after = self._link(at, ids)
        # Where two merges touch, the pair between them is entered once, with the first.
        standing, following = self.symbols[before], self.symbols[after]
        self._enter(np.concatenate([before[(standing >= 0) & (standing < new)], at[following >= 0]]))

    def _link(self, at: np.ndarray, ids: np.ndarray | np.int32) -> tuple[np.ndarray, np.ndarray]:
        """Writes ids in place of the pairs at these places; returns the places before and after."""
        gone = self.next[at]
        after = self.next[gone]
        self.symbols[at], self.symbols[gone] = ids, _GONE
        self.next[at], self.prev[after] = after, at
        return self.prev[at], after

    def _without_overlaps(self, at: np.ndarray) -> np.ndarray:
        """Of sorted places where a pair of equals stands ("aaaa" has three), every second in each run."""
        starts = np.ones(len(at), bool)
        starts[1:] = self.next[at[:-1]] != at[1:]
        order = np.arange(len(at))
        return at[(order - np.maximum.accumulate(np.where(starts, order, 0))) % 2 == 0]

    def _pairs_at(self, places: np.ndarray) -> np.ndarray:
        """The pair that begins at each place, as (k,) int64."""
        return self.symbols[places].astype(np.int64) << _SHIFT | self.symbols[self.next[places]]

    def _live(self) -> np.ndarray:
        """Every place where a pair begins."""
        live = np.flatnonzero(self.symbols >= 0).astype(np.int32)
        return live[self.symbols[self.next[live]] >= 0]

    def _everywhere(self, touched: np.ndarray) -> np.ndarray:
        """All places of the pairs that begin at `touched`: an id that is not fresh has neighbours elsewhere too."""
        live = self._live()
        return live[np.isin(self._pairs_at(live), np.unique(self._pairs_at(touched)))]

    def _enter_all(self) -> None:
        self._enter(self._live())

    def _enter(self, places: np.ndarray) -> None:
        """Enters the pairs at these places into the heap, except those that stay below the floor: they only fall."""
        if not len(places):
            return
        pairs = self._pairs_at(places)
        order, firsts = _grouped(pairs)
        places = places[order]
        sums = np.add.reduceat(self.weights[places], firsts)
        frequent = np.flatnonzero(sums >= self.floor)
        lasts = np.append(firsts, len(places))[frequent + 1]
        firsts = firsts[frequent]
        rows = zip(*(x.tolist() for x in (-sums[frequent], pairs[order[firsts]], firsts, lasts)))
        self._push(_Candidate(minus, pair, places[first:last]) for minus, pair, first, last in rows)


def _disjoint(batch: list[_Candidate]) -> int:
    """How many of the first pairs cannot overlap: no token is the left half of one and the right half of another."""
    lefts: set[int] = set()
    rights: set[int] = set()
    for number, candidate in enumerate(batch):
        left, right = candidate.pair >> _SHIFT, candidate.pair & _LOW
        if left in rights or right in lefts or left == right:
            return number
        lefts.add(left)
        rights.add(right)
    return len(batch)


def _grouped(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order that brings equal pairs together, and where in it each group begins."""
    if len(pairs) > 100_000 and not np.any(pairs & ~np.int64(0xFF << _SHIFT | 0xFF)):
        # Pairs of single bytes, the first and longest list: two bytes are sorted by radix.
        order = np.argsort((pairs >> _SHIFT << 8 | pairs & 0xFF).astype(np.uint16), kind="stable")
    else:
        order = np.argsort(pairs)
    ordered = pairs[order]
    return order, np.flatnonzero(np.concatenate([[len(pairs) > 0], ordered[1:] != ordered[:-1]]))
