"""Learning a vocabulary: from scratch, or by augmenting a given one as the report did with cl100k_base.

Report §2.2: start from an existing BPE, add merges learnt on multilingual text, split digits one by one. How
the merges are learnt is ours: every distinct piece is held once with its count, a board knows how often the frequent
pairs occur and where they stand, and as many of them as cannot influence each other are merged in one vectorised
step. bpe.train is the readable twin; results are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from openqwen.tokenizer.bpe import Merge
from openqwen.tokenizer.encoders import make_encoder
from openqwen.tokenizer.ranks import byte_order

_DIGITS = frozenset(b"0123456789")
_NOTHING = -1  # on a place where no token begins or ends
_ID_BITS = 24  # room for 16 million ids
_LOW = (1 << _ID_BITS) - 1
_ENOUGH = 64  # pairs offered for one step: more rarely stay independent
_MANY_PLACES = 8192  # where a pair stands this often, one is enough
_SPARE = 4  # pairs entered for each token still to be learnt when the floor is lowered
_BLOCK = 1 << 20  # places entered at once
_FRONT = 1024  # pairs looked at in each step
_NOWHERE = np.empty(0, np.int32)


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
    learner = _Learner(_Pieces(counts, base, num_tokens), min_count, num_tokens)
    tokens = [token for token, _ in sorted(base.items(), key=lambda item: item[1])]
    ids = dict(base)
    merges: list[Merge] = []
    while len(merges) < num_tokens and (batch := learner.most_frequent(num_tokens - len(merges))):
        spelled = [(tokens[left], tokens[right]) for left, right in batch.halves()]
        known = ids.get(b"".join(spelled[0]))
        if known is not None:
            learner.merge_into_known(batch.first(1), known)
            continue
        taken = learner.merge(batch.first(_unknown([a + b for a, b in spelled], ids)), len(ids))
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


class _Pieces:
    """All distinct pieces one after the other, a place for each byte and one between two pieces.

    The id of a token stands on its first byte, and once more on its last if it has several, there as -2 - id; all
    other places hold _NOTHING. So the neighbours of a token of n bytes at place p are read at p - 1 and p + n, near
    by in memory, and no links are needed.
    """

    def __init__(self, counts: Mapping[bytes, int], base: Mapping[bytes, int], num_tokens: int) -> None:
        sizes = np.fromiter(map(len, counts), np.int64, len(counts))
        ends = np.concatenate([[0], np.cumsum(sizes + 1)])  # the place before the first piece and after each
        num = np.fromiter(counts.values(), np.int64, len(counts))
        self.total = int(num @ sizes)  # bytes, every piece as often as it occurs
        narrow = np.int32 if num.max(initial=0) < 1 << 31 else np.int64
        self.weights = np.repeat(
            np.concatenate([[0], num]).astype(narrow), np.diff(ends, prepend=-1)
        )  # (places,)
        self.lengths = np.zeros(len(base) + min(num_tokens, len(self.weights)), np.int32)  # (ids,) in bytes
        self.lengths[list(base.values())] = list(map(len, base))
        if len(base) == 256:
            ranks = bytes(base[bytes([byte])] for byte in range(256))
            data = b"\0".join([b"", *counts, b""]).translate(ranks)
            self.symbols = np.frombuffer(data, np.uint8).astype(np.int32)  # (places,)
            self.symbols[ends] = _NOTHING
        else:
            ids, numbers = make_encoder(base).encode_flat([piece.decode() for piece in counts])
            lengths = self.lengths[ids].astype(np.int64)
            firsts = np.cumsum(lengths) - lengths + 1 + np.repeat(np.arange(len(counts)), numbers)
            self.symbols = np.full(len(self.weights), _NOTHING, np.int32)
            self.symbols[firsts + lengths - 1] = -2 - ids.astype(np.int32)
            self.symbols[firsts] = ids

    def id_before(self, at: np.ndarray) -> np.ndarray:
        """The id of the token that ends before each place; negative where a piece begins."""
        found = self.symbols[at - 1]
        return np.maximum(found, -2 - found)

    def join(self, at: np.ndarray, lengths: np.ndarray, seams: np.ndarray, ids: np.ndarray | int) -> None:
        """Makes one token of two: at (k,) where it begins, lengths (k,) of the whole and seams (k,) of its left half."""
        self.symbols[at + seams] = _NOTHING
        self.symbols[at] = ids
        self.symbols[at + (lengths - 1)] = -2 - ids

    def part(
        self, at: np.ndarray, lengths: np.ndarray, seams: np.ndarray, ids: np.ndarray, right: np.ndarray
    ) -> None:
        """Takes a `join` back: ids and right (k,) are the two halves."""
        self.symbols[at] = ids
        self.symbols[at + (lengths - 1)] = -2 - right
        self.symbols[at + seams] = right

    def starts(self) -> Iterator[np.ndarray]:
        """The places where tokens begin, in blocks."""
        for first in range(0, len(self.symbols), _BLOCK):
            yield first + np.flatnonzero(self.symbols[first : first + _BLOCK] >= 0)

    def pairs(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of places where tokens begin those with a neighbour on the right, and both ids: three arrays (k,)."""
        left = self.symbols[places]
        right = self.symbols[places + self.lengths[left]]
        kept = np.flatnonzero(right >= 0)
        return places[kept], left[kept], right[kept]


