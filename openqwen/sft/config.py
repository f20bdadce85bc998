"""Settings of supervised finetuning. No torch.

Report §3.1.2: sequences of 2048, batches of 128, 4,000 steps, peak rate 2e-6 reached after 1,430 steps, weight decay 0.1,
dropout 0.1, clipping at 1.0, system and user turns masked, optimizer as in pretraining. What follows the warm-up is
not stated: we take the cosine of pretraining. Packing and intervals are ours. Report §4.2: several finetunings one
after another for Code-Qwen-Chat; that a recipe lists them is ours.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import model_validator

from openqwen.core.config import NONE, Count, Resolved, resolve, setting
from openqwen.core.errors import UsageError
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
    mask: Literal["report", "released-script", "everything"] = setting(
        "report",
        source="report §3.1.2",
        doc="which tokens are trained; held-out loss is of replies with each",
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
    sample_tokens: int = setting(256, source="ours", doc="longest sampled reply", gt=0)
    stop_prompts: int = setting(
        100, source="ours", doc="held-out prompts answered after training, to see which replies end", ge=1
    )
    stages: tuple[dict[str, Any], ...] = setting(
        (),
        source="ours",
        doc='finetunings one after another, each {"name", and settings of its own}; their data: --data NAME=FILE',
    )

    @model_validator(mode="after")
    def _consistent(self) -> SFTConfig:
        names = [stage.get("name") for stage in self.stages]
        if not all(isinstance(name, str) and re.fullmatch(r"[a-z0-9-]+", name) for name in names):
            raise ValueError(f"each of stages needs a name of small letters, digits and -, not {names}")
        if len(set(names)) < len(names):
            raise ValueError(f"two of stages have one name: {names}")
        self.check_parts(self.batch_size, "rows a step (batch_size)")
        self.check_adapters(self.lora)
        self.check_steps(self.steps)
        return self


def stages_of(resolved: Resolved[SFTConfig]) -> list[tuple[str, Resolved[SFTConfig]]]:
    """(name, settings) of each finetuning of a recipe with several: what they share, and over it what each has of its own.

    UsageError for a setting that finetuning does not have.
    """
    shared = {key: _value(resolved.config, key) for key in resolved.origin if key != "stages"}
    found = []
    for stage in resolved.config.stages:
        name, own = stage["name"], {key: value for key, value in stage.items() if key != "name"}
        if "stages" in own:
            raise UsageError("a stage has no stages of its own", where=resolved.place["stages"])
        settled = resolve(SFTConfig, "sft", flags={**shared, **own}, environ={})
        said = dict.fromkeys(own, "stages")
        origin, place = (
            {key: table[said.get(key, key)] for key in settled.origin}
            for table in (resolved.origin, resolved.place)
        )
        source = {key: text for key in settled.origin if (text := resolved.source.get(said.get(key, key)))}
        found.append((name, Resolved(settled.config, origin, place, source)))
    return found


def _value(config: Any, key: str) -> Any:
    """What a dotted key has, as one would set it."""
    for name in key.split("."):
        config = getattr(config, name)
    return NONE if config is None else config
