"""Attention over the keys a query may see, by the kernel calls that were measured to be fastest, and a readable twin.

Report §2.4 trains with Flash Attention, §2.5 gives layers windows of different sizes. The report's: both techniques.
Ours: how they save work. Scaled dot-product attention of torch picks the flash kernel of the device. It leaves out what
`is_causal` hides, but not what a mask hides; so under a mask or a window queries go in blocks, each against the
slice of keys that one of its queries may see. `benchmarks/attention.py` measures it, FlexAttention beside it.

B batch, T queries, S keys, H heads, K key/value heads, D head dim. The queries are the last T of S positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries of a block, and what slices of keys begin at multiples of. Measured on CPU for T 256 to 8192: 128 is best up
# to windows of 512, 256 beyond; nothing of it on CUDA. Multiples of one number wherever the queries stand, so that the
# tiles of engine/deterministic.py lie the same for a query in any company.
BLOCK = 128
WIDE_WINDOW, WIDE_BLOCK = 1024, 256
CPU_SKIPS = 512  # keys: the CPU's flash kernel leaves out hidden keys only in whole pieces of this
PRODUCTS = 2048  # keys: up to here bf16 trains faster on a CPU by plain products, which keep the weights for backward


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """q (B, T, H, D), k and v (B, K, S, D), K divides H -> (B, T, H, D): softmax(q k / sqrt(D)) v over what is seen.

    mask (B or 1, 1, T, S) bool: True may be seen; each query must see at least itself.
    causal: query i sees keys up to i + S - T, its own place. window: of these the last `window`; implies causal.
    """
    T, S = q.shape[1], k.shape[2]
    if window is not None and window < S:
        return _in_blocks(q, k, v, mask, window)
    if T == 1 or not (causal or window):
        return _kernel(q, k, v, mask)
    blocks_up_to = PRODUCTS if _is_slow(q) else CPU_SKIPS
    whole = not (q.device.type == "cpu" and 2 * BLOCK < S <= blocks_up_to)
    if mask is None and T == S and whole:
        return _kernel(q, k, v, causal=True)
    if T <= BLOCK:  # one block: no loop, which code generated for any length could not have
        seen = band(S - T, T, S, S, q.device)
        return _kernel(q, k, v, seen if mask is None else seen & mask)
    return _in_blocks(q, k, v, mask, S)


def attend_branches(
    q: Tensor, k: Tensor, v: Tensor, *, trunk: int, branches: int, mask: Tensor | None = None
) -> Tensor:
    """Attention among a trunk of Q tokens and n branches of R tokens that follow it side by side: T = Q + n R.

    q (B, T, H, D), k and v (B, K, T, D) -> (B, T, H, D). A token sees the trunk and its own branch, each up to its own
    place. mask (B, Q) bool: True may be seen by branches, and one token of each trunk must be.
    """
    (B, T, H, D), K = q.shape, k.shape[1]
    R = (T - trunk) // branches
    own = attend(q[:, :trunk], k[:, :, :trunk], v[:, :, :trunk], causal=True)  # (B, Q, H, D)

    def behind_trunk(x: Tensor) -> Tensor:
        """(B, K, T, D) -> (B n, K, Q + R, D)"""
        first = x[:, None, :, :trunk].expand(B, branches, K, trunk, D)
        rest = x[:, :, trunk:].unflatten(2, (branches, R)).transpose(1, 2)  # (B, n, K, R, D)
        return torch.cat((first, rest), dim=3).flatten(0, 1)

    if mask is not None:
        mask = F.pad(mask, (0, R), value=True).repeat_interleave(branches, 0)  # (B n, Q + R)
        mask = mask[:, None, None].expand(B * branches, 1, R, trunk + R)
    queries = q[:, trunk:].reshape(B * branches, R, H, D)
    out = attend(queries, behind_trunk(k), behind_trunk(v), mask=mask, causal=True)  # (B n, R, H, D)
    return torch.cat((own, out.reshape(B, branches * R, H, D)), dim=1)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int) -> Tensor:
    """`attend` under a window: T x (window + about 2 blocks) scores instead of T x S."""
    T, S = q.shape[1], k.shape[2]
    size = BLOCK if window < WIDE_WINDOW else WIDE_BLOCK
    keys, values = _slices(k), _slices(v)
    out = []
    for start, block in zip(range(0, T, size), q.split(size, dim=1)):  # block (B, size or what is left, H, D)
        stop = start + block.shape[1]
        first, last = start + S - T, stop + S - T - 1  # places of the block's queries among the keys
        low = max(0, first - window + 1) // BLOCK * BLOCK
        high = min(S, (last // BLOCK + 1) * BLOCK)
        seen = band(first - low, stop - start, high - low, window, q.device)  # (stop - start, high - low)
        if mask is not None:
            seen = seen & mask[:, :, start:stop, low:high]  # (B, 1, stop - start, high - low)
        out.append(_kernel(block, keys(low, high), values(low, high), seen))
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)  # (B, T, H, D)


def band(first: int, queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """(queries, keys) bool: query i stands at key first + i; it sees that one and the window - 1 before it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril_(first).triu_(first - window + 1)


