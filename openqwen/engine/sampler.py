"""Draws the next token of every row at once; a row's draw depends on that row alone.

Ours. Randomness is a hash of (seed, index of the token), not a stream: no generator state to carry, nothing
for a neighbour to disturb, and a resumed or rescheduled request continues exactly. A token is drawn by inverting
the cumulative distribution of the truncated probabilities; on a CPU sample.cpp can do that for truncated rows.
Shapes: B rows, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwen.engine import native
from openqwen.engine.sampling import Sampling

# Truncated rows look at so many best candidates, one number after the other while their support is larger, and are
# sorted whole at last. Constant, so that which way a row takes never depends on its neighbours.
CANDIDATES = (32, 256)


@dataclass(frozen=True)
class Draw:
    """What `sample` chose. logprobs: under the truncated, tempered distribution the token was drawn from."""

    ids: Tensor  # (B,) int64
    logprobs: Tensor  # (B,) float32; 0 for greedy rows, whose distribution is a point
    support: list[Tensor] | None  # per row the ids that had probability, int64; None if no row asked


class Rows:
    """The settings of the rows of a batch as tensors; built when the batch's membership changes."""

    def __init__(self, samplings: Seq[Sampling], vocab_size: int, device: torch.device | str = "cpu") -> None:
        def column(values: list, dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)  # (B,)

        self.samplings = samplings
        self.greedy = all(s.greedy for s in samplings)
        self.sampled = column([i for i, s in enumerate(samplings) if not s.greedy], torch.int64)
        hot = [s for s in samplings if not s.greedy]
        self.temperature = column([s.temperature for s in hot], torch.float32)
        self.tempered = any(s.temperature != 1 for s in hot)
        # 1 keeps everything; as infinity, so that rounding of the sum to 1 drops nothing
        self.top_p = column([s.top_p if s.top_p < 1 else float("inf") for s in hot], torch.float64)
        self.top_k = column([min(s.top_k or vocab_size, vocab_size) for s in hot], torch.int64)
        self.min_p = column([s.min_p for s in hot], torch.float64)
        self.seed = column([s.seed for s in hot], torch.int64)
        self.truncated = column(
            [s.top_p < 1 or s.min_p > 0 or (s.top_k or vocab_size) < vocab_size for s in hot], torch.bool
        )
        self.want_support = any(s.support for s in samplings)
        self.penalised = any(s.penalised for s in samplings)
        self.repetition = column([s.repetition_penalty for s in samplings], torch.float32)
        self.presence = column([s.presence_penalty for s in samplings], torch.float32)
        self.frequency = column([s.frequency_penalty for s in samplings], torch.float32)
        bias = [(row, i, b) for row, s in enumerate(samplings) for i, b in s.logit_bias.items()]
        self.bias = bias and (
            column([b[0] for b in bias], torch.int64),
            column([b[1] for b in bias], torch.int64),
            column([b[2] for b in bias], torch.float32),
        )


def penalise(logits: Tensor, rows: Rows, which: Tensor, seen: Tensor, counts: Tensor) -> Tensor:
    """Penalised logits (b, V) of the rows `which` (b,).

    seen (b, V) bool: tokens of prompt or reply; counts (b, V): occurrences in the reply.
    """
    strength = rows.repetition[which, None]  # (b, 1)
    repeated = torch.where(logits > 0, logits / strength, logits * strength)  # (b, V)
    logits = torch.where(seen, repeated, logits)
    return logits - rows.presence[which, None] * (counts > 0) - rows.frequency[which, None] * counts


def sample(logits: Tensor, rows: Rows, index: Tensor, compiled: bool = False) -> Draw:
    """logits (B, V) float32, after penalties; index (B,) int64: how many tokens each reply already has.

    compiled: truncated rows by native.py, on a CPU.
    """
    if rows.bias:
        row, column, value = rows.bias
        logits = logits.index_put((row, column), value, accumulate=True)
    hot = rows.sampled
    mixed = len(hot) < len(logits)  # rows that are drawn for need no best token
    ids = logits.argmax(-1) if mixed else torch.empty_like(index)  # (B,)
    logprobs = torch.zeros(len(ids), dtype=torch.float32, device=logits.device)  # (B,)
    support: list[Tensor] | None = [i[None] for i in ids] if rows.want_support else None
    if rows.greedy:
        return Draw(ids, logprobs, support)
    scaled = logits[hot] if mixed else logits  # (B', V)
    if rows.tempered:
        scaled = scaled / rows.temperature[:, None]
    uniform = uniforms(rows.seed, index[hot])  # (B',) float64
    pending = rows.truncated
    _draw(scaled, rows, ~pending, None, uniform, ids, logprobs, support)
    if compiled:
        _draw_compiled(scaled, rows, pending, uniform, ids, logprobs, support)
    else:
        orders = (*CANDIDATES, scaled.shape[-1])
        _draw(scaled, rows, pending, orders, uniform, ids, logprobs, support)
    return Draw(ids, logprobs, support)


