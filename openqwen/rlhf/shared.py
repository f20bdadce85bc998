"""Replies to one query behind a single copy of it: the query goes through a model once, not once a reply.

Ours, for the report's two responses a query (§3.2.2). A row holds a query and several replies to it one after the
other. Each reply sees the query and itself, at the positions it has when it stands alone, so the numbers are those of
separate rows up to the order of sums (`tests/rlhf/test_shared.py`). Cross terms of attention are computed in vain,
which long replies behind a short query do not repay: `worth` decides. Padding is computed in attention only.

B rows, T tokens, C hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openqwen.model.config import Extension, ModelConfig
from openqwen.model.context import Packed, binding_windows, layer_contexts, sight_in_order
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
    """Whether the query's tokens that are saved cost more than what replies compute with each other's keys.

    query, replies: lengths; width C. A token costs about 24 C² operations a layer, a pair of query and key 8 C (its
    4 C, and as much again for the mask).
    """
    pairs = (sum(replies) ** 2 - sum(length**2 for length in replies)) / 2
    return 24 * width * query * (len(replies) - 1) > 8 * pairs


def states(model: Qwen, ids_BT: Tensor, owner_BT: Tensor, places: Tensor) -> Tensor:
    """States (n, C) after the final norm at some places (n,) of the flattened rows.

    owner: 0 for the query, 1, 2, ... for its replies in order, then -1 for padding.
    """
    contexts = layer_contexts(
        model.config,
        Extension(),
        positions(owner_BT),
        lengths=torch.ones_like(owner_BT[:, :1]),  # counted by the techniques for long texts only
        longest=1,
        sight=sight_in_order(seen(owner_BT)),
    )
    x = model.embed(ids_BT)  # (B, T, C)
    real = (owner_BT >= 0).flatten()  # (B T,)
    if real.sum() < PACKED * len(real):
        packed = Packed(real.nonzero()[:, 0], *ids_BT.shape)
        contexts = [replace(context, packed=packed) for context in contexts]
        x, places = packed.gather(x), (real.cumsum(0) - 1)[places]
    for layer, (block, context) in enumerate(zip(model.blocks, contexts)):
        x = block(x, context, None, layer)
    return model.norm(x.flatten(0, -2).index_select(0, places))


def positions(owner_BT: Tensor) -> Tensor:
    """(B, T): a reply's first token follows the query's last."""
    place_BT = torch.arange(owner_BT.shape[1], device=owner_BT.device).expand_as(owner_BT)
    begins_BT = torch.zeros_like(owner_BT, dtype=torch.bool)
    begins_BT[:, 1:] = owner_BT[:, 1:] != owner_BT[:, :-1]
    start_BT = torch.where(begins_BT, place_BT, 0).cummax(1).values
    query_B1 = (owner_BT == 0).sum(1, keepdim=True)
    inside_BT = torch.where(owner_BT == 0, place_BT, place_BT - start_BT + query_B1)
    return torch.where(owner_BT < 0, 0, inside_BT)  # padding has no place of its own


def seen(owner_BT: Tensor) -> Tensor:
    """(B, T, T) bool: which keys belong to the query or to the token's own reply; order is left to attention."""
    return (owner_BT[:, None, :] == 0) | (owner_BT[:, None, :] == owner_BT[:, :, None])


def scalars(model: ScalarModel, states_NC: Tensor) -> Tensor:
    """The scalar head (N,) on some states, in fp32 as in `ScalarModel.forward`."""
    with torch.autocast(states_NC.device.type, enabled=False):
        return torch.nn.functional.linear(states_NC.float(), model.scalar.weight.float()).squeeze(-1)
