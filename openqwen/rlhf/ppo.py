"""The mathematics of PPO as pure functions on tensors: advantages, losses, KL, truncation, running moments.

Report §3.2.2. The report's: a KL coefficient, rewards normalised by their running mean, value clipping, top-p
sampling. Ours: everything it leaves open (GAE, policy clip, whitening, the estimators).

Shapes are suffixes: B replies, R tokens of a reply, N real reply tokens of a batch laid end to end, V vocabulary.
Replies are right-padded; `mask_BR` is True on real tokens. Losses are sums over tokens divided by `num_tokens`,
the count of the whole update batch, so that accumulated gradients equal those of one large batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwen.core.errors import DataError
from openqwen.train.loss import PIECE_BYTES, PIECE_ROWS


def masked_mean(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Mean over real tokens."""
    return torch.where(mask_BR, x_BR, 0.0).sum() / mask_BR.sum()


def whiten(x_BR: Tensor, mask_BR: Tensor, eps: float = 1e-8) -> Tensor:
    """Mean 0 and variance 1 over real tokens; 0 on padding. One token alone keeps only its shift to 0."""
    centred_BR = torch.where(mask_BR, x_BR - masked_mean(x_BR, mask_BR), 0.0)
    variance = masked_mean(centred_BR.square(), mask_BR)
    return centred_BR * torch.rsqrt(variance + eps)


