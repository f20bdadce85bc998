"""Properties of the forward pass: masks, segments, dropout, initial weights, and an independent fp64 twin."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.model import Extension, ModelConfig, Qwen
from openqwen.model.context import ntk_alpha
from openqwen.model.table1 import TABLE1

ALL = Extension(dynamic_ntk=True, logn=True, windows=(8, 12, 24))
EXTENSIONS = [Extension(), Extension(dynamic_ntk=True, logn=True), ALL]


def reference(model: Qwen, ids: torch.Tensor, extension: Extension) -> torch.Tensor:
    """Logits of one sequence (T,) in fp64 by loops and explicit softmax, written from the formulas alone."""
    c, T = model.config, len(ids)
    weights = {name: p.double() for name, p in model.named_parameters()}
    norm = lambda x, w: x / (x.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt() * w  # noqa: E731
    x = weights["embed.weight"][ids]
    for i in range(c.num_layers):
        w = {name.removeprefix(f"blocks.{i}."): p for name, p in weights.items()}
        window = extension.windows[i] if extension.windows else T
        alpha = ntk_alpha(min(T, window), c.max_length) if extension.dynamic_ntk else 1
        base = c.rope_base * alpha ** (c.head_dim / (c.head_dim - 2))
        h = norm(x, w["attn_norm.weight"]) @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]
        heads = []
        for n in range(c.num_heads):
            q, k, v = (h[:, (part * c.num_heads + n) * c.head_dim :][:, : c.head_dim] for part in range(3))
            q, k = (turn(y, base) for y in (q, k))
            if extension.logn:
                reach = [min(t + 1, window) for t in range(T)]
                q = q * torch.tensor([max(1.0, math.log(r) / math.log(c.max_length)) for r in reach])[:, None]
            rows = []
            for t in range(T):
                start = max(0, t + 1 - window)
                p = (q[t] @ k[start : t + 1].T / math.sqrt(c.head_dim)).softmax(-1)
                rows.append(p @ v[start : t + 1])
            heads.append(torch.stack(rows))
        x = x + torch.cat(heads, -1) @ w["attn.out.weight"].T
        h = norm(x, w["mlp_norm.weight"])
        gate, up = h @ w["mlp.gate.weight"].T, h @ w["mlp.up.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ w["mlp.down.weight"].T
    return norm(x, weights["norm.weight"]) @ weights["head.weight"].T


def turn(x: torch.Tensor, base: float) -> torch.Tensor:
    half = x.shape[1] // 2
    out = x.clone()
    for t in range(len(x)):
        for j in range(half):
            angle = t * base ** (-j / half)
            a, b = x[t, j], x[t, j + half]
            out[t, j] = a * math.cos(angle) - b * math.sin(angle)
            out[t, j + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


@pytest.mark.parametrize("extension", EXTENSIONS, ids=["plain", "ntk+logn", "all"])
@pytest.mark.parametrize("length", [1, 16, 37])
def test_logits_equal_plain_fp64_arithmetic(small, extension, length):
    ids = torch.randint(0, 61, (1, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        ours, wanted = small(ids, extension=extension)[0], reference(small, ids[0], extension)
    assert (ours - wanted).abs().max() < 2e-4 * wanted.abs().max()


@pytest.mark.parametrize("extension", EXTENSIONS, ids=["plain", "ntk+logn", "all"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_gradients_equal_plain_fp64_arithmetic(small, extension, padding):
    """Both ways through attention: the causal kernel and the one with an explicit mask."""
    ids = torch.randint(0, 61, (1, 21), generator=torch.Generator().manual_seed(1))
    pad = 4 if padding == "left" else 0
    padded = F.pad(ids, (pad, 0))
    mask = None if not pad else torch.arange(21 + pad)[None] >= pad
    grads = []
    for logits in (
        small(padded, mask=mask, extension=extension)[0, pad:],
        reference(small, ids[0], extension),
    ):
        loss = F.cross_entropy(logits[:-1], ids[0, 1:])
        grads.append(torch.autograd.grad(loss, list(small.parameters())))
    for (name, _), ours, wanted in zip(small.named_parameters(), *grads):
        assert (ours - wanted).abs().max() < 1e-4 * max(1e-2, float(wanted.abs().max())), name


rows = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@settings(max_examples=12, deadline=None)
@given(lengths=rows, sides=st.lists(st.booleans(), min_size=4, max_size=4), seed=st.integers(0, 9))
@torch.inference_mode()
def test_a_row_of_a_mixed_batch_equals_the_row_alone(small, lengths, sides, seed):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + seed % 3
    extension = EXTENSIONS[seed % 3]
    ids = torch.randint(0, 61, (len(lengths), width), generator=generator)
    places = [slice(0, n) if left else slice(width - n, width) for n, left in zip(lengths, sides)]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, place in enumerate(places):
        mask[row, place] = True
    together = small(ids, mask=mask, extension=extension)
    assert torch.isfinite(together).all()
    for row, place in enumerate(places):
        alone = small(ids[row : row + 1, place], extension=extension)[0]
        torch.testing.assert_close(together[row, place], alone, atol=2e-3, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(lengths=rows, seed=st.integers(0, 9), padding=st.integers(0, 5))
@torch.inference_mode()
def test_packed_segments_equal_separate_forwards(small, lengths, seed, padding):
    extension = EXTENSIONS[seed % 3]
    parts = [torch.randint(0, 61, (1, n), generator=torch.Generator().manual_seed(seed + n)) for n in lengths]
    ids = F.pad(torch.cat(parts, 1), (0, padding))
    segments = torch.tensor([[i for i, n in enumerate(lengths) for _ in range(n)] + [-1] * padding])
    mask = segments >= 0
    packed = small(ids, mask=mask if padding else None, segments=segments, extension=extension)
    alone = torch.cat([small(part, extension=extension) for part in parts], 1)
    torch.testing.assert_close(packed[:, : alone.shape[1]], alone, atol=2e-3, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 29), seed=st.integers(0, 9))
@torch.inference_mode()
def test_later_tokens_change_nothing_before_them(small, cut, seed):
    extension = Extension(logn=True, windows=(8, 12, 24) if seed % 2 else None)
    ids = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(seed))
    other = ids.clone()
    other[:, cut:] = (other[:, cut:] + 1) % 61
    same, changed = small(ids, extension=extension), small(other, extension=extension)
    torch.testing.assert_close(same[:, :cut], changed[:, :cut], atol=2e-4, rtol=1e-5)
    assert (same[:, cut] - changed[:, cut]).abs().max() > 1e-3


@torch.inference_mode()
def test_a_token_outside_all_windows_is_not_seen(small):
    extension = Extension(windows=(2, 2, 2))  # three layers reach back three tokens in all
    ids = torch.arange(20)[None] % 61
    other = ids.clone()
    other[0, 5] = 60
    change = (small(ids, extension=extension) - small(other, extension=extension)).abs().amax(-1)[0]
    assert (change[5:9] > 1e-4).all() and (change[9:] == 0).all() and (change[:5] == 0).all()


def test_extension_is_off_while_training(small):
    ids = torch.arange(40)[None] % 61
    try:
        small.train()
        assert torch.equal(small(ids), small.eval()(ids, extension=Extension()))
        assert not torch.equal(small(ids), small(ids, extension=Extension()))
    finally:
        small.eval()


def test_dropout_only_while_training():
    model = Qwen(ModelConfig(vocab_size=61, hidden_size=40, num_layers=2, num_heads=5, dropout=0.5))
    ids = torch.arange(10)[None]
    torch.manual_seed(0)
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


def test_initial_weights_follow_the_table():
    config = ModelConfig(vocab_size=997, hidden_size=128, num_layers=6, num_heads=4)
    model = Qwen(config)
    again = Qwen(config)
    again.init_weights(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (0 if name.endswith("bias") else 1)).all()
        else:
            wanted = 0.02 / math.sqrt(12) if name.endswith(("out.weight", "down.weight")) else 0.02
            assert abs(float(parameter.detach().std()) / wanted - 1) < 0.02, name
            assert not torch.equal(parameter, dict(again.named_parameters())[name])
    again.init_weights(0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


def test_construction_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Qwen(ModelConfig(vocab_size=61, hidden_size=40, num_layers=1, num_heads=5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "count", "ffn"),
    [
        ("qwen-1.8b", 1_836_828_672, 5504),
        ("qwen-7b", 7_721_324_544, 11008),
        ("qwen-14b", 14_167_290_880, 13696),
        ("tiny", None, 512),
    ],
)
def test_parameter_counts_of_table_1(name, count, ffn):
    config = TABLE1[name].config
    with torch.device("meta"):
        model = Qwen(config)
    counted = sum(p.numel() for p in model.parameters())
    assert counted == config.num_parameters and config.ffn == ffn
    assert count is None or counted == count


def test_rotary_memo_made_in_inference_mode_serves_training():
    """Tensors born in inference mode cannot be saved for backward; the memo of tables must not hold such."""
    model = Qwen(ModelConfig(vocab_size=61, hidden_size=44, num_layers=1, num_heads=2, max_length=19))
    ids = torch.arange(19)[None]
    with torch.inference_mode():
        model(ids)
    model(ids).sum().backward()
    assert model.embed.weight.grad is not None
