"""Append-only records of a run: one flat JSON object a line, each with its step.

Ours. A resumed run drops the records after the step it resumes from, so the file reads as if it had never
been interrupted.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from openqwen.core.errors import DataError


class Metrics:
    """Writer of metrics.jsonl and its like. Every record carries `step`; numbers that are not finite become null."""

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        """resume_step: keep records with step <= this one; None starts a new file."""
        kept = [r for r in read_metrics(path) if r["step"] <= resume_step] if resume_step is not None else []
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(map(_line, kept))
            file.flush()
            os.fsync(file.fileno())  # before it takes the place of what may be all there is of them
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, **values: Any) -> None:
        """Appends one record and flushes it to the operating system."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()

    def sync(self) -> None:
        """Returns once everything is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete records; a line torn by a crash at the end is left out. DataError for any other that is damaged."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except (
            ValueError
        ) as error:  # not JSON, or not UTF-8: a crash may end a line in the middle of a character
            if number < len(lines):
                raise DataError(
                    f"not a record: {error}",
                    where=f"{path}:{number}",
                    fix="delete the folder and run its stage again",
                ) from error
    return records


def _line(record: dict[str, Any]) -> str:
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(clean, ensure_ascii=False) + "\n"
