"""A backbone with one number per token: the reward model's and the value model's head.

Report §3.2.1 ("initialised from the same size of pre-trained model", reward from the end-of-sentence position) and
§3.2.2 (value model). Ours: the head is a linear layer without bias, drawn from N(0, 1/(C+1)); saved
as Qwen2ForSequenceClassification (`weights.save_scalar`).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from openqwen.model.cache import CacheRows, KVCache
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Linear, Qwen


class ScalarModel(nn.Module):
    """Qwen without its vocabulary head, with a scalar head instead."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Qwen(config)
        self.backbone.head = nn.Identity()  # type: ignore[assignment]
        self.scalar = Linear(config.hidden_size, 1, bias=False)
        if self.scalar.weight.device.type != "meta":
            self.init_head(0)

    @torch.no_grad()
    def init_head(self, seed: int) -> None:
        """Draws the scalar head anew."""
        drawn = torch.empty(self.scalar.weight.shape, dtype=torch.float32)
        drawn.normal_(
            0.0, (self.config.hidden_size + 1) ** -0.5, generator=torch.Generator().manual_seed(seed)
        )
        self.scalar.weight.copy_(drawn)

    @classmethod
    def from_qwen(cls, model: Qwen, seed: int) -> ScalarModel:
        """A scalar model that begins with (a copy of) a language model's weights; only the head is new."""
        new = cls(model.config)
        state = {k: v for k, v in copy.deepcopy(model.state_dict()).items() if not k.startswith("head.")}
        new.backbone.load_state_dict(state)
        weight = model.embed.weight
        new.to(device=weight.device, dtype=weight.dtype)
        new.init_head(seed)
        return new

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, cache: KVCache | CacheRows | None = None
    ) -> Tensor:
        """ids (B, T), mask (B, T) bool -> (B, T): one number at each token, computed in fp32."""
        h = self.backbone.hidden(ids, mask, cache=cache)  # (B, T, C)
        with torch.autocast(h.device.type, enabled=False):
            return nn.functional.linear(h.float(), self.scalar.weight.float()).squeeze(-1)
