"""Greedy continuations, to see what a model says while it is trained.

Ours. One prompt at a time through the model's own cache; the engine is for everything else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from openqwen.model.cache import KVCache
from openqwen.model.qwen import Qwen


@torch.no_grad()
def greedy(model: Qwen, prompt: Sequence[int], max_tokens: int, stop: Collection[int] = ()) -> list[int]:
    """The most likely continuation of a prompt, its stop token (if reached) included. Leaves the training mode alone."""
    training = model.training
    model.eval()
    try:
        weight = model.head.weight
        cache = KVCache(model.config, 1, len(prompt) + max_tokens, dtype=weight.dtype, device=weight.device)
        new: list[int] = []
        ids = torch.tensor([list(prompt)], device=weight.device)  # (1, P)
        while len(new) < max_tokens and not (new and new[-1] in stop):
            hidden = model.hidden(ids, cache=cache)  # (1, T, C)
            new.append(int(model.head(hidden[:, -1]).argmax()))
            ids = ids.new_tensor([[new[-1]]])
        return new
    finally:
        model.train(training)
