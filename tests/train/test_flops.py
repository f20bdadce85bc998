"""Floating-point operations against torch's own counter: the report's sizes without allocating, and a real step."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openqwen.model.config import ModelConfig
from openqwen.model.context import rotary_table
from openqwen.model.qwen import Qwen
from openqwen.model.table1 import size
from openqwen.train.flops import flops_per_token, keys_per_query, matrix_weights, query_blocks
from openqwen.train.loss import cross_entropy
from openqwen.train.precision import autocast


@pytest.mark.parametrize(
    ("name", "kv_heads", "layers"),
    [("qwen-1.8b", None, 24), ("qwen-7b", None, 32), ("qwen-14b", None, 40), ("qwen-7b", 8, 4)],
)
def test_at_the_reports_sizes_equal_to_torchs_count(name: str, kv_heads: int | None, layers: int) -> None:
    config = size(name).config.model_copy(update={"num_kv_heads": kv_heads, "num_layers": layers})
    tokens = config.max_length
    rotary_table.cache_clear()  # its tables must be neither taken into the mode nor carried out of it
    # torch's counter has no formula for the CPU's flash kernel; the plain products of attention it counts one by one.
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        model = Qwen(config).train()
        with FlopCounterMode(display=False) as forward:
            logits = model(torch.zeros(1, tokens, dtype=torch.int64))
        with FlopCounterMode(display=False) as backward:
            logits.backward(torch.empty_like(logits))
    rotary_table.cache_clear()
    assert forward.get_total_flops() == tokens * flops_per_token(config, tokens, causal=False, backward=False)
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total == tokens * flops_per_token(config, tokens, causal=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kv_heads", "context"), [(None, 40), (2, 40), (1, 300), (4, 520), (2, 1030)])
def test_of_a_real_step_with_its_loss_in_chunks(
    dtype: torch.dtype, kv_heads: int | None, context: int
) -> None:
    config = ModelConfig(
        vocab_size=200, hidden_size=48, num_layers=2, num_heads=4, num_kv_heads=kv_heads, max_length=1030
    )
    model, ids = Qwen(config).train(), torch.randint(0, 200, (2, context + 1))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        with autocast(dtype):
            hidden = model.hidden(ids[:, :-1])
            total, count = cross_entropy(
                hidden.flatten(0, 1), model.head.weight, ids[:, 1:].flatten(), chunk=64
            )
        total.backward()
    bf16 = dtype == torch.bfloat16
    expected = count * flops_per_token(config, context, causal=False, device="cpu", bf16=bf16)
    assert counter.get_total_flops() == round(expected) == pytest.approx(expected, abs=1e-3)


def test_the_mfu_convention_counts_half_of_attention() -> None:
    config = size("qwen-7b").config
    all_scores, used = (flops_per_token(config, 2048, causal=causal) for causal in (False, True))
    assert all_scores - used == 6 * config.num_layers * config.hidden_size * 2048
    assert used == pytest.approx(6 * matrix_weights(config), rel=0.05)
    embedding, vectors = 151_936 * 4096, 32 * (3 + 2) * 4096 + 4096
    assert matrix_weights(config) == config.num_parameters - embedding - vectors


@pytest.mark.parametrize("context", [1, 256, 257, 300, 512, 513, 1024, 2048, 2049])
@pytest.mark.parametrize("bf16", [False, True])
def test_blocks_cover_every_query_once_and_all_it_may_see(context: int, bf16: bool) -> None:
    for device in ("cpu", "cuda"):
        blocks = query_blocks(context, device, bf16)
        assert sum(queries for queries, _ in blocks) == context and blocks[-1][1] == context
        done = 0
        for queries, keys in blocks:
            done += queries
            assert keys >= done
        assert context / 2 < keys_per_query(context, device, bf16) <= context
