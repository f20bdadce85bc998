"""Long runs of one kind of character, megabytes of letters or blanks, in linear time and with the ids they should have.

Ours. Such a run is one piece to the pattern; libraries need seconds for it, or give up. What makes it easy: ids are
the encoding of a piece exactly if each two neighbours among them are the encoding of their own bytes. So a run is
encoded in parts that are put together where the two ids at the seam pass that test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import regex

from openqwen.tokenizer.pattern import split

Encode = Callable[[bytes], list[int]]
_WINDOW = 2048  # characters; every run of twice as many holds a whole window
_PART = 4096  # bytes encoded at once
_KIND = regex.compile(r"\p{L}+|\s+|[^\s\p{L}\p{N}]+")


def has_long_run(text: str) -> bool:
    """Whether a run of one kind of character fills a window of the text. Costs a look at each window's beginning."""
    for start in range(0, len(text) - _WINDOW + 1, _WINDOW):
        found = _KIND.match(text, start, start + _WINDOW)
        if found and found.end() == start + _WINDOW:
            return True
    return False


def encode(text: str, encode_piece: Encode, ranks: Mapping[bytes, int]) -> list[int]:
    """Ids of a normalised text, piece by piece. encode_piece: bytes of one piece -> ids; ranks: the vocabulary."""
    tokens = {rank: token for token, rank in ranks.items()}
    short = lru_cache(65_536)(encode_piece)
    ids: list[int] = []
    for piece in split(text):
        data = piece.encode()
        ids += short(data) if len(data) < _PART else encode_run(data, encode_piece, tokens)
    return ids


def encode_run(
    data: bytes, encode_piece: Encode, tokens: Mapping[int, bytes], part: int = _PART
) -> list[int]:
    """Ids of one long piece, equal to `encode_piece(data)`. part: bytes at once, more than any token has."""
    ids: list[int] = []
    start, stop = 0, _stop(data, 0, part)
    ahead = encode_piece(data[:stop])
    while stop < len(data):
        if seam := _seam(data, stop, ahead, encode_piece, tokens, part):
            kept, start, following = seam
            ids += ahead[:kept]
            stop, ahead = _stop(data, start, part), following
        else:
            stop = _stop(data, start, 2 * (stop - start))
            ahead = encode_piece(data[start:stop])
    return ids + ahead


def _stop(data: bytes, start: int, part: int) -> int:
    """Where the part from `start` ends. The last is longer, so that none is so short that it could be a token."""
    return len(data) if len(data) - start <= 2 * part else start + part


def _seam(
    data: bytes, stop: int, ids: list[int], encode_piece: Encode, tokens: Mapping[int, bytes], part: int
) -> tuple[int, int, list[int]] | None:
    """Where a part (its ids, the end of its bytes) and the next meet: ids kept, start of the next part, its ids."""
    for kept in range(len(ids) - 1, 0, -1):
        stop -= len(tokens[ids[kept]])
        following = encode_piece(data[stop : _stop(data, stop, part)])
        pair = [ids[kept - 1], following[0]]
        if encode_piece(tokens[pair[0]] + tokens[pair[1]]) == pair:
            return kept, stop, following
    return None