def _slices(x: Tensor) -> Callable[[int, int], Tensor]:
    """x (B, K, S, D) -> what returns x[:, :, low:high], low at a multiple of BLOCK, high too or S.

    The gradient of a slice is a tensor as long as x, and one a block makes the backward pass quadratic in time; the
    gradient of all pieces of a split is one concatenation.
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return lambda low, high: x[:, :, low:high]
    pieces = x.split(BLOCK, dim=2)
    return lambda low, high: torch.cat(pieces[low // BLOCK : -(-high // BLOCK)], dim=2)


def _is_slow(q: Tensor) -> bool:
    """Whether torch's kernel is the slow one: many queries in bf16 on a CPU, where it reaches a third of the matrix rate.

    Whether a backward pass will follow must not matter: PPO compares passes with and without.
    """
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[1] > 1


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """The one call of torch's attention, with its heads moved outside and back."""
    if _is_slow(q) and k.shape[2] <= PRODUCTS:
        if causal:
            mask = band(k.shape[2] - q.shape[1], q.shape[1], k.shape[2], k.shape[2], q.device)
        return _products(q, k, v, mask)
    gqa = q.shape[2] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa
    )  # (B, H, T, D)
    return out.transpose(1, 2)


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two batched products with all scores of the block between them, in the dtype of q."""
    (B, T, H, D), (K, S) = q.shape, k.shape[1:3]
    queries = (
        (q * D**-0.5).transpose(1, 2).reshape(B * K, H // K * T, D)
    )  # heads that share keys are more queries
    keys, values = k.reshape(B * K, S, D).transpose(1, 2), v.reshape(B * K, S, D)
    if mask is None:
        scores = torch.bmm(queries, keys)  # (B * K, H / K * T, S)
    else:
        bias = queries.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        if bias.dim() == 2:
            bias = bias.repeat(H // K, 1)  # (H / K * T, S)
        else:
            bias = bias.expand(B, H, T, S).reshape(B * K, H // K * T, S)
        scores = torch.baddbmm(bias, queries, keys)
    return torch.bmm(scores.softmax(-1), values).view(B, H, T, D).transpose(1, 2)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """The readable twin of `attend`: all T x S scores, what is hidden at minus infinity, a softmax."""
    (T, H, D), (K, S) = q.shape[1:], k.shape[1:3]
    k, v = (x.repeat_interleave(H // K, dim=1) for x in (k, v))  # (B, H, S, D)
    scores = q.transpose(1, 2) @ k.transpose(2, 3) / D**0.5  # (B, H, T, S)
    places = torch.arange(S, device=q.device)
    distance = places[S - T :, None] - places  # (T, S) how far behind the query a key stands
    seen = torch.ones_like(distance, dtype=torch.bool)
    if causal or window is not None:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance < window)
    if mask is not None:
        seen = seen & mask  # (B or 1, 1, T, S)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)  # (B, H, T, S)
    return (weights @ v).transpose(1, 2)
