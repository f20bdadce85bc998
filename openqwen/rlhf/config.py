"""Settings of PPO, of its simpler alternatives and of their comparison. No torch.

Report §3.2.2: 50 value-only steps first, two responses a query, KL coefficient 0.04, reward normalised by its
running mean, learning rates 1e-6 (policy) and 5e-6 (value), value clip 0.15, top-p 0.9, a pretrained gradient whose
coefficient is not given. Everything else is ours, because the report leaves it open. It names the alternatives
(RRHF, direct preference optimisation; rejection sampling is ours) without a number: theirs are of the papers that brought
them up, or ours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from openqwen.core.config import Config, Count, setting
from openqwen.sft.config import SFTConfig
from openqwen.train.config import LoraConfig, OptimConfig, Precision, ScheduleConfig, TrainingConfig


class PolicyOptim(OptimConfig):
    """AdamW of the policy."""

    lr: float = setting(1e-6, source="report §3.2.2", doc="constant", gt=0)
    weight_decay: float = setting(0.0, source="ours", doc="the KL penalty already pulls back", ge=0)


class ValueOptim(OptimConfig):
    """AdamW of the value model."""

    lr: float = setting(5e-6, source="report §3.2.2", doc="constant", gt=0)
    weight_decay: float = setting(0.0, source="ours", ge=0)


class WatchdogConfig(Config):
    """When a run counts as collapsing. Averages are over `window` steps, compared with the first `window`."""

    action: Literal["warn", "stop", "off"] = setting("warn", source="ours", doc="what a finding does")
    window: int = setting(5, source="ours", ge=1)
    kl: float = setting(30.0, source="ours", doc="nats a reply away from the reference", gt=0)
    length_ratio: float = setting(2.0, source="ours", doc="replies this much longer or shorter", gt=1)
    repetition: float = setting(
        0.3, source="ours", doc="rise of the share of repeated 4-grams within a reply", gt=0, le=1
    )
    true_drop: float = setting(
        0.1, source="ours", doc="fall of the true reward, while the modelled reward rises", gt=0
    )


class PPOConfig(Config):
    """Proximal policy optimisation with four models: policy, value, reference, reward."""

    steps: int = setting(
        500, source="ours", doc="steps after the warm-up; a step is one batch of replies", ge=0
    )
    value_warmup_steps: int = setting(
        50, source="report §3.2.2", doc="steps before these: value model only", ge=0
    )
    prompts_per_step: int = setting(64, source="ours", ge=1)
    responses: int = setting(2, source="report §3.2.2", doc="replies sampled for each query", ge=1)
    top_p: float = setting(0.9, source="report §3.2.2", doc="of the policy when sampling", gt=0, le=1)
    temperature: float = setting(1.0, source="ours", gt=0)
    max_new_tokens: int = setting(512, source="ours", doc="a longer reply is cut off", ge=1)
    max_prompt: Count = setting(1024, source="ours", doc="longer prompts are skipped and counted", ge=1)
    max_skipped: float = setting(
        0.05, source="ours", doc="share of unusable prompts above which the file is refused", ge=0, le=1
    )

    kl_coef: float = setting(
        0.04, source="report §3.2.2", doc="of each token's log-ratio to the reference", ge=0
    )
    reward_norm: Literal["mean", "mean-std", "none"] = setting(
        "mean",
        source="report §3.2.2",
        doc="subtract the running mean (mean-std: and divide by the running std)",
    )
    cutoff_reward: float = setting(
        -1.0,
        source="ours",
        doc="normalised reward of a cut-off reply, which has no end token to be scored at",
    )
    reward_limit: float = setting(10.0, source="ours", doc="normalised rewards are clipped to +- this", gt=0)
    gamma: float = setting(1.0, source="ours", doc="discount a token", gt=0, le=1)
    gae_lambda: float = setting(0.95, source="ours", ge=0, le=1)
    whiten: bool = setting(True, source="ours", doc="advantages to mean 0, variance 1 within a batch")
    policy_clip: float = setting(0.2, source="ours", doc="ratio stays within 1 +- this", gt=0)
    value_clip: float | None = setting(
        0.15, source="report §3.2.2", doc="value stays this near its old one", gt=0
    )
    epochs: int = setting(1, source="ours", doc="passes over each batch of replies", ge=1)
    minibatches: int = setting(4, source="ours", doc="optimizer steps a pass", ge=1)
    micro_rows: int = setting(16, source="ours", doc="replies a forward pass; gradients accumulate", ge=1)

    policy_optim: PolicyOptim = setting(PolicyOptim(), source="report §3.2.2")
    value_optim: ValueOptim = setting(ValueOptim(), source="report §3.2.2")
    pretrain_coef: float = setting(
        0.1,
        source="ours",
        doc="of the pretrained gradient; the report warns of too large and too small",
        ge=0,
    )
    pretrain_batch: int = setting(
        16,
        source="ours",
        doc="pretraining sequences for each policy update: many more tokens than PPO's",
        ge=1,
    )
    pretrain_context: Count = setting(2048, source="ours", doc="their length", ge=1)

    true_reward: Literal["primer"] | None = setting(
        None, source="ours", doc="known true preference, measured and never trained on"
    )
    heldout: int = setting(100, source="ours", doc="prompts kept away from training by their hash", ge=0)
    eval_temperature: float = setting(
        1.0, source="ours", doc="of the replies compared before and after", ge=0
    )
    eval_tokens: Count = setting(
        16384, source="ours", doc="held-out text for the alignment tax, before and after", ge=0
    )
    watchdog: WatchdogConfig = setting(WatchdogConfig(), source="ours")
    checkpoint_every: int = setting(10, source="ours", ge=1)
    num_samples: int = setting(6, source="ours", doc="held-out prompts shown before and after", ge=0)
    precision: Precision = setting("auto", source="ours", doc="report §2.4 trains in bf16")
    compile: bool = setting(
        False,
        source="ours",
        doc="generate code for scoring and updating (torch.compile): a quarter faster after 15 to 60 s; other roundings, "
        "which depend on the lengths seen first, so a resumed run is the same in its rounding only",
    )
    seed: int = setting(1234, source="ours", doc="order of prompts, sampling, pretraining sequences")

    @model_validator(mode="after")
    def _divides(self) -> PPOConfig:
        if self.rows % self.minibatches:
            raise ValueError(f"{self.rows} replies a step do not divide into {self.minibatches} minibatches")
        return self

    @property
    def rows(self) -> int:
        """Replies a step."""
        return self.prompts_per_step * self.responses

    @property
    def total_steps(self) -> int:
        """Warm-up included."""
        return self.value_warmup_steps + self.steps

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps of the policy in one step."""
        return self.epochs * self.minibatches


