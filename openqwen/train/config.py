"""Settings of the optimizer and of the learning-rate schedule. No torch.

Report §2.4: AdamW with beta1 0.9, beta2 0.95, eps 1e-8; cosine schedule that ends at 10 % of the peak; Table 1: peak
3e-4 at all sizes. The tech memo of August 2023 adds weight decay 0.1, clipping at 1.0 and 2,000 warm-up steps.
The number of bad steps tolerated is ours, as is what is written how often. LoRA is not in the report; its numbers are
those of the released finetuning scripts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from openqwen.core.config import Config, Count, setting
from openqwen.core.errors import did_you_mean

Precision = Literal["auto", "bf16", "fp32"]
# The matrices of a block, by their names in model/qwen.py.
MATRICES = ("qkv", "out", "gate", "up", "down")


class OptimConfig(Config):
    """AdamW as the report sets it."""

    lr: float = setting(3e-4, source="report Table 1", doc="peak learning rate", gt=0)
    beta1: float = setting(0.9, source="report §2.4", doc="decay of the mean of gradients", ge=0, lt=1)
    beta2: float = setting(0.95, source="report §2.4", doc="decay of the mean of their squares", ge=0, lt=1)
    eps: float = setting(1e-8, source="report §2.4", doc="added to the denominator (tech memo: 1e-6)", gt=0)
    weight_decay: float = setting(0.1, source="tech memo", doc="on matrices only", ge=0)
    clip: float = setting(1.0, source="tech memo", doc="largest gradient norm", gt=0)
    max_bad_steps: int = setting(
        20,
        source="ours",
        doc="skipped steps in a row (loss or gradient not finite) before the run stops",
        ge=1,
    )


class ParallelConfig(Config):
    """How the work of a step is divided among processes (see distributed.py)."""

    strategy: Literal["replicate", "shard", "hybrid"] = setting(
        "replicate", source="ours", doc="where weights and optimizer state lie: everywhere, divided, or both"
    )
    shards: int = setting(
        1,
        source="ours",
        doc="replicate: parts of a batch whose gradients are added in one order; up to as many processes (1, 2, 4, "
        "...) give the same bits",
        gt=0,
    )
    group_size: int | None = setting(
        None, source="ours", doc="hybrid: processes that share one copy of the weights; none: all", gt=0
    )
    checkpoint_activations: bool = setting(
        False,
        source="ours",
        doc="keep each block's input only and compute the rest again: less memory, a third more work",
    )
    timeout: float = setting(
        600.0, source="ours", doc="seconds a process may keep the others waiting before the run ends", gt=0
    )

    def sharing(self, processes: int) -> int:
        """How many of so many processes share one copy of the weights."""
        if self.strategy == "replicate":
            return 1
        return (self.group_size or processes) if self.strategy == "hybrid" else processes

    @field_validator("shards")
    @classmethod
    def _power_of_two(cls, shards: int) -> int:
        if shards & (shards - 1):
            raise ValueError(f"{shards} is not a power of two: its halves could not be added in one order")
        return shards


class ScheduleConfig(Config):
    """Learning rate over the steps of a run."""

    shape: Literal["cosine", "constant"] = setting("cosine", source="report §2.4", doc="after the warm-up")
    warmup_steps: Count = setting(2000, source="tech memo", doc="linear rise from zero", ge=0)
    warmup_share: float | None = setting(
        None, source="ours", doc="warm-up as a share of all steps, instead of warmup_steps", ge=0, le=1
    )
    final_share: float = setting(
        0.1, source="report §2.4", doc="cosine ends at this share of the peak", ge=0, le=1
    )

    def warmup(self, total_steps: int) -> int:
        """Warm-up steps of a run of `total_steps`."""
        return self.warmup_steps if self.warmup_share is None else round(self.warmup_share * total_steps)


class LoraConfig(Config):
    """Adapters of low rank beside the matrices of a frozen model (see lora.py)."""

    rank: int = setting(64, source="released script", doc="of each adapter", gt=0)
    alpha: float = setting(16.0, source="released script", doc="adapters count alpha / rank times", gt=0)
    dropout: float = setting(0.05, source="released script", doc="on what an adapter reads", ge=0, lt=1)
    targets: tuple[str, ...] = setting(
        MATRICES, source="released script", doc=f"matrices with an adapter, of {', '.join(MATRICES)}"
    )
    train_embeddings: bool | None = setting(
        None,
        source="released script",
        doc="embedding and head as well, whole; none: yes (as for base models there; false for a chat model), "
        "but not beside a quantised base",
    )
    quantize: Literal["nf4"] | None = setting(
        None, source="ours", doc="frozen matrices in 4 bits: QLoRA (released script: GPTQ Int4)"
    )

    @field_validator("targets")
    @classmethod
    def _known(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for name in targets:
            if name not in MATRICES:
                raise ValueError(
                    f"no matrix of a block is called {name!r}.{did_you_mean(name, MATRICES)} "
                    f"There are {', '.join(MATRICES)}"
                )
        if not targets:
            raise ValueError(f"no matrix is named; there are {', '.join(MATRICES)}")
        return targets

    @property
    def trains_embeddings(self) -> bool:
        """Whether embedding and head are trained."""
        return self.quantize is None if self.train_embeddings is None else self.train_embeddings


class SpikeConfig(Config):
    """When a loss is reported as a spike. It is trained on all the same."""

    window: int = setting(64, source="ours", doc="losses before it that it is compared with", ge=2)
    deviations: float = setting(
        6.0, source="ours", doc="standard deviations above their mean from which it is reported", gt=0
    )


class TrainingConfig(Config):
    """What every stage that trains has (see trainer.py); a stage sets its own defaults."""

    optim: OptimConfig = setting(OptimConfig(), source="report §2.4")
    schedule: ScheduleConfig = setting(ScheduleConfig(), source="report §2.4")
    parallel: ParallelConfig = setting(ParallelConfig(), source="ours", doc="how processes share the work")
    precision: Precision = setting("bf16", source="report §2.4", doc="auto: fp32 where bf16 is emulated")
    micro_batch: int = setting(
        8, source="ours", doc="rows at a time, for memory; no influence on the result", gt=0
    )
    compile: bool = setting(
        False,
        source="ours",
        doc="generate code for the blocks (torch.compile): a fifth faster after 10 to 60 s, more where rows differ in "
        "length; other roundings",
    )
    seed: int = setting(1234, source="ours", doc="order of what is read, dropout", ge=0)
    spikes: SpikeConfig = setting(
        SpikeConfig(), source="ours", doc="which losses are reported with their documents"
    )
    log_interval: Count = setting(1, source="ours", doc="steps between records of metrics.jsonl", gt=0)
    eval_interval: Count = setting(500, source="ours", doc="steps between evaluations", gt=0)
    checkpoint_interval: Count = setting(500, source="ours", doc="steps between checkpoints", gt=0)

    def check_steps(self, steps: int) -> None:
        """ValueError for a warm-up that is longer than the run."""
        if self.schedule.warmup(steps) >= steps:
            raise ValueError(
                f"a warm-up of {self.schedule.warmup(steps)} steps leaves none of {steps}: lower "
                "schedule.warmup_steps, or raise steps"
            )

    def check_parts(self, batch_size: int, name: str) -> None:
        """ValueError for a batch that its shards do not divide. name: of what the batch counts."""
        if self.parallel.strategy == "replicate" and batch_size % self.parallel.shards:
            raise ValueError(f"{batch_size} {name} do not divide into parallel.shards {self.parallel.shards}")

    def check_adapters(self, lora: LoraConfig | None) -> None:
        """ValueError for adapters with a strategy that divides weights."""
        if lora is not None and self.parallel.strategy != "replicate":
            raise ValueError(
                f"adapters cannot be divided among processes: parallel.strategy {self.parallel.strategy}"
            )
