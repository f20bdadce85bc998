"""Replies sampled from the policy, and the one forward pass that both scores and updates them.

Report §3.2.2: two responses a query, top-p 0.9. Ours: a token's log-probability is that of the truncated
distribution it was drawn from. The engine hands back each token's support; scoring and updating renormalise on that
stored support with the same module on the same rows, so the ratio before an update is exactly 1.

B rows of a forward pass, T tokens of prompt and reply, R of the reply, N real reply tokens end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwen.engine import Engine, Sampling
from openqwen.model.heads import ScalarModel
from openqwen.model.qwen import Qwen
from openqwen.rlhf import ppo, shared
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
    """Replies that go through the models together; the same rows when scored and when updated.

    A row holds a query and its reply, or several replies behind one copy of the query: then `trunk` is given, and the
    query and each reply are padded by themselves (shared.py).
    """

    replies: list[Reply]
    ids_BT: Tensor
    real_BT: Tensor  # bool
    trunk: int | None  # tokens of a row that belong to its query, where replies share it
    mask_BR: Tensor  # bool, replies x their tokens
    before_N: Tensor  # where in the flattened (B * T) the state before each reply token stands
    last_R: Tensor  # where each reply's last token stands
    tokens_N: Tensor
    support: ppo.Support | None  # None: every token could have been drawn
    vocab_size: int


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
    """Right-padded tensors of some replies, each in a row of its own."""
    return share_rows([[reply] for reply in replies], vocab_size, device)


def share_rows(rows: Sequence[Sequence[Reply]], vocab_size: int, device: torch.device) -> Rows:
    """Right-padded tensors of rows of replies; those of one row answer the same query, which stands there once."""
    replies = [reply for row in rows for reply in row]
    longest = max(len(reply.ids) for reply in replies)
    trunk, count = None, max(map(len, rows))
    if count == 1:
        ids_BT, real_BT = right_pad([row[0].prompt.ids + row[0].ids for row in rows], device)
    else:
        trunk = max(len(row[0].prompt.ids) for row in rows)
        queries, real_BQ = right_pad([row[0].prompt.ids for row in rows], device)
        laid = [row[i].ids if i < len(row) else [] for row in rows for i in range(count)]
        branches, real_NR = right_pad([ids or [0] for ids in laid], device)  # (B count, R)
        real_NR &= torch.tensor([[bool(ids)] for ids in laid], device=device)
        ids_BT, real_BT = (
            torch.cat((first, rest.reshape(len(rows), -1)), 1)
            for first, rest in ((queries, branches), (real_BQ, real_NR))
        )
    before: list[int] = []
    last: list[int] = []
    for number, row in enumerate(rows):
        start, query = number * ids_BT.shape[1], len(row[0].prompt.ids)
        begin = start + (query if trunk is None else trunk)  # of the first reply
        for reply in row:
            before += [start + query - 1, *range(begin, begin + len(reply.ids) - 1)]
            last.append(begin + len(reply.ids) - 1)
            begin += longest
    lengths_R = torch.tensor([len(reply.ids) for reply in replies], device=device)
    kept = [ids for reply in replies for ids in reply.support]
    support = None
    if kept:
        counts = torch.tensor([len(ids) for ids in kept], device=device)
        support = ppo.Support(torch.cat(kept).to(device, torch.int32), counts, vocab_size)
    return Rows(
        replies=replies,
        ids_BT=ids_BT,
        real_BT=real_BT,
        trunk=trunk,
        mask_BR=torch.arange(longest, device=device)[None] < lengths_R[:, None],
        before_N=torch.tensor(before, device=device),
        last_R=torch.tensor(last, device=device),
        tokens_N=torch.tensor([i for reply in replies for i in reply.ids], device=device),
        support=support,
        vocab_size=vocab_size,
    )


def states(model: Qwen, rows: Rows, places: Tensor) -> Tensor:
    """States (n, C) after the final norm at some places (n,) of the flattened rows."""
    if rows.trunk is not None:
        count = (rows.ids_BT.shape[1] - rows.trunk) // rows.mask_BR.shape[1]
        return shared.states(model, rows.ids_BT, rows.real_BT, rows.trunk, count, places)
    return model.hidden(rows.ids_BT, rows.real_BT).flatten(0, 1).index_select(0, places)


def head_logits(model: Qwen, rows: Rows) -> Tensor:
    """Logits (N, V) of every reply token as the head gives them; only these positions go through it.

    V is the tokenizer's size: rows that pad the embedding can never be drawn.
    """
    return model.head(states(model, rows, rows.before_N))[:, : rows.vocab_size]


def reply_logits(model: Qwen, rows: Rows, temperature: float) -> Tensor:
    """`head_logits` in fp32, at a temperature."""
    return ppo.tempered(head_logits(model, rows), temperature)


def reply_values(model: ScalarModel, rows: Rows) -> Tensor:
    """The value (N,) before every reply token."""
    return shared.scalars(model, states(model.backbone, rows, rows.before_N))
