"""Token shards: flat files of token ids with an index of documents, memory-mapped by whoever trains.

Ours. A `tokens` artefact holds train-00000.bin ... and valid-00000.bin (little-endian uint16, or uint32 where the
vocabulary needs it), train.index.npy and valid.index.npy (int64 ends of documents over the concatenated
shards), documents.<split>.jsonl (one record a document: id, source) and shards.json:

    {"dtype": "uint16", "vocab_size": 4096, "tokenizer": <content digest>, "eos_id": 4088,
     "splits": {"train": {"files": [{"name", "tokens", "sha256"}], "tokens": N, "documents": M, "bytes": B}, ...}}

Every document ends with the end-of-text token. `bytes` counts the UTF-8 bytes of the text, for bits per byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openqwen.core.errors import DataError


@dataclass(frozen=True)
class Tokens:
    """One split of a tokens artefact, memory-mapped."""

    shards: list[np.ndarray]  # each (n,) uint16 or uint32, read-only
    ends: np.ndarray  # (documents,) int64: position after each document's last token
    num_bytes: int  # UTF-8 bytes of the split's text
    meta: dict[str, Any]  # shards.json
    path: Path | None = None  # the artefact; None: not from files

    def __len__(self) -> int:
        return sum(len(s) for s in self.shards)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Tokens start..stop of the concatenated split as (stop - start,) int64."""
        parts, base = [], 0
        for shard in self.shards:
            lo, hi = max(start - base, 0), min(stop - base, len(shard))
            if lo < hi:
                parts.append(shard[lo:hi])
            base += len(shard)
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def document(self, number: int) -> np.ndarray:
        """Tokens of one document, its end-of-text included, as int64."""
        start = int(self.ends[number - 1]) if number else 0
        return self.slice(start, int(self.ends[number]))

    @property
    def num_documents(self) -> int:
        return len(self.ends)


def open_tokens(path: Path | str, split: str = "train") -> Tokens:
    """Memory-maps one split. DataError when a file is missing or its length is not what shards.json says."""
    path = Path(path)
    try:
        meta = json.loads((path / "shards.json").read_text(encoding="utf-8"))
        info = meta["splits"][split]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise DataError(
            f"no readable {split} split: {error}", where=str(path), fix="make it with openqwen pack"
        ) from error
    dtype = np.dtype(meta["dtype"]).newbyteorder("<")
    shards = []
    for file in info["files"]:
        name = path / file["name"]
        expected = file["tokens"] * dtype.itemsize
        if not name.is_file() or name.stat().st_size != expected:
            raise DataError(
                f"shard is missing or not {expected} bytes long", where=str(name), fix="pack again"
            )
        shards.append(np.memmap(name, dtype=dtype, mode="r") if file["tokens"] else np.empty(0, dtype))
    ends = np.load(path / f"{split}.index.npy", mmap_mode="r", allow_pickle=False)
    return Tokens(shards, ends, info["bytes"], meta, path)
