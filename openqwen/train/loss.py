"""Cross-entropy over a large vocabulary without ever holding all logits.

Report §2.2 (152K vocabulary) makes it necessary; the method is ours: the rows go through the output matrix a chunk
at a time, and the gradient of the summed loss is formed in the same pass, so nothing is computed twice and the
largest temporary is one chunk of logits. Equal to the plain computation up to the order of the sums.

Shapes: N tokens, C hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100
CHUNK_BYTES = 16 << 20  # of fp32 logits: measured fastest on CPU at V = 4,096 (512 to 1,024 rows)
CHUNK_ROWS = 128  # but never fewer rows than a matrix product needs to be fast


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
    chunk = chunk or max(CHUNK_ROWS, CHUNK_BYTES // (4 * weight.shape[0]))
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
                h, y = hidden[part].to(dtype), labels[part, None]  # (n, C), (n, 1)
                logp = F.log_softmax(h @ w.T, dim=-1, dtype=exact)  # (n, V)
                total -= logp.gather(1, y).sum()
                if not (need_hidden or need_weight):
                    continue
                grad = logp.exp_().scatter_add_(1, y, logp.new_full((1, 1), -1.0).expand_as(y))  # p - onehot
                grad = grad.to(dtype)  # (n, V)
                if grad_hidden is not None:
                    grad_hidden[part] = grad @ w
                if grad_weight is not None:
                    grad_weight += grad.T @ h
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled = [None if g is None else (g * scale).to(g.dtype) for g in (grad_hidden, grad_weight)]
        return (*scaled, None, None, None)
