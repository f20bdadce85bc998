"""Scoring a batch of replies with the four models, and the gradients of value and policy.

Report §3.2.2. The KL penalty compares the models' whole distributions (the log-ratio of the sampled token, before
truncation): inside the support alone, a policy whose nucleus has shrunk to one odd token would look unchanged.
The policy ratio compares the truncated ones, because from those the tokens were drawn. Both choices are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from openqwen.core.shards import Tokens
from openqwen.rlhf import ppo, shared
from openqwen.rlhf.config import PPOConfig
from openqwen.rlhf.models import Models
from openqwen.rlhf.rollout import Reply, Rows, head_logits, reply_values, share_rows
from openqwen.train.loader import batch_at
from openqwen.train.loss import cross_entropy

Sums = dict[str, list[float]]


@dataclass
class Scored:
    """Replies of one forward pass with everything the update needs, as it was before the update."""

    rows: Rows
    logp_BR: Tensor  # under the truncated distribution
    values_BR: Tensor
    k1_BR: Tensor  # log-ratio of the whole distributions: what is penalised
    k3_BR: Tensor
    exact_kl_N: Tensor
    entropy_N: Tensor
    rollout_gap: (
        float  # largest |log-probability here - in the engine|: decoding with a cache rounds differently
    )
    score_B: list[float]  # of the reward model; nan where a cut-off reply has no end token to read it at
    advantages_BR: Tensor
    returns_BR: Tensor
    # With their graphs, of the pass that is updated first: nothing has changed since, so its update begins with these.
    logp_N: Tensor | None = None
    values_N: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.rows.tokens_N)


def plan(replies: Sequence[Reply], models: Models, config: PPOConfig, step: int) -> list[list[Rows]]:
    """Minibatches as lists of forward passes. Which queries share a minibatch is drawn by the step's seed; within one,
    rows of like length go together. Scoring and updating use these very tensors."""
    queries = np.arange(len(replies)).reshape(-1, config.responses)
    order = np.random.default_rng([config.seed, step, 1]).permutation(queries).reshape(-1)
    minibatches = []
    for part in np.split(order, config.minibatches):
        rows = lay_out([replies[i] for i in part], models, config)
        rows.sort(key=lambda row: len(row[0].prompt.ids) + sum(len(reply.ids) for reply in row))
        minibatches.append(
            [share_rows(group, models.tokenizer.vocab_size, models.device) for group in passes(rows, config)]
        )
    return minibatches


def lay_out(replies: Sequence[Reply], models: Models, config: PPOConfig) -> list[list[Reply]]:
    """Replies as rows: neighbours to the same query in one row where that saves work."""
    longest = max(len(reply.prompt.ids) + len(reply.ids) for reply in replies)
    shapes = [model.config for model in (models.policy, models.value, models.reward)]
    fits = all(shared.possible(shape, longest) for shape in shapes)
    rows: list[list[Reply]] = []
    for _, run in groupby(replies, key=lambda reply: id(reply.prompt)):
        same = list(run)
        for start in range(0, len(same), config.micro_rows):
            row = same[start : start + config.micro_rows]
            lengths = [len(reply.ids) for reply in row]
            together = fits and shared.worth(len(row[0].prompt.ids), lengths, shapes[0].hidden_size)
            rows += [row] if together else [[reply] for reply in row]
    return rows


def passes(rows: Sequence[list[Reply]], config: PPOConfig) -> list[list[list[Reply]]]:
    """Rows in forward passes of at most `micro_rows` replies."""
    found: list[list[list[Reply]]] = []
    for row in rows:
        if not found or sum(map(len, found[-1])) + len(row) > config.micro_rows:
            found.append([])
        found[-1].append(row)
    return found


def visits(config: PPOConfig, step: int) -> list[int]:
    """The order in which minibatches are visited: the first epoch as planned, later ones shuffled."""
    rng = np.random.default_rng([config.seed, step, 2])
    first = list(range(config.minibatches))
    return first + [int(i) for _ in range(config.epochs - 1) for i in rng.permutation(config.minibatches)]


def score_all(
    models: Models, groups: Sequence[Sequence[Rows]], config: PPOConfig, graph: bool
) -> list[list[Scored]]:
    """`score` of minibatches; graph: keep that of the pass which will be updated first, and so not compute it twice."""
    return [
        [score(models, rows, config, graph and rows is groups[0][0]) for rows in minibatch]
        for minibatch in groups
    ]


@torch.no_grad()
def score(models: Models, rows: Rows, config: PPOConfig, graph: bool = False) -> Scored:
    """One pass of each of the four models over the rows. graph: leave those of policy and value to the update."""
    mask_BR, temperature = rows.mask_BR, config.temperature
    with models.autocast():
        # With a graph as in the update: code generated for passes without one may round differently.
        with torch.set_grad_enabled(graph or config.compile):
            logits_NV = head_logits(models.policy, rows)
            live_values_N = reply_values(models.value, rows)
        ref_logits_NV = head_logits(models.reference, rows)
    with torch.set_grad_enabled(graph):
        live_logp_N, inside_N = reply_logp(logits_NV, rows, temperature)
    logits_NV, logp_N, values_N = logits_NV.detach(), live_logp_N.detach(), live_values_N.detach()
    compare = ppo.generated_compare() if config.compile else ppo.compare_logits
    whole_N, ref_N, kl_N, entropy_N = compare(logits_NV, ref_logits_NV, rows.tokens_N, temperature)
    if inside_N is not None:
        entropy_N = inside_N.detach()
    drawn_N = torch.tensor([p for reply in rows.replies for p in reply.logprobs], device=models.device)
    scores = models.scores(rows).tolist()
    empty_BR = torch.zeros(mask_BR.shape, device=models.device)
    return Scored(
        rows=rows,
        logp_BR=ppo.unflatten(logp_N, mask_BR),
        values_BR=ppo.unflatten(values_N, mask_BR),
        k1_BR=ppo.unflatten(ppo.kl_k1(whole_N, ref_N), mask_BR),
        k3_BR=ppo.unflatten(ppo.kl_k3(whole_N, ref_N), mask_BR),
        exact_kl_N=kl_N,
        entropy_N=entropy_N,
        rollout_gap=(logp_N - drawn_N).abs().max().item(),
        score_B=[s if reply.finished else math.nan for s, reply in zip(scores, rows.replies)],
        advantages_BR=empty_BR,
        returns_BR=empty_BR,
        logp_N=live_logp_N if graph else None,
        values_N=live_values_N if graph else None,
    )


def reply_logp(logits_NV: Tensor, rows: Rows, temperature: float) -> tuple[Tensor, Tensor | None]:
    """(N,) log-probabilities of the reply tokens under the distributions they were drawn from, and the entropy of those
    if they were truncated."""
    if rows.support is None:
        return ppo.token_logp(ppo.tempered(logits_NV, temperature), rows.tokens_N), None
    return ppo.support_logp(logits_NV, rows.support, rows.tokens_N, temperature)


def normalise(
    scores: Sequence[float], finished: Sequence[bool], moments: ppo.RunningMoments, config: PPOConfig
) -> list[float]:
    """Rewards as PPO sees them: by the running mean, clipped; the penalty for a cut-off reply; 0 for a score
    that is not a number, which is counted and must not steer anything."""
    shift = 0.0 if config.reward_norm == "none" else moments.mean
    scale = moments.std if config.reward_norm == "mean-std" else 1.0
    limit = config.reward_limit
    rewards = []
    for value, whole in zip(scores, finished):
        if not whole:
            rewards.append(config.cutoff_reward)
        else:
            rewards.append(min(limit, max(-limit, (value - shift) / scale)) if math.isfinite(value) else 0.0)
    return rewards


def credit(
    batch: Sequence[Scored], moments: ppo.RunningMoments, config: PPOConfig
) -> tuple[ppo.RunningMoments, list[float]]:
    """Fills in advantages and returns of the whole batch; returns the moments with this batch's scores added."""
    moments = moments.update([s for scored in batch for s in scored.score_B if math.isfinite(s)])
    seen: list[float] = []
    for scored in batch:
        finished = [reply.finished for reply in scored.rows.replies]
        rewards = normalise(scored.score_B, finished, moments, config)
        seen += rewards
        mask_BR = scored.rows.mask_BR
        reward_B = torch.tensor(rewards, dtype=torch.float32, device=mask_BR.device)
        rewards_BR = ppo.penalised_rewards(reward_B, scored.k1_BR, mask_BR, config.kl_coef)
        scored.advantages_BR, scored.returns_BR = ppo.gae(
            rewards_BR, scored.values_BR, mask_BR, config.gamma, config.gae_lambda
        )
    if config.whiten:
        flat_N = torch.cat([ppo.flatten(s.advantages_BR, s.rows.mask_BR) for s in batch])
        white_N = ppo.whiten(flat_N, torch.ones_like(flat_N, dtype=torch.bool))
        for scored, part_N in zip(batch, white_N.split([s.num_tokens for s in batch])):
            scored.advantages_BR = ppo.unflatten(part_N, scored.rows.mask_BR)
    return moments, seen


