"""A tiny random model and a byte tokenizer: enough to test everything about the engine but quality."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from openqwen.engine import native
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.tokenizer import Tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """256 bytes and Qwen's 208 special tokens."""
    return Tokenizer({bytes([i]): i for i in range(256)}, encoder="tiktoken")


def tiny(vocab_size: int, **changes: object) -> Qwen:
    config = ModelConfig(
        vocab_size=vocab_size, hidden_size=64, num_layers=2, num_heads=4, max_length=128, **changes
    )
    return sharpened(config)


def sharpened(config: ModelConfig) -> Qwen:
    """Larger weights than at initialisation: otherwise greedy repeats one token and tests see nothing."""
    model = Qwen(config)
    model.init_weights(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.eval()


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Qwen:
    return tiny(tokenizer.vocab_size)


@pytest.fixture(scope="session")
def naive() -> Callable[..., list[int]]:
    return generate_naive


@torch.no_grad()
def generate_naive(model: Qwen, prompt: list[int], count: int, stop_ids: set[int]) -> list[int]:
    """Greedy decoding with no cache and no batch: the twin the engine must equal."""
    ids = list(prompt)
    for _ in range(count):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
        if token in stop_ids:
            break
    return ids[len(prompt) :]


@pytest.fixture(params=["", "-mno-avx512f"], ids=["this processor", "older processors"])
def processor(request, monkeypatch):
    """The compiled code as it is made here, and without what only some processors have."""
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, *request.param.split()))
    for memo in (native.library, native._function):
        memo.cache_clear()
    yield
    for memo in (native.library, native._function):
        memo.cache_clear()
