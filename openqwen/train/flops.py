"""Floating-point operations and the share of the machine's matrix rate that training reaches.

Ours. A multiplication and an addition count as two; matrix products only, recomputation never counted. Backward costs
twice the forward pass. Counting takes no torch.

Two counts of attention are in use, and both are here. `causal=False` counts each product that is formed, which is what
torch's own FlopCounterMode counts and what predicts time. `causal=True`, the default, counts only the scores that are
used, half of them: the convention of MFU here, so that a kernel gains nothing by computing what it throws away.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openqwen.model.config import ModelConfig

if TYPE_CHECKING:
    import torch

# Where attention on a CPU goes in blocks of queries (model/attention.py, which needs torch; a test compares them).
BLOCK, WIDE_BLOCK, WIDE_WINDOW, CPU_SKIPS, PRODUCTS = 128, 256, 1024, 512, 2048


def flops_per_token(
    config: ModelConfig,
    context: int,
    *,
    causal: bool = True,
    backward: bool = True,
    device: str = "cuda",
    bf16: bool = False,
) -> float:
    """Of one token in a sequence of `context` tokens. causal: count only the half of the scores that is used.

    device, bf16: whose attention is counted where not causal; "cpu" forms fewer scores at some lengths.
    """
    keys = context / 2 if causal else keys_per_query(context, device, bf16)
    scores = config.num_layers * 2 * config.hidden_size * keys  # q k and weights v
    return (6 if backward else 2) * (matrix_weights(config) + scores)


def flops_of_rows(config: ModelConfig, lengths: Sequence[int], trained: int) -> float:
    """Of forward and backward pass on rows of these lengths, of which `trained` tokens go through the head."""
    mean = round(
        sum(length**2 for length in lengths) / sum(lengths)
    )  # the length that a token finds itself in
    body = flops_per_token(config.model_copy(update={"vocab_size": 0}), mean)
    return sum(lengths) * body + trained * 6 * config.vocab_size * config.hidden_size


def matrix_weights(config: ModelConfig) -> int:
    """Weights that every token is multiplied by: all matrices but the embedding, which is only looked up."""
    hidden, heads, kv_heads = config.hidden_size, config.num_heads, config.kv_heads
    attention = hidden * config.head_dim * (heads + 2 * kv_heads) + hidden * hidden  # qkv and out
    return config.num_layers * (attention + 3 * hidden * config.ffn) + config.vocab_size * hidden


def query_blocks(context: int, device: str = "cuda", bf16: bool = False) -> list[tuple[int, int]]:
    """How attention divides a training sequence: (queries, keys they are multiplied with) of each block.

    >>> query_blocks(300, "cpu"), query_blocks(300, "cuda")
    ([(128, 128), (128, 256), (44, 300)], [(300, 300)])
    """
    if device != "cpu" or not 2 * BLOCK < context <= (PRODUCTS if bf16 else CPU_SKIPS):
        return [(context, context)]
    size = BLOCK if context < WIDE_WINDOW else WIDE_BLOCK
    starts = range(0, context, size)
    return [(min(size, context - start), min(start + size, context)) for start in starts]


def keys_per_query(context: int, device: str = "cuda", bf16: bool = False) -> float:
    """Keys a query is multiplied with, averaged over a training sequence."""
    return sum(queries * keys for queries, keys in query_blocks(context, device, bf16)) / context


def mfu(tokens_per_second: float, flops_of_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation: the share of `peak_flops` (per second) spent on the model's own products."""
    return tokens_per_second * flops_of_token / peak_flops


def measured_peak(
    dtype: torch.dtype, device: torch.device | str = "cpu", size: int = 1024, seconds: float = 0.5
) -> float:
    """This machine's rate for square matrix products, FLOP per second: the yardstick where no data sheet is at hand."""
    import torch

    generator = torch.Generator(device).manual_seed(
        0
    )  # a run's own numbers do not depend on this measurement
    a = torch.randn(size, size, device=device, generator=generator).to(dtype)
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    best, end = 0.0, time.perf_counter() + seconds
    while True:  # once at least, also where the process stood still since
        start = time.perf_counter()
        for _ in range(4):
            a @ a
        synchronize()
        now = time.perf_counter()
        best = max(best, 4 * 2 * size**3 / (now - start))
        if now >= end:
            return best
