"""Rows of published benchmark files: JSON lines or one JSON list, plain or gzip, each row an object.

Ours. What is wrong with a row is one error that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openqwen.chat.records import read_records
from openqwen.core.errors import DataError


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(FILE:LINE, row) of a file; in a JSON list the number is the row's. DataError for what is no object."""
    for line, record in read_records(path):
        place = f"{path}:{line}"
        if isinstance(record, DataError):
            raise DataError(record.what, where=f"{place}, {record.where}" if record.where else place)
        if not isinstance(record, dict):
            raise DataError("a row is an object", where=place)
        yield place, record


def is_file_name(name: str) -> bool:
    """Whether a name from a data set can be that of a file in a folder, and leads nowhere else."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def take(row: Mapping[str, Any], key: str, kind: type | tuple[type, ...], place: str) -> Any:
    """A field of a row. DataError if it is not there or of another type."""
    value = row.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataError(f'"{key}" of a row is not {names}', where=place)
    return value
