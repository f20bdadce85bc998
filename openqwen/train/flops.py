"""Parameters, floating-point operations and the share of the machine's matrix rate that training reaches.

Ours. A multiplication and an addition count as two; matrix products only, recomputation never counted. Backward costs
twice the forward pass. Shapes: C hidden, F ffn, L layers, T context, V vocabulary.
"""

from __future__ import annotations

import time

import torch


def num_parameters(hidden: int, layers: int, ffn: int, vocab: int) -> int:
    """Of the Qwen architecture: untied embeddings, biases on query, key and value only.

    >>> num_parameters(4096, 32, 11008, 151936)
    7721324544
    """
    layer = 4 * hidden * hidden + 3 * hidden + 3 * hidden * ffn + 2 * hidden
    return layers * layer + 2 * vocab * hidden + hidden


def flops_per_token(
    hidden: int,
    layers: int,
    ffn: int,
    vocab: int,
    context: int,
    *,
    causal: bool = True,
    backward: bool = True,
) -> float:
    """Of one token in a sequence of `context`. causal: count only the half of the scores that is used."""
    matrices = layers * (4 * hidden * hidden + 3 * hidden * ffn) + vocab * hidden
    attention = layers * 2 * hidden * context * (0.5 if causal else 1.0)
    return (6 if backward else 2) * (matrices + attention)


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