def _draw(
    scaled: Tensor,
    rows: Rows,
    some: Tensor,
    orders: tuple[int, ...] | None,
    uniform: Tensor,
    ids: Tensor,
    logprobs: Tensor,
    support: list[Tensor] | None,
) -> None:
    """Draws for the rows marked in `some`, writing into ids, logprobs and support.

    orders: None keeps the vocabulary's order (nothing is truncated), else how many best candidates to sort, then for
    rows that need more of them, and so on.
    """
    which = some.nonzero()[:, 0]  # (b,)
    if not len(which):
        return
    logp, candidates = torch.log_softmax(scaled[which], -1), None  # (b, V)
    if orders is not None:
        candidates = logp.topk(min(orders[0], logp.shape[-1]), dim=-1).indices  # (b, K)
        logp, complete = _truncate(logp, candidates, rows, which)
        if not bool(complete.all()):
            rest = torch.zeros_like(some)
            rest[which[~complete]] = True
            _draw(scaled, rows, rest, orders[1:], uniform, ids, logprobs, support)
            which, logp, candidates = which[complete], logp[complete], candidates[complete]
            if not len(which):
                return
    place, drawn = invert(logp, uniform[which])  # (b,), (b,)
    target = rows.sampled[which]
    ids[target] = place if candidates is None else candidates.gather(1, place[:, None])[:, 0]
    logprobs[target] = drawn.float()
    if support is not None:
        for i, row in enumerate(target.tolist()):
            kept = (logp[i] > -torch.inf).nonzero()[:, 0]
            support[row] = kept if candidates is None else candidates[i][kept]


def _draw_compiled(
    scaled: Tensor,
    rows: Rows,
    some: Tensor,
    uniform: Tensor,
    ids: Tensor,
    logprobs: Tensor,
    support: list[Tensor] | None,
) -> None:
    """`_draw` of truncated rows by native.py."""
    which = some.nonzero()[:, 0]  # (b,)
    if not len(which):
        return
    settings = (rows.top_k[which], rows.top_p[which], rows.min_p[which])
    logp = torch.log_softmax(scaled if len(which) == len(scaled) else scaled[which], -1)  # (b, V)
    chosen, drawn, kept = native.draw(logp, *settings, uniform[which])
    target = rows.sampled[which]
    ids[target], logprobs[target] = chosen, drawn
    if support is not None:
        for row, own in zip(target.tolist(), kept):
            support[row] = own


def _truncate(logp: Tensor, candidates: Tensor, rows: Rows, which: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (b, K) of the sorted candidates after top-k, top-p, min-p; and (b,): is K enough?"""
    size, total = candidates.shape[-1], logp.shape[-1]
    top_k, top_p, min_p = (t[which][:, None] for t in (rows.top_k, rows.top_p, rows.min_p))  # (b, 1)
    best = logp.gather(1, candidates).double()  # (b, K)
    best = best.masked_fill(torch.arange(size, device=best.device) >= top_k, -torch.inf)
    p = best.exp()
    # top-p counts the mass that top-k left; without top-k the mass is the whole vocabulary's, 1.
    p = torch.where(top_k < total, p / p.sum(-1, keepdim=True), p)
    keep = (p.cumsum(-1) - p < top_p) & (p >= min_p * p[:, :1])
    keep[:, 0] = True
    # Candidates are enough if they hold all of top-k, or if truncation already ended inside them.
    complete = (top_k[:, 0] <= size) | ((top_k[:, 0] == total) & ~keep[:, -1])
    return torch.log_softmax(best.masked_fill(~keep, -torch.inf), -1), complete | (size == total)


def invert(logp: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first place (b,) whose cumulative probability exceeds uniform (b,), and its log-probability."""
    cumulative = logp.double().exp().cumsum(-1)  # (b, K)
    target = uniform[:, None] * cumulative[:, -1:]  # (b, 1)
    place = torch.searchsorted(cumulative, target, right=True)  # (b, 1)
    # Rounding can carry the target to the very end: take the last place that has probability.
    last = logp.shape[-1] - 1 - (logp > -torch.inf).flip(-1).int().argmax(-1, keepdim=True)
    place = torch.minimum(place, last)
    return place[:, 0], logp.gather(1, place)[:, 0]


def uniforms(seed: Tensor, index: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, that are a function of (seed, index) only: splitmix64 twice."""
    bits = _splitmix(_splitmix(seed) ^ (index * 0x632BE59BD9B4E019))
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _splitmix(z: Tensor) -> Tensor:
    z = z + (0x9E3779B97F4A7C15 - 2**64)
    z = (z ^ _shift(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shift(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def alternatives(logits: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The model's own log-probabilities: of chosen (N,), and the best `count` with their ids, (N, count)."""
    logp = torch.log_softmax(logits.float(), -1)  # (N, V)
    values, ids = logp.topk(count, dim=-1)
    return logp.gather(1, chosen[:, None])[:, 0], values, ids
