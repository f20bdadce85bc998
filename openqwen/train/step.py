"""The end of a training step: clip, check, step. A step that is not finite is skipped and counted.

Clipping at 1.0 is the tech memo's and the report's (§3.1.2); the guard is ours: one NaN let through AdamW makes every
parameter NaN, so the check comes before the step, and keeps no history that a NaN could poison. So are spikes: losses
far above those before them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from openqwen.core.errors import OpenQwenError
from openqwen.train.config import OptimConfig, SpikeConfig

ROUNDING = 1e-6  # of equal losses: no spike is as low


@dataclass
class Guard:
    """Counts skipped steps. `state` and `restore` carry it through a checkpoint."""

    limit: int
    skipped: int = 0
    in_a_row: int = 0

    def state(self) -> dict[str, int]:
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])

    def check(self, step: int, loss: float, norm: float) -> None:
        """Raises OpenQwenError after `limit` skips in a row. step: counted from 1, as in all records."""
        if self.in_a_row >= self.limit:
            raise OpenQwenError(
                f"loss or gradient was not finite in {self.in_a_row} steps in a row (loss {loss}, norm {norm})",
                where=f"step {step}",
                fix="look at these steps' documents, or begin in another --out with a lower optim.lr or a longer "
                "warm-up; what is saved here goes on with the settings it has",
            )


@dataclass
class Spikes:
    """The last finite losses, and whether a new one stands out. `losses` goes through a checkpoint as it is."""

    config: SpikeConfig
    losses: list[float] = field(default_factory=list)

    def height(self, loss: float) -> float | None:
        """How many standard deviations a spike lies above the mean of the window before it; None if it is none.

        Every finite loss enters the window, a spike too: what stays high is soon usual. Another never does.
        """
        if not math.isfinite(loss):
            return None
        before = self.losses
        self.losses = [*before, loss][-self.config.window :]
        mean = fmean(before) if before else loss
        if len(before) < self.config.window or loss <= mean:
            return None
        spread = max(pstdev(before, mean), ROUNDING * abs(mean))
        height = (loss - mean) / spread if spread else math.inf
        return height if height >= self.config.deviations else None


def try_step(optimizer: torch.optim.Optimizer, loss: float, config: OptimConfig, guard: Guard) -> float:
    """Clips, steps and clears the gradients; returns the gradient norm before clipping.

    Skips the update when loss or norm is not finite, and counts that in the guard.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    total = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None], foreach=True)
    norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total)  # of all processes' parts
    if norm + 1e-6 > config.clip:  # torch's own factor is 1 up to there; a pass over all gradients is saved
        torch.nn.utils.clip_grads_with_norm_(params, config.clip, total, foreach=True)
    if math.isfinite(norm) and math.isfinite(loss):
        optimizer.step()
        guard.in_a_row = 0
    else:
        guard.skipped += 1
        guard.in_a_row += 1
    optimizer.zero_grad(set_to_none=True)
    return norm


def clip_and_step(
    optimizer: torch.optim.Optimizer,
    loss: float | Tensor,
    config: OptimConfig,
    guard: Guard,
    *,
    step: int,
) -> float:
    """`try_step`, and OpenQwenError after `guard.limit` skips in a row. step: counted from 1."""
    value = float(loss.detach()) if isinstance(loss, Tensor) else loss
    norm = try_step(optimizer, value, config, guard)
    guard.check(step, value, norm)
    return norm
