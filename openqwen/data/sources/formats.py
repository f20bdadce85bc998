"""Readers: HTML, text, Markdown, LaTeX, program sources, JSON lines, Parquet, WARC and WET.

Report §2.1: encyclopedia, books, code, web pages keep their source label; formats and limits are ours. A file or
record that cannot be read is counted with its place and skipped; what is read is bounded in size everywhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from openqwen.core.errors import DataError, MissingTool, OpenQwenError
from openqwen.data.config import SourcesConfig
from openqwen.data.documents import Bad, Raw, printable
from openqwen.data.encoding import decode_page
from openqwen.data.sources.files import (
    UNREADABLE,
    File,
    binary_reason,
    find_files,
    kind_of,
    open_packed,
)
from openqwen.data.sources.samples import COLUMNS, SOURCE, is_sample, sample_text
from openqwen.data.store import is_address, open_input

_LABELS = 1 << 20  # labels remembered, about 100 MB
# Errors of a disk or network and not of the file that is read from it.
_LOST = frozenset(
    (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ECONNRESET)
)


def read_path(root: Path, config: SourcesConfig, bad: Bad) -> Iterator[Raw]:
    """Every document of a local file or folder. DataError if nothing there is of a known kind."""
    for file in find_files(str(root), bad)[0]:
        yield from read_file(file, config, bad)


def read_file(file: File, config: SourcesConfig, bad: Bad) -> Iterator[Raw]:
    """The documents of one file. OpenQwenError where its disk or store is lost."""
    kind, packing = kind_of(file.address.partition("?")[0] if is_address(file.address) else file.address)
    reader = {"jsonl": _read_jsonl, "parquet": _read_parquet, "warc": _read_warc}.get(kind, _read_single)
    label = next((own for like, own in config.labels.items() if fnmatchcase(file.name, like)), None)
    count = 0
    try:
        for raw, has_label in reader(file, kind, packing, config, bad):
            if label is not None and not has_label:
                raw.source = label
            count += 1
            yield raw
    except UNREADABLE as error:
        _check_there(file, error)
        after = f" (after {count} documents)" if count else ""
        bad.skip(file.address, f"unreadable: {error.__class__.__name__} {error}{after}")


def _check_there(file: File, error: Exception) -> None:
    """Raises if it is not the file that is at fault: nothing of a lost disk or store may count as skipped."""
    lost = isinstance(error, OSError) and error.errno in _LOST
    if is_address(file.address) and not lost:
        try:
            with open_input(file.address) as again:
                again.read(1)
        except FileNotFoundError:
            return
        except OSError:
            lost = True
    if lost:
        raise OpenQwenError(
            f"the input can no longer be read: {error}",
            where=file.address,
            fix="see that its disk or store is there, then run again; it continues",
        ) from error


Labelled = Iterator[tuple[Raw, bool]]  # with whether the record has a source label of its own


def _read_single(file: File, kind: str, packing: str, config: SourcesConfig, bad: Bad) -> Labelled:
    with open_packed(file.address, packing) as opened:
        data = opened.read(config.max_file_bytes + 1)
    if len(data) > config.max_file_bytes:
        bad.skip(file.address, f"too large: more than {config.max_file_bytes} bytes")
    elif reason := binary_reason(data):
        bad.skip(file.address, reason)
    elif not data.strip():
        bad.skip(file.address, "empty file")
    elif kind == "html":
        yield Raw(file.name, "web", html=data, file=file.name), False
    else:
        text, _ = decode_page(data)
        yield Raw(file.name, "code" if kind == "code" else "text", text=text, file=file.name), False


def _read_jsonl(file: File, kind: str, packing: str, config: SourcesConfig, bad: Bad) -> Labelled:
    lines = json_lines(file.address, packing, config.max_line_bytes, bad)
    yield from records(lines, file.name, f"{file.address}:", bad)


def json_lines(path: Path | str, packing: str, max_line_bytes: int, bad: Bad) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line of JSON; lines that are too long or no JSON are counted and skipped."""
    number = 0
    with open_packed(path, packing) as file:
        while line := file.readline(max_line_bytes + 1):
            number += 1
            if len(line) > max_line_bytes and not line.endswith(b"\n"):
                bad.skip(f"{path}:{number}", f"line too long: more than {max_line_bytes} bytes")
                while line and not line.endswith(b"\n"):
                    line = file.readline(max_line_bytes)
            elif line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    bad.skip(f"{path}:{number}", f"not JSON: {error.__class__.__name__}")


