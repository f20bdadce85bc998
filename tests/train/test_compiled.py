"""Compiled blocks: the numbers of plain ones, only where they train, and an error where no compiler works."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from openqwen.core.errors import MissingTool
from openqwen.model.cache import KVCache
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.train import compiled
from openqwen.train.compiled import compile_blocks

CONFIG = ModelConfig(vocab_size=97, hidden_size=32, num_layers=3, num_heads=2, ffn_size=64, max_length=32)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts what would be compiled, and runs it as it is."""
    torch._dynamo.reset()
    counter, plain = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: plain(function, backend=counter))
    monkeypatch.setattr(compiled, "_try_compiler", lambda: None)
    return counter


def loss_of(model: Qwen, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).square().mean()


def test_one_compilation_serves_all_blocks(counter: CompileCounter) -> None:
    plain, model = Qwen(CONFIG).train(), Qwen(CONFIG).train()
    compile_blocks(model.blocks)
    ids = torch.randint(0, 97, (2, 32))
    for _ in range(2):
        loss_of(model, ids).backward()
        loss_of(plain, ids).backward()
    assert counter.frame_count == 1
    for ours, expected in zip(model.parameters(), plain.parameters()):
        assert torch.equal(ours.grad, expected.grad)


def test_evaluation_and_caches_stay_with_the_plain_code(counter: CompileCounter) -> None:
    model = Qwen(CONFIG).eval()
    compile_blocks(model.blocks)
    ids = torch.randint(0, 97, (1, 7))
    with torch.no_grad():
        model(ids)
        model(ids, cache=KVCache(CONFIG, 1, 32))
    assert counter.frame_count == 0


def test_no_compiler_is_an_error_before_the_run() -> None:
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    without = inductor.patch({"cpp.cxx": (None, "no-such-compiler")})
    with without, pytest.raises(MissingTool, match=r"torch\.compile does not work here.*no-such-compiler"):
        compile_blocks(Qwen(CONFIG).blocks)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_generated_code_trains_like_plain_code() -> None:
    plain, model = Qwen(CONFIG).train(), Qwen(CONFIG).train()
    compile_blocks(model.blocks)
    ids = torch.randint(0, 97, (2, 32))
    for one in (plain, model):
        with torch.autocast("cpu", torch.bfloat16):
            loss_of(one, ids).backward()
    for (name, ours), expected in zip(model.named_parameters(), plain.parameters()):
        error = (ours.grad - expected.grad).norm() / expected.grad.norm()
        assert error < 2**-6, name  # a few roundings of bf16
