"""Arithmetic whose result for a row does not depend on the other rows, bit for bit, on CPU in float32.

Ours. Matrix kernels choose their blocking by the shape of the whole problem, so the last bit of a row can depend on
how many neighbours it has. Inside `with BatchInvariant():` linear layers run on tiles of a fixed number of rows
and attention on fixed tiles of queries and keys, whatever the batch; padding fills the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROWS = 16  # rows of a linear tile
QUERIES, KEYS = 16, 64  # an attention tile


class BatchInvariant(TorchFunctionMode):
    """Replaces F.linear and F.scaled_dot_product_attention while active."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.linear:
            return tiled_linear(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            return tiled_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def tiled_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (N, K) -> (..., N), computed ROWS rows at a time."""
    flat = x.reshape(-1, x.shape[-1])  # (R, K)
    rows = len(flat)
    tiles = F.pad(flat, (0, 0, 0, -rows % ROWS)).view(-1, ROWS, x.shape[-1])  # (n, ROWS, K)
    out = torch.cat([F.linear(tile, weight, bias) for tile in tiles])  # (n * ROWS, N)
    return out[:rows].view(*x.shape[:-1], -1)


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D): softmax over key tiles, summed in order."""
    assert dropout_p == 0.0
    B, H, T, D = q.shape
    S = k.shape[2]
    if enable_gqa:
        k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))
    seen = attn_mask if attn_mask is not None else torch.ones(T, S, dtype=torch.bool, device=q.device)
    assert seen.dtype == torch.bool
    if is_causal:
        seen = seen.tril()
    seen = F.pad(seen.expand(B, H, T, S), (0, -S % KEYS, 0, -T % QUERIES))  # (B, H, T', S')
    q = F.pad(q * (scale or D**-0.5), (0, 0, 0, -T % QUERIES))  # (B, H, T', D)
    k, v = (F.pad(x, (0, 0, 0, -S % KEYS)) for x in (k, v))  # (B, H, S', D)
    out = torch.empty_like(q)
    for low in range(0, q.shape[2], QUERIES):
        tile = slice(low, low + QUERIES)
        out[:, :, tile] = _attend_tile(q[:, :, tile], k, v, seen[:, :, tile])
    return out[:, :, :T]


def _attend_tile(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """q (B, H, QUERIES, D), k and v (B, H, S', D), seen (B, H, QUERIES, S') -> (B, H, QUERIES, D)."""
    scores = [
        (q @ k[:, :, at : at + KEYS].transpose(2, 3)).masked_fill(~seen[..., at : at + KEYS], -torch.inf)
        for at in range(0, k.shape[2], KEYS)
    ]  # each (B, H, QUERIES, KEYS)
    top = torch.stack([s.amax(-1, keepdim=True) for s in scores]).amax(0)  # (B, H, QUERIES, 1)
    top = top.masked_fill(top == -torch.inf, 0.0)  # a padded query sees nothing
    total, mixed = torch.zeros_like(top), torch.zeros_like(q)
    for i, s in enumerate(scores):
        p = (s - top).exp()
        total = total + p.sum(-1, keepdim=True)
        mixed = mixed + p @ v[:, :, i * KEYS : (i + 1) * KEYS]
    return mixed / total.clamp(min=torch.finfo(total.dtype).tiny)