def value_gradient(models: Models, minibatch: Sequence[Scored], config: PPOConfig, sums: Sums) -> float:
    """Accumulates the gradient of the clipped value loss of a minibatch; returns the loss."""
    num_tokens = sum(scored.num_tokens for scored in minibatch)
    total = 0.0
    for scored in minibatch:
        mask_BR = scored.rows.mask_BR
        values_N, scored.values_N = scored.values_N, None
        if values_N is None:
            with models.autocast():
                values_N = reply_values(models.value, scored.rows)
        values_BR = ppo.unflatten(values_N, mask_BR)
        loss, held = ppo.value_loss(
            values_BR, scored.values_BR, scored.returns_BR, mask_BR, config.value_clip, num_tokens
        )
        loss.backward()
        total += loss.item()
        sums["value_clipped"].append(held.item())
        sums["value_tokens"].append(scored.num_tokens)
    return total


def policy_gradient(models: Models, minibatch: Sequence[Scored], config: PPOConfig, sums: Sums) -> float:
    """Accumulates the gradient of the clipped surrogate of a minibatch; returns the loss."""
    num_tokens = sum(scored.num_tokens for scored in minibatch)
    total, widest = 0.0, 0.0
    for scored in minibatch:
        rows = scored.rows
        logp_N, scored.logp_N = scored.logp_N, None
        if logp_N is None:
            with models.autocast():
                logits_NV = head_logits(models.policy, rows)
            logp_N, _ = reply_logp(logits_NV, rows, config.temperature)
        logp_BR = ppo.unflatten(logp_N, rows.mask_BR)
        loss, held = ppo.policy_loss(
            logp_BR, scored.logp_BR, scored.advantages_BR, rows.mask_BR, config.policy_clip, num_tokens
        )
        loss.backward()
        total += loss.item()
        log_ratio = (logp_BR - scored.logp_BR).detach()
        widest = max(widest, log_ratio.abs().max().item())
        sums["ratio_max"].append(log_ratio.max().exp().item())
        sums["ratio_min"].append(log_ratio.min().exp().item())
        sums["policy_clipped"].append(held.item())
        sums["policy_tokens"].append(scored.num_tokens)
        sums["approx_kl"].append(ppo.kl_k3(scored.logp_BR, logp_BR.detach())[rows.mask_BR].sum().item())
    sums["log_ratio"].append(widest)  # the first of a step is taken before any update
    return total


def pretrained_gradient(models: Models, tokens: Tokens, update: int, config: PPOConfig, sums: Sums) -> float:
    """Accumulates the pretrained gradient: next-token loss on pretraining text times its coefficient."""
    if config.pretrain_coef == 0:
        return 0.0
    ids_BT = batch_at(tokens, update, config.pretrain_batch, config.pretrain_context, config.seed)
    total = 0.0
    for part_BT in ids_BT.split(config.micro_rows):
        part_BT = part_BT.to(models.device)
        with models.autocast():
            hidden = models.policy.hidden(part_BT[:, :-1])  # (b, T, C)
            loss, _ = cross_entropy(hidden.flatten(0, 1), models.policy.head.weight, part_BT[:, 1:].flatten())
        loss = loss / (config.pretrain_batch * config.pretrain_context)
        (config.pretrain_coef * loss).backward()
        total += loss.item()
    sums["pretrain_loss"].append(total)
    return config.pretrain_coef * total
