"""Counting pieces: how often each distinct piece of a text occurs, which is all that training needs to know of it.

Report §2.2; the method is ours. pattern.split is the readable twin of `piece_starts`, which finds the same cuts for
millions of characters at once: where a piece begins depends only on classes of characters (letter, number, blank,
line end, other) and on runs of them. What is held is one count for each distinct piece, whatever the text's size.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from itertools import accumulate, islice

import numpy as np
import regex

from openqwen.tokenizer.pattern import normalise, unassigned

_OTHER, _LETTER, _NUMBER, _BLANK, _LINE, _END = range(6)
_CLASSES = {_LETTER: r"\p{L}+", _NUMBER: r"\p{N}+", _BLANK: r"[^\S\r\n]+", _LINE: r"[\r\n]+"}
_SPACE, _APOSTROPHE, _BETWEEN = 0x20, 0x27, 0x110000  # the last: no character, stands between two texts
_SHORT = 7  # bytes of a piece that fit into one integer beside their number
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_SHORT + 1)], np.uint64)
_LONG_S = 0x17F  # an s to whoever ignores case
_ONE_LETTER = np.array([ord(letter) for letter in "stmd"], np.uint32)
_TWO_LETTERS = np.array([ord(a) << 32 | ord(b) for a, b in ("re", "ve", "ll")], np.uint64)
_CHUNK = 4_000_000  # characters counted at once
_ALONE = 8  # chunks counted before other processes are worth starting


class PieceCounts:
    """Counts of pieces so far. Short pieces, nearly all that occur, are integers in a sorted array, the rest bytes."""

    def __init__(self) -> None:
        self._keys = np.empty(
            0, np.uint64
        )  # a short piece: its bytes, the first lowest, and their number on top
        self._counts = np.empty(0, np.int64)
        self._long: Counter[bytes] = Counter()

    def add(self, texts: Sequence[str]) -> None:
        """Counts the pieces of texts."""
        texts = [normalise(text) for text in texts]
        data = "".join(texts).encode()
        starts = byte_starts(texts)
        sizes = np.diff(starts, append=len(data))
        short = sizes <= _SHORT
        windows = np.ndarray(len(data), "<u8", data + bytes(8), strides=(1,))
        keys = windows[starts[short]] & _MASKS[sizes[short]] | sizes[short].astype(np.uint64) << np.uint64(56)
        self._merge(*np.unique(keys, return_counts=True))
        first = starts[~short]
        spans = zip(first.tolist(), (first + sizes[~short]).tolist())
        self._long.update([data[start:stop] for start, stop in spans])

    def update(self, other: PieceCounts) -> None:
        """Adds another account to this one."""
        self._merge(other._keys, other._counts)
        self._long.update(other._long)

    def _merge(self, keys: np.ndarray, counts: np.ndarray) -> None:
        both = np.concatenate([self._counts, counts])
        self._keys, where = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
        self._counts = np.zeros(len(self._keys), np.int64)
        np.add.at(self._counts, where, both)

    def as_dict(self) -> dict[bytes, int]:
        """Piece -> count, in no order to rely on."""
        rows = self._keys.astype("<u8").tobytes()
        spans = zip(range(0, len(rows), 8), rows[_SHORT::8], self._counts.tolist())
        pieces = {rows[at : at + size]: count for at, size, count in spans}
        pieces.update(self._long)
        return pieces


def count_pieces(texts: Iterable[str], workers: int | None = 1) -> dict[bytes, int]:
    """How often each distinct piece occurs, the same for any order of the texts and any number of processes.

    workers: processes that count; None: one a processor. Up to some 30 MB are counted here and none is started.
    """
    counts = PieceCounts()
    chunks = _chunks(texts)
    workers = workers or os.cpu_count() or 1
    for chunk in islice(chunks, _ALONE if workers > 1 else None):
        counts.add(chunk)
    for account in _in_processes(chunks, workers):
        counts.update(account)
    return counts.as_dict()


def _in_processes(chunks: Iterator[list[str]], workers: int) -> Iterator[PieceCounts]:
    """Accounts of the chunks, made by worker processes that start with the first chunk."""
    pool: ProcessPoolExecutor | None = None
    running: deque[Future[PieceCounts]] = deque()
    try:
        for chunk in chunks:
            pool = pool or ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
            running.append(pool.submit(_count, chunk))
            if len(running) > workers + 1:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _count(texts: list[str]) -> PieceCounts:
    counts = PieceCounts()
    counts.add(texts)
    return counts


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups of about _CHUNK characters."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def byte_starts(texts: Sequence[str]) -> np.ndarray:
    """Where the pieces of texts begin in the UTF-8 bytes of all of them joined, as (pieces,) int64."""
    codes = np.frombuffer("\0".join(texts).encode("utf-32-le"), np.uint32).copy()  # (n,) code points
    codes[[end + place for place, end in enumerate(accumulate(map(len, texts[:-1])))]] = _BETWEEN
    starts = piece_starts(codes)
    starts &= codes != _BETWEEN
    if codes.max(initial=0) < 0x80:
        return np.flatnonzero(starts)
    sizes = (codes >= 0x80).astype(np.uint8) + (codes >= 0x800) + (codes >= 0x10000) + 1
    sizes[codes == _BETWEEN] = 0
    return (np.cumsum(sizes, dtype=np.int64) - sizes)[starts]


def piece_starts(codes: np.ndarray) -> np.ndarray:
    """For code points (n,) whether a piece begins there, as (n,) bool. _BETWEEN ends one text and begins another."""
    kinds = np.concatenate([[_END], _class_table()[codes], [_END]]).astype(np.uint8)
    kind, before, after = kinds[1:-1], kinds[:-2], kinds[2:]
    previous = np.concatenate([[_BETWEEN], codes[:-1]])
    starts = kind != before
    starts |= (kind == _NUMBER) | (kind == _END)
    starts &= ~((kind == _LETTER) & (before == _BLANK))  # a blank before a word belongs to it
    starts &= ~((kind == _OTHER) & (previous == _SPACE))  # and a space before signs to them
    starts &= ~(
        (kind == _LINE) & ((before == _OTHER) | (before == _BLANK))
    )  # line ends belong to what they end
    _join_single_signs(starts, kind, before, codes)
    _split_blanks(starts, kind, before, after)
    return starts


def _join_single_signs(starts: np.ndarray, kind: np.ndarray, before: np.ndarray, codes: np.ndarray) -> None:
    """One sign before a word belongs to it, except in 's, 't, 're, 've, 'm, 'll and 'd, which stand alone."""
    words = np.flatnonzero((kind == _LETTER) & (before == _OTHER))
    words = words[starts[words - 1]]  # the sign begins a piece, so it is one and no space has taken it
    starts[words] = False
    quoted = words[codes[words - 1] == _APOSTROPHE]
    first = codes[quoted] | 0x20
    second = codes[np.minimum(quoted + 1, len(codes) - 1)] | 0x20
    one = np.isin(first, _ONE_LETTER) | (codes[quoted] == _LONG_S)
    two = np.isin(first.astype(np.uint64) << np.uint64(32) | second, _TWO_LETTERS)
    ends = np.concatenate([quoted[one] + 1, quoted[two] + 2])
    ends = ends[ends < len(codes)]
    starts[ends[kind[ends] == _LETTER]] = True


def _split_blanks(starts: np.ndarray, kind: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """Blanks after line ends are a piece unless a line end follows; before a word or sign the last one is let go."""
    firsts = np.flatnonzero((kind == _BLANK) & (before != _BLANK))
    lasts = np.flatnonzero((kind == _BLANK) & (after != _BLANK))
    followed = after[lasts]
    inside = firsts[(before[firsts] == _LINE) & (followed == _LINE)]  # line ends on both sides
    starts[inside[~_taken_by_signs(inside, kind, before)]] = False
    starts[lasts[(followed != _LINE) & (followed != _END)]] = True


def _taken_by_signs(places: np.ndarray, kind: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Whether the line ends just before each place follow a sign: then they belong to the sign's piece."""
    lines = np.flatnonzero((kind == _LINE) & (before != _LINE))
    first = lines[np.searchsorted(lines, places) - 1] if len(places) else places
    return before[first] == _OTHER


@cache
def _class_table() -> np.ndarray:
    """The class of every code point (and of _BETWEEN), by the libraries that the readable twin uses."""
    table = np.zeros(_BETWEEN + 1, np.uint8)
    table[_BETWEEN] = _END
    everything = "".join(map(chr, range(_BETWEEN)))
    for kind, pattern in _CLASSES.items():
        for found in regex.finditer(pattern, everything):
            table[found.start() : found.end()] = kind
    table[:_BETWEEN][unassigned()] = _OTHER  # as in pattern.split
    return table
