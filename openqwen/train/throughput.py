"""How fast a run goes and what it takes: tokens a second, MFU, memory.

Ours. These numbers differ from run to run, so they stand in throughput.jsonl and not in metrics.jsonl, which repeats
to the byte.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from openqwen.train.flops import measured_peak, mfu

PEAK_SECONDS = 0.2  # long enough to reach the rate, short beside the start of a run


class Throughput:
    """Means over the steps since the last reading."""

    def __init__(
        self, flops_per_token: float | None, dtype: torch.dtype, device: torch.device, processes: int = 1
    ):
        """flops_per_token: None where it is not known, which leaves MFU out; processes: that share the work."""
        self.flops_per_token, self.device = flops_per_token, device
        self.peak = 0.0
        if flops_per_token is not None:
            self.peak = processes * measured_peak(dtype, device, seconds=PEAK_SECONDS)
        self.tokens, self.seconds = 0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """One step of `tokens` tokens in all processes took `seconds`."""
        self.tokens += tokens
        self.seconds += seconds

    def shown(self) -> dict[str, str]:
        """What belongs into the progress line beside tokens a second."""
        found = self._now()
        line = {"mem": f"{found['memory'] / 2**30:.1f} GiB"}
        return line if found["mfu"] is None else {"mfu": f"{found['mfu']:.0%}", **line}

    def reading(self) -> dict[str, Any]:
        """tokens_per_second; mfu, the share of the measured matrix rate, or None; memory, peak bytes. Begins anew."""
        found = self._now()
        self.tokens, self.seconds = 0, 0.0
        return found

    def _now(self) -> dict[str, Any]:
        rate = self.tokens / self.seconds
        share = None if self.flops_per_token is None else mfu(rate, self.flops_per_token, self.peak)
        return {"tokens_per_second": rate, "mfu": share, "memory": peak_memory(self.device)}


def peak_memory(device: torch.device) -> int:
    """Bytes this process has held at most: allocated on its GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
