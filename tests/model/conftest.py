"""Models and released logits shared by the tests of this area."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen


@pytest.fixture(scope="session")
def qwen1(shared: Path) -> dict[str, torch.Tensor]:
    """Everything the released Qwen-1 code computed for a three-layer model trained at length 64."""
    return load_file(shared / "oracle/tiny_qwen1/oracle.safetensors")


@pytest.fixture(scope="session")
def qwen2(shared: Path) -> dict[str, torch.Tensor]:
    return load_file(shared / "oracle/tiny_qwen2/oracle.safetensors")


@pytest.fixture(scope="session")
def small() -> Qwen:
    """A random model whose dimensions are distinct, with weights large enough for logits that matter."""
    config = ModelConfig(vocab_size=61, hidden_size=40, num_layers=3, num_heads=5, ffn_size=56, max_length=16)
    model = Qwen(config).eval()
    model.init_weights(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
            elif name.endswith("bias"):
                parameter.copy_(torch.linspace(-0.5, 0.5, len(parameter)))
    return model
