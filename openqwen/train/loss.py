"""Cross-entropy over a large vocabulary without ever holding all logits.

Report §2.2 (152K vocabulary) makes it necessary; the method is ours: the rows go through the output matrix a chunk
at a time, and the gradient of the summed loss is formed in the same pass, in place of the logits, so nothing is
computed twice and the largest temporary is one chunk of logits. Equal to the plain computation up to the order of
the sums.

Shapes: N tokens, C hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORE = -100
# Measured on CPU: more rows make the products faster, up to 1,024 of them or 64 MiB of logits, fewer than 256 make the
# gradient of the weights slow; and softmax is fastest on pieces whose fp32 values stay in the cache.
CHUNK_BYTES, MIN_ROWS, MAX_ROWS = 64 << 20, 256, 1024
PIECE_BYTES, PIECE_ROWS = 2 << 20, 8


def cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int | None = None
) -> tuple[Tensor, int]:
    """Summed loss in nats (differentiable, fp32 or fp64) and the number of labels that count.

    hidden (N, C), weight (V, C), labels (N,) int64 with -100 = ignored; chunk: rows at a time.
    Divide the sum by the number of tokens of the *whole* batch: then accumulation over micro-batches equals one batch.
    """
    rows = (labels != IGNORE).nonzero(as_tuple=True)[0]  # (K,)
    if len(rows) < len(labels):  # masked rows (prompts, padding) cost nothing
        hidden, labels = hidden.index_select(0, rows), labels.index_select(0, rows)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    chunk = chunk or min(MAX_ROWS, max(MIN_ROWS, CHUNK_BYTES // (dtype.itemsize * weight.shape[0])))
    return _SummedLoss.apply(hidden, weight, labels, chunk, dtype), len(rows)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, dtype: torch.dtype
    ) -> Tensor:
        exact = torch.promote_types(dtype, torch.float32)
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        total = hidden.new_zeros((), dtype=exact)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None  # (N, C)
        grad_weight = torch.zeros_like(weight, dtype=exact) if need_weight else None  # (V, C)
        with torch.autocast(hidden.device.type, enabled=False):
            w = weight.to(dtype)  # (V, C)
            for start in range(0, len(labels), chunk):
                part = slice(start, start + chunk)
                h = hidden[part].to(dtype)  # (n, C)
                logits = h @ w.T  # (n, V)
                total += _loss_of(logits, labels[part, None], exact, need_hidden or need_weight)
                if grad_hidden is not None:
                    grad_hidden[part] = logits @ w
                if grad_weight is not None:
                    grad_weight += logits.T @ h
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled = [None if g is None else (g * scale).to(g.dtype) for g in (grad_hidden, grad_weight)]
        return (*scaled, None, None, None)


def _loss_of(logits: Tensor, labels: Tensor, exact: torch.dtype, gradient: bool) -> Tensor:
    """The summed loss of logits (n, V) for labels (n, 1), computed in `exact`.

    gradient: the logits become their gradient, softmax minus one-hot.
    """
    total = logits.new_zeros((), dtype=exact)
    rows = len(logits)
    if logits.device.type == "cpu":
        rows = max(PIECE_ROWS, PIECE_BYTES // (exact.itemsize * logits.shape[1]))
    for piece, right in zip(logits.split(rows), labels.split(rows)):
        p = piece.softmax(-1, dtype=exact)  # (rows, V)
        # The most likely id has p >= 1 / V, so its logarithm says the sum of exponentials with no pass of its own.
        log_sum = piece.amax(-1, keepdim=True).to(exact) - p.amax(-1, keepdim=True).log()  # (rows, 1)
        total += (log_sum - piece.gather(1, right)).sum()
        if gradient:
            piece.copy_(p.scatter_add_(1, right, p.new_full((1, 1), -1.0).expand_as(right)))
    return total
