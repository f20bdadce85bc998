"""AdamW with weight decay on matrices only.

Report §2.4 (AdamW and its numbers). That biases and norm weights do not decay is ours, as everywhere.
"""

from __future__ import annotations

import torch
from torch import nn

from openqwen.train.config import OptimConfig


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups: matrices (embeddings too) with decay; norms and biases without."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """One fused AdamW over a model's trained parameters."""
    groups = [group for group in decay_groups(model, config.weight_decay) if group["params"]]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )
