"""Counting pieces: how often each distinct piece of a text occurs, which is all that training needs to know of it.

Report §2.2; the method is ours. pattern.split is the readable twin of `piece_starts`, which finds the same cuts for
millions of characters at once: where a piece begins depends only on classes of characters (letter, number, blank,
line end, other) and on runs of them. What is held is one count for each distinct piece, whatever the text's size.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple, TypeVar

import numpy as np
import regex

from openqwen.tokenizer.pattern import normalise, unassigned

_OTHER, _LETTER, _NUMBER, _BLANK, _LINE, _END = range(6)
_CLASSES = {_LETTER: r"\p{L}+", _NUMBER: r"\p{N}+", _BLANK: r"[^\S\r\n]+", _LINE: r"[\r\n]+"}
_SPACE, _APOSTROPHE = 0x20, 0x27
_BETWEEN = 0xD800  # stands between two texts; a surrogate, so no character
_CHARACTERS = 0x110000
_SHORT = 7  # bytes of a piece that fit into one integer beside their number
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_SHORT + 1)], np.uint64)
_LONG_S = 0x17F  # an s to whoever ignores case
_ONE_LETTER = np.array([ord(letter) for letter in "stmd"], np.uint32)
_TWO_LETTERS = np.array([ord(a) << 32 | ord(b) for a, b in ("re", "ve", "ll")], np.uint64)
_CHUNK = 1_000_000  # characters counted at once
_LATER = 1_000_000  # short pieces that may wait to be merged into the account
_HERE = 50  # chunks counted in this process before others are worth starting

Result = TypeVar("Result")


class _Cut(NamedTuple):
    """The pieces of some texts, counted as far as arrays can."""

    keys: np.ndarray  # (k,) uint64, the distinct short pieces
    counts: np.ndarray  # (k,)
    data: bytes
    long: Iterator[tuple[int, int]]  # where the others begin and end in data


class PieceCounts:
    """Counts of pieces so far. Short pieces, nearly all that occur, are integers in a sorted array, the rest bytes."""

    def __init__(self) -> None:
        # A short piece is its bytes, the first lowest, and their number on top. Only the first arrays are without
        # repetition, the others wait.
        self._short = [(np.empty(0, np.uint64), np.empty(0, np.int64))]
        self._long: Counter[bytes] = Counter()

    def add(self, texts: Sequence[str]) -> None:
        """Counts the pieces of texts."""
        self.add_cut(_cut(texts))

    def add_cut(self, cut: _Cut) -> None:
        """Counts pieces that are cut already."""
        self._merge(cut.keys, cut.counts)
        data = cut.data
        self._long.update([data[start:stop] for start, stop in cut.long])

    def update(self, other: PieceCounts) -> None:
        """Adds another account to this one."""
        for keys, counts in other._short:
            self._merge(keys, counts)
        self._long.update(other._long)

    def _merge(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self._short.append((keys, counts))
        if sum(len(keys) for keys, _ in self._short[1:]) > _LATER:
            self._short = [self.short()]

    def short(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct short pieces (k,) uint64 and their counts (k,) int64."""
        keys, where = np.unique(np.concatenate([keys for keys, _ in self._short]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, where, np.concatenate([counts for _, counts in self._short]))
        return keys, counts

    def as_dict(self) -> dict[bytes, int]:
        """Piece -> count, in no order to rely on."""
        keys, counts = self.short()
        rows = keys.astype("<u8").tobytes()
        spans = zip(range(0, len(rows), 8), rows[_SHORT::8], counts.tolist())
        pieces = {rows[at : at + size]: count for at, size, count in spans}
        pieces.update(self._long)
        return pieces


def _cut(texts: Sequence[str]) -> _Cut:
    """Finds and counts pieces; nearly all of it is numpy's work, so threads can share it."""
    texts = [normalise(text) for text in texts]
    data = "".join(texts).encode()
    starts = byte_starts(texts)
    sizes = np.diff(starts, append=len(data))
    short = sizes <= _SHORT
    windows = np.ndarray(len(data), "<u8", data + bytes(8), strides=(1,))
    keys = windows[starts[short]] & _MASKS[sizes[short]] | sizes[short].astype(np.uint64) << np.uint64(56)
    first = starts[~short]
    spans = zip(first.tolist(), (first + sizes[~short]).tolist())
    return _Cut(*np.unique(keys, return_counts=True), data, spans)


def count_pieces(texts: Iterable[str], workers: int | None = 1) -> dict[bytes, int]:
    """How often each distinct piece occurs, the same for any order of the texts and any number of processes.

    workers: how many count; None: one a processor. They are threads for the first 50 million characters or so, then
    processes.
    """
    counts = PieceCounts()
    texts = iter(texts)
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        for chunk in _chunks(texts, _CHUNK):
            counts.add(chunk)
        return counts.as_dict()
    _class_table()  # once, before several threads ask for it
    here = islice(_chunks(texts, _CHUNK), _HERE)
    for cut in _in_pool(lambda: ThreadPoolExecutor(workers), _cut, here, workers):
        counts.add_cut(cut)
    away = _chunks(texts, 4 * _CHUNK)  # fewer accounts to send and add
    for account in _in_pool(
        lambda: ProcessPoolExecutor(workers, get_context("spawn")), _count, away, workers
    ):
        counts.update(account)
    return counts.as_dict()


def _in_pool(
    make: Callable[[], Executor],
    work: Callable[[list[str]], Result],
    chunks: Iterator[list[str]],
    workers: int,
) -> Iterator[Result]:
    """Results of work on the chunks, in order, by a pool that starts with the first chunk."""
    pool: Executor | None = None
    running: deque[Future[Result]] = deque()
    try:
        for chunk in chunks:
            pool = pool or make()
            running.append(pool.submit(work, chunk))
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


def _chunks(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Texts in groups of about so many characters."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def byte_starts(texts: Sequence[str]) -> np.ndarray:
    """Where the pieces of texts begin in the UTF-8 bytes of all of them joined, as (pieces,) int64."""
    joined = chr(_BETWEEN).join(texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)  # (n,) code points
    starts = piece_starts(codes)
    places = np.flatnonzero(starts)
    between = codes[places] == _BETWEEN
    if not joined.isascii():
        # A character begins at each byte that continues none, which as a signed number is above -65.
        data = np.frombuffer(joined.encode("utf-8", "surrogatepass"), np.int8)
        places = np.flatnonzero(data > -65)[places]
        places -= 3 * np.cumsum(between)  # bytes of _BETWEEN
    return places[~between]


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
    """The class of every code point, by the libraries that the readable twin uses."""
    table = np.zeros(_CHARACTERS, np.uint8)
    everything = np.arange(_CHARACTERS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    for kind, pattern in _CLASSES.items():
        for found in regex.finditer(pattern, everything):
            table[found.start() : found.end()] = kind
    table[unassigned()] = _OTHER  # as in pattern.split
    table[_BETWEEN] = _END
    return table
