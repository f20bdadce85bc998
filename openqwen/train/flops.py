"""Floating-point operations and the share of the machine's matrix rate that training reaches.

Ours. A multiplication and an addition count as two; matrix products only, recomputation never counted. Backward costs
twice the forward pass."""

from __future__ import annotations

import time

import torch

from openqwen.model.config import ModelConfig


def flops_per_token(
    config: ModelConfig, context: int, *, causal: bool = True, backward: bool = True
) -> float:
    """Of one token in a sequence of `context` tokens. causal: count only the half of the scores that is used."""
    hidden, heads, kv_heads = config.hidden_size, config.num_heads, config.kv_heads
    attention = hidden * config.head_dim * (heads + 2 * kv_heads) + hidden * hidden  # qkv and out
    matrices = config.num_layers * (attention + 3 * hidden * config.ffn) + config.vocab_size * hidden
    scores = config.num_layers * 2 * hidden * context * (0.5 if causal else 1.0)  # q k and weights v
    return (6 if backward else 2) * (matrices + scores)


def mfu(tokens_per_second: float, flops_of_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation: the share of `peak_flops` (per second) spent on the model's own products."""
    return tokens_per_second * flops_of_token / peak_flops


def measured_peak(
    dtype: torch.dtype, device: torch.device | str = "cpu", size: int = 1024, seconds: float = 0.5
) -> float:
    """This machine's rate for square matrix products, FLOP per second: the yardstick where no data sheet is at hand."""
    a = torch.randn(size, size, device=device).to(dtype)
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(4):
            a @ a
        synchronize()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
    return best
