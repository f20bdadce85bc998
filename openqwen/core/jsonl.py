"""JSON-lines files compressed with zstandard: streamed in and out, written whole or not at all.

Ours. Records end with a newline byte and only there: U+2028 and its kind are data.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from openqwen.core.artifact import replacing
from openqwen.core.errors import DataError


def write_jsonl_zst(path: Path, records: Iterable[Any], level: int = 6) -> int:
    """Streams records to a temporary name and renames it. Returns how many there were."""
    count = 0
    with (
        replacing(path) as file,
        zstandard.ZstdCompressor(level=level).stream_writer(file, closefd=False) as packed,
    ):
        for record in records:
            packed.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


# Packed bytes that are unpacked at a time: four can hold 128 KiB, so these hold 32 MB at most.
_PIECE = 1 << 10


class _Unpacked(io.RawIOBase):
    """Decompressed bytes of a zstandard file; EOFError where the file ends inside a frame.

    zstandard's own reader takes a truncated file for a complete one, which would lose records without a word.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._packed, self._pending = file, memoryview(b""), memoryview(b"")
        self._frame, self._inside = zstandard.ZstdDecompressor().decompressobj(), False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._inside = zstandard.ZstdDecompressor().decompressobj(), False
            if not packed:
                self._packed = self._packed or memoryview(self._file.read(1 << 17))
                packed, self._packed = bytes(self._packed[:_PIECE]), self._packed[_PIECE:]
            if not packed:
                if self._inside:
                    raise EOFError("compressed file ends before its end-of-stream marker")
                return 0
            self._inside = True
            self._pending = memoryview(self._frame.decompress(packed))
            if self._frame.eof and not self._frame.unused_data:
                self._inside = False
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size


def open_zst(path: Path) -> BinaryIO:
    """The decompressed bytes of a .zst file, buffered. Raises EOFError while reading a truncated one."""
    return unpacked_zst(path.open("rb"))


def unpacked_zst(file: BinaryIO) -> BinaryIO:
    """`open_zst` of a file that is open already; closing the result closes it."""
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file), 1 << 20))


def read_jsonl_zst(path: Path) -> Iterator[Any]:
    """The records of one .jsonl.zst file. DataError names the file and line of a damaged record."""
    number = 0
    with open_zst(path) as file:
        try:
            for line in file:
                number += 1
                yield json.loads(line)
        except (zstandard.ZstdError, EOFError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"damaged: {error}", where=f"{path}:{number}", fix="make it again") from error


def read_corpus(path: Path | str, split: str = "train") -> Iterator[dict[str, Any]]:
    """The documents of one split of a corpus artefact, in order: {"id", "text", "source", "lang", ...}."""
    parts = sorted(Path(path, split).glob("part-*.jsonl.zst"))
    if not parts:
        raise DataError(f"no {split} split", where=str(path), fix="make it with openqwen data build")
    for part in parts:
        yield from read_jsonl_zst(part)
