"""Finds the files of an input and opens them: kinds by their endings, compression, encodings, what is no text.

Ours. Folders are local or in an object store. Links never lead outside of a folder nor round in circles.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

import zstandard

from openqwen.core.errors import DataError
from openqwen.core.jsonl import unpacked_zst
from openqwen.data.documents import Bad, printable
from openqwen.data.store import file_system, is_address, open_input

HTML = frozenset({".html", ".htm", ".xhtml"})
TEXT = frozenset({".txt", ".md", ".markdown", ".rst", ".tex", ".text"})
# Programming languages by the endings of their files.
LANGUAGES = {
    "python": (".py", ".pyi"), "javascript": (".js", ".jsx"), "typescript": (".ts", ".tsx"), "java": (".java",),
    "c": (".c", ".h"), "cpp": (".cc", ".cpp", ".hpp"), "csharp": (".cs",), "go": (".go",), "rust": (".rs",),
    "ruby": (".rb",), "php": (".php",), "swift": (".swift",), "kotlin": (".kt",), "scala": (".scala",), "shell": (".sh",),
    "sql": (".sql",), "r": (".r",), "julia": (".jl",), "lua": (".lua",), "perl": (".pl",), "haskell": (".hs",),
    "ocaml": (".ml",), "elixir": (".ex",), "erlang": (".erl",), "clojure": (".clj",), "dart": (".dart",),
    "objective-c": (".m", ".mm"), "fortran": (".f90",), "zig": (".zig",), "nim": (".nim",), "css": (".css",),
}  # fmt: skip
CODE = frozenset(ending for endings in LANGUAGES.values() for ending in endings)
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
# Bytes that no text has: neither space nor escape, and NUL is judged by itself.
_CONTROL = bytes(byte for byte in range(1, 32) if byte not in b"\t\n\v\f\r\x1b")
UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError)


@contextmanager
def unreadable_skipped(path: Path, bad: Bad) -> Iterator[None]:
    """A file that cannot be read to its end is skipped with its reason; what was read of it stays."""
    try:
        yield
    except UNREADABLE as error:
        bad.skip(path, f"unreadable: {error.__class__.__name__} {error}")


@dataclass(frozen=True)
class File:
    """A file of an input."""

    address: str  # local path or address, by which it is opened
    name: str  # within the input, of which the ids of its documents are made
    size: int
    modified: int  # nanoseconds; with the size it tells a changed file


def kind_of(path: Path | str) -> tuple[str, str]:
    """The reader for a file name and its compression: `a.jsonl.gz` -> `("jsonl", ".gz")`; ("", "") if none."""
    suffixes = [s.lower() for s in Path(path).suffixes]
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
    control = len(head) - len(head.translate(None, _CONTROL))
    return "binary file: control bytes" if control > 0.05 * len(head) else None


def _looks_utf16(head: bytes) -> bool:
    even, odd = head[0::2].count(0), head[1::2].count(0)
    return max(even, odd) > 0.3 * len(head) / 2 and min(even, odd) < 0.02 * len(head)


def walk(root: Path, bad: Bad) -> Iterator[Path]:
    """Regular files under a local folder in sorted order. Links never lead outside, nor round in circles."""
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
        return "broken link" if path.is_symlink() else "gone, or not to be read"
    return None


def find_files(root: str, bad: Bad) -> tuple[list[File], dict[str, int]]:
    """The files of a known kind at a path or address, in order, and how many others there are by their ending.

    DataError where there is nothing to read.
    """
    found = _listed(root) if is_address(root) else _walked(Path(root), bad)
    known = [file for file in found if kind_of(file.address.partition("?")[0])[0]]
    ignored = Counter(Path(file.name).suffix.lower() for file in found)
    ignored.subtract(Path(file.name).suffix.lower() for file in known)
    if not known:
        raise DataError(
            "no documents there: no file with a known ending"
            + (f" among {len(found)} files" if found else ", the folder is empty"),
            where=root,
            fix="known are .html .txt .md .rst .tex .jsonl .parquet .warc .wet and program sources, also .gz and .zst",
        )
    return known, {ending: count for ending, count in sorted(ignored.items()) if count}


def _walked(root: Path, bad: Bad) -> list[File]:
    if not root.exists():
        raise DataError("nothing there to read", where=str(root), fix="give a file, a folder or an address")
    files = []
    for path in [root] if root.is_file() else walk(root, bad):
        name = path.name if path == root else str(path.relative_to(root))
        state = path.stat()
        # Ids are text: a name that is no UTF-8 goes on with escapes.
        files.append(File(str(path), printable(name), state.st_size, state.st_mtime_ns))
    return files


def _listed(root: str) -> list[File]:
    from pyarrow.fs import FileSelector, FileType

    files, base = file_system(root)
    scheme, rest = root.split("://", 1)
    place, _, options = rest.partition("?")
    user = place[: place.find("@") + 1]  # anonymous@bucket
    try:
        info = files.get_file_info(base)
        if info.type == FileType.NotFound:
            raise DataError("nothing there to read", where=root, fix="check the address")
        found = (
            [info] if info.type == FileType.File else files.get_file_info(FileSelector(base, recursive=True))
        )
    except OSError as error:
        raise DataError(
            f"cannot list: {error}", where=root, fix="check the address and its rights"
        ) from error
    out = []
    for info in sorted(found, key=lambda each: each.path):
        if info.type == FileType.File:
            address = f"{scheme}://{user}{quote(info.path)}" + (f"?{options}" if options else "")
            out.append(File(address, f"{scheme}://{info.path}", info.size, info.mtime_ns or 0))
    return out


def open_packed(path: Path | str, packing: str) -> BinaryIO:
    """A file's bytes, decompressed on the way."""
    file = open_input(path)
    if packing == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return unpacked_zst(file) if packing == ".zst" else file
