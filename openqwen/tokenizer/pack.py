"""The pack stage: corpus + vocabulary -> memory-mapped token shards, every document ended by <|endoftext|>.

Report §2.4 (documents shuffled, merged, cut to the context length: the cutting is the loader's). The format is
core/shards.py's. An interrupted run goes on after the last batch it saved.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from openqwen.core.artifact import (
    Artifact,
    Run,
    find,
    open_inputs,
    sha256_file,
    stage_run,
    write_atomic,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.jsonl import read_corpus
from openqwen.core.shards import open_tokens
from openqwen.tokenizer.config import PackConfig
from openqwen.tokenizer.load import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer

KIND = "tokens"
SPLITS = ("train", "valid")


@dataclass
class Written:
    """How far a split has come: what is safely on disk."""

    tokens: int = 0
    documents: int = 0
    num_bytes: int = 0
    index_bytes: int = 0
    seconds: float = 0.0
    shards: list[int] = field(default_factory=list)  # tokens in each shard


def run(resolved: Resolved[PackConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Packs the train and valid splits. inputs: "corpus", "tokenizer" (artefacts; a model has its own)."""
    opened = open_inputs(inputs, {"corpus": "corpus", "tokenizer": ("tokenizer", "model")})
    with stage_run(out, KIND, resolved, opened) as run:
        config = resolved.config
        tokenizer = load_tokenizer(inputs["tokenizer"], encoder=config.encoder)
        written = {split: _pack_split(run, split, inputs["corpus"], tokenizer, config) for split in SPLITS}
        write_json(run.path / "shards.json", shards_meta(run.path, tokenizer, written))
        write_jsonl(run.path / "samples.jsonl", _samples(run.path, tokenizer))
        _facts(run, written, tokenizer)
        shutil.rmtree(run.checkpoints)
    found = find(out)
    assert found is not None
    return found


def _pack_split(run: Run, split: str, corpus: Path, tokenizer: Tokenizer, config: PackConfig) -> Written:
    writer = SplitWriter(run, split, tokenizer, config.shard_tokens)
    documents = islice(read_corpus(corpus, split), writer.done.documents, None)
    with Progress(f"pack {split}", total=1) as bar:
        for batch in batches(documents, config.batch_bytes):
            writer.write(batch)
            bar.update(0, documents=writer.done.documents, tokens_so_far=writer.done.tokens)
    writer.finish()
    return writer.done


def batches(documents: Iterator[dict[str, Any]], num_bytes: int) -> Iterator[list[dict[str, Any]]]:
    """Documents in groups of about `num_bytes` of text."""
    batch: list[dict[str, Any]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document["text"].encode("utf-8", "replace"))
        if size >= num_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class SplitWriter:
    """Appends documents to the shards of one split. After each batch the state on disk says what counts."""

    def __init__(self, run: Run, split: str, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self.folder, self.split, self.tokenizer, self.shard_tokens = run.path, split, tokenizer, shard_tokens
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.state = run.checkpoints / f"{split}.json"
        self.ends = run.checkpoints / f"{split}.ends"
        self.index = run.path / f"documents.{split}.jsonl"
        self.done = Written(**json.loads(self.state.read_text())) if self.state.exists() else Written()
        self._cut_back()

    def _cut_back(self) -> None:
        """Removes what was written after the last saved state."""
        for path, size in ((self.ends, 8 * self.done.documents), (self.index, self.done.index_bytes)):
            with path.open("ab") as file:
                file.truncate(size)
        for number, tokens in enumerate(self.done.shards):
            os.truncate(self._shard(number), tokens * self.dtype.itemsize)
        self._shard(len(self.done.shards)).unlink(missing_ok=True)

    def _shard(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:05d}.bin"

    def write(self, batch: list[dict[str, Any]]) -> None:
        """Encodes a batch and appends tokens, document ends and document records; then saves the state."""
        began = time.monotonic()
        flat, lengths = self.tokenizer.encode_flat([document["text"] for document in batch])
        ids = np.insert(flat, np.cumsum(lengths), self.tokenizer.eos_id).astype(self.dtype)
        ends = self.done.tokens + np.cumsum(lengths + 1)
        records = [
            json.dumps(
                {"id": d.get("id"), "source": d.get("source"), "lang": d.get("lang")}, ensure_ascii=False
            )
            for d in batch
        ]
        lines = "".join(record + "\n" for record in records).encode()
        self._append_tokens(ids)
        _append(self.ends, ends.astype("<i8").tobytes())
        _append(self.index, lines)
        self.done.tokens += len(ids)
        self.done.documents += len(batch)
        self.done.num_bytes += sum(len(d["text"].encode("utf-8", "replace")) for d in batch)
        self.done.index_bytes += len(lines)
        self.done.seconds += time.monotonic() - began
        write_atomic(self.state, json.dumps(asdict(self.done)))

    def _append_tokens(self, ids: np.ndarray) -> None:
        """Fills the last shard, then begins new ones."""
        shards = self.done.shards
        while len(ids):
            if not shards or shards[-1] == self.shard_tokens:
                shards.append(0)
            part = ids[: self.shard_tokens - shards[-1]]
            _append(self._shard(len(shards) - 1), part.tobytes())
            shards[-1] += len(part)
            ids = ids[len(part) :]

    def finish(self) -> None:
        """Writes the index of document ends."""
        ends = np.fromfile(self.ends, dtype="<i8")
        temporary = self.folder / f".{self.split}.index.tmp.npy"
        np.save(temporary, ends, allow_pickle=False)
        os.replace(temporary, self.folder / f"{self.split}.index.npy")


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 where every id fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def shards_meta(folder: Path, tokenizer: Tokenizer, written: dict[str, Written]) -> dict[str, Any]:
    """shards.json."""
    splits = {}
    for split, done in written.items():
        names = [f"{split}-{number:05d}.bin" for number in range(len(done.shards))]
        splits[split] = {
            "files": [
                {"name": name, "tokens": tokens, "sha256": sha256_file(folder / name)}
                for name, tokens in zip(names, done.shards)
            ],
            "tokens": done.tokens,
            "documents": done.documents,
            "bytes": done.num_bytes,
        }
    return {
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.content,
        "eos_id": tokenizer.eos_id,
        "splits": splits,
    }


def _samples(folder: Path, tokenizer: Tokenizer) -> list[dict[str, str]]:
    tokens = open_tokens(folder, "train")
    if not tokens.num_documents:
        return []
    ids = tokens.document(0)[:24]
    return [
        {"label": "ids", "text": " ".join(map(str, ids.tolist()))},
        {"label": "text", "text": tokenizer.decode(ids)},
    ]


def _facts(run: Run, written: dict[str, Written], tokenizer: Tokenizer) -> None:
    num_bytes = sum(done.num_bytes for done in written.values())
    seconds = sum(done.seconds for done in written.values())
    run.fact(
        tokens={split: done.tokens for split, done in written.items()},
        documents={split: done.documents for split, done in written.items()},
        bytes=num_bytes,
        megabytes_per_second=round(num_bytes / 1e6 / seconds, 2) if seconds else None,
        encoder=tokenizer.encoder,
    )
