"""The paths of attention on a CUDA device: the same bounds as on the CPU, and the kernels that are meant to run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from test_attention import BOUND, cases, errors, heads_and_keys
from torch.nn.attention import SDPBackend, sdpa_kernel

from openqwen.model.attention import WIDE_WINDOW, attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(cases())
@settings(max_examples=50, deadline=None)
def test_values_and_gradients(dtype, case):
    shape, sight, seed = case
    if sight["mask"] is not None:
        sight = {**sight, "mask": sight["mask"].cuda()}
    assert max(errors(*heads_and_keys(shape, dtype, seed, "cuda"), **sight)) < BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sight", [{"causal": True}, {"window": 128}, {"window": WIDE_WINDOW}], ids=str)
def test_long_sequences(dtype, sight):
    shape = {"B": 2, "T": 1500, "S": 1500, "H": 4, "K": 2, "D": 64}
    assert max(errors(*heads_and_keys(shape, dtype, 1, "cuda"), **sight)) < BOUND[dtype]


def test_full_attention_can_run_as_flash_attention():
    """With only that kernel allowed torch refuses a call it does not fit."""
    shape = {"B": 2, "T": 512, "S": 512, "H": 4, "K": 4, "D": 128}
    q, k, v = heads_and_keys(shape, torch.bfloat16, 2, "cuda")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attend(q, k, v, causal=True).sum().backward()
        attend(q[:, -1:], k, v, causal=True)
    assert q.grad is not None and torch.isfinite(q.grad).all()
