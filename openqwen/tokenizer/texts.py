"""Text to learn from and to measure on: a corpus artefact, or files of text, JSON lines and Parquet as they are.

Ours. Everything is streamed: a text file of any size passes through in blocks that are cut where no piece and no
composed character is (pattern.safe_cut), so that a block counts like a document.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openqwen.core.artifact import find
from openqwen.core.errors import DataError
from openqwen.core.jsonl import read_corpus
from openqwen.data import sources
from openqwen.data.documents import Bad
from openqwen.tokenizer.pattern import safe_cut

BLOCK_BYTES = 8_000_000
MAX_LINE_BYTES = 256_000_000  # of JSON: one document
BAD_FRACTION = 0.05  # of the records; more than that unreadable is an error
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_KINDS = ("text", "code", "jsonl", "parquet")


def documents(
    paths: Sequence[Path], split: str = "train", bad: Bad | None = None
) -> Iterator[dict[str, Any]]:
    """The documents of corpus artefacts (of one split) and of files or folders, in order: {"text", "lang"?, "source"?}.

    bad: counts what cannot be read; None: an account of its own. Too much of it raises DataError.
    """
    bad = Bad(BAD_FRACTION) if bad is None else bad
    for path in paths:
        if is_corpus(path):
            yield from read_corpus(path, split)
        else:
            yield from _from_files(path, bad)
    bad.check()


def training_texts(paths: Sequence[Path], held_out: float, bad: Bad | None = None) -> Iterator[str]:
    """What is learnt from: the training split of corpora, and the documents of files that are not held out."""
    for path in paths:
        share = 0.0 if is_corpus(path) else held_out
        for document in documents([path], "train", bad):
            if not is_held_out(document["text"], share):
                yield document["text"]


def held_out_documents(paths: Sequence[Path], held_out: float) -> Iterator[dict[str, Any]]:
    """What is measured on: the validation split of corpora, and the documents of files that are held out."""
    for path in paths:
        if is_corpus(path):
            yield from documents([path], "valid")
        elif held_out:
            yield from (d for d in documents([path]) if is_held_out(d["text"], held_out))


def is_held_out(text: str, share: float) -> bool:
    """Which side a document of a file is on: by its own text, so that learning and measuring agree without a list."""
    if not share:
        return False
    mark = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(mark[:8], "big") < share * 2**64


def is_corpus(path: Path) -> bool:
    """Whether a path is a corpus artefact (with splits of its own) and not a file or folder as it is."""
    return path.is_dir() and (found := find(path)) is not None and found.kind == "corpus"


def _from_files(root: Path, bad: Bad) -> Iterator[dict[str, Any]]:
    if not root.exists():
        raise DataError("nothing there to read", where=str(root), fix="name a corpus, a file or a folder")
    paths = [root] if root.is_file() else list(sources.walk(root, bad))
    known = [path for path in paths if sources.kind_of(path)[0] in _KINDS]
    if not known:
        raise DataError(
            "no text there",
            where=str(root),
            fix="known are .txt, .md, program sources, .jsonl and .parquet, also .gz and .zst; "
            "pages become text with openqwen data build",
        )
    for path in known:
        with sources.unreadable_skipped(path, bad):
            for document in _read(path, bad):
                bad.seen += 1
                yield document


def _read(path: Path, bad: Bad) -> Iterator[dict[str, Any]]:
    kind, packing = sources.kind_of(path)
    if kind == "jsonl":
        lines = sources.json_lines(path, packing, MAX_LINE_BYTES, bad)
        yield from _records(lines, f"{path}:", bad)
    elif kind == "parquet":
        rows = sources.parquet_rows(path, ("text", "content", "lang", "source"), bad)
        yield from _records(rows, f"{path}:row ", bad)
    else:
        for block in _blocks(path, packing, bad):
            yield {"text": block, "source": kind}


def _records(numbered: Iterable[tuple[int, Any]], where: str, bad: Bad) -> Iterator[dict[str, Any]]:
    for number, record in numbered:
        text = record.get("text", record.get("content")) if isinstance(record, dict) else None
        if isinstance(text, str):
            yield {**{k: record[k] for k in ("lang", "source") if record.get(k)}, "text": text}
        else:
            bad.skip(f"{where}{number}", 'no "text"')


def _blocks(path: Path, packing: str, bad: Bad) -> Iterator[str]:
    """A text file in blocks of about BLOCK_BYTES; larger only where it has no place to be cut."""
    with sources.open_packed(path, packing) as file:
        data = file.read(BLOCK_BYTES)
        if reason := sources.binary_reason(data):
            bad.skip(path, reason)
            return
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        pending: list[str] = []
        while more := file.read(BLOCK_BYTES):
            text = decoder.decode(data)
            if cut := safe_cut(text):
                yield "".join([*pending, text[:cut]])
                pending, text = [], text[cut:]
            pending.append(text)
            data = more
        if rest := "".join([*pending, decoder.decode(data, final=True)]):
            yield rest
