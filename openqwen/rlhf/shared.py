"""Replies to one query behind a single copy of it: the query goes through a model once, not once a reply.

Ours, for the report's two responses a query (§3.2.2). A row holds a query and several replies to it side by side, all
padded to the same lengths in all rows of a pass. Each reply sees the query and itself, at the positions it has when it
stands alone, so the numbers are those of separate rows up to the order of sums (`tests/rlhf/test_shared.py`). Padding is
computed in attention only, and of the last layer's feed-forward only what is asked for.

B rows, T tokens, C hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openqwen.model.config import Extension, ModelConfig
from openqwen.model.context import Asked, Branches, Packed, binding_windows, layer_contexts
from openqwen.model.heads import ScalarModel
from openqwen.model.qwen import Qwen

PACKED = (
    0.95  # share of real tokens below which padding is left out: moving them in and out of rows costs less
)


def possible(config: ModelConfig, longest: int) -> bool:
    """Whether no technique for long texts (§2.5), which counts places of a row, acts on sequences up to `longest`."""
    windows = binding_windows(config.extension, config.num_layers, longest)
    return longest <= config.max_length and not any(windows)


def worth(query: int, replies: Sequence[int], width: int) -> bool:
    """Whether the query's tokens that are saved cost more than the attention of replies padded to the longest one.

    query, replies: lengths; width C. A token costs about 24 C² operations a layer, a pair of query and key 8 C (its
    4 C, and as much again for the softmax).
    """
    longest = max(replies)
    pairs = sum(longest * (query + longest) - length * (query + length) for length in replies)
    return 24 * width * query * (len(replies) - 1) > 8 * pairs


def states(model: Qwen, ids_BT: Tensor, real_BT: Tensor, trunk: int, count: int, places: Tensor) -> Tensor:
    """States (n, C) after the final norm at some places (n,) of the flattened rows.

    real: False at padding. trunk: tokens of a row that belong to its query; the rest are `count` replies.
    """
    query_BQ = real_BT[:, :trunk]
    sight = Branches(trunk, count, None if bool(query_BQ.all()) else query_BQ)
    contexts = layer_contexts(
        model.config,
        Extension(),
        positions(real_BT, trunk, count),
        lengths=torch.ones_like(ids_BT[:, :1]),  # counted by the techniques for long texts only
        longest=1,
        sight=lambda window: sight,
    )
    x, asked = model.embed(ids_BT), Asked(places, places)  # (B, T, C)
    real = real_BT.flatten()  # (B T,)
    if real.sum() < PACKED * len(real):
        packed = Packed(real.nonzero()[:, 0], *ids_BT.shape)
        contexts = [replace(context, packed=packed) for context in contexts]
        x, asked = packed.gather(x), Asked(places, (real.cumsum(0) - 1)[places])
    contexts[-1] = replace(contexts[-1], asked=asked)
    for layer, (block, context) in enumerate(zip(model.blocks, contexts)):
        x = block(x, context, None, layer)
    return model.norm(x)


def positions(real_BT: Tensor, trunk: int, count: int) -> Tensor:
    """(B, T): a reply's first token follows the query's last; 0 at padding."""
    query_B1 = real_BT[:, :trunk].sum(1, keepdim=True)
    reply_R = torch.arange((real_BT.shape[1] - trunk) // count, device=real_BT.device)
    query_BQ = torch.arange(trunk, device=real_BT.device).expand(len(real_BT), trunk)
    return torch.cat((query_BQ, (query_B1 + reply_R).repeat(1, count)), 1).where(real_BT, 0)


def scalars(model: ScalarModel, states_NC: Tensor) -> Tensor:
    """The scalar head (N,) on some states, in fp32 as in `ScalarModel.forward`."""
    with torch.autocast(states_NC.device.type, enabled=False):
        return torch.nn.functional.linear(states_NC.float(), model.scalar.weight.float()).squeeze(-1)
