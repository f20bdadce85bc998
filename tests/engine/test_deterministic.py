"""The batch-invariant arithmetic against torch's, and against itself in other company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openqwen.engine.deterministic import BatchInvariant, tiled_attention, tiled_linear


def test_linear_is_right_and_bitwise_the_same_for_any_number_of_rows():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(70, 96), torch.randn(33, 96), torch.randn(33)
    whole = tiled_linear(x, weight, bias)
    torch.testing.assert_close(whole, F.linear(x, weight, bias))
    for start, count in ((0, 1), (5, 2), (17, 3), (9, 40), (69, 1)):
        assert torch.equal(tiled_linear(x[start : start + count], weight, bias), whole[start : start + count])


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_is_right_and_bitwise_the_same_in_any_piece(kv_heads):
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 4, 90, 16), torch.randn(2, kv_heads, 90, 16), torch.randn(2, kv_heads, 90, 16)
    gqa = kv_heads != 4
    whole = tiled_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    torch.testing.assert_close(whole, F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa))
    for position in (0, 1, 16, 63, 64, 89):  # one query against the keys before it, alone in its batch
        seen = slice(0, position + 1)
        one = tiled_attention(
            q[1:, :, position : position + 1], k[1:, :, seen], v[1:, :, seen], enable_gqa=gqa
        )
        assert torch.equal(one[0, :, 0], whole[1, :, position])


def test_the_mode_reaches_modules():
    layer, x = torch.nn.Linear(8, 8), torch.randn(3, 8)
    with BatchInvariant():
        inside = layer(x)
    assert torch.equal(inside, tiled_linear(x, layer.weight, layer.bias))
