"""JSON-lines files compressed with zstandard: streamed in and out, written whole or not at all.

Ours. Records end with a newline byte and only there: U+2028 and its kind are data.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from openqwen.core.artifact import unwritable
from openqwen.core.errors import DataError


def write_jsonl_zst(path: Path, records: Iterable[Any], level: int = 6) -> int:
    """Streams records to a temporary name and renames it. Returns how many there were."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with temporary.open("wb") as file:
            with zstandard.ZstdCompressor(level=level).stream_writer(file, closefd=False) as packed:
                for record in records:
                    packed.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error
    return count


def read_jsonl_zst(path: Path) -> Iterator[Any]:
    """The records of one .jsonl.zst file. DataError names the file and line of a damaged record."""
    number = 0
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as packed:
        try:
            for number, line in enumerate(io.BufferedReader(packed, 1 << 20), 1):
                yield json.loads(line)
        except (zstandard.ZstdError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"damaged: {error}", where=f"{path}:{number}", fix="make it again") from error


def read_corpus(path: Path | str, split: str = "train") -> Iterator[dict[str, Any]]:
    """The documents of one split of a corpus artefact, in order: {"id", "text", "source", "lang", ...}."""
    parts = sorted(Path(path, split).glob("part-*.jsonl.zst"))
    if not parts:
        raise DataError(f"no {split} split", where=str(path), fix="make it with openqwen data build")
    for part in parts:
        yield from read_jsonl_zst(part)
