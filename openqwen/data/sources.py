"""Readers: folders and files of HTML, text, Markdown, JSON lines, Parquet, WARC and program sources.

Report §2.1: encyclopedia, books, code, web pages keep their source label; formats and limits are ours. A file or
record that cannot be read is counted with its place and skipped; what is read is bounded in size everywhere.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from openqwen.core.errors import DataError, MissingTool
from openqwen.core.jsonl import open_zst
from openqwen.data.config import SourcesConfig
from openqwen.data.documents import Bad, Raw

HTML = frozenset({".html", ".htm", ".xhtml"})
TEXT = frozenset({".txt", ".md", ".markdown", ".rst", ".tex", ".text"})
CODE = frozenset(
    [
        ".py",
        ".pyi",
        ".js",
        ".ts",
        ".tsx",
        ".jsx",
        ".java",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".cs",
        ".go",
        ".rs",
        ".rb",
        ".php",
        ".swift",
        ".kt",
        ".scala",
        ".sh",
        ".sql",
        ".r",
        ".jl",
        ".lua",
        ".pl",
        ".hs",
        ".ml",
        ".ex",
        ".erl",
        ".clj",
        ".dart",
        ".m",
        ".mm",
        ".f90",
        ".zig",
        ".nim",
        ".css",
    ]
)
JSONL = frozenset({".jsonl", ".ndjson"})
WARC = frozenset({".warc", ".wet"})
PARQUET = frozenset({".parquet", ".pq"})
PACKED = frozenset({".gz", ".zst"})
SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", ".git", ".hg", ".svn", ".venv"})
# Beginnings of files that are no text whatever they are called.
MAGIC = {
    b"\x89PNG": "PNG image",
    b"\xff\xd8\xff": "JPEG image",
    b"GIF8": "GIF image",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP archive",
    b"\x7fELF": "ELF program",
    b"MZ\x90": "Windows program",
    b"\x1f\x8b": "gzip data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"RIFF": "RIFF media",
    b"OggS": "Ogg media",
    b"\x00\x00\x00\x20ftyp": "MP4 media",
    b"SQLite format 3": "SQLite database",
}
UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError)


def kind_of(path: Path) -> tuple[str, str]:
    """The reader for a file name and its compression: `a.jsonl.gz` -> `("jsonl", ".gz")`; ("", "") if none."""
    suffixes = [s.lower() for s in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    last = suffixes[-1] if suffixes else ""
    for kind, known in (
        ("html", HTML),
        ("text", TEXT),
        ("code", CODE),
        ("jsonl", JSONL),
        ("warc", WARC),
        ("parquet", PARQUET),
    ):
        if last in known:
            return kind, packing
    return "", ""


def binary_reason(data: bytes) -> str | None:
    """Why these bytes are no text, or None. NUL bytes are allowed where an encoding has them (UTF-16/32)."""
    for magic, name in MAGIC.items():
        if data.startswith(magic):
            return f"binary file: {name}"
    head = data[:4096]
    if not head or head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return None
    if head.count(0) > 0.01 * len(head) and not _looks_utf16(head):
        return "binary file: NUL bytes"
    control = sum(byte < 32 and byte not in (9, 10, 11, 12, 13, 27) and byte != 0 for byte in head)
    return "binary file: control bytes" if control > 0.05 * len(head) else None


def _looks_utf16(head: bytes) -> bool:
    even, odd = head[0::2].count(0), head[1::2].count(0)
    return max(even, odd) > 0.3 * len(head) / 2 and min(even, odd) < 0.02 * len(head)


def walk(root: Path, bad: Bad) -> Iterator[Path]:
    """Regular files under a folder in sorted order. Symbolic links never lead outside, nor round in circles."""
    inside = root.resolve()
    for folder, folders, names in os.walk(
        root, onerror=lambda e: bad.skip(str(e.filename), "unreadable folder")
    ):
        for name in [f for f in folders if Path(folder, f).is_symlink()]:
            bad.skip(Path(folder, name), "link to a folder")
        folders[:] = sorted(
            f for f in folders if f not in SKIPPED_FOLDERS and not Path(folder, f).is_symlink()
        )
        for name in sorted(names):
            path = Path(folder, name)
            reason = _unwelcome(path, inside)
            if reason:
                bad.skip(path, reason)
            else:
                yield path


def _unwelcome(path: Path, inside: Path) -> str | None:
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(inside):
            return "link out of the folder"
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
    except (OSError, RuntimeError):  # dangling, or a loop (RuntimeError before Python 3.13)
        return "broken link"
    return None


def read_path(root: Path, config: SourcesConfig, bad: Bad) -> Iterator[Raw]:
    """Every document of a file or folder. DataError if nothing there is of a known kind."""
    paths = [root] if root.is_file() else list(walk(root, bad))
    known = [path for path in paths if kind_of(path)[0]]
    if not known:
        raise DataError(
            "no documents there: no file with a known ending"
            + (f" among {len(paths)} files" if paths else ", the folder is empty"),
            where=str(root),
            fix="known are .html .txt .md .rst .tex .jsonl .parquet .warc .wet and program sources, also .gz and .zst",
        )
    for path in known:
        name = str(path.relative_to(root)) if path != root else path.name
        try:
            yield from _read_file(path, name, config, bad)
        except UNREADABLE as error:
            bad.skip(path, f"unreadable: {error.__class__.__name__} {error}")


def _read_file(path: Path, name: str, config: SourcesConfig, bad: Bad) -> Iterator[Raw]:
    kind, packing = kind_of(path)
    if kind in ("html", "text", "code"):
        yield from _read_single(path, name, kind, packing, config, bad)
    elif kind == "jsonl":
        yield from _read_jsonl(path, name, packing, config, bad)
    elif kind == "parquet":
        yield from _read_parquet(path, name, config, bad)
    else:
        yield from _read_warc(path, name, config, bad)


def open_packed(path: Path, packing: str) -> BinaryIO:
    """A file's bytes, decompressed on the way."""
    if packing == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if packing == ".zst":
        return open_zst(path)
    return path.open("rb")


