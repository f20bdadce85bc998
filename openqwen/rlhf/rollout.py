"""Replies sampled from the policy, and the one forward pass that both scores and updates them.

Report §3.2.2: two responses a query, top-p 0.9. Ours: a token's log-probability is that of the truncated
distribution it was drawn from. The engine hands back each token's support; scoring and updating renormalise on that
stored support with the same module on the same rows, so the ratio before an update is exactly 1.

B replies of a forward pass, T tokens of prompt and reply, R of the reply, N real reply tokens end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwen.engine import Engine, Sampling
from openqwen.model.heads import ScalarModel
from openqwen.model.qwen import Qwen
from openqwen.rlhf.ppo import Support
from openqwen.rlhf.prompts import Prompt
from openqwen.train.padding import right_pad


@dataclass(frozen=True)
class Reply:
    """One sampled reply. ids end with the end-of-turn token if `finished`, else the reply was cut off."""

    prompt: Prompt
    ids: list[int]
    support: list[Tensor]  # per token: the ids it could have been, int64
    logprobs: list[float]  # per token, as the engine drew it
    text: str
    finished: bool


@dataclass(frozen=True)
class Rows:
    """Replies that go through the models together; the same rows when scored and when updated."""

    replies: list[Reply]
    ids_BT: Tensor
    real_BT: Tensor  # bool
    mask_BR: Tensor  # bool
    before_N: Tensor  # where in the flattened (B * T) the state before each reply token stands
    tokens_N: Tensor
    support: Support

    def states(self, x_BT: Tensor) -> Tensor:
        """x (B, T, ...) at the positions that predict the reply's tokens: (N, ...)."""
        return x_BT.flatten(0, 1).index_select(0, self.before_N)


def seed_of(base: int, step: int, row: int) -> int:
    """The sampling seed of one reply: 63 bits, different for each step and row."""
    return ((base * 1_000_003 + step) * 1_000_003 + row) % 2**63


def sample_replies(
    engine: Engine,
    prompts: Sequence[Prompt],
    end_id: int,
    *,
    seeds: Sequence[int],
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    support: bool = True,
) -> list[Reply]:
    """One reply to each prompt. finished: it ended with `end_id` itself, not by length or another control token."""
    samplings = [
        Sampling(temperature=temperature, top_p=top_p, max_tokens=max_new_tokens, seed=seed, support=support)
        for seed in seeds
    ]
    completions = engine.generate([prompt.ids for prompt in prompts], samplings)
    return [
        Reply(prompt, done.ids, done.support or [], done.logprobs, done.text, done.ids[-1:] == [end_id])
        for prompt, done in zip(prompts, completions)
    ]


def make_rows(replies: Sequence[Reply], vocab_size: int, device: torch.device) -> Rows:
    """Right-padded tensors of some replies."""
    ids_BT, real_BT = right_pad([reply.prompt.ids + reply.ids for reply in replies], device)
    lengths_B = torch.tensor([len(reply.ids) for reply in replies], device=device)
    mask_BR = torch.arange(int(lengths_B.max()), device=device)[None] < lengths_B[:, None]
    width = ids_BT.shape[1]
    before = [
        row * width + len(reply.prompt.ids) - 1 + r
        for row, reply in enumerate(replies)
        for r in range(len(reply.ids))
    ]
    kept = [ids for reply in replies for ids in reply.support]
    before_N = torch.tensor(before, device=device)
    return Rows(
        replies=list(replies),
        ids_BT=ids_BT,
        real_BT=real_BT,
        mask_BR=mask_BR,
        before_N=before_N,
        tokens_N=ids_BT.flatten()[before_N + 1],
        support=Support(
            torch.cat(kept).to(device, torch.int32),
            torch.tensor([len(ids) for ids in kept], device=device),
            vocab_size,
        ),
    )


def reply_logits(model: Qwen, rows: Rows, temperature: float) -> Tensor:
    """Logits (N, V) of every reply token in fp32; only these positions go through the vocabulary head.

    V is the tokenizer's size: rows that pad the embedding can never be drawn.
    """
    hidden_NC = rows.states(model.hidden(rows.ids_BT, rows.real_BT))
    return model.head(hidden_NC)[:, : rows.support.vocab_size].float() / temperature


def reply_values(model: ScalarModel, rows: Rows) -> Tensor:
    """The value (N,) before every reply token."""
    return rows.states(model(rows.ids_BT, rows.real_BT))