class ConstantSchedule(ScheduleConfig):
    """A constant learning rate after a short warm-up."""

    shape: Literal["cosine", "constant"] = setting("constant", source="ours", doc="after the warm-up")
    warmup_steps: Count = setting(0, source="ours", doc="linear rise from zero", ge=0)


class OfflineConfig(TrainingConfig):
    """What training the policy itself on preferences has, without sampling from it meanwhile."""

    max_length: Count = setting(
        2048, source="ours", doc="tokens of prompt and reply; longer ones are skipped", gt=1
    )
    lora: LoraConfig | None = setting(None, source="ours", doc="none: all weights are trained")
    checkpoint_interval: Count = setting(50, source="ours", doc="steps between checkpoints", gt=0)
    num_samples: int = setting(
        4, source="ours", doc="held-out prompts answered greedily before and after", ge=0
    )
    sample_tokens: int = setting(256, source="ours", doc="longest sampled reply", gt=0)
    precision: Precision = setting("auto", source="ours", doc="report §2.4 trains in bf16")


class DPOConfig(OfflineConfig):
    """Direct preference optimisation: comparison pairs train the policy itself, without reward model or sampling."""

    beta: float = setting(
        0.1, source="ours", doc="of the log-ratio to the reference, as in Rafailov et al. 2023", gt=0
    )
    label_smoothing: float = setting(
        0.0, source="ours", doc="share of the preferences that may be the wrong way round", ge=0, lt=0.5
    )
    epochs: int = setting(1, source="ours", ge=1)
    batch_size: int = setting(64, source="ours", doc="pairs a step, as in Rafailov et al. 2023", ge=1)
    micro_batch: int = setting(16, source="ours", doc="pairs a forward pass; gradients accumulate", ge=1)
    max_pairs: int | None = setting(None, source="ours", doc="train on this many pairs only", ge=1)
    max_skipped: float = setting(
        0.05, source="ours", doc="share of unusable pairs above which the file is refused", ge=0, le=1
    )
    optim: OptimConfig = setting(
        OptimConfig(lr=1e-6, weight_decay=0.0),
        source="ours",
        doc="Rafailov et al. 2023 use 1e-6 with RMSprop; the rest as in PPO",
    )
    schedule: ScheduleConfig = setting(ConstantSchedule(), source="ours")

    @model_validator(mode="after")
    def _consistent(self) -> DPOConfig:
        self.check_parts(self.batch_size, "pairs a step (batch_size)")
        self.check_adapters(self.lora)
        return self


class DrawingConfig(Config):
    """How replies are drawn and how many of a prompt, where a reward model chooses among them."""

    top_p: float = setting(0.9, source="report §3.2.2", doc="as PPO samples", gt=0, le=1)
    temperature: float = setting(1.0, source="ours", gt=0)
    max_new_tokens: int = setting(512, source="ours", doc="a longer reply is cut off and never chosen", ge=1)
    rows: int = setting(64, source="ours", doc="replies drawn at once", ge=1)