def records(numbered: Iterator[tuple[int, Any]], name: str, where: str, bad: Bad) -> Labelled:
    """Documents of numbered records. Their ids are of name and number; a label of their own is added.

    Two records of one file with the same label are both read (their ids differ) and noted, unless they are further
    apart than what is remembered of a file of any length.
    """
    labels: set[bytes] = set()
    for number, record in numbered:
        if not isinstance(record, dict):
            bad.skip(f"{where}{number}", "not a JSON object")
            continue
        label = record.get("id")
        if isinstance(label, str) and label:
            mark = hashlib.blake2b(label.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if mark in labels:
                bad.note(f"{where}{number}", "duplicate id")
            if len(labels) == _LABELS:
                labels.clear()
            labels.add(mark)
        yield from _record(record, label, f"{where}{number}", f"{name}/{number}", bad)


def _record(record: Mapping[str, Any], label: Any, where: str, name: str, bad: Bad) -> Labelled:
    """A record with "text" (or "content") or "html", or an instruction sample.

    "source" and "id" are kept if they are strings; a sample's source is always "instruction".
    """
    source = record.get("source")
    kind = printable(source) if isinstance(source, str) and 0 < len(source) <= 64 else None
    ident = f"{name}#{printable(label)}" if isinstance(label, str) and 0 < len(label) <= 200 else name
    if is_sample(record):
        try:
            yield Raw(ident, SOURCE, text=sample_text(record), file=name), True
        except DataError as error:
            bad.skip(where, f"not an instruction sample: {error.what}")
        return
    page, text = record.get("html"), record.get("text")
    text = record.get("content") if text is None else text  # a table has both columns, one of them empty
    if isinstance(page, str) and page.strip():
        html = page.encode("utf-8", "replace")
        yield Raw(ident, kind or "web", html=html, charset="utf-8", file=name), kind is not None
    elif isinstance(text, str) and text.strip():
        yield Raw(ident, kind or "text", text=text, file=name), kind is not None
    else:
        bad.skip(where, 'no "text" or "html", and no instruction sample')


def _read_parquet(file: File, kind: str, packing: str, config: SourcesConfig, bad: Bad) -> Labelled:
    columns = ("id", "text", "content", "html", "source", *COLUMNS)
    rows = parquet_rows(file.address, columns, bad)
    yield from records(rows, file.name, f"{file.address}:row ", bad)


def parquet_rows(path: Path | str, columns: Sequence[str], bad: Bad) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, values of those of the columns that are there) of a Parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingTool(
            "reading Parquet needs pyarrow", where=str(path), fix='pip install "openqwen[data]"'
        ) from error
    with open_input(path) as opened:
        try:
            table = parquet.ParquetFile(opened)
            there = [c for c in columns if c in table.schema_arrow.names]
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=there):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except pyarrow.ArrowException as error:
            raise EOFError(str(error).splitlines()[0]) from error


def _read_warc(file: File, kind: str, packing: str, config: SourcesConfig, bad: Bad) -> Labelled:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion
    number = 0
    with open_input(file.address) as opened:
        try:
            for record in ArchiveIterator(opened, record_types=wanted, parse_http=True, auto_decode="all"):
                number += 1
                is_text = record.record_type == WarcRecordType.conversion
                yield from _warc_record(record, is_text, file, number, config, bad)
        except ValueError as error:
            bad.skip(f"{file.address}:record {number + 1}", f"unreadable: {error}")


def _warc_record(
    record: Any, is_text: bool, file: File, number: int, config: SourcesConfig, bad: Bad
) -> Labelled:
    where, name = f"{file.address}:record {number}", f"{file.name}/{number}"
    body = record.reader.read(config.max_file_bytes + 1)
    label = f"{name}#{record.headers.get('WARC-Target-URI', '')[:200]}"
    kind = (record.http_content_type or record.headers.get("Content-Type", "")).split(";")[0].strip().lower()
    if len(body) > config.max_file_bytes:
        bad.skip(where, f"too large: more than {config.max_file_bytes} bytes")
    elif is_text:
        text, _ = decode_page(body)
        yield Raw(label, "web", text=text, file=name), False
    elif kind not in ("text/html", "application/xhtml+xml", ""):
        bad.skip(where, f"not a page: {kind}")
    elif reason := binary_reason(body):
        bad.skip(where, reason)
    elif body.strip():
        yield Raw(label, "web", html=body, charset=record.http_charset, file=name), False
    else:
        bad.skip(where, "empty page")
