"""What PPO changed, on prompts it never saw: rewards, true score, win/tie/loss, divergence, alignment tax.

Report §3.2.2 (alignment tax) and Figure 4 (win, tie, loss). Ours: the measurement. "Before" is the reference
model, which is the policy PPO began with; both answer with the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from openqwen.core.intervals import wilson
from openqwen.core.shards import Tokens
from openqwen.engine import Engine
from openqwen.model.qwen import Qwen
from openqwen.rlhf.config import PPOConfig
from openqwen.rlhf.models import Models
from openqwen.rlhf.ppo import exact_kl
from openqwen.rlhf.prompts import Prompt
from openqwen.rlhf.rollout import Reply, make_rows, reply_logits, sample_replies
from openqwen.train.loader import batch_at, num_pieces
from openqwen.train.loss import cross_entropy

TrueScore = Callable[[Mapping[str, Any], str], float]


def answer(
    models: Models, model: Qwen, prompts: Sequence[Prompt], seeds: Sequence[int], config: PPOConfig
) -> list[Reply]:
    """One reply of `model` to each prompt, at the evaluation's temperature."""
    with models.autocast():
        return sample_replies(
            Engine(model, models.tokenizer),
            prompts,
            models.tokenizer.im_end_id,
            seeds=seeds,
            temperature=config.eval_temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
        )


@torch.no_grad()
def modelled_rewards(models: Models, replies: Sequence[Reply], micro_rows: int) -> list[float | None]:
    """The reward model's score of each finished reply; None where there is no end token to read it at."""
    scores: list[float | None] = []
    for start in range(0, len(replies), micro_rows):
        part = replies[start : start + micro_rows]
        rows = make_rows(part, models.tokenizer.vocab_size, models.device)
        found = models.scores(rows).tolist()
        scores += [score if reply.finished else None for score, reply in zip(found, part)]
    return scores


@torch.no_grad()
def divergence(models: Models, replies: Sequence[Reply], micro_rows: int) -> float:
    """Mean over replies of the summed exact KL(policy || reference) of their next-token distributions, in nats."""
    total = 0.0
    for start in range(0, len(replies), micro_rows):
        rows = make_rows(replies[start : start + micro_rows], models.tokenizer.vocab_size, models.device)
        with models.autocast():
            logits = [reply_logits(model, rows, 1.0) for model in (models.policy, models.reference)]
        total += exact_kl(*logits).sum().item()
    return total / len(replies)


@torch.no_grad()
def text_loss(models: Models, model: Qwen, tokens: Tokens, context: int, limit: int, seed: int) -> float:
    """Nats a token on held-out pretraining text: the alignment tax is how much this rises."""
    sequences = max(1, min(limit // context, num_pieces(tokens, context)))
    total, count = 0.0, 0
    for number in range(sequences):
        ids = batch_at(tokens, number, 1, context, seed).to(models.device)  # (1, T + 1)
        with models.autocast():
            hidden = model.hidden(ids[:, :-1])  # (1, T, C)
            loss, labels = cross_entropy(hidden.flatten(0, 1), model.head.weight, ids[:, 1:].flatten())
        total, count = total + loss.item(), count + labels
    return total / count


def compare(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Wins, ties and losses of `after`; a tie counts half in the win rate and its 95 % Wilson interval."""
    win = sum(a > b for a, b in zip(after, before))
    tie = sum(a == b for a, b in zip(after, before))
    low, high = wilson(win + tie / 2, len(before))
    return {
        "prompts": len(before),
        "win": win,
        "tie": tie,
        "loss": len(before) - win - tie,
        "win_rate": (win + tie / 2) / len(before),
        "win_rate_low": low,
        "win_rate_high": high,
    }
