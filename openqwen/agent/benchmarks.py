"""The published sets that a folder of the user's holds, run beside our own questions; `openqwen agent-eval --data`.

Report §3.4; the sets are not the report's, whose own are in-house. A set that is not there is a note, not an error.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.agent import bfcl, dabench, matplotbench, toolqa
from openqwen.agent.config import AgentEvalConfig, SetsConfig
from openqwen.agent.loop import Model
from openqwen.core.artifact import write_jsonl
from openqwen.core.errors import DataError
from openqwen.core.tables import Cell

Record = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """One set. load: (questions, what is to be said of them) of a folder; questions have a `part`."""

    title: str
    load: Callable[[Path], tuple[list[Any], list[str]]]
    play: Callable[[Model, list[Any], AgentEvalConfig, Path], list[Record]]
    cells: Callable[[Sequence[Record], int], Mapping[str, Cell]]
    runs_code: bool = True


BENCHES: dict[str, Bench] = {
    "bfcl": Bench("BFCL", bfcl.load, bfcl.play, bfcl.cells, runs_code=False),
    "dabench": Bench("DABench", dabench.load, dabench.play, dabench.cells),
    "matplotbench": Bench("MatPlotBench", matplotbench.load, matplotbench.play, matplotbench.cells),
    "toolqa": Bench("ToolQA", toolqa.load, toolqa.play, toolqa.cells),
}


@dataclass(frozen=True)
class Loaded:
    """The questions of each set that is there, and what is to be said of them."""

    questions: dict[str, list[Any]]
    notes: list[str]

    @property
    def runs_code(self) -> bool:
        """Whether a model's code is run, for which there must be a sandbox."""
        return any(BENCHES[name].runs_code for name in self.questions)


def load(folder: Path, config: SetsConfig) -> Loaded:
    """The sets of a folder. DataError for a row that is none, and where no set that was asked for is there."""
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), fix="give the folder that holds the sets")
    found: dict[str, list[Any]] = {}
    notes: list[str] = []
    for name in config.names:
        questions, said = BENCHES[name].load(folder)
        notes += [f"{BENCHES[name].title}: {sentence}" for sentence in said]
        if questions:
            _all_different(name, questions)
            found[name] = questions
    if not found:
        raise DataError(
            f"no published set there can be run. {'; '.join(notes)}",
            where=str(folder),
            fix="give the folder that holds bfcl/, code_interpreter/ or toolqa/ as they are published",
        )
    return Loaded(found, notes)


def _all_different(name: str, questions: Sequence[Any]) -> None:
    """Pictures and records are kept by id."""
    seen = Counter((question.part, question.id) for question in questions)
    (part, identity), count = seen.most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} questions of {BENCHES[name].title} ({part}) have the id {identity}")


def few(questions: Sequence[Any], limit: int | None, seed: int) -> list[Any]:
    """A seeded choice of at most `limit` questions of each part, in their order."""
    kept = []
    for part in dict.fromkeys(question.part for question in questions):
        mine = [question for question in questions if question.part == part]
        if limit is not None and limit < len(mine):
            mine = [mine[i] for i in sorted(random.Random(seed).sample(range(len(mine)), limit))]
        kept += mine
    return kept


def measure(model: Model, loaded: Loaded, config: AgentEvalConfig, out: Path) -> dict[str, Cell]:
    """Cells in percent by name; what happened is written to OUT/SET.jsonl."""
    cells: dict[str, Cell] = {}
    for name, questions in loaded.questions.items():
        chosen = few(questions, config.limit, config.seed)
        records = BENCHES[name].play(model, chosen, config, out)
        write_jsonl(out / f"{name}.jsonl", records)
        cells |= BENCHES[name].cells(records, config.seed)
    return cells
