"""The first step: from files to shards of documents with text.

Report §2.1 ("for public web data, we extract text from HTML"). A task reads a group of files and writes a shard
whenever it has met enough raw input, so that it never holds more. Ids are made of source, file and row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

from openqwen.data import shards
from openqwen.data.config import ExtractConfig, SourcesConfig
from openqwen.data.documents import Bad, Document, Dropped, Raw
from openqwen.data.extract import extract
from openqwen.data.html_text import tidy
from openqwen.data.sources.files import File
from openqwen.data.sources.formats import read_file
from openqwen.data.sources.hub import HubPart, read_part
from openqwen.data.sources.standard_library import pydoc_pages, stdlib_sources
from openqwen.data.task import Facts, Work


def groups(files: Sequence[File], limit: int) -> list[list[File]]:
    """Consecutive files in groups of at most `limit` bytes; a larger file is a group of its own."""
    out: list[list[File]] = []
    size = 0
    for file in files:
        if not out or size + file.size > limit:
            out.append([])
            size = 0
        out[-1].append(file)
        size += file.size
    return out


def packed(files: Sequence[File]) -> list[list[Any]]:
    """Files as a task's setting. Their addresses are quoted: not every file name is UTF-8."""
    return [[quote(f.address, errors="surrogateescape"), f.name, f.size, f.modified] for f in files]


def read(work: Work) -> Facts:
    """Reads a source, writes shards: documents-N and verdicts-N (of extraction), and what was skipped.

    settings: "kind" (files, pydoc, stdlib or hub), "files" or "part", "source" (label of all, or None), "sources",
    "extract", "shard_bytes".
    """
    bad, seen, total = Bad(1.0), 0, 0
    lines: list[Facts] = []
    budget = SourcesConfig(**work.settings["sources"]).pydoc_text_bytes
    for raws in _batches(_raws(work, bad), work.settings["shard_bytes"]):
        seen += len(raws)
        total += sum(map(_size, raws))
        work.at = f"documents {raws[0].id} to {raws[-1].id}"
        kept, gone = _documents(raws, ExtractConfig(**work.settings["extract"]))
        if work.settings["kind"] == "pydoc":
            kept, budget = _within(budget, kept)
        lines.append(_write(work, len(lines), raws, kept, gone))
    skipped = [{**r, "read": False} for r in bad.records] + [{**r, "read": True} for r in bad.odd]
    work.write("skipped.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in skipped).encode())
    return {"seen": seen, "bytes": total, "shards": lines}


def _size(raw: Raw) -> int:
    return len(raw.html or b"") + shards.num_bytes(raw.text or "")


def _batches(raws: Iterator[Raw], limit: int) -> Iterator[list[Raw]]:
    """Raw documents in lists of about `limit` bytes."""
    batch: list[Raw] = []
    size = 0
    for raw in raws:
        batch.append(raw)
        size += _size(raw)
        if size >= limit:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _raws(work: Work, bad: Bad) -> Iterator[Raw]:
    settings = work.settings
    config = SourcesConfig(**settings["sources"])
    if settings["kind"] == "pydoc":
        yield from pydoc_pages(config)
    elif settings["kind"] == "stdlib":
        yield from stdlib_sources(config)
    elif settings["kind"] == "hub":
        yield from read_part(HubPart(*settings["part"]), bad)
    else:
        for address, *rest in settings["files"]:
            file = File(unquote(address, errors="surrogateescape"), *rest)
            for raw in read_file(file, config, bad):
                work.at = raw.id
                raw.source = settings["source"] or raw.source
                yield raw
            work.at = ""


def _documents(raws: Sequence[Raw], config: ExtractConfig) -> tuple[list[Document], list[Dropped]]:
    """Text of every raw document: extraction for pages, tidying for the rest."""
    kept, gone = extract([raw for raw in raws if raw.html is not None], config)
    for raw in raws:
        if raw.html is None:
            document = Document(raw.id, tidy(raw.text or ""), raw.source, raw.lang, raw.file)
            if document.text.strip():
                kept.append(document)
            else:
                gone.append(Dropped(document, "no text"))
    return kept, gone


def _within(budget: int, documents: list[Document]) -> tuple[list[Document], int]:
    """pydoc's pages are a supply, not an input: those beyond the budget were never asked for."""
    out = []
    for document in documents:
        if budget > 0:
            budget -= shards.num_bytes(document.text)
            out.append(document)
    return out, budget


def _write(work: Work, number: int, raws: list[Raw], kept: list[Document], gone: list[Dropped]) -> Facts:
    """Writes one shard, its documents in the order in which they were met. Returns its line of the funnel."""
    place = {raw.id: i for i, raw in enumerate(raws)}
    everything = sorted([*kept, *(drop.document for drop in gone)], key=lambda document: place[document.id])
    for row, document in enumerate(everything):
        document.row = row
    verdicts = shards.verdicts_table(kept, gone, [document.text for document in everything])
    shards.write(work, f"documents-{number:05d}", [shards.documents_table(everything)])
    shards.write(work, f"verdicts-{number:05d}", [verdicts])
    return shards.line(kept, gone)
