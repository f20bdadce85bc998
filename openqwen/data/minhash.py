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
from openqwen.data.text import TokenStream, batches, grams, mix, token_stream

_BLOCK = 1 << 15  # shingles hashed at a time: stays in cache


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
    found = grams(stream, n)
    counts = np.diff(found.bounds)
    short = np.flatnonzero((counts == 0) & (stream.lengths > 0))
    if not len(short):
        return found.hashes, found.bounds
    whole = np.array([_whole(stream, int(i)) for i in short], np.uint64)
    return (
        np.insert(found.hashes, found.bounds[short], whole),
        np.concatenate([[0], np.cumsum(counts + np.isin(np.arange(len(counts)), short))]),
    )


def _whole(stream: TokenStream, i: int) -> np.uint64:
    part = stream.hashes[stream.bounds[i] : stream.bounds[i + 1]]
    one = TokenStream(part, np.array([0, len(part)]))
    return grams(one, len(part)).hashes[0]


def signatures(texts: Sequence[str], n: int, num_hashes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """MinHash signatures (documents, num_hashes) uint32 and the number of shingles of each (documents,)."""
    out = np.full((len(texts), num_hashes), 0xFFFFFFFF, np.uint32)
    sizes = np.zeros(len(texts), np.int64)
    multipliers, shifts = _hash_family(num_hashes, seed)
    for start, stop in batches(texts):
        hashes, bounds = shingles(token_stream(texts[start:stop]), n)
        sizes[start:stop] = np.diff(bounds)
        _minima(hashes, bounds, multipliers, shifts, out[start:stop])
    return out, sizes


def _hash_family(num_hashes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = mix(np.arange(1, 2 * num_hashes + 1, dtype=np.uint64) + np.uint64(seed << 20))
    return (numbers[:num_hashes] | np.uint64(1)).astype(np.uint32), numbers[num_hashes:].astype(np.uint32)


def _minima(
    hashes: np.ndarray, bounds: np.ndarray, multipliers: np.ndarray, shifts: np.ndarray, out: np.ndarray
) -> None:
    """Fills out (documents, num_hashes) with the least value of every hash function over each document."""
    low, high = hashes.astype(np.uint32), (hashes >> np.uint64(32)).astype(np.uint32)
    for begin in range(0, len(hashes), _BLOCK):
        end = min(begin + _BLOCK, len(hashes))
        first = int(np.searchsorted(bounds, begin, "right")) - 1
        last = int(np.searchsorted(bounds, end, "left"))
        # Documents with shingles in this block; an empty one would make reduceat return its neighbour's value.
        rows = np.arange(first, last)
        rows = rows[bounds[rows + 1] > bounds[rows]]
        starts = np.maximum(bounds[rows], begin) - begin
        a, b = low[begin:end], high[begin:end]
        for k, (multiplier, shift) in enumerate(zip(multipliers, shifts)):
            value = (a ^ shift) * multiplier
            value += b ^ (value >> np.uint32(15))
            value *= np.uint32(0x85EBCA6B)
            out[rows, k] = np.minimum(out[rows, k], np.minimum.reduceat(value, starts))


def band_keys(signature: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """One key a band: (documents, hashes) uint32 -> (documents, bands) uint64."""
    used = signature[:, : bands * rows].reshape(len(signature), bands, rows).astype(np.uint64)
    key = np.zeros(used.shape[:2], np.uint64)
    for row in range(rows):
        key = mix(key * np.uint64(0x9E3779B97F4A7C15) + used[:, :, row] + np.uint64(row + 1))
    return key


def bucket_pairs(keys: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Distinct candidate pairs (pairs, 2): every member of a bucket with the bucket's first, never all with all."""
    found = []
    members = np.flatnonzero(present)
    for band in range(keys.shape[1]):
        column = keys[members, band]
        order = np.argsort(column, kind="stable")
        ordered, who = column[order], members[order]
        new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        head = who[np.maximum.accumulate(np.where(new, np.arange(len(who)), 0))]
        found.append(np.stack([head[~new], who[~new]], axis=1))
        # The neighbour as well: where verification rejects the head, a chain still holds the others together.
        found.append(np.stack([who[:-1], who[1:]], axis=1)[~new[1:]])
    return np.unique(np.concatenate(found), axis=0)


def components(pairs: np.ndarray, size: int) -> np.ndarray:
    """Smallest member of each element's connected component, (size,) int64 (union-find with halving)."""
    parent = list(range(size))

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for a, b in pairs.tolist():
        a, b = root(a), root(b)
        if a != b:
            parent[max(a, b)] = min(a, b)
    return np.array([root(x) for x in range(size)], np.int64)


def agreement(signature: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of each pair: the share of equal hashes, (pairs,) float."""
    return (signature[pairs[:, 0]] == signature[pairs[:, 1]]).mean(axis=1)


def clusters(texts: Sequence[str], config: DedupConfig, seed: int = 0) -> np.ndarray:
    """For every text the index of the first text of its cluster of near duplicates."""
    signature, sizes = signatures(texts, config.shingle, config.num_hashes, seed)
    if not len(texts) or not sizes.any():
        return np.arange(len(texts))
    bands, rows = choose_bands(config.threshold, config.num_hashes)
    pairs = bucket_pairs(band_keys(signature, bands, rows), sizes > 0)
    if config.verify > 0:
        pairs = pairs[agreement(signature, pairs) >= config.verify]
    return components(pairs, len(texts))


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
