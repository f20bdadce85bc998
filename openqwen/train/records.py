"""What a run writes while it trains, and TensorBoard beside it where that is installed.

Ours. metrics, incidents and samples repeat to the byte, also after a restart: what stands after the step it goes on
from is dropped and written again. throughput holds what differs from run to run.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, Literal

from openqwen.core.artifact import Run
from openqwen.train.distributed import World

Name = Literal["metrics", "throughput", "incidents", "samples"]
NAMES: tuple[Name, ...] = ("metrics", "throughput", "incidents", "samples")
DRAWN = ("metrics", "throughput")


class Records:
    """metrics.jsonl, throughput.jsonl, incidents.jsonl, samples.jsonl and tensorboard/, by the main process.

    resume_step: the step the run goes on from; None begins anew.
    """

    def __init__(self, stage: Run, world: World, resume_step: int | None) -> None:
        names = NAMES if world.main else ()
        self._files = {name: stage.open_metrics(resume_step, f"{name}.jsonl") for name in names}
        self._board = tensorboard(stage.path / "tensorboard", resume_step) if world.main else None

    def write(self, name: Name, step: int, **values: Any) -> None:
        """One record of a file."""
        if name in self._files:
            self._files[name].write(step, **values)
        if self._board is not None and name in DRAWN:
            for key, value in values.items():
                if value is not None and math.isfinite(value):
                    self._board.add_scalar(f"{name}/{key}", value, step)

    def sync(self) -> None:
        """Makes sure that all is on disk. A checkpoint is saved after that, never before."""
        for file in self._files.values():
            file.sync()
        if self._board is not None:
            self._board.flush()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:  # the stage closes the files
            self._board.close()


def tensorboard(folder: Path, resume_step: int | None) -> Any:
    """A writer that takes the place of what an earlier try wrote after `resume_step`; None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=0 if resume_step is None else resume_step + 1)
