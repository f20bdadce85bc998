"""The attention analysis: it measures the very weights the model uses, and its measures mean what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from openqwen.model import Extension, entropy
from openqwen.model.config import ModelConfig
from openqwen.model.entropy import (
    SCALES,
    analyse,
    by_range,
    describe,
    draw,
    limits,
    log_weights,
    measure,
    prediction_entropy,
    probe,
    queries_and_keys,
    ranges,
    scale_response,
    scaled_queries,
)
from openqwen.model.extend import extensions, token_losses
from openqwen.model.qwen import Qwen

WINDOWS = (16, 24, 40)
EXTENSIONS = {
    "plain": Extension(),
    "ntk": Extension(dynamic_ntk=True),
    "logn": Extension(logn=True),
    "all": Extension(dynamic_ntk=True, logn=True, windows=WINDOWS),
}


@pytest.fixture(scope="module")
def shared_keys() -> Qwen:
    """A model whose queries share keys in groups."""
    config = ModelConfig(
        vocab_size=61,
        hidden_size=48,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        ffn_size=56,
        max_length=16,
    )
    model = Qwen(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("name", EXTENSIONS)
@pytest.mark.parametrize("which", ["small", "shared_keys"])
def test_the_weights_are_those_of_the_model(which, name, request):
    model, extension = request.getfixturevalue(which), EXTENSIONS[name]
    config, ids = model.config, torch.randint(0, 61, (1, 50), generator=torch.Generator().manual_seed(1))
    read, written = [], []
    for block in model.blocks:
        block.attn_norm.register_forward_hook(lambda _, __, y: read.append(y))
        block.attn.register_forward_hook(lambda _, __, y: written.append(y))
    try:
        model.hidden(ids, extension=extension)
    finally:
        for block in model.blocks:
            block.attn_norm._forward_hooks.clear()
            block.attn._forward_hooks.clear()
    H, K, D = config.num_heads, config.kv_heads, config.head_dim
    for block, window, x, expected in zip(model.blocks, extension.windows or (None,) * 3, read, written):
        q, k = queries_and_keys(block.attn, x, config, extension, window)  # (H, T, D)
        weights = log_weights(q, k, 0, window)[1].exp()  # (H, T, T)
        v = block.attn.qkv(x)[0].view(50, H + 2 * K, D)[:, H + K :].transpose(0, 1)  # (K, T, D)
        mixed = weights @ v.repeat_interleave(H // K, dim=0)  # (H, T, D)
        torch.testing.assert_close(
            block.attn.out(mixed.transpose(0, 1).reshape(1, 50, -1)), expected, rtol=1e-4, atol=1e-4
        )


def test_even_attention(small):
    """Without queries every score is zero: each of n keys gets 1/n."""
    attention = small.blocks[0].attn
    flat = type(attention)(small.config)
    with torch.inference_mode():
        flat.qkv.weight.zero_()
        flat.qkv.bias.zero_()
        x = torch.randn(1, 50, 40, generator=torch.Generator().manual_seed(2))
        heads = measure(flat, x, small.config, Extension(), None)
        near = measure(flat, x, small.config, Extension(), 10)
    keys = torch.arange(1, 51).float()
    assert heads.entropy.shape == (5, 50)
    torch.testing.assert_close(heads.entropy[0], keys.log())
    torch.testing.assert_close(heads.peak[1], 1 / keys)
    torch.testing.assert_close(
        heads.far[2], (keys - 16).clamp(min=0) / keys
    )  # trained at 16: distances 0..15
    assert heads.spread.abs().max() == 0
    torch.testing.assert_close(near.entropy[0], keys.clamp(max=10).log())
    assert near.far.max() == 0


@torch.inference_mode()
def test_spread_says_how_entropy_answers_to_a_scale():
    """dH/df = -f Var(s), the relation the module's docstring names, against a difference quotient."""
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(2, 30, 8, generator=generator, dtype=torch.float64) for _ in range(2))

    def entropy_at(scale: float) -> torch.Tensor:
        logs = log_weights(q * scale, k, 0, None)[1]
        return -(logs.exp() * logs.masked_fill(logs == -torch.inf, 0)).sum(-1)

    scores, logs, _ = log_weights(q, k, 0, None)
    weights = logs.exp()
    variance = (weights * scores.square()).sum(-1) - (weights * scores).sum(-1).square()
    slope = (entropy_at(1 + 1e-5) - entropy_at(1 - 1e-5)) / 2e-5
    torch.testing.assert_close(slope, -variance, rtol=1e-5, atol=1e-7)


@torch.inference_mode()
def test_queries_in_parts_are_the_same(small, monkeypatch):
    ids = torch.arange(50) % 61
    whole, hidden = probe(small, ids, EXTENSIONS["all"])
    assert torch.equal(hidden, small.hidden(ids[None], extension=EXTENSIONS["all"])[0])
    monkeypatch.setattr("openqwen.model.entropy._SCORES_BYTES", 4 * 5 * 50 * 7)  # seven queries
    parts, _ = probe(small, ids, EXTENSIONS["all"])
    assert len(whole) == 3 and not small.blocks[0].attn_norm._forward_hooks
    for one, other in zip(whole, parts):
        for name in ("entropy", "spread", "far", "peak"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name))


