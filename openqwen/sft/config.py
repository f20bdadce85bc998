"""Settings of supervised finetuning. No torch.

Report §3.1.2: sequences of 2048, batches of 128, 4,000 steps, peak rate 2e-6 reached after 1,430 steps, weight decay 0.1,
dropout 0.1, clipping at 1.0, system and user turns masked, optimizer as in pretraining. What follows the warm-up is
not stated: we take the cosine of pretraining. Packing and intervals are ours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from openqwen.core.config import Count, setting
from openqwen.train.config import LoraConfig, OptimConfig, ScheduleConfig, TrainingConfig


class SFTConfig(TrainingConfig):
    """One finetuning run."""

    optim: OptimConfig = setting(
        OptimConfig(lr=2e-6, weight_decay=0.1, clip=1.0), source="report §3.1.2", doc="tech memo: peak 1e-5"
    )
    schedule: ScheduleConfig = setting(
        ScheduleConfig(warmup_steps=1430), source="report §3.1.2", doc="the decay after the warm-up is ours"
    )
    max_length: Count = setting(
        2048, source="report §3.1.2", doc="tokens a row; longer samples are skipped", gt=1
    )
    batch_size: int = setting(128, source="report §3.1.2", doc="rows a step", gt=0)
    steps: Count = setting(4000, source="report §3.1.2", gt=0)
    dropout: float = setting(0.1, source="report §3.1.2", ge=0, lt=1)
    mask: Literal["report", "released-script"] = setting(
        "report", source="report §3.1.2", doc="which tokens are trained; see openqwen.chat.chatml"
    )
    lora: LoraConfig | None = setting(
        None, source="report §3.1.2", doc="none: all weights are trained; any lora.* setting trains adapters"
    )
    packing: bool = setting(
        True,
        source="ours",
        doc="several samples a row, each attending to itself only; false: one sample a row",
    )
    heldout_samples: int = setting(256, source="ours", doc="kept from training for the held-out loss", ge=1)
    max_bad_share: float = setting(
        0.05, source="ours", doc="share of records that may be unusable before the run is refused", ge=0, le=1
    )
    num_samples: int = setting(
        4, source="ours", doc="held-out prompts answered before, after and in between", ge=1
    )
    sample_interval: Count | None = setting(
        None, source="ours", doc="steps between samples; none: before and after only", gt=0
    )
    sample_tokens: int = setting(64, source="ours", doc="longest sampled reply", gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> SFTConfig:
        self.check_parts(self.batch_size, "rows a step (batch_size)")
        self.check_adapters(self.lora)
        self.check_steps(self.steps)
        return self
