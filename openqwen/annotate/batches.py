"""Work in batches whose records are written as they are made, so that a run that was killed goes on.

Ours. A record's `step` is its batch, from 1. The last batch found may lack records: it is done again, whole, so that it
goes through the engine in the same company and gives the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from openqwen.core.artifact import Run
from openqwen.core.metrics import Metrics, read_metrics

T = TypeVar("T")


def open_batches(stage: Run, name: str) -> tuple[Metrics, int]:
    """The file of a stage's records, and the number of the first batch that is to be done."""
    done = [record["step"] for record in read_metrics(stage.path / name)] if stage.resumed else []
    start = max(done, default=1)
    return stage.open_metrics(start - 1 if done else None, name), start


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one perhaps shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