def gae(
    rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both (B, R) and 0 on padding.

    values_BR[b, r] is the value before token r. The episode ends with the last real token: nothing follows it.
    """
    values_BR = torch.where(mask_BR, values_BR, 0.0)
    next_BR = torch.cat([values_BR[:, 1:], torch.zeros_like(values_BR[:, :1])], dim=1)
    delta_BR = torch.where(mask_BR, rewards_BR + gamma * next_BR - values_BR, 0.0)
    advantages_BR = torch.empty_like(delta_BR)
    running_B = torch.zeros_like(delta_BR[:, 0])
    for r in reversed(range(delta_BR.shape[1])):
        running_B = delta_BR[:, r] + gamma * lam * running_B
        advantages_BR[:, r] = running_B
    return advantages_BR, advantages_BR + values_BR


def kl_k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Log-ratio of the sampled tokens: unbiased for KL(policy || reference), each term may be negative."""
    return logp - ref_logp


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """ratio - 1 - log ratio with ratio = reference / policy: unbiased too, never negative, less variance."""
    log_ratio = ref_logp - logp
    return torch.expm1(log_ratio) - log_ratio


def penalised_rewards(score_B: Tensor, kl_BR: Tensor, mask_BR: Tensor, coefficient: float) -> Tensor:
    """-coefficient * KL at every real token, and the reply's score at its last real token, never at padding."""
    rewards_BR = torch.where(mask_BR, -coefficient * kl_BR, 0.0)
    last_B = mask_BR.sum(1) - 1
    rows_B = torch.arange(len(score_B), device=score_B.device)
    rewards_BR[rows_B, last_B] += score_B
    return rewards_BR


def policy_loss(
    logp_BR: Tensor, old_logp_BR: Tensor, advantages_BR: Tensor, mask_BR: Tensor, clip: float, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate, and how many tokens the clip held back."""
    ratio_BR = torch.where(mask_BR, logp_BR - old_logp_BR, 0.0).exp()
    plain_BR = -advantages_BR * ratio_BR
    clipped_BR = -advantages_BR * ratio_BR.clamp(1 - clip, 1 + clip)
    loss = torch.where(mask_BR, torch.maximum(plain_BR, clipped_BR), 0.0).sum() / num_tokens
    return loss, (mask_BR & (clipped_BR > plain_BR)).sum()


def value_loss(
    values_BR: Tensor,
    old_values_BR: Tensor,
    returns_BR: Tensor,
    mask_BR: Tensor,
    clip: float | None,
    num_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Half the squared error, pessimistic about moves of more than `clip` from the old value; and how many."""
    plain_BR = (values_BR - returns_BR).square()
    if clip is None:
        held_BR, worst_BR = torch.zeros_like(mask_BR), plain_BR
    else:
        near_BR = old_values_BR + (values_BR - old_values_BR).clamp(-clip, clip)
        clipped_BR = (near_BR - returns_BR).square()
        held_BR, worst_BR = clipped_BR > plain_BR, torch.maximum(plain_BR, clipped_BR)
    loss = 0.5 * torch.where(mask_BR, worst_BR, 0.0).sum() / num_tokens
    return loss, (mask_BR & held_BR).sum()


def explained_variance(values_BR: Tensor, returns_BR: Tensor, mask_BR: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over real tokens; nan where returns do not vary."""
    values, returns = values_BR[mask_BR], returns_BR[mask_BR]
    spread = returns.var(unbiased=False)
    if spread == 0:
        return math.nan
    return float(1 - (returns - values).var(unbiased=False) / spread)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits in fp32 at a temperature; at 1 without a pass over them."""
    return logits.float() if temperature == 1 else logits.float() / temperature


def token_logp(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """Log-probabilities (N,) of tokens under the whole distribution."""
    return logits_NV.log_softmax(-1).gather(1, tokens_N[:, None]).squeeze(1)


def truncated_logp(logits_NV: Tensor, support_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """Log-probabilities (N,) of tokens under the distribution renormalised on the support: twin of `support_logp`."""
    kept_NV = logits_NV.masked_fill(~support_NV, -math.inf)
    return kept_NV.log_softmax(-1).gather(1, tokens_N[:, None]).squeeze(1)


def truncated_entropy(logits_NV: Tensor, support_NV: Tensor) -> Tensor:
    """Entropy (N,) in nats of the distribution renormalised on the support: twin of `support_logp`."""
    logp_NV = logits_NV.masked_fill(~support_NV, -math.inf).log_softmax(-1)
    logp_NV = logp_NV.masked_fill(~support_NV, 0.0)  # before the product: 0 * -inf would poison the gradient
    return -torch.where(support_NV, logp_NV.exp() * logp_NV, 0.0).sum(-1)


@dataclass(frozen=True)
class Support:
    """The kept tokens of N positions, stored sparse: a nucleus holds a few of 152k tokens."""

    indices: Tensor  # (total,) int32 token ids, position after position
    counts: Tensor  # (N,) int64
    vocab_size: int

    def dense(self) -> Tensor:
        """As (N, V) bool."""
        num = len(self.counts)
        rows = torch.repeat_interleave(torch.arange(num, device=self.counts.device), self.counts)
        mask_NV = torch.zeros(num, self.vocab_size, dtype=torch.bool, device=self.counts.device)
        mask_NV[rows, self.indices.long()] = True
        return mask_NV


def support_logp(
    logits_NV: Tensor, support: Support, tokens_N: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`truncated_logp` and `truncated_entropy` of logits at a temperature, both (N,) fp32, reading kept logits only.

    Logits may be of any number format. Raises DataError where a token is not in its support.
    """
    counts_N, indices = support.counts, support.indices.long()
    rows = torch.repeat_interleave(torch.arange(len(counts_N), device=counts_N.device), counts_N)  # (total,)
    places_N = (indices == tokens_N[rows]).nonzero()[:, 0]
    if len(places_N) != len(tokens_N):
        raise DataError("a token was drawn from outside its support, or twice from inside it")
    kept = tempered(logits_NV[rows, indices], temperature)  # (total,)
    highest_N = torch.segment_reduce(kept.detach(), "max", lengths=counts_N)
    sums_N = torch.segment_reduce((kept - highest_N[rows]).exp(), "sum", lengths=counts_N)
    logp = kept - (sums_N.log() + highest_N)[rows]
    return logp[places_N], -torch.segment_reduce(logp.exp() * logp, "sum", lengths=counts_N)


def compare_whole(
    logits_NV: Tensor, ref_logits_NV: Tensor, tokens_N: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`token_logp` under both, `exact_kl` and the entropy of the first, all (N,) fp32, at a temperature."""
    logp_NV, ref_NV = (tempered(x, temperature).log_softmax(-1) for x in (logits_NV, ref_logits_NV))
    drawn_N, ref_N = (x.gather(1, tokens_N[:, None])[:, 0] for x in (logp_NV, ref_NV))
    p_NV = logp_NV.exp()
    return drawn_N, ref_N, (p_NV * (logp_NV - ref_NV)).sum(-1), -(p_NV * logp_NV).sum(-1)


def compare_logits(
    logits_NV: Tensor, ref_logits_NV: Tensor, tokens_N: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`compare_whole`, on a CPU piece by piece, so that each pass over a piece finds it in the cache."""
    size = len(logits_NV)
    if logits_NV.device.type == "cpu":
        size = max(PIECE_ROWS, PIECE_BYTES // (4 * logits_NV.shape[1]))
    pieces = zip(logits_NV.split(size), ref_logits_NV.split(size), tokens_N.split(size))
    found = [compare_whole(*piece, temperature) for piece in pieces]
    whole_N, ref_N, kl_N, entropy_N = (torch.cat(parts) for parts in zip(*found))
    return whole_N, ref_N, kl_N, entropy_N


@functools.cache
def generated_compare() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`compare_whole` as generated code, which makes one pass of several."""
    return torch.compile(compare_whole, dynamic=True)


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and sum of squared deviations of everything seen so far (Chan's parallel update)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, values: list[float]) -> RunningMoments:
        """With a batch of finite values added."""
        if not values:
            return self
        count = self.count + len(values)
        batch_mean = math.fsum(values) / len(values)
        delta = batch_mean - self.mean
        squares = self.squares + math.fsum((v - batch_mean) ** 2 for v in values)
        squares += delta * delta * self.count * len(values) / count
        return RunningMoments(count, self.mean + delta * len(values) / count, squares)

    @property
    def std(self) -> float:
        """Population standard deviation; 1 until two different values were seen."""
        return math.sqrt(self.squares / self.count) if self.squares > 0 else 1.0


def flatten(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Real tokens laid end to end: (N,)."""
    return x_BR[mask_BR]


def unflatten(x_N: Tensor, mask_BR: Tensor) -> Tensor:
    """The inverse of `flatten`, 0 on padding; differentiable."""
    return torch.zeros(mask_BR.shape, dtype=x_N.dtype, device=x_N.device).masked_scatter(mask_BR, x_N)


def exact_kl(logits_NV: Tensor, ref_logits_NV: Tensor) -> Tensor:
    """KL(policy || reference) of the whole next-token distributions, (N,): no sampling noise."""
    logp_NV, ref_NV = logits_NV.log_softmax(-1), ref_logits_NV.log_softmax(-1)
    return (logp_NV.exp() * (logp_NV - ref_NV)).sum(-1)