class DrawnConfig(TrainingConfig):
    """What training on the model's own replies has, drawn beforehand and scored by the reward model."""

    drawing: DrawingConfig = setting(DrawingConfig(), source="ours", doc="of the replies to choose from")
    responses: int = setting(8, source="ours", doc="replies drawn for each prompt", ge=1)
    max_prompt: Count = setting(1024, source="ours", doc="longer prompts are skipped and counted", ge=1)
    max_skipped: float = setting(
        0.05, source="ours", doc="share of unusable prompts above which the file is refused", ge=0, le=1
    )
    heldout: int = setting(100, source="ours", doc="prompts kept away by their hash, the same as PPO's", ge=0)

    @property
    def micro_rows(self) -> int:
        """Replies a forward pass when scoring."""
        return self.micro_batch


class RFTConfig(SFTConfig, DrawnConfig):
    """Rejection sampling: finetuning on those of the model's own replies that the reward model likes best."""

    keep: int = setting(1, source="ours", doc="of the replies trained on, the best first", ge=1)
    steps: Count = setting(500, source="ours", gt=0)
    schedule: ScheduleConfig = setting(ConstantSchedule(), source="ours")
    dropout: float = setting(0.0, source="ours", ge=0, lt=1)
    precision: Precision = setting("auto", source="ours", doc="report §2.4 trains in bf16")

    @model_validator(mode="after")
    def _one(self) -> RFTConfig:
        if self.stages:
            raise ValueError("stages belong to openqwen sft: rejection sampling is one finetuning")
        if self.keep > self.responses:
            raise ValueError(f"{self.keep} replies cannot be kept of {self.responses}")
        return self


class DecaySchedule(ScheduleConfig):
    """A learning rate that falls to nothing after a short warm-up."""

    shape: Literal["cosine", "constant"] = setting(
        "cosine", source="ours", doc="as in the script of Yuan et al. 2023"
    )
    warmup_share: float | None = setting(
        0.03, source="ours", doc="as in the script of Yuan et al. 2023; none: warmup_steps", ge=0, le=1
    )
    final_share: float = setting(0.0, source="ours", doc="cosine ends at this share of the peak", ge=0, le=1)


class RRHFConfig(OfflineConfig, DrawnConfig):
    """RRHF: the policy learns to find those of its replies more likely that the reward model likes better."""

    rank_weight: float = setting(
        1.0,
        source="ours",
        doc="of the ranking loss beside the cross-entropy, as in Yuan et al. 2023",
        ge=0,
    )
    epochs: int = setting(3, source="ours", doc="as in Yuan et al. 2023", ge=1)
    batch_size: int = setting(64, source="ours", doc="prompts a step, as in Yuan et al. 2023", ge=1)
    micro_batch: int = setting(
        2, source="ours", doc="prompts a forward pass, each with its replies; gradients accumulate", ge=1
    )
    optim: OptimConfig = setting(
        OptimConfig(lr=2e-5, weight_decay=0.0), source="ours", doc="rate and decay of Yuan et al. 2023"
    )
    schedule: ScheduleConfig = setting(DecaySchedule(), source="ours")
    heldout_prompts: int = setting(
        100,
        source="ours",
        doc="of those with replies kept from training to measure on, a tenth at most",
        ge=1,
    )

    @property
    def micro_rows(self) -> int:
        return self.micro_batch * self.responses

    @model_validator(mode="after")
    def _consistent(self) -> RRHFConfig:
        if self.responses < 2:
            raise ValueError(f"{self.responses} reply a prompt leaves nothing to rank: responses 2 or more")
        self.check_parts(self.batch_size, "prompts a step (batch_size)")
        self.check_adapters(self.lora)
        return self


class CompareConfig(Config):
    """Several models on the same prompts, with the same seeds, judges and texts: one table."""

    drawing: DrawingConfig = setting(DrawingConfig(), source="ours", doc="of the replies that are compared")
    responses: int = setting(2, source="ours", doc="replies of each model to each prompt", ge=1)
    best_of: tuple[int, ...] = setting(
        (4, 16), source="ours", doc="replies of the first model of which the reward model takes the best"
    )
    true_reward: Literal["primer"] | None = setting(
        None, source="ours", doc="known true preference, measured and never trained on"
    )
    max_prompts: Count | None = setting(None, source="ours", doc="the first ones only; none: all", ge=1)
    max_prompt: Count = setting(1024, source="ours", doc="longer prompts are skipped and counted", ge=1)
    max_skipped: float = setting(
        0.05, source="ours", doc="share of unusable prompts above which the file is refused", ge=0, le=1
    )
    text_tokens: Count = setting(16384, source="ours", doc="held-out text for the alignment tax", ge=1)
    text_context: Count = setting(2048, source="ours", doc="length of its sequences", ge=1)
    question_tokens: int = setting(96, source="ours", doc="longest greedy answer to a question", ge=1)
    micro_rows: int = setting(16, source="ours", doc="replies a forward pass when scoring", ge=1)
    precision: Precision = setting("auto", source="ours", doc="report §2.4 trains in bf16")
    seed: int = setting(1, source="ours", doc="of the replies and of the intervals", ge=0)

    @model_validator(mode="after")
    def _possible(self) -> CompareConfig:
        if any(count < 2 for count in self.best_of) or len(set(self.best_of)) < len(self.best_of):
            raise ValueError(f"best_of {self.best_of} needs different numbers from 2 on")
        return self
