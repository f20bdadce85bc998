"""What an evaluation has measured so far, on disk, so that an interrupted one goes on where it stopped.

Ours. One line an item, under a key that holds all the item's record depends on: weights, prompt, decoding and protocol.
Another prompt or other weights find nothing. A line torn by a crash is cut off when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openqwen.core.errors import DataError

Record = dict[str, Any]


class Journal:
    """Records by key; `path` None keeps them in memory only."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.records = path, dict[str, Record]()
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                found = json.loads(line)
                self.records[found["key"]] = found["record"]
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"not a line of a journal of evaluations: {error}",
                    where=f"{path}:{number}",
                    fix="delete the file to evaluate again",
                ) from error
        if whole < len(data):
            os.truncate(path, whole)

    def add(self, records: Mapping[str, Record]) -> None:
        """Keeps records; on disk before this returns."""
        self.records.update(records)
        if self.path is None:
            return
        lines = [
            json.dumps({"key": key, "record": record}, ensure_ascii=False) for key, record in records.items()
        ]
        with self.path.open("ab") as file:
            file.write(("\n".join(lines) + "\n").encode() if lines else b"")
            file.flush()
            os.fsync(file.fileno())