@torch.inference_mode()
def test_scaled_queries(small):
    """One scale for all queries beyond the training length, as the scores show it; nothing is left behind."""
    x = torch.randn(1, 50, 40, generator=torch.Generator().manual_seed(5))
    attention, extension = small.blocks[1].attn, EXTENSIONS["ntk"]
    q, k = queries_and_keys(attention, x, small.config, extension, None)
    with scaled_queries(small, 1.25):
        longer, same = queries_and_keys(attention, x, small.config, extension, None)
    torch.testing.assert_close(longer[:, 16:], 1.25 * q[:, 16:])
    assert torch.equal(longer[:, :16], q[:, :16]) and torch.equal(same, k)
    assert all(not block.attn.qkv._forward_hooks for block in small.blocks)


def test_scale_response(small):
    ids = torch.arange(65) * 7 % 61

    def read() -> np.ndarray:
        return token_losses(small, ids, 64, EXTENSIONS["ntk"])[0].numpy()

    seen: list[int] = []
    response = scale_response(small, "+ dynamic_ntk", read, seen.append)
    assert seen == list(range(1, len(SCALES) + 1))
    assert response["loss"][SCALES.index(1.0)] == pytest.approx(read()[16:].mean(), abs=1e-4)
    assert len(set(response["loss"])) == len(SCALES), "each scale changes what is computed"
    assert response["logn_largest"] == pytest.approx(np.log(64) / np.log(16), abs=1e-4)
    assert 1 < response["logn_mean"] < response["logn_largest"]


@torch.inference_mode()
def test_prediction_entropy_is_that_of_torch_distributions_in_pieces_too(small, monkeypatch):
    ids, extension = torch.arange(50) * 7 % 61, EXTENSIONS["ntk"]
    logits = small(ids[None], extension=extension)[0]
    hidden = small.hidden(ids[None], extension=extension)[0]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(prediction_entropy(small, hidden), expected)
    monkeypatch.setattr(entropy, "_LOGITS_BYTES", 7 * 4 * 61)
    torch.testing.assert_close(prediction_entropy(small, hidden), expected)


def test_ranges():
    assert ranges(1024, 256) == [32, 64, 128, 256, 512, 1024]
    assert ranges(100, 16) == [2, 4, 8, 16, 32, 64, 100]
    assert ranges(4, 4) == [1, 2, 4]
    assert ranges(400, 100) == [12, 25, 50, 100, 200, 400]
    assert ranges(50, 100) == [12, 25, 50]
    values = by_range(np.arange(12.0).reshape(2, 6), [1, 2, 6])
    assert values.tolist() == [[0.0, 1.0, 3.5], [6.0, 7.0, 9.5]]


def test_the_analysis_file(small):
    generator = np.random.default_rng(4)
    blocks = [generator.integers(0, 61, 65) for _ in range(2)]
    ways = extensions(small.config, None)
    losses = {
        way: token_losses(small, torch.from_numpy(blocks[0]), 64, extension)[0].numpy()
        for way, extension in ways.items()
    }
    seen: list[int] = []
    analysis = analyse(small, blocks, 64, ways, losses, seen.append)
    assert analysis["ranges"] == ["0-1", "2-3", "4-7", "8-15", "16-31", "32-63"]
    assert seen == list(range(1, 9)) and json.loads(json.dumps(analysis)) == analysis
    assert set(analysis["techniques"]) == set(ways)
    plain, windows = (
        analysis["techniques"][name] for name in ("plain", "+ dynamic_ntk + logn + window_attn")
    )
    assert np.shape(plain["entropy"]) == (3, 5, 6)
    by_hand = np.mean(
        [
            probe(small, torch.from_numpy(ids[:64]), Extension())[0][1].entropy[2, 16:32].mean()
            for ids in blocks
        ]
    )
    assert plain["entropy"][1][2][4] == pytest.approx(by_hand, abs=1e-4)
    assert plain["loss"][-1] == pytest.approx(losses["plain"][32:].mean(), abs=1e-4)
    with torch.inference_mode():
        hidden = [small.hidden(torch.from_numpy(ids[None, :64]), extension=Extension())[0] for ids in blocks]
    unsure = [prediction_entropy(small, one)[32:].mean() for one in hidden]
    assert plain["prediction_entropy"][-1] == pytest.approx(np.mean(unsure), abs=1e-4)
    assert np.max(windows["far"][0]) == 0, "the first layer's window is the training length"
    assert np.min(plain["far"], axis=(0, 1))[-1] > 0
    assert all(np.max(plain["entropy"], (0, 1)) <= np.asarray(analysis["even_entropy"]) + 1e-3)
    said = describe(analysis)
    assert len(said) == 4 and all(line.startswith(way) for way, line in zip(ways, said))
    analysis["one_token_loss"] = 3.5
    assert len(limits(analysis)) == 1 and "one token at a time the perplexity is 33.12" in limits(analysis)[0]
    svg = draw(analysis)
    assert svg.startswith("<svg") and "entropy, layer 2" in svg and svg == draw(analysis)
