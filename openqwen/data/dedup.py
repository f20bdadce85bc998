"""Exact and fuzzy deduplication over shards.

Report §2.1; how the work is cut is ours. Exact: keys of each shard, exchanged by ranges of keys; of equal ones the
first stays. Fuzzy: signatures of each shard, their bands exchanged by ranges of keys into edges between documents, the
clusters of all edges, and of each cluster the longest document, then the first, stays. A document is known by
shard << 32 | row, so that the first is the same however the work is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from openqwen.data import exact, minhash, shards
from openqwen.data.config import DedupConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.task import Facts, Work

_ROW_BITS = 32


def exact_keys(work: Work) -> Facts:
    """Shard -> its documents' keys in an exchange of `parts`. settings: "parts"."""
    documents = shards.load(work)
    keys = np.frombuffer(b"".join(exact.keys([d.text for d in documents])), np.uint64).reshape(-1, 2)
    table = pa.table(
        {
            "key": keys[:, 0],
            "rest": keys[:, 1],
            "row": np.array([d.row for d in documents], np.int64),
            "id": pa.array([d.id for d in documents], pa.string()),
        }
    )
    parts = work.settings["parts"]
    shards.write(work, "keys", shards.parted(table, shards.part_of(keys[:, 0], parts), parts))
    return {}


def exact_copies(work: Work) -> Facts:
    """One range of all shards' keys -> what is a copy of what, in an exchange by shard. settings: "part"."""
    tables = [shards.read_group(work.store, keys, work.settings["part"]) for keys in work.inputs["keys"]]
    table = pa.concat_tables(tables)
    shard = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
    key, rest, row = (table[name].to_numpy() for name in ("key", "rest", "row"))
    order = np.lexsort((row, shard, rest, key))
    key, rest = key[order], rest[order]
    new = np.ones(len(order), bool)
    new[1:] = (key[1:] != key[:-1]) | (rest[1:] != rest[:-1])
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))] if len(order) else order
    copies = order[~new]
    _write_copies(work, shard[copies], row[copies], table["id"].take(pa.array(first[~new])), len(tables))
    return {"copies": len(copies)}


def signatures(work: Work) -> Facts:
    """Shard -> its MinHash signatures, and their bands in an exchange. settings: "dedup", "seed", "shard", "parts"."""
    config, parts = DedupConfig(**work.settings["dedup"]), work.settings["parts"]
    documents = shards.load(work)
    texts = [d.text for d in documents]
    signature, sizes = minhash.signatures(texts, config.shingle, config.num_hashes, work.settings["seed"])
    known = np.array([d.row for d in documents], np.int64) | (work.settings["shard"] << _ROW_BITS)
    width = signature.dtype.itemsize * config.num_hashes
    table = pa.table(
        {
            "document": known,
            "id": pa.array([d.id for d in documents], pa.string()),
            "length": np.array(list(map(len, texts)), np.int64),
            "signature": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(width), len(signature), [None, pa.py_buffer(signature.tobytes())]
            ),
        }
    )
    shards.write(work, "signatures", [table])
    bands, rows = minhash.choose_bands(config.threshold, config.num_hashes)
    keys = minhash.band_keys(signature, bands, rows)[sizes > 0]  # without a shingle it is nobody's duplicate
    flat = keys.ravel()
    table = pa.table(
        {
            "key": flat,
            "band": np.tile(np.arange(bands, dtype=np.int16), len(keys)),
            "document": np.repeat(known[sizes > 0], bands),
        }
    )
    shards.write(work, "bands", shards.parted(table, shards.part_of(flat, parts), parts))
    return {}


def edges(work: Work) -> Facts:
    """One range of all shards' band keys -> edges between documents that share a bucket. settings: "part"."""
    table = pa.concat_tables(
        shards.read_group(work.store, o, work.settings["part"]) for o in work.inputs["bands"]
    )
    key, band, document = (table[name].to_numpy() for name in ("key", "band", "document"))
    found = [np.empty((0, 2), np.int64)]
    for number in np.unique(band):
        own = band == number
        found.append(minhash.bucket_edges(key[own], document[own]))
    pairs = np.unique(np.concatenate(found), axis=0)
    shards.write(work, "edges", [pa.table({"left": pairs[:, 0], "right": pairs[:, 1]})])
    return {"edges": len(pairs)}


def clusters(work: Work) -> Facts:
    """All edges and signatures -> what is a near copy of what, in an exchange by shard. settings: "dedup".

    One task for the whole corpus. It holds all edges and the signatures of the documents that have one.
    """
    config = DedupConfig(**work.settings["dedup"])
    found = pa.concat_tables(shards.read(work.store, output) for output in work.inputs["edges"])
    ends = np.stack([found["left"].to_numpy(), found["right"].to_numpy()], axis=1)
    members = np.unique(ends)
    pairs = np.unique(np.searchsorted(members, ends), axis=0)
    known = pa.concat_tables(_members(work, members))
    if config.verify > 0 and len(pairs):
        signature = np.frombuffer(b"".join(known["signature"].to_pylist()), np.uint32)
        pairs = pairs[minhash.agreement(signature.reshape(len(members), -1), pairs) >= config.verify]
    head = minhash.components(pairs, len(members))
    # Of each cluster the longest, then the first: the first of its run in this order.
    order = np.lexsort((np.arange(len(members)), -known["length"].to_numpy(), head))
    best = np.empty(len(members), np.int64)
    runs = np.flatnonzero(np.diff(head[order], prepend=-1))
    best[head[order[runs]]] = order[runs]
    best = best[head]
    copies = np.flatnonzero(best != np.arange(len(members)))
    shard, row = members >> _ROW_BITS, members & ((1 << _ROW_BITS) - 1)
    kept = known["id"].take(pa.array(best[copies]))
    _write_copies(work, shard[copies], row[copies], kept, len(work.inputs["signatures"]))
    largest = int(np.bincount(head).max(initial=0))
    return {"pairs": len(pairs), "copies": len(copies), "largest": largest}


def _members(work: Work, members: np.ndarray) -> Sequence[pa.Table]:
    """The rows of all shards' signatures that belong to members (m,), in their order."""
    out = []
    for output in work.inputs["signatures"]:
        table = shards.read(work.store, output)
        out.append(table.filter(pa.array(np.isin(table["document"].to_numpy(), members, assume_unique=True))))
    return out


def _write_copies(work: Work, shard: np.ndarray, row: np.ndarray, kept: pa.ChunkedArray, count: int) -> None:
    table = pa.table({"row": row.astype(np.int64), "of": kept.cast(pa.string())})
    shards.write(work, "copies", shards.parted(table, shard, count))


def drop_copies(work: Work) -> Facts:
    """Shard -> verdicts on its copies. settings: "shard", "reason"."""
    tables = [
        shards.read_group(work.store, output, work.settings["shard"]) for output in work.inputs["copies"]
    ]
    table = pa.concat_tables(tables)
    originals = dict(zip(table["row"].to_pylist(), table["of"].to_pylist()))
    reason = work.settings["reason"]

    def step(documents: list[Document]) -> tuple[list[Document], list[Dropped]]:
        kept = [d for d in documents if d.row not in originals]
        return kept, [Dropped(d, reason, originals[d.row]) for d in documents if d.row in originals]

    return shards.judge(work, step)
