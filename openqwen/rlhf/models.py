"""The four models of PPO and what they share.

Report §3.2.2: policy, value, reference and reward model. The reference is the policy as it was at the start; the
value model begins as the reward model (ours; the report leaves open what it begins with).
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from openqwen.core.errors import DataError
from openqwen.model.heads import ScalarModel
from openqwen.model.qwen import Linear, Qwen
from openqwen.model.weights import load_model, load_scalar
from openqwen.rlhf import shared
from openqwen.rlhf.rollout import Rows, states
from openqwen.tokenizer import Tokenizer, load_tokenizer
from openqwen.train.config import Precision
from openqwen.train.precision import autocast, pick_device, pick_dtype

Frozen = TypeVar("Frozen", Qwen, ScalarModel)


@dataclass(frozen=True)
class Models:
    """All in evaluation mode: rollout and update must compute the same function, so nothing drops out."""

    policy: Qwen
    value: ScalarModel
    reference: Qwen
    reward: ScalarModel
    tokenizer: Tokenizer
    dtype: torch.dtype

    @property
    def blocks(self) -> list[torch.nn.Module]:
        """Of all four."""
        backbones = (self.policy, self.value.backbone, self.reference, self.reward.backbone)
        return [block for model in backbones for block in model.blocks]

    @property
    def device(self) -> torch.device:
        return self.policy.embed.weight.device

    def autocast(self) -> AbstractContextManager[object]:
        """The number format of matrix products, the same in scoring and updating."""
        return autocast(self.dtype, self.device)

    def scores(self, rows: Rows) -> Tensor:
        """The reward model's (B,) scores, read at each reply's last token."""
        with self.autocast():
            return shared.scalars(self.reward, states(self.reward.backbone, rows, rows.last_R))


def load_models(policy: Path, reward: Path, precision: Precision) -> Models:
    """Refuses a reward model that reads other token ids than the policy writes."""
    tokenizer = load_tokenizer(policy)
    theirs = load_tokenizer(reward)
    if theirs.content != tokenizer.content:
        raise DataError(
            "the reward model has another tokenizer than the policy",
            where=f"{reward} and {policy}",
            fix="train the reward model from a model with the policy's tokenizer",
        )
    device = pick_device()
    chat = load_model(policy).to(device).eval()
    scorer = load_scalar(reward).to(device).eval()
    value, dtype = copy.deepcopy(scorer), pick_dtype(precision, device)
    return Models(
        policy=chat,
        value=value,
        reference=freeze(copy.deepcopy(chat), dtype),
        reward=freeze(scorer, dtype),
        tokenizer=tokenizer,
        dtype=dtype,
    )


def freeze(model: Frozen, dtype: torch.dtype) -> Frozen:
    """A model that is never trained, its matrices in the format they are multiplied in: the numbers of autocast, which
    would round them in each pass, and half the memory."""
    for part in model.modules():
        if isinstance(part, Linear) and not (isinstance(model, ScalarModel) and part is model.scalar):
            part.to(dtype)  # the scalar head computes in fp32
    return model.requires_grad_(False)
