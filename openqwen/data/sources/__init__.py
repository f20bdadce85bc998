"""Where documents come from: files of many formats, the Hugging Face hub, the Python standard library (report §2.1)."""

from openqwen.data.sources.files import (
    File,
    binary_reason,
    find_files,
    kind_of,
    open_packed,
    unreadable_skipped,
    walk,
)
from openqwen.data.sources.formats import json_lines, parquet_rows, read_file, read_path

__all__ = [
    "File",
    "binary_reason",
    "find_files",
    "json_lines",
    "kind_of",
    "open_packed",
    "parquet_rows",
    "read_file",
    "read_path",
    "unreadable_skipped",
    "walk",
]
