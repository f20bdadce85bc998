"""The learning rate of a step.

Report §2.4: cosine down to 10 % of the peak; §3.2.1: constant for reward models; §4: warm-up, then constant.
Linear warm-up is the tech memo's; which step gets which end of the ramp is ours.
"""

from __future__ import annotations

import math

import torch

from openqwen.train.config import ScheduleConfig


def lr_at(step: int, total_steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """Learning rate of step `step`, counted from 0. The last warm-up step has the peak, the last step the end value.

    >>> lr_at(99, 100, 1.0, ScheduleConfig(warmup_steps=10))
    0.1
    """
    warmup = schedule.warmup(total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.shape == "constant":
        return peak
    progress = min(1.0, (step - warmup + 1) / max(1, total_steps - warmup))
    low = schedule.final_share
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every group of an optimizer this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
