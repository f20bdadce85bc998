"""Settings of preference-model pretraining (PMP) and of the reward model. No torch.

Report §3.2.1: learning rate constant at 3e-6, batch 64, sequence length 2048, one epoch; the same for both stages
as far as the report says. AdamW's numbers are §2.4's. Ours: the rest.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from openqwen.core.config import Count, setting
from openqwen.train.config import OptimConfig, Precision, ScheduleConfig, TrainingConfig


class RewardOptim(OptimConfig):
    """AdamW of the preference model."""

    lr: float = setting(3e-6, source="report §3.2.1", doc="learning rate", gt=0)


class RewardSchedule(ScheduleConfig):
    """A constant learning rate."""

    shape: Literal["cosine", "constant"] = setting(
        "constant", source="report §3.2.1", doc="after the warm-up"
    )
    warmup_steps: Count = setting(0, source="ours", doc="linear rise from zero", ge=0)


class RewardConfig(TrainingConfig):
    """One pass over comparison pairs with the pairwise logistic loss."""

    label: Literal["PMP", "RM"] = setting(
        "RM", source="report Table 4", doc="which row of Table 4 the model stands for"
    )
    epochs: int = setting(1, source="report §3.2.1", ge=1)
    batch_size: int = setting(64, source="report §3.2.1", doc="pairs a step", ge=1)
    micro_batch: int = setting(16, source="ours", doc="pairs a forward pass; gradients accumulate", ge=1)
    max_length: Count = setting(
        2048,
        source="report §3.2.1",
        doc="tokens of prompt and reply; pairs beyond it, or beyond the context of the model, are skipped",
        gt=1,
    )
    max_pairs: int | None = setting(None, source="ours", doc="train on this many pairs only", ge=1)
    optim: RewardOptim = setting(RewardOptim(), source="report §3.2.1")
    schedule: RewardSchedule = setting(RewardSchedule(), source="report §3.2.1")
    max_skipped: float = setting(
        0.05, source="ours", doc="share of unusable pairs above which the file is refused", ge=0, le=1
    )
    eval_batch: int = setting(64, source="ours", doc="replies a forward pass when measuring", ge=1)
    checkpoint_interval: Count = setting(50, source="ours", doc="steps between checkpoints", gt=0)
    num_samples: int = setting(6, source="ours", doc="held-out pairs shown with their scores", ge=0)
    precision: Precision = setting("auto", source="ours", doc="report §2.4 trains in bf16")
    seed: int = setting(1234, source="ours", doc="order of the pairs, initial scalar head")

    @model_validator(mode="after")
    def _consistent(self) -> RewardConfig:
        self.check_parts(self.batch_size, "pairs a step (batch_size)")
        return self
