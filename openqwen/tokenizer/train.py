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
_ENOUGH = 64  # a power of two; pairs offered for one step: more rarely stay independent
_MANY_PLACES = 8192  # where a pair stands this often, one is enough
_FLOOR_STEP = 8
_PLACE_BITS = 31
_ON_LEFT, _ON_RIGHT, _TOUCHING = range(3)


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
        spelled = [(tokens[c.left], tokens[c.right]) for c in batch]
        known = ids.get(b"".join(spelled[0]))
        if known is not None:
            board.put_back(batch[1:])
            board.merge_into_known(batch[0], known)
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
    """A pair with its count and the places where it stands, or stood when they were noted."""

    minus_count: int
    pair: int
    places: np.ndarray  # (k,) int32

    @property
    def left(self) -> int:
        return self.pair >> _SHIFT

    @property
    def right(self) -> int:
        return self.pair & _LOW


class _Board:
    """The pieces as a linked list over flat arrays, and the pairs that stand in them with counts and places.

    Counts are exact. The heap holds upper bounds of them and places are filtered when they are used, since both only
    ever get fewer once a pair has come about. Pairs below the floor are left out; when the others are used up the
    floor is lowered and all pairs are entered anew.
    """

    def __init__(self, symbols: np.ndarray, weights: np.ndarray, min_count: int, num_tokens: int) -> None:
        self.symbols, self.weights, self.min_count = symbols, weights, min_count
        self.next = np.arange(1, len(symbols) + 1, dtype=np.int32)
        self.next[-1] = len(symbols) - 1
        self.prev = np.arange(-1, len(symbols) - 1, dtype=np.int32)
        self.prev[0] = 0
        self.counts: dict[int, int] = {}  # by pair
        self.places: dict[int, np.ndarray] = {}
        self.heap: list[tuple[int, int]] = []  # (-count or less, pair)
        # Counts fall about as one over the rank, so this lies somewhat below the last count that will be needed.
        self.floor = max(min_count, int(weights.sum()) // (32 * max(num_tokens, 1)))
        self._enter(self._live())

    def most_frequent(self) -> list[_Candidate]:
        """The most frequent pairs in the order of choice: by count, then lowest ids. They leave the board."""
        while not self.heap and self.floor > self.min_count:
            self.floor = max(self.min_count, self.floor // _FLOOR_STEP)
            self._enter(self._live())
        batch: list[_Candidate] = []
        size = 0
        while self.heap and len(batch) < _ENOUGH and size < _MANY_PLACES:
            minus, pair = heapq.heappop(self.heap)
            count = self.counts.get(pair, 0)
            if count == -minus:
                batch.append(_Candidate(minus, pair, self.places.pop(pair)))
                del self.counts[pair]
                size += len(batch[-1].places)
            elif count:
                heapq.heappush(self.heap, (-count, pair))
        return batch or (self.most_frequent() if self.floor > self.min_count else [])

    def put_back(self, candidates: Iterable[_Candidate]) -> None:
        """Enters pairs with their counts and places."""
        for minus, pair, places in candidates:
            self.counts[pair], self.places[pair] = -minus, places
            heapq.heappush(self.heap, (minus, pair))

    def merge(self, batch: list[_Candidate], new: int, at_most: int) -> int:
        """Joins the first pairs of the batch into ids new, new + 1, ...: as many as come one after the other anyway.

        Returns how many; the others are put back. No id from `new` on stands on the board before.
        """
        number = min(_disjoint(batch), at_most)
        places, owner = self._standing(batch[:number])
        if number > 1:
            number = self._undisturbed(batch[:number], places, owner, new)
            places, owner = places[owner < number], owner[owner < number]
        self.put_back(batch[number:])
        if batch[0].left == batch[0].right:
            places = self._without_overlaps(np.sort(places))
            owner = owner[: len(places)]
        self._join(batch[:number], places, owner, new)
        return number

    def _standing(self, batch: list[_Candidate]) -> tuple[np.ndarray, np.ndarray]:
        """The places (k,) where the pairs still stand, and for each which of the batch stands there (k,) int32."""
        places = np.concatenate([c.places for c in batch])
        owner = np.repeat(np.arange(len(batch), dtype=np.int32), [len(c.places) for c in batch])
        standing = self.symbols[places] == np.array([c.left for c in batch])[owner]
        standing &= self.symbols[self.next[places]] == np.array([c.right for c in batch])[owner]
        return places[standing], owner[standing]

    def _undisturbed(self, batch: list[_Candidate], places: np.ndarray, owner: np.ndarray, new: int) -> int:
        """How many of the batch are chosen before any pair that merging the earlier ones of them brings about."""
        left = self.symbols[self.prev[places]]
        right = self.symbols[self.next[self.next[places]]]
        groups, _, sums = self._grouped(
            np.concatenate(
                [_group(_ON_LEFT, owner, left)[left >= 0], _group(_ON_RIGHT, owner, right)[right >= 0]]
            ),
            np.concatenate([places[left >= 0], places[right >= 0]]),
        )
        rivals = sums >= -batch[-1].minus_count
        first: dict[int, tuple[int, int]] = {}
        for group, total in zip(groups[rivals].tolist(), sums[rivals].tolist()):
            kind, maker, other = group >> 30, group >> _SHIFT & (_ENOUGH - 1), group & _LOW
            pair = other << _SHIFT | new + maker if kind == _ON_LEFT else new + maker << _SHIFT | other
            first[maker] = min(first.get(maker, (0, 0)), (-total, pair))
        rival = (0, 0)
        for number, candidate in enumerate(batch):
            if candidate[:2] > rival:
                return number
            rival = min(rival, first.get(number, rival))
        return len(batch)

    def _join(self, batch: list[_Candidate], at: np.ndarray, owner: np.ndarray, new: int) -> None:
        """Joins the pairs at these places into the fresh ids new + owner: takes the pairs that are gone off the
        board and enters those that come about."""
        left = self.symbols[self.prev[at]]  # before anything is joined
        before, after = self._link(at, owner + np.int32(new))
        right, joined = self.symbols[after], self.symbols[before] - np.int32(new)
        # Where two merges touch, the pair between them is counted once, on the left of the second.
        on_left, touching, on_right = (left >= 0) & (joined < 0), joined >= 0, (right >= 0) & (right < new)
        groups, firsts_places, sums = self._grouped(
            np.concatenate(
                [
                    _group(_ON_LEFT, owner, left)[on_left],
                    _group(_ON_RIGHT, owner, right)[on_right],
                    _group(_TOUCHING, owner, joined)[touching],
                ]
            ),
            np.concatenate([before[on_left], at[on_right], before[touching]]),
        )
        kind, maker, other = groups >> 30, groups >> _SHIFT & (_ENOUGH - 1), groups & _LOW
        lefts = np.array([c.left for c in batch])[maker]
        rights = np.array([c.right for c in batch])
        before_it = np.where(kind == _TOUCHING, rights[np.minimum(other, len(batch) - 1)], other)
        gone = np.where(kind == _ON_RIGHT, rights[maker] << _SHIFT | other, before_it << _SHIFT | lefts)
        self._take_off(gone, sums)
        fresh = maker + new
        other = np.where(kind == _TOUCHING, other + new, other)
        come = np.where(kind == _ON_RIGHT, fresh << _SHIFT | other, other << _SHIFT | fresh)
        self._enter_groups(come, *firsts_places, sums)

    def _take_off(self, pairs: np.ndarray, losses: np.ndarray) -> None:
        """Lowers counts; a pair that falls below the floor is forgotten until the floor is lowered."""
        counts = self.counts
        for pair, loss in zip(pairs.tolist(), losses.tolist()):
            if pair in counts:
                left = counts[pair] - loss
                if left >= self.floor:
                    counts[pair] = left
                else:
                    del counts[pair], self.places[pair]

    def merge_into_known(self, pair: _Candidate, known: int) -> None:
        """Joins a pair into an id that stands elsewhere already. All pairs that this touches are counted afresh."""
        at = self._standing([pair])[0]
        if pair.left == pair.right:
            at = self._without_overlaps(np.sort(at))
        around = np.concatenate([self.prev[at], self.next[at]])
        old = self._pairs_at(around[self.symbols[around] >= 0])
        before, after = self._link(at, np.int32(known))
        around = np.concatenate([before[self.symbols[before] >= 0], at[self.symbols[after] >= 0]])
        touched = np.unique(np.concatenate([old, self._pairs_at(around)]))
        for one in touched.tolist():
            if one in self.counts:
                del self.counts[one], self.places[one]
        live = self._live()
        self._enter(live[np.isin(self._pairs_at(live), touched)])

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
        """The pair that begins at each place, as (k,) int64. Where none does it is negative."""
        right = self.symbols[self.next[places]]
        return self.symbols[places].astype(np.int64) << _SHIFT | right

    def _live(self) -> np.ndarray:
        """Every place where a pair begins."""
        live = np.flatnonzero(self.symbols >= 0).astype(np.int32)
        return live[self.symbols[self.next[live]] >= 0]

    def _enter(self, places: np.ndarray) -> None:
        """Enters the pairs that begin at these places, which are all places of theirs."""
        pairs = self._pairs_at(places)
        order = _order(pairs)
        pairs, places = pairs[order], places[order]
        firsts = np.flatnonzero(np.concatenate([[len(pairs) > 0], pairs[1:] != pairs[:-1]]))
        sums = np.add.reduceat(self.weights[places], firsts) if len(firsts) else firsts
        self._enter_groups(pairs[firsts], firsts, places, sums)

    def _grouped(
        self, groups: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Distinct groups, (where each begins, the places sorted by group), and the weight of each group."""
        # With the place below the group in one integer, one sort does all and leaves places in order.
        keys = np.sort(groups << _PLACE_BITS | places)
        groups, places = keys >> _PLACE_BITS, (keys & ((1 << _PLACE_BITS) - 1)).astype(np.int32)
        firsts = np.flatnonzero(np.concatenate([[len(keys) > 0], groups[1:] != groups[:-1]]))
        sums = np.add.reduceat(self.weights[places], firsts) if len(firsts) else firsts
        return groups[firsts], (firsts, places), sums

    def _enter_groups(
        self, pairs: np.ndarray, firsts: np.ndarray, places: np.ndarray, sums: np.ndarray
    ) -> None:
        """Puts pairs, one a group of places, on the board, except those below the floor."""
        frequent = np.flatnonzero(sums >= self.floor)
        lasts = np.append(firsts, len(places))[frequent + 1]
        rows = zip(*(x.tolist() for x in (-sums[frequent], pairs[frequent], firsts[frequent], lasts)))
        self.put_back(_Candidate(minus, pair, places[first:last]) for minus, pair, first, last in rows)


def _group(kind: int, owner: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What a merge of the batch meets, as (k,) int64: on which side, which of the batch, and the other symbol."""
    return np.int64(kind << 30) | owner.astype(np.int64) << _SHIFT | other


def _disjoint(batch: list[_Candidate]) -> int:
    """How many of the first pairs cannot overlap: no token is the left half of one and the right half of another.

    A pair of equals overlaps with itself and is merged alone.
    """
    lefts: set[int] = set()
    rights: set[int] = set()
    for number, candidate in enumerate(batch):
        left, right = candidate.left, candidate.right
        if left in rights or right in lefts or left == right:
            return max(number, 1)
        lefts.add(left)
        rights.add(right)
    return len(batch)


def _order(pairs: np.ndarray) -> np.ndarray:
    """An order that brings equal pairs together; pairs of single bytes, the first and longest list, by radix."""
    if not np.any(pairs & ~np.int64(0xFF << _SHIFT | 0xFF)):
        return np.argsort((pairs >> _SHIFT << 8 | pairs & 0xFF).astype(np.uint16), kind="stable")
    return np.argsort(pairs, kind="stable")
