"""A store with one shard of given documents, and tasks on it: steps as the pipeline calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openqwen.core.config import resolve
from openqwen.data import shards
from openqwen.data.documents import Document, Dropped
from openqwen.data.runner import InProcess, Pipeline, Runner
from openqwen.data.store import Output, Store
from openqwen.data.task import Facts, Record, Task, Work

SHARDS = {"shard_bytes": 250_000, "runner__exchange_rows": 900, "quality__lm_train_bytes": 50_000}


def resolved(cls: Any, stage: str, **flags: Any) -> Any:
    return resolve(cls, stage, flags={k.replace("__", "."): v for k, v in flags.items()}, environ={})


class Bench:
    """Runs one task after the other; `shard` makes what a step reads."""

    def __init__(self, folder: Path, runner: Runner | None = None) -> None:
        self.pipeline = Pipeline(Store(str(folder)), runner or InProcess())
        self.count = 0

    def run(
        self, function: Any, inputs: Mapping[str, Sequence[Output]] | None = None, **settings: Any
    ) -> Record:
        self.count += 1
        task = Task(f"{function.__name__}.{self.count}/00000", function, inputs or {}, settings)
        return self.pipeline.run([task])[0]

    def shard(self, documents: Sequence[Document]) -> dict[str, list[Output]]:
        rows = [replace(d, row=i) for i, d in enumerate(documents)]
        work = Work(
            self.pipeline.store, Task(f"made/{self.count:05d}", _nothing, {}, {}), f"{self.count:064d}"
        )
        self.count += 1
        shards.write(work, "documents", [shards.documents_table(rows)])
        shards.write(work, "verdicts", [shards.verdicts_table(rows, [], [d.text for d in rows])])
        return {name: [output] for name, output in work.outputs.items()}

    def verdicts(
        self, shard: Mapping[str, Sequence[Output]], record: Record
    ) -> tuple[list[Document], list[Dropped]]:
        """Kept and dropped, as a step's record has them."""
        store = self.pipeline.store
        written = shards.read(store, shard["documents"][0]).to_pydict()
        found = list(shards.joined(written, shards.read(store, record.outputs["verdicts"])))
        return [d for d, drop in found if drop is None], [drop for _, drop in found if drop is not None]


def _nothing(work: Work) -> Facts:
    return {}
