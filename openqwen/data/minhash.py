"""Fuzzy deduplication: MinHash signatures, locality-sensitive hashing, connected components. All in numpy.

Report §2.1 ("fuzzy deduplication using MinHash and LSH algorithms"); shingles, number of hashes, bands and rows
are ours. Shingles are runs of tokens as text.py cuts them, so Chinese works like English. Two texts of Jaccard
similarity s share a bucket with probability 1 - (1 - s**r)**b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from openqwen.data.config import DedupConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.text import Spans, TokenStream, batches, crowded, inside, mix, run_hashes, token_stream

_BLOCK = 1 << 16  # shingles hashed at a time: stays in cache
_ROWS = 1 << 12  # documents or pairs of them at a time


def s_curve(similarity: float, bands: int, rows: int) -> float:
    """Probability that LSH makes a pair of this Jaccard similarity meet."""
    return 1 - (1 - similarity**rows) ** bands


@cache
def choose_bands(threshold: float, num_hashes: int) -> tuple[int, int]:
    """Bands and rows (b * r <= num_hashes) with the smallest area of error on both sides of the threshold."""
    grid = np.linspace(0.005, 0.995, 199)
    below = grid < threshold
    best, answer = np.inf, (num_hashes, 1)
    for rows in range(1, num_hashes + 1):
        bands = num_hashes // rows
        meet = 1 - (1 - grid**rows) ** bands
        # A missed duplicate costs as much as a false meeting.
        error = float(meet[below].sum() + (1 - meet[~below]).sum())
        if error < best:
            best, answer = error, (bands, rows)
    return answer


def shingles(stream: TokenStream, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Shingle hashes (s,) uint64 of all documents and their bounds (documents + 1,).

    A document with fewer than n tokens has one shingle, the whole of it: with none, all short documents would have
    the same signature. One without any token has none and is nobody's duplicate.
    """
    hashes = run_hashes(stream.hashes, n)[inside(stream, n)]
    counts = np.maximum(stream.lengths - n + 1, 0)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    short = np.flatnonzero((counts == 0) & (stream.lengths > 0))
    if not len(short):
        return hashes, bounds
    whole = Spans(stream.hashes).hashes(stream.bounds[short], stream.bounds[short + 1])
    counts[short] = 1
    return np.insert(hashes, bounds[short], whole), np.concatenate([[0], np.cumsum(counts)])


