"""The end of a training step: clip, check, step. A step that is not finite is skipped and counted.

Clipping at 1.0 is the tech memo's and the report's (§3.1.2); the guard is ours: one NaN let through AdamW makes every
parameter NaN, so the check comes before the step, and keeps no history that a NaN could poison.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from openqwen.core.errors import OpenQwenError
from openqwen.train.config import OptimConfig


@dataclass
class Guard:
    """Counts skipped steps. `asdict`/`from_state` carry it through a checkpoint."""

    limit: int
    skipped: int = 0
    in_a_row: int = 0

    def state(self) -> dict[str, int]:
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])


def clip_and_step(
    optimizer: torch.optim.Optimizer,
    loss: float | Tensor,
    config: OptimConfig,
    guard: Guard,
    *,
    step: int,
    parameters: Iterable[Tensor] | None = None,
) -> float:
    """Clips, steps and clears the gradients; returns the gradient norm before clipping.

    Skips the update when loss or norm is not finite. Raises OpenQwenError after `guard.limit` skips in a row.
    """
    params = (
        list(parameters)
        if parameters is not None
        else [p for g in optimizer.param_groups for p in g["params"]]
    )
    total = torch.nn.utils.clip_grad_norm_(params, config.clip, foreach=True)
    norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total)  # of all processes' parts
    loss = float(loss.detach()) if isinstance(loss, Tensor) else loss
    if math.isfinite(norm) and math.isfinite(loss):
        optimizer.step()
        guard.in_a_row = 0
    else:
        guard.skipped += 1
        guard.in_a_row += 1
    optimizer.zero_grad(set_to_none=True)
    if guard.in_a_row >= guard.limit:
        raise OpenQwenError(
            f"loss or gradient was not finite in {guard.in_a_row} steps in a row (loss {loss}, norm {norm})",
            where=f"step {step}",
            fix="lower optim.lr, lengthen the warm-up, or look at these steps' documents; "
            "the checkpoints before them are kept",
        )
    return norm
