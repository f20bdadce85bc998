"""Shards: documents and what the steps say about them, in Parquet.

Ours. Documents are written once. Each step adds a table of verdicts beside them, one row for each document that
reached it: its language, the scores that the step gave it, and the reason if it ends there. So every drop and every
score is kept, and no step copies the text. Between shards, tables travel in files with one row group for each reader
(an exchange).
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from pyarrow import parquet

from openqwen.core.errors import DataError, OpenQwenError
from openqwen.data.documents import Document, Dropped, printable
from openqwen.data.store import Output, Store
from openqwen.data.task import Facts, Work

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("lang", pa.string()),  # where the source knows it
        ("file", pa.string()),
        ("text", pa.large_string()),
    ]
)
VERDICTS = pa.schema(
    [
        ("row", pa.int32()),
        ("lang", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("text", pa.large_string()),  # where a step changed it: the text from here on
        ("reason", pa.string()),  # why it ends here; null: it goes on
        ("of", pa.string()),  # what it duplicates or holds
        ("detail", pa.string()),
    ]
)
Columns = Mapping[str, list[Any]]
Step = Callable[[list[Document]], tuple[list[Document], list[Dropped]]]


def documents_table(documents: Sequence[Document]) -> pa.Table:
    """The table of a shard's documents."""
    columns = {name: [printable(getattr(d, name)) for d in documents] for name in DOCUMENTS.names}
    return pa.table(columns, DOCUMENTS)


def verdicts_table(kept: Sequence[Document], dropped: Sequence[Dropped], before: Sequence[str]) -> pa.Table:
    """What a step found, in order of rows. before: the documents' texts as written, by row."""
    found = [(d, None) for d in kept] + [(d.document, d) for d in dropped]
    columns: dict[str, list[Any]] = {name: [] for name in VERDICTS.names}
    for document, drop in sorted(found, key=lambda pair: pair[0].row):
        columns["row"].append(document.row)
        columns["lang"].append(document.lang)
        columns["scores"].append(list(document.scores.items()))
        columns["text"].append(None if document.text == before[document.row] else printable(document.text))
        columns["reason"].append(drop and printable(drop.reason))
        columns["of"].append(drop and drop.kept)
        columns["detail"].append(drop and (printable(drop.detail) or None))
    return pa.table(columns, VERDICTS)


def write(work: Work, part: str, groups: Sequence[pa.Table]) -> None:
    """Writes tables of one schema as an output, one row group each."""
    sink = pa.BufferOutputStream()
    with parquet.ParquetWriter(
        sink, groups[0].schema, compression="zstd", compression_level=3, write_page_checksum=True
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, len(group)))
    work.write(f"{part}.parquet", sink.getvalue())


def read(store: Store, output: Output, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table. DataError if it is not what was written."""
    return parquet.read_table(pa.BufferReader(store.verified(output)), columns=columns, use_threads=False)


def read_group(store: Store, output: Output, group: int) -> pa.Table:
    """One row group of an exchange, without reading the rest."""
    try:
        with store.open(output.name) as file:
            found = parquet.ParquetFile(file, page_checksum_verification=True)
            return found.read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"damaged: {str(error).splitlines()[0]}",
            where=store.where(output.name),
            fix="delete it and run again",
        ) from error


def part_of(keys: np.ndarray, parts: int) -> np.ndarray:
    """Which of `parts` ranges of equal size each key (n,) uint64 falls into, (n,) int64."""
    return ((keys >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def parted(table: pa.Table, part: np.ndarray, parts: int) -> list[pa.Table]:
    """The rows of a table by part (rows,), in order within each."""
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(parts + 1))
    table = table.take(pa.array(order))
    return [table.slice(start, stop - start) for start, stop in pairwise(bounds)]


def load(work: Work) -> list[Document]:
    """The documents of the task's shard that no step has dropped yet, as they are now; their scores stay behind."""
    return _left(work, read(work.store, work.inputs["documents"][0]).to_pydict())


def _left(work: Work, written: Columns) -> list[Document]:
    verdicts = read(work.store, work.inputs["verdicts"][0], ["row", "lang", "text", "reason"])
    verdicts = verdicts.filter(verdicts["reason"].is_null())
    columns = (verdicts[name].to_pylist() for name in ("row", "lang", "text"))
    return [_document(written, row, lang, text) for row, lang, text in zip(*columns)]


def _document(written: Columns, row: int, lang: str, text: str | None) -> Document:
    text = written["text"][row] if text is None else text
    return Document(written["id"][row], text, written["source"][row], lang, written["file"][row], row=row)


def joined(written: Columns, verdicts: pa.Table) -> Iterator[tuple[Document, Dropped | None]]:
    """Each document of a table of verdicts with its scores there, and its drop if it ends there."""
    for row, lang, scores, text, reason, of, detail in zip(
        *(verdicts[n].to_pylist() for n in VERDICTS.names)
    ):
        document = _document(written, row, lang, text)
        document.scores = dict(scores)
        yield document, None if reason is None else Dropped(document, reason, of, detail or "")


def judge(work: Work, step: Step) -> Facts:
    """Runs a step on the task's shard and writes its verdicts. Returns its part of the step's line in the funnel."""
    written = read(work.store, work.inputs["documents"][0]).to_pydict()
    documents = _left(work, written)
    rows = [d.row for d in documents]
    kept, gone = _located(work, step, documents)
    if sorted([d.row for d in kept] + [d.document.row for d in gone]) != rows:
        raise OpenQwenError("a step lost or doubled documents", where=work.task.name)
    write(work, "verdicts", [verdicts_table(kept, gone, written["text"])])
    return line(kept, gone)


def line(kept: Sequence[Document], gone: Sequence[Dropped]) -> Facts:
    """What went into a step and what came out: documents, bytes of text, reasons."""
    return {
        "in": len(kept) + len(gone),
        "out": len(kept),
        "bytes_out": sum(num_bytes(d.text) for d in kept),
        "dropped": dict(Counter(printable(d.reason) for d in gone)),
    }


def num_bytes(text: str) -> int:
    """Length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _located(work: Work, step: Step, documents: list[Document]) -> tuple[list[Document], list[Dropped]]:
    """Runs a step; where it fails on a document by itself, the error says which."""
    try:
        return step(documents)
    except (OpenQwenError, OSError, MemoryError):
        raise
    except Exception:
        # The step may have changed what it was given, so the search begins from what is written.
        if culprit := _culprit(step, load(work)):
            work.at = f"document {culprit.id}, row {culprit.row} of {work.inputs['documents'][0].name}"
        raise


def _culprit(step: Step, documents: list[Document]) -> Document | None:
    """A document on which the step fails alone, found by halves; None if it only fails on many together."""
    while len(documents) > 1:
        half = len(documents) // 2
        documents = next((part for part in (documents[:half], documents[half:]) if _fails(step, part)), [])
    return documents[0] if documents and _fails(step, documents) else None


def _fails(step: Step, documents: list[Document]) -> bool:
    try:
        step([replace(d, scores=dict(d.scores)) for d in documents])
    except Exception:  # whatever it is: it is raised again once the document is known
        return True
    return False


def jsonl_zst(records: Iterable[Any], level: int = 6) -> bytes:
    """Records as compressed JSON lines."""
    sink = io.BytesIO()
    with zstandard.ZstdCompressor(level=level).stream_writer(sink, closefd=False) as packed:
        for record in records:
            packed.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    return sink.getvalue()
