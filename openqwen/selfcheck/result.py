"""What a check finds: comparisons with their bounds, or why it could not be made.

Ours. No torch.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

B = TypeVar("B")
COMPILER_SECONDS = 30.0  # torch's code generator works 33 s without a cache of its own, 10 with it


class Skip(Exception):
    """The check needs something this machine lacks; the message says what."""


@dataclass(frozen=True)
class Comparison:
    """Two computations of the same. difference: the greatest, as a share of the greatest true value of its tensor."""

    what: str
    difference: float
    bound: float  # 0: the same bits
    place: str = ""  # the tensor with the greatest difference

    @property
    def ok(self) -> bool:
        return self.difference <= self.bound  # a NaN is not


class Check(NamedTuple, Generic[B]):
    """One claim. look: where to look first when it does not hold."""

    name: str
    run: Callable[[B], Iterator[Comparison]]
    look: str


@dataclass(frozen=True)
class Result:
    """A check that was made, or the reason why not."""

    name: str
    look: str
    seconds: float
    comparisons: tuple[Comparison, ...] = ()
    skipped: str | None = None
    error: str | None = None  # what the shipped code raised

    @property
    def status(self) -> str:
        """ok, FAILED or skipped. A check that compared nothing is not ok."""
        if self.skipped is not None:
            return "skipped"
        held = self.comparisons and not self.error and all(c.ok for c in self.comparisons)
        return "ok" if held else "FAILED"

    def record(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        found = [{**asdict(c), "ok": c.ok} for c in self.comparisons]
        return {**asdict(self), "comparisons": found, "status": self.status}


def make(check: Check[B], bed: B) -> Result:
    """Runs one check. An exception of the code under test is a failure of this check, not the end of the others."""
    begun = time.monotonic()
    comparisons: list[Comparison] = []
    skipped = error = None
    try:
        comparisons.extend(check.run(bed))
    except Skip as reason:
        skipped = str(reason)
    except Exception as raised:
        frame = traceback.extract_tb(raised.__traceback__)[-1]
        said = (str(raised).splitlines() or [""])[0]
        error = f"{type(raised).__name__}: {said} ({Path(frame.filename).name}:{frame.lineno})"
    seconds = round(time.monotonic() - begun, 2)
    return Result(check.name, check.look, seconds, tuple(comparisons), skipped, error)
