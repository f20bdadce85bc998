"""Attention over the keys a query may see, by the fastest kernel that was measured, and a readable twin.

Report §2.3 (attention, Flash Attention for training) and §2.5 (windows that differ by layer). The report names the
kernel and the technique; how a window saves work is ours: queries go in blocks, each over its own slice of keys.

B batch, T queries, S keys, H heads, K key/value heads, D head dim. Queries are the last T of S positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256  # queries that share a slice of keys
ALIGN = 64  # slices begin at a multiple of this


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """q (B, T, H, D), k and v (B, K, S, D) -> (B, T, H, D): softmax(q k / sqrt(D)) v over what may be seen.

    mask (B or 1, 1, T, S) bool: True may be seen; every query must see at least itself.
    causal: query i sees keys up to i + S - T. window: of these only the last `window`; implies causal.
    """
    T, S = q.shape[1], k.shape[2]
    if window is not None and window < S:
        return _banded(q, k, v, mask, window)
    if T == 1 or not (causal or window):
        return _sdpa(q, k, v, mask)
    if mask is None and T == S:
        return _sdpa(q, k, v, None, causal=True)
    return _banded(q, k, v, mask, S)


def _banded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int) -> Tensor:
    """Blocks of queries, each over the keys that one of them sees: T x (window + BLOCK) scores instead of T x S."""
    T, S = q.shape[1], k.shape[2]
    out = []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        high = stop + S - T
        low = max(0, start + S - T - window + 1) // ALIGN * ALIGN
        seen = band(start + S - T - low, stop - start, high - low, window, q.device)
        if mask is not None:
            seen = seen & mask[:, :, start:stop, low:high]
        out.append(_sdpa(q[:, start:stop], k[:, :, low:high], v[:, :, low:high], seen))
    return torch.cat(out, dim=1)  # (B, T, H, D)


def band(first: int, queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """(queries, keys) bool: query i stands at key first + i and sees it and the window - 1 keys before it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(first).triu(first - window + 1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    gqa = q.shape[2] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa
    )  # (B, H, T, D)
    return out.transpose(1, 2)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """The readable twin of `attend`: all scores, a mask, a softmax."""
    (_, T, H, D), (K, S) = q.shape, k.shape[1:3]
    k, v = (x.repeat_interleave(H // K, dim=1) for x in (k, v))  # (B, H, S, D)
    scores = q.transpose(1, 2) @ k.transpose(2, 3) / D**0.5  # (B, H, T, S)
    distance = torch.arange(S - T, S, device=q.device)[:, None] - torch.arange(S, device=q.device)  # (T, S)
    seen = torch.ones_like(distance, dtype=torch.bool)
    if causal or window is not None:
        seen = distance >= 0
    if window is not None:
        seen = seen & (distance < window)
    if mask is not None:
        seen = seen & mask  # (B, 1, T, S)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)
