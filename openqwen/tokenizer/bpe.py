"""Byte pair encoding in the plainest words: the twin that the fast encoder and trainer are tested against.

Report §2.2. Quadratic and proud of it; read this first, then train.py.

    ranks = {b"a": 0, b"b": 1, b"ab": 2}
    encode_piece(b"abab", ranks) -> [2, 2]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from openqwen.tokenizer.pattern import normalise, split
from openqwen.tokenizer.ranks import byte_order

Merge = tuple[bytes, bytes]


def encode(text: str, ranks: Mapping[bytes, int]) -> list[int]:
    """Ids of ordinary text: normalise, cut into pieces, merge inside each."""
    return [i for piece in split(normalise(text)) for i in encode_piece(piece.encode(), ranks)]


def encode_piece(piece: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Ids of one piece: the whole piece if it is a token, else the lowest-ranked neighbours merge until none can."""
    if piece in ranks:
        return [ranks[piece]]
    return [ranks[part] for part in merge_parts(piece, ranks)]


def merge_parts(piece: bytes, ranks: Mapping[bytes, int], below: int | None = None) -> list[bytes]:
    """The parts left when no pair of neighbours is a token (of rank lower than `below`)."""
    limit = len(ranks) if below is None else below
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        candidates = [ranks.get(a + b, limit) for a, b in pairwise(parts)]
        best = min(candidates)
        if best >= limit:
            break
        at = candidates.index(best)  # the leftmost of equals
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def train(texts: Iterable[str], num_tokens: int, min_count: int = 2) -> list[Merge]:
    """The merges learnt from texts, one for each new token: each round joins the most frequent pair of neighbours.

    Equal counts go to the pair whose tokens are older (left first), so the order of the texts changes nothing.
    A pair that spells a token already known joins to that token and costs no place in the vocabulary.
    """
    counts = Counter(piece for text in texts for piece in split(normalise(text)))
    words = {piece: [bytes([byte]) for byte in piece.encode()] for piece in counts}
    age = {token: i for i, token in enumerate(byte_order())}
    merges: list[Merge] = []
    while len(merges) < num_tokens:
        pairs = count_pairs(words, counts)
        best = min(pairs, key=lambda p: (-pairs[p], age[p[0]], age[p[1]]), default=None)
        if best is None or pairs[best] < min_count:
            break
        token = best[0] + best[1]
        if token not in age:
            merges.append(best)
            age[token] = len(age)
        words = {piece: merge_pair(parts, best) for piece, parts in words.items()}
    return merges


def count_pairs(words: Mapping[str, Sequence[bytes]], counts: Mapping[str, int]) -> Counter[Merge]:
    """How often each pair of neighbours occurs, every piece weighted by its own count."""
    pairs: Counter[Merge] = Counter()
    for piece, parts in words.items():
        for pair in pairwise(parts):
            pairs[pair] += counts[piece]
    return pairs


def merge_pair(parts: Sequence[bytes], pair: Merge) -> list[bytes]:
    """`merge_pair([a, b, a, b], (a, b))` -> `[ab, ab]`: joins a pair wherever it stands, from the left."""
    out: list[bytes] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out