def _unknown(tokens: Sequence[bytes], ids: Mapping[bytes, int]) -> int:
    """How many tokens come before the first that has an id or has come before."""
    seen: set[bytes] = set()
    for number, token in enumerate(tokens):
        if token in ids or token in seen:
            return number
        seen.add(token)
    return len(tokens)


class _Batch(NamedTuple):
    """Pairs of the board in the order of choice."""

    slots: np.ndarray  # (k,) on the board
    counts: np.ndarray  # (k,)
    left: np.ndarray  # (k,) ids
    right: np.ndarray  # (k,)

    def first(self, number: int) -> _Batch:
        return _Batch(*(column[:number] for column in self))

    def halves(self) -> Iterable[tuple[int, int]]:
        return zip(self.left.tolist(), self.right.tolist())


class _Board:
    """The frequent pairs with their counts and the places where they stand, or stood when they were noted.

    A row of the board is a slot. Rows are sorted by `_key`, under which pairs with a new token come last, so what
    a merge brings about is appended. Pairs that occur as often as `bar` or more are in front.
    """

    def __init__(self) -> None:
        self.keys = np.empty(0, np.int64)
        self.counts = np.empty(0, np.int64)  # 0: the pair is off the board
        self.sizes = np.empty(0, np.int64)  # how many places
        self.places: list[np.ndarray] = []
        self._front, self._bar = np.empty(0, np.int64), np.iinfo(np.int64).max

    def most_frequent(self) -> _Batch:
        """The _ENOUGH most frequent pairs, by count, then lowest ids; none only if the board is empty."""
        slots = self._front = self._front[self.counts[self._front] >= self._bar]
        if len(slots) < _ENOUGH and self._bar > 1:
            self._bar = _lowest(self.counts, _FRONT)
            slots = self._front = np.flatnonzero(self.counts >= self._bar)
        counts = self.counts[slots]
        slots = slots[counts >= _lowest(counts, _ENOUGH)]
        counts = self.counts[slots]
        left, right = _halves(self.keys[slots])
        order = np.lexsort((right, left, -counts))[:_ENOUGH]
        return _Batch(slots[order], counts[order], left[order], right[order])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the keys are on the board, and their slots."""
        slots = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = np.flatnonzero(self.keys[slots] == keys) if len(self.keys) else slots[:0]
        return found, slots[found]

    def append(self, keys: np.ndarray, counts: np.ndarray, places: list[np.ndarray]) -> None:
        """Adds rows whose keys are sorted and higher than all others."""
        if 2 * np.count_nonzero(self.counts) < len(self.counts):
            self.keep(np.flatnonzero(self.counts))
        self._front = np.concatenate([self._front, len(self.keys) + np.flatnonzero(counts >= self._bar)])
        self.keys = np.concatenate([self.keys, keys])
        self.counts = np.concatenate([self.counts, counts])
        self.sizes = np.concatenate([self.sizes, list(map(len, places))]).astype(np.int64)
        self.places += places

    def keep(self, slots: np.ndarray) -> None:
        """Keeps these rows only, in this order."""
        self.keys, self.counts, self.sizes = self.keys[slots], self.counts[slots], self.sizes[slots]
        self.places = [self.places[slot] for slot in slots.tolist()]
        self._front = np.flatnonzero(self.counts >= self._bar)

    def drop(self, slots: np.ndarray) -> None:
        """Takes pairs off the board."""
        self.counts[slots] = 0
        for slot in slots.tolist():
            self.places[slot] = _NOWHERE


class _Learner:
    """Merges the most frequent pairs of the pieces and keeps the board true.

    Counts are exact. Places are filtered when they are used, since they only ever get fewer once a pair has come
    about. Pairs below the floor are left out; when the others are used up the floor is lowered and all pairs are
    entered anew.
    """

    def __init__(self, pieces: _Pieces, min_count: int, num_tokens: int) -> None:
        self.pieces, self.min_count = pieces, min_count
        # Counts fall about as one over the rank, so this lies somewhat below the last count that will be needed.
        self.floor = max(min_count, pieces.total // (32 * max(num_tokens, 1)))
        self._enter_all()

    def most_frequent(self, at_most: int) -> _Batch | None:
        """The most frequent pairs that cannot overlap, in the order of choice; None if there is none."""
        batch = self.board.most_frequent()
        if not len(batch.slots) and self.floor > self.min_count:
            self._enter_all(_SPARE * at_most)
            batch = self.board.most_frequent()
        if not len(batch.slots):
            return None
        sizes = np.cumsum(self.board.sizes[batch.slots])
        batch = batch.first(min(at_most, 1 + int(np.searchsorted(sizes, _MANY_PLACES))))
        return batch.first(_disjoint(batch))

    def merge(self, batch: _Batch, new: int) -> int:
        """Joins the first pairs of the batch into ids new, new + 1, ...: as many as come one after the other anyway.

        Returns how many. No id from `new` on stands in the pieces before.
        """
        at, owner = self._standing(batch)
        ids = np.arange(new, new + len(batch.slots), dtype=np.int32)
        seams = self.pieces.lengths[batch.left]
        lengths = self.pieces.lengths[ids] = seams + self.pieces.lengths[batch.right]
        self.pieces.join(at, lengths[owner], seams[owner], ids[owner])
        met = self._met(batch, at, owner, new)
        number = met.undisturbed(batch)
        if number < len(ids):
            late = owner >= number
            which = owner[late]
            halves = (half.astype(np.int32)[which] for half in (batch.left, batch.right))
            self.pieces.part(at[late], lengths[which], seams[which], *halves)
            batch, at, owner = batch.first(number), at[~late], owner[~late]
            met = self._met(batch, at, owner, new)
        self.board.drop(batch.slots)
        self._take_off(met.gone, met.come.sums)
        self._enter(met.come)
        return number

    def merge_into_known(self, pair: _Batch, known: int) -> None:
        """Joins a pair into an id that may stand elsewhere already. The pairs of this id are counted afresh."""
        pieces = self.pieces
        at, _ = self._standing(pair)
        seam, length = pieces.lengths[pair.left], pieces.lengths[known]
        before = pieces.id_before(at)
        around = np.concatenate([(at - pieces.lengths[before])[before >= 0], at + seam])
        self.board.drop(pair.slots)
        places, left, right = pieces.pairs(np.unique(around))
        self._take_off(_key(left, right), pieces.weights[places])
        pieces.join(at, np.broadcast_to(length, at.shape), np.broadcast_to(seam, at.shape), known)

        at = np.flatnonzero(pieces.symbols == known)
        before = pieces.id_before(at)
        around = np.concatenate([(at - pieces.lengths[before])[before >= 0], at])
        left, right = _halves(self.board.keys)
        self.board.keep(np.flatnonzero((left != known) & (right != known)))
        self._enter(_entries(pieces, *pieces.pairs(np.unique(around))))
        self.board.keep(np.argsort(self.board.keys))

    def _standing(self, batch: _Batch) -> tuple[np.ndarray, np.ndarray]:
        """The places (k,) where the pairs still stand, and for each which of the batch stands there (k,)."""
        places = np.concatenate([self.board.places[slot] for slot in batch.slots.tolist()], dtype=np.int64)
        owner = np.repeat(np.arange(len(batch.slots)), self.board.sizes[batch.slots])
        lengths = self.pieces.lengths[batch.left]
        standing = self.pieces.symbols[places] == batch.left[owner]
        standing &= self.pieces.symbols[places + lengths[owner]] == batch.right[owner]
        kept = np.flatnonzero(standing)
        at, owner = places[kept], owner[kept]
        if batch.left[0] == batch.right[0]:
            at = _without_overlaps(at, lengths[0])
            owner = owner[: len(at)]
        return at, owner

    def _met(self, batch: _Batch, at: np.ndarray, owner: np.ndarray, new: int) -> _Met:
        """What pairs the joined tokens at these places have formed with their neighbours, and instead of which."""
        pieces = self.pieces
        lengths = pieces.lengths[new + np.arange(len(batch.slots))]
        before, after = pieces.id_before(at), pieces.symbols[at + lengths[owner]]
        # Where two merges touch, the pair between them is counted once, on the left of the second.
        on_left, on_right = np.flatnonzero(before >= 0), np.flatnonzero((after >= 0) & (after < new))
        other = np.concatenate([before[on_left], after[on_right]])
        origin = np.concatenate([on_left, on_right])
        maker = owner[origin]
        weights = pieces.weights[at]
        places = at[origin]
        places[: len(on_left)] -= pieces.lengths[other[: len(on_left)]]

        order = _order(other)
        right_side = order >= len(on_left)
        other, maker, origin, places = other[order], maker[order], origin[order], places[order]
        tags = right_side.astype(np.int64) << 32 | maker << _ID_BITS | other
        firsts = _firsts(tags)
        sums = _sums(weights[origin], firsts)
        right_side, maker, other = right_side[firsts], maker[firsts], other[firsts].astype(np.int64)

        touching = other >= new
        old = other.copy()
        old[touching] = batch.right[other[touching] - new]
        fresh = maker + new
        gone = _key(
            np.where(right_side, batch.right[maker], old), np.where(right_side, old, batch.left[maker])
        )
        come = _key(np.where(right_side, fresh, other), np.where(right_side, other, fresh))
        return _Met(_Entries(come, sums, firsts, places), gone, maker, np.where(touching, other - new, -1))

    def _take_off(self, keys: np.ndarray, losses: np.ndarray) -> None:
        """Lowers counts; a pair that falls below the floor is forgotten until the floor is lowered."""
        found, slots = self.board.find(keys)
        np.subtract.at(self.board.counts, slots, losses[found])
        self.board.drop(slots[self.board.counts[slots] < self.floor])

    def _enter(self, entries: _Entries) -> None:
        """Puts pairs on the board, except those below the floor."""
        frequent = np.flatnonzero(entries.sums >= self.floor)
        frequent = frequent[np.argsort(entries.keys[frequent])]
        self.board.append(entries.keys[frequent], entries.sums[frequent], entries.lists(frequent))

    def _enter_all(self, number: int | None = None) -> None:
        """Makes the board anew, with the floor below the `number` most frequent pairs if one is named."""
        # Block after block, since a list of all places sorted at once takes much memory.
        self.board = _Board()
        blocks = [_entries(self.pieces, *self.pieces.pairs(places)) for places in self.pieces.starts()]
        keys, where = np.unique(np.concatenate([block.keys for block in blocks]), return_inverse=True)
        sums = np.zeros(len(keys), np.int64)
        np.add.at(sums, where, np.concatenate([block.sums for block in blocks]))
        if number is not None:
            self.floor = max(self.min_count, _lowest(sums, number))
        keys, sums = keys[sums >= self.floor], sums[sums >= self.floor]
        lists: dict[int, list[np.ndarray]] = {key: [] for key in keys.tolist()}
        for block in blocks:
            rows = np.flatnonzero(np.isin(block.keys, keys, assume_unique=True))
            for key, places in zip(block.keys[rows].tolist(), block.lists(rows)):
                lists[key].append(places)
        self.board.append(keys, sums, list(map(np.concatenate, lists.values())))


class _Entries(NamedTuple):
    """Pairs that are all different, with all their places."""

    keys: np.ndarray  # (pairs,)
    sums: np.ndarray  # (pairs,) how often each occurs
    firsts: np.ndarray  # (pairs,) where its places begin
    places: np.ndarray  # (k,)

    def lists(self, rows: np.ndarray) -> list[np.ndarray]:
        """The places of some of the pairs."""
        places, ends = self.places.astype(np.int32), np.append(self.firsts, len(self.places))
        return [places[first:end] for first, end in zip(ends[rows].tolist(), ends[rows + 1].tolist())]


class _Met(NamedTuple):
    """The pairs that the merges of a batch bring about."""

    come: _Entries
    gone: np.ndarray  # (pairs,) keys of the pairs that stood there before
    maker: np.ndarray  # (pairs,) which of the batch
    touched: np.ndarray  # (pairs,) and the other one of the batch, if it is between two; else -1

    def undisturbed(self, batch: _Batch) -> int:
        """How many of the batch are chosen before any pair that merging the earlier ones of them brings about."""
        sums, maker = self.come.sums, self.maker
        # Had only one of two merges that touch come first, these places would count with another pair of it: so they
        # are added to all. A bound too high costs a shorter batch and nothing else.
        between = np.flatnonzero(self.touched >= 0)
        more = np.zeros(len(batch.slots), np.int64)
        np.add.at(more, maker[between], sums[between])
        np.add.at(more, self.touched[between], sums[between])
        most = sums + more[maker]
        rivals = np.flatnonzero(most >= batch.counts[-1])
        left, right = _halves(self.come.keys[rivals])
        left[more[maker[rivals]] > 0] = -1  # the other pair may be an older one
        ranks = zip((-most[rivals]).tolist(), left.tolist(), right.tolist())
        first: dict[int, tuple[int, int, int]] = {}
        for made_by, rank in zip(maker[rivals].tolist(), ranks):
            first[made_by] = min(first.get(made_by, _NO_RIVAL), rank)
        rival = _NO_RIVAL
        chosen = zip((-batch.counts).tolist(), batch.left.tolist(), batch.right.tolist())
        for number, rank in enumerate(chosen):
            if rank > rival:
                return number
            rival = min(rival, first.get(number, rival))
        return len(batch.slots)


_NO_RIVAL = (0, 0, 0)


def _entries(pieces: _Pieces, places: np.ndarray, left: np.ndarray, right: np.ndarray) -> _Entries:
    """The pairs (left, right) that stand at these places (k,), with all that the board wants to know."""
    if (left | right).max(initial=0) <= 0xFF:  # single bytes, the first and longest list
        tags = (left << 8 | right).astype(np.uint16)
        order = _order(tags)
    else:
        tags = left.astype(np.int64) << _ID_BITS | right
        order = _order(right)
        order = order[_order(left[order])]
    firsts = _firsts(tags[order])
    places, one = places[order], order[firsts]
    return _Entries(_key(left[one], right[one]), _sums(pieces.weights[places], firsts), firsts, places)


def _disjoint(batch: _Batch) -> int:
    """How many of the first pairs cannot overlap: no token is the left half of one and the right half of another.

    A pair of equals overlaps with itself and is merged alone.
    """
    lefts: set[int] = set()
    rights: set[int] = set()
    for number, (left, right) in enumerate(batch.halves()):
        if left in rights or right in lefts or left == right:
            return max(number, 1)
        lefts.add(left)
        rights.add(right)
    return len(batch.slots)


def _without_overlaps(at: np.ndarray, length: int) -> np.ndarray:
    """Of sorted places where a pair of equals stands ("aaaa" has three), every second in each run."""
    starts = np.ones(len(at), bool)
    starts[1:] = at[:-1] + length != at[1:]
    order = np.arange(len(at))
    return at[(order - np.maximum.accumulate(np.where(starts, order, 0))) % 2 == 0]


def _key(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A pair as one integer, (k,) int64: the newer id first, then which of the two it is, then the older id."""
    newer, older = np.maximum(left, right).astype(np.int64), np.minimum(left, right)
    return newer << (_ID_BITS + 1) | (left > right).astype(np.int64) << _ID_BITS | older


def _halves(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right ids of keys."""
    newer, older, newer_left = keys >> (_ID_BITS + 1), keys & _LOW, (keys >> _ID_BITS & 1).astype(bool)
    return np.where(newer_left, newer, older), np.where(newer_left, older, newer)


def _order(ids: np.ndarray) -> np.ndarray:
    """An order that brings equal ids (k,) together and leaves equals as they stand."""
    order = np.argsort(ids.astype(np.uint16), kind="stable")  # numpy sorts 16 bits by radix, all else slower
    if ids.max(initial=0) >> 16 == 0:
        return order
    return order[np.argsort((ids[order] >> 16).astype(np.uint16), kind="stable")]


def _firsts(sorted_keys: np.ndarray) -> np.ndarray:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.concatenate([[len(sorted_keys) > 0], sorted_keys[1:] != sorted_keys[:-1]]))


def _sums(weights: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """The sum of each run, (runs,) int64."""
    return np.add.reduceat(weights, firsts, dtype=np.int64) if len(firsts) else firsts


def _lowest(counts: np.ndarray, number: int) -> int:
    """The lowest of the `number` highest counts; at least 1."""
    # np.partition is slower where many are equal.
    return max(1, int(np.sort(counts)[-number])) if len(counts) > number else 1
