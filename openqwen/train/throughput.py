"""How fast a run goes and what it takes: tokens a second, MFU, memory.

Ours. These numbers differ from run to run, so they stand in throughput.jsonl and not in metrics.jsonl, which repeats
to the byte.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Pace:
    """Work done and the seconds it took."""

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: int, flops: float, seconds: float) -> None:
        self.tokens += tokens
        self.flops += flops
        self.seconds += seconds

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds else None

    @property
    def flops_per_second(self) -> float | None:
        return self.flops / self.seconds if self.seconds else None


class Throughput:
    """The steps since the last reading, and the whole time in `total`; what is not training is not in it.

    peak: FLOP a second of all processes together, or None where the operations of a step are not known (or 0
    where a clock that jumped measured none).
    """

    def __init__(self, device: torch.device, peak: float | None) -> None:
        self.device, self.peak = device, peak
        self.total, self._last = Pace(), Pace()

    def add(self, tokens: int, flops: float, seconds: float) -> None:
        """One step of all processes."""
        self.total.add(tokens, flops, seconds)
        self._last.add(tokens, flops, seconds)

    def shown(self) -> dict[str, str]:
        """What belongs into the progress line beside tokens a second."""
        found = self._now()
        line = {"mem": f"{found['memory'] / 2**30:.1f} GiB"}
        return line if found["mfu"] is None else {"mfu": f"{found['mfu']:.0%}", **line}

    def reading(self) -> dict[str, Any]:
        """tokens_per_second; mfu, the share of the measured matrix rate, or None; memory, peak bytes. Begins anew."""
        found = self._now()
        self._last = Pace()
        return found

    def _now(self) -> dict[str, Any]:
        flops = self._last.flops_per_second
        return {
            "tokens_per_second": self._last.tokens_per_second,
            "mfu": None if not self.peak or flops is None else flops / self.peak,
            "memory": peak_memory(self.device),
        }


def peak_memory(device: torch.device) -> int:
    """Bytes this process has held at most: allocated on its GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