def _read_single(
    path: Path, name: str, kind: str, packing: str, config: SourcesConfig, bad: Bad
) -> Iterator[Raw]:
    with open_packed(path, packing) as file:
        data = file.read(config.max_file_bytes + 1)
    if len(data) > config.max_file_bytes:
        bad.skip(path, f"too large: more than {config.max_file_bytes} bytes")
    elif reason := binary_reason(data):
        bad.skip(path, reason)
    elif not data.strip():
        bad.skip(path, "empty file")
    elif kind == "html":
        yield Raw(name, "web", html=data, file=name)
    else:
        text = decode(data)
        yield Raw(name, "code" if kind == "code" else "text", text=text, file=name)


def decode(data: bytes, charset: str | None = None) -> str:
    """Bytes as text: byte-order mark, declared charset, UTF-8, then detection; damaged bytes become U+FFFD."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    for candidate in ("utf-8", charset):
        if candidate:
            try:
                return data.decode(candidate)
            except (UnicodeDecodeError, LookupError):
                continue
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return bytes_to_str(data, detect_encoding(data[: 1 << 16], from_html_meta=True) or "utf-8")


def _read_jsonl(path: Path, name: str, packing: str, config: SourcesConfig, bad: Bad) -> Iterator[Raw]:
    for number, record in json_lines(path, packing, config.max_line_bytes, bad):
        yield from _record(record, f"{path}:{number}", f"{name}/{number}", bad)


def json_lines(path: Path, packing: str, max_line_bytes: int, bad: Bad) -> Iterator[tuple[int, Any]]:
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
                except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                    bad.skip(f"{path}:{number}", f"not JSON: {error.__class__.__name__}")


def _record(record: Any, where: str, name: str, bad: Bad) -> Iterator[Raw]:
    """A record with "text" (or "content") or "html"; "source" and "id" are kept if they are strings."""
    if not isinstance(record, dict):
        bad.skip(where, "not a JSON object")
        return
    source = record.get("source")
    kind = source if isinstance(source, str) and 0 < len(source) <= 64 else None
    label = record.get("id")
    label = f"{name}#{label}" if isinstance(label, str) and 0 < len(label) <= 200 else name
    page, text = record.get("html"), record.get("text", record.get("content"))
    if isinstance(page, str) and page.strip():
        yield Raw(label, kind or "web", html=page.encode("utf-8", "replace"), charset="utf-8", file=name)
    elif isinstance(text, str) and text.strip():
        yield Raw(label, kind or "text", text=text, file=name)
    else:
        bad.skip(where, 'no "text" or "html"')


def _read_parquet(path: Path, name: str, config: SourcesConfig, bad: Bad) -> Iterator[Raw]:
    for number, record in parquet_rows(path, ("id", "text", "content", "html", "source"), bad):
        yield from _record(record, f"{path}:row {number}", f"{name}/{number}", bad)


def parquet_rows(path: Path, columns: Sequence[str], bad: Bad) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, values of those of the columns that are there) of a Parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingTool(
            "reading Parquet needs pyarrow", where=str(path), fix='pip install "openqwen[data]"'
        ) from error
    try:
        table = parquet.ParquetFile(path)
        there = [c for c in columns if c in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=there):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        bad.skip(path, f"unreadable: {str(error).splitlines()[0]}")


def _read_warc(path: Path, name: str, config: SourcesConfig, bad: Bad) -> Iterator[Raw]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion
    number = 0
    try:
        with path.open("rb") as file:
            for record in ArchiveIterator(file, record_types=wanted, parse_http=True, auto_decode="all"):
                number += 1
                is_text = record.record_type == WarcRecordType.conversion
                yield from _warc_record(record, is_text, path, name, number, config, bad)
    except (OSError, ValueError) as error:
        bad.skip(f"{path}:record {number + 1}", f"unreadable: {error}")


def _warc_record(
    record: Any, is_text: bool, path: Path, name: str, number: int, config: SourcesConfig, bad: Bad
) -> Iterator[Raw]:
    where = f"{path}:record {number}"
    body = record.reader.read(config.max_file_bytes + 1)
    label = f"{name}/{number}#{record.headers.get('WARC-Target-URI', '')[:200]}"
    kind = (record.http_content_type or record.headers.get("Content-Type", "")).split(";")[0].strip().lower()
    if len(body) > config.max_file_bytes:
        bad.skip(where, f"too large: more than {config.max_file_bytes} bytes")
    elif is_text:
        yield Raw(label, "web", text=decode(body), file=f"{name}/{number}")
    elif kind not in ("text/html", "application/xhtml+xml", ""):
        bad.skip(where, f"not a page: {kind}")
    elif reason := binary_reason(body):
        bad.skip(where, reason)
    elif body.strip():
        yield Raw(label, "web", html=body, charset=record.http_charset, file=f"{name}/{number}")
    else:
        bad.skip(where, "empty page")
