"""Greedy samples: the cached loop equals full forward passes."""

from __future__ import annotations

import torch

from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.train.sample import greedy


def test_equals_full_forward_passes_and_stops() -> None:
    model = Qwen(
        ModelConfig(vocab_size=53, hidden_size=16, num_layers=2, num_heads=2, ffn_size=24, max_length=32)
    )
    model.train()
    with torch.no_grad():  # far from uniform, so that no near-tie decides
        for parameter in model.parameters():
            parameter.mul_(4)
    prompt, slow = [3, 1, 4], [3, 1, 4]
    with torch.no_grad():
        for _ in range(12):
            slow.append(int(model.eval()(torch.tensor([slow]))[0, -1].argmax()))
    model.train()
    assert greedy(model, prompt, 12) == slow[3:]
    assert model.training
    stop = slow[7]
    assert greedy(model, prompt, 12, stop=[stop]) == slow[3 : slow.index(stop, 3) + 1]
