"""Removes documents that overlap with evaluation sets: runs of 13 equal tokens, short items as a whole.

Report §2.1 ("we eliminate any ... samples that exhibit a 13-gram overlap with any data present in the test sets").
Matching on text.py's normal form makes case, punctuation, width, HTML entities and line wraps irrelevant. For
Chinese a run is longer (13 words are about 20 characters): ours. N-grams that stand in many documents are phrases
and no evidence (as in GPT-3, appendix C).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import DataError
from openqwen.core.jsonl import read_jsonl_zst
from openqwen.data.config import DecontaminateConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.text import batches, grams, token_stream, tokens

# Fields of a benchmark item that would give it away. Answers of one letter or number are not among them.
FIELDS = ("question", "prompt", "canonical_solution", "problem", "query", "text", "input", "original_text")


@dataclass(frozen=True)
class Item:
    """One text that must not occur in the corpus."""

    benchmark: str
    id: str
    text: str


def item_texts(record: dict[str, Any], n: int) -> Iterator[str]:
    """The item as a whole (question with choices, prompt with solution), and each part that is long on its own.

    A short question without its choices is a sentence anybody may have written; with them it is the item.
    """
    parts = [v for name in FIELDS if isinstance(v := record.get(name), str) and v.strip()]
    choices = record.get("choices")
    if isinstance(choices, list):
        parts.append("\n".join(map(str, choices)))
    if parts:
        yield "\n".join(parts)
    if len(parts) > 1:
        yield from (part for part in parts if len(tokens(part)) >= n)


def read_benchmarks(paths: Iterable[Path], n: int = 13) -> list[Item]:
    """The items of benchmark files (.jsonl, .jsonl.zst) and of all such files in folders."""
    items = []
    for path in paths:
        if not path.exists():
            raise DataError(
                "benchmark file does not exist", where=str(path), fix="mend decontaminate.benchmarks"
            )
        files = sorted(path.rglob("*.jsonl*")) if path.is_dir() else [path]
        for file in files:
            records = read_jsonl_zst(file) if file.suffix == ".zst" else read_jsonl(file)
            for number, record in enumerate(records, 1):
                if not isinstance(record, dict):
                    raise DataError("not a benchmark record (a JSON object)", where=f"{file}:{number}")
                name = file.name.split(".")[0]
                label = str(record.get("id", number))
                items += [Item(name, label, text) for text in item_texts(record, n)]
    return items


@dataclass(frozen=True)
class _Table:
    """Hashes of runs of one length, sorted, and the item each comes from."""

    n: int
    hashes: np.ndarray  # (grams,) uint64 sorted
    items: np.ndarray  # (grams,) int64

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions among `hashes` that are in the table, and the items they belong to."""
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        where = np.flatnonzero(self.hashes[place] == hashes)
        return where, self.items[place[where]]


def _unspaced_share(text: str) -> float:
    parts = tokens(text)
    return sum(len(p) == 1 and ord(p) > 0x0E00 for p in parts) / max(1, len(parts))


class Index:
    """All items of the benchmarks by the runs of tokens they contain."""

    def __init__(self, items: Sequence[Item], config: DecontaminateConfig) -> None:
        self.items = list(items)
        self.too_short: list[int] = []
        runs: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        for i, item in enumerate(self.items):
            stream = token_stream([item.text])
            length = len(stream.hashes)
            if length < config.min_tokens:
                self.too_short.append(i)
                continue
            n = min(length, config.n_unspaced if _unspaced_share(item.text) > 0.5 else config.n)
            hashes = grams(stream, n).hashes
            columns = runs.setdefault(n, ([], []))
            columns[0].append(hashes)
            columns[1].append(np.full(len(hashes), i))
        self.tables = [_sorted_table(n, *columns) for n, columns in sorted(runs.items())]

    def hits(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(document, item, gram hash) of every occurrence, each (hits,)."""
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))]
        for start, stop in batches(texts):
            stream = token_stream(texts[start:stop])
            for table in self.tables:
                runs = grams(stream, table.n)
                where, items = table.find(runs.hashes)
                documents = np.searchsorted(runs.bounds, where, "right") - 1 + start
                found.append((documents, items, runs.hashes[where]))
        documents, items, hashes = (np.concatenate(column) for column in zip(*found))
        return documents, items, hashes


def _sorted_table(n: int, hashes: list[np.ndarray], items: list[np.ndarray]) -> _Table:
    joined, owners = np.concatenate(hashes), np.concatenate(items)
    unique, first = np.unique(joined, return_index=True)
    return _Table(n, unique, owners[first])


def decontaminate(
    documents: Sequence[Document], index: Index, config: DecontaminateConfig
) -> tuple[list[Document], list[Dropped]]:
    """Drops every document that holds a run of an item, unless that run is a phrase of many documents."""
    where, items, hashes = index.hits([d.text for d in documents])
    pairs = np.unique(np.stack([hashes, where.astype(np.uint64)], axis=1), axis=0)
    runs, spread = np.unique(pairs[:, 0], return_counts=True)
    phrases = runs[spread > config.max_documents]
    evidence = ~np.isin(hashes, phrases)
    first: dict[int, int] = {}
    count: dict[int, int] = {}
    for document, item in zip(where[evidence].tolist(), items[evidence].tolist()):
        first.setdefault(document, item)
        count[document] = count.get(document, 0) + 1
    kept, dropped = [], []
    for i, document in enumerate(documents):
        if i not in first:
            kept.append(document)
            continue
        item = index.items[first[i]]
        reason, detail = f"overlap with {item.benchmark}", f"{count[i]} equal runs"
        dropped.append(Dropped(document, reason, kept=f"{item.benchmark}:{item.id}", detail=detail))
    return kept, dropped