def signatures(texts: Sequence[str], n: int, num_hashes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """MinHash signatures (documents, num_hashes) uint32 and the number of shingles of each (documents,)."""
    out = np.full((len(texts), num_hashes), 0xFFFFFFFF, np.uint32)
    sizes = np.zeros(len(texts), np.int64)
    for start, stop in batches(texts):
        hashes, bounds = shingles(token_stream(texts[start:stop]), n)
        sizes[start:stop] = counts = np.diff(bounds)
        # An empty document would make reduceat return its neighbour's value.
        filled = np.flatnonzero(counts)
        out[start + filled] = _minima(hashes, bounds[filled], multipliers(num_hashes, seed))
    return out, sizes


@cache
def multipliers(count: int, seed: int) -> np.ndarray:
    """One odd number for each hash function, (count,) uint32.

    Shingles are random numbers already. Multiplying them by an odd one modulo 2**32 puts them into another order.
    """
    numbers = mix(np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 20))
    return (numbers >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def _minima(shingles: np.ndarray, starts: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """The least value of every hash function over each document that begins at starts (d,): (d, functions) uint32."""
    shingles = (shingles >> np.uint64(32)).astype(np.uint32)
    blocks = np.arange(0, len(shingles), _BLOCK)
    pieces = np.union1d(starts, blocks)  # a document that a block's border cuts is two pieces
    least = np.empty((len(multipliers), len(pieces)), np.uint32)
    room = np.empty(_BLOCK, np.uint32)
    for begin in blocks.tolist():
        block = shingles[begin : begin + _BLOCK]
        values = room[: len(block)]
        first, last = np.searchsorted(pieces, [begin, begin + _BLOCK])
        inner = pieces[first:last] - begin
        for function, multiplier in enumerate(multipliers):
            np.multiply(block, multiplier, out=values)
            np.minimum.reduceat(values, inner, out=least[function, first:last])
    if len(pieces) > len(starts):
        least = np.minimum.reduceat(least, np.searchsorted(pieces, starts), axis=1)
    return least.T


def band_keys(signature: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """One key a band: (documents, hashes) uint32 -> (documents, bands) uint64."""
    weights = mix(np.arange(1, rows + 1, dtype=np.uint64)) | np.uint64(1)
    keys = np.zeros((len(signature), bands), np.uint64)
    for start in range(0, len(signature), _ROWS):
        part = signature[start : start + _ROWS, : bands * rows]
        key = keys[start : start + _ROWS]
        for row, weight in enumerate(weights):
            key += part[:, row::rows] * weight
    return mix(keys)


def bucket_edges(keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Edges (edges, 2) between the documents ids (d,) that share a key (d,) in one band, in proportion to their number.

    Every member of a bucket is joined to the one of least id and to its neighbour, never all with all: where
    verification rejects the first, a chain still holds the others together.
    """
    shared = crowded(keys)  # most keys occur once and need no sorting
    keys, ids = keys[shared], ids[shared]
    order = np.lexsort((ids, keys))
    keys, ids = keys[order], ids[order]
    same = keys[1:] == keys[:-1]
    first = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, np.arange(len(keys))))
    star = np.stack([ids[first[1:]], ids[1:]], axis=1)[same]
    chain = np.stack([ids[:-1], ids[1:]], axis=1)[same]
    return np.concatenate([star, chain[star[:, 0] != chain[:, 0]]])


def bucket_pairs(keys: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Distinct edges (pairs, 2) of all bands: keys (documents, bands), present (documents,) bool."""
    members = np.flatnonzero(present)
    edges = np.concatenate([bucket_edges(column, members) for column in keys[members].T])
    # np.unique keeps a table of hashes, which is slower on millions.
    codes = np.sort(edges[:, 0] * len(keys) + edges[:, 1])
    codes = codes[np.diff(codes, prepend=-1) != 0]
    return np.stack([codes // len(keys), codes % len(keys)], axis=1)


def components(pairs: np.ndarray, size: int) -> np.ndarray:
    """Smallest member of each element's connected component, (size,) int64.

    All edges at once hang the larger of two roots under the smaller, then every path is made one step long: a few
    rounds even for one path through everything.
    """
    root = np.arange(size)
    left, right = pairs[:, 0], pairs[:, 1]
    while len(left):
        left, right = root[left], root[right]
        apart = left != right
        left, right = left[apart], right[apart]
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while (root != (above := root[root])).any():
            root = above
    return root


def agreement(signature: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of each pair: the share of equal hashes, (pairs,) float."""
    parts = [pairs[start : start + _ROWS] for start in range(0, len(pairs), _ROWS)]
    equal = [(signature[part[:, 0]] == signature[part[:, 1]]).mean(axis=1) for part in parts]
    return np.concatenate([*equal, np.empty(0)])


def cluster(signature: np.ndarray, sizes: np.ndarray, config: DedupConfig) -> np.ndarray:
    """For every signature the index of the first document of its cluster of near duplicates, (documents,) int64.

    sizes: how many shingles each has; without any it is nobody's duplicate.
    """
    bands, rows = choose_bands(config.threshold, config.num_hashes)
    pairs = bucket_pairs(band_keys(signature, bands, rows), sizes > 0)
    if config.verify > 0:
        pairs = pairs[agreement(signature, pairs) >= config.verify]
    return components(pairs, len(signature))


def clusters(texts: Sequence[str], config: DedupConfig, seed: int = 0) -> np.ndarray:
    """For every text the index of the first text of its cluster of near duplicates."""
    return cluster(*signatures(texts, config.shingle, config.num_hashes, seed), config)


def deduplicate(
    documents: Sequence[Document],
    config: DedupConfig,
    seed: int = 0,
    better: Callable[[Document], float] = lambda document: len(document.text),
) -> tuple[list[Document], list[Dropped]]:
    """Keeps of each cluster the best document (by default the longest, then the first)."""
    cluster = clusters([d.text for d in documents], config, seed)
    best: dict[int, int] = {}
    for i, head in enumerate(cluster.tolist()):
        if head not in best or better(documents[i]) > better(documents[best[head]]):
            best[head] = i
    kept, dropped = [], []
    for i, head in enumerate(cluster.tolist()):
        if best[head] == i:
            kept.append(documents[i])
        else:
            dropped.append(Dropped(documents[i], "near duplicate", kept=documents[best[head]].id))
    return kept, dropped
