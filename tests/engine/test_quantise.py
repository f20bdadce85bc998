"""Weights in 8 and 4 bits: near the float ones, smaller by as much as is said, and still the engine's promises."""

from __future__ import annotations

import builtins
import copy
import shutil

import pytest
import torch

from openqwen.core.errors import MissingTool, UsageError
from openqwen.engine import Engine, Sampling, native
from openqwen.engine.fast import decode, is_plain
from openqwen.model import Extension, KVCache
from openqwen.model.config import ModelConfig, Quantisation
from openqwen.model.quantise import Quantised, int8_parts, is_quantised, quantise, weight_bytes
from openqwen.model.qwen import Linear, Qwen
from tests.engine.conftest import sharpened

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
CONFIG = ModelConfig(vocab_size=464, hidden_size=128, num_layers=2, num_heads=4, ffn_size=256, max_length=128)


@pytest.fixture(scope="module")
def plain() -> Qwen:
    return sharpened(CONFIG)


def quantised(model: Qwen, weights: str, **settings: object) -> Qwen:
    pytest.importorskip("torchao")
    made = copy.deepcopy(model)
    quantise(made, Quantisation(weights=weights, **settings))
    return made


@pytest.mark.parametrize(("weights", "group"), [("int8", 128), ("int4", 128), ("int4", 32)])
@torch.no_grad()
def test_each_weight_is_within_half_a_step(plain, weights, group):
    """Read back through the layer itself: the identity as input."""
    made = quantised(plain, weights, group=group)
    for old, new in zip(plain.blocks[0].modules(), made.blocks[0].modules()):
        if type(old) is not Linear:
            continue
        assert type(new) is Quantised
        wanted = old.weight.data
        unit = torch.eye(old.in_features, dtype=made.embed.weight.dtype)
        back = torch.nn.functional.linear(unit, new.weight).T.float()
        if weights == "int8":
            bound = wanted.abs().amax(1, keepdim=True) / 127 * 0.501
        else:  # and what bfloat16 loses of weight, low and step
            grouped = wanted.view(len(wanted), -1, group)
            spread = (grouped.amax(-1) - grouped.amin(-1)).repeat_interleave(group, 1)
            bound = spread / 15 * 0.5 + 3 * 2**-8 * (wanted.abs() + spread)
        assert ((back - wanted).abs() <= bound).all()


@pytest.mark.parametrize(
    ("weights", "group", "bits"), [("int8", 128, 8), ("int4", 128, 4.25), ("int4", 32, 5)]
)
def test_bytes_are_those_of_codes_and_scales(plain, weights, group, bits):
    made = quantised(plain, weights, group=group)
    matrices = [m for block in plain.blocks for m in block.modules() if type(m) is Linear]
    kept = CONFIG.num_parameters - sum(m.weight.numel() for m in matrices)
    wanted = kept * made.embed.weight.element_size() + sum(m.weight.numel() for m in matrices) * bits / 8
    if weights == "int8":
        wanted += 5 * sum(m.out_features for m in matrices)  # a scale and a zero point that is not used
    assert weight_bytes(made) == wanted
    assert weight_bytes(plain) == 4 * CONFIG.num_parameters


def test_embedding_and_head_stay_unless_the_head_is_named(plain):
    assert type(quantised(plain, "int8").head) is Linear
    made = quantised(plain, "int8", head=True)
    assert type(made.head) is Quantised and type(made.embed.weight) is torch.nn.Parameter
    assert is_quantised(made) and not is_quantised(plain) and not is_plain(made)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rows_do_not_depend_on_their_company(plain, tokenizer, weights):
    """Bit for bit in deterministic mode, with an int8 cache besides."""
    made = quantised(plain, weights)
    engines = [
        Engine(made, tokenizer, max_batch=size, budget=budget, deterministic=True, cache="int8")
        for size, budget in ((1, 999), (5, 7))
    ]
    texts = [f"text {i}" * (1 + 2 * i) for i in range(6)]
    settings = [Sampling(temperature=i % 2, max_tokens=10, stop_ids=(), logprobs=1, seed=i) for i in range(6)]
    alone, together = (engine.generate(texts, settings) for engine in engines)
    for one, other in zip(alone, together):
        assert one.ids == other.ids and one.logprobs == other.logprobs


@torch.no_grad()
def test_int4_loses_more_than_int8_and_both_little(plain):
    ids = torch.randint(0, 256, (2, 60), generator=torch.Generator().manual_seed(1))
    exact = plain(ids)
    off = {
        weights: float((quantised(plain, weights)(ids).float() - exact).norm() / exact.norm())
        for weights in ("int8", "int4")
    }
    assert 0 < off["int8"] < 0.05 and 4 * off["int8"] < off["int4"] < 0.6


def test_an_int8_cache_takes_a_quarter_of_the_memory(plain, tokenizer):
    texts, settings = ["abc" * 20, "abd" * 9], Sampling(temperature=0, max_tokens=8, stop_ids=())
    sizes = []
    for cache in (None, "int8"):
        engine = Engine(plain, tokenizer, max_batch=2, cache=cache)
        engine.generate(texts, settings)
        engine.loglikelihood([([1, 2, 3], [4, 5])])
        sizes.append(engine._cache().num_bytes)
    assert sizes[1] / sizes[0] == (32 + 4) / (4 * 32)  # a head of 32 numbers


def test_likelihoods_are_read_through_the_same_cache(plain, tokenizer):
    pairs = [(list(range(1, 40)), [50 + i, 60, 70]) for i in range(3)]
    exact, held = (Engine(plain, tokenizer, cache=c).loglikelihood(pairs) for c in (None, "int8"))
    for one, other in zip(exact, held):
        assert one[0] != other[0] and one[0] == pytest.approx(other[0], abs=0.5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_compiled_step_in_int8_is_that_of_the_plain_forward(plain, dtype):
    """Rows of several lengths, over windows and chunks of NTK, alone and together."""
    made = quantised(copy.deepcopy(plain).to(dtype), "int8", head=True)
    way = Extension(dynamic_ntk=True, logn=True, windows=(20, 90))
    caches = [KVCache(CONFIG, 3, dtype=dtype, extension=way) for _ in range(3)]
    draw = torch.Generator().manual_seed(2)
    for row, length in enumerate((3, 60, 125)):
        ids = torch.randint(0, 256, (1, length), generator=draw)
        for cache in caches:
            made(ids, cache=cache.select([row]))
    bound = {"atol": 1e-3, "rtol": 1e-3} if dtype == torch.float32 else {"atol": 0.15, "rtol": 0.05}
    for _ in range(6):
        ids = torch.randint(0, 256, (3, 1), generator=draw)
        assert native.fits(made, 3, caches[0].select(range(3)))
        together = decode(made, ids, caches[0].select(range(3)), compiled=True)
        torch.testing.assert_close(together, made.hidden(ids, cache=caches[1])[:, 0], **bound)
        for row in range(3):
            alone = decode(made, ids[row : row + 1], caches[2].select([row]), compiled=True)
            assert torch.equal(alone[0], together[row])
        assert native.reads(made.head, together)
        torch.testing.assert_close(
            native.product(together, made.head.weight), made.head(together).float(), **bound
        )


@needs_compiler
@pytest.mark.parametrize(("C", "N"), [(5, 3), (70, 57), (512, 20)])
def test_a_product_in_int8_is_the_exact_sum(processor, C, N):
    draw = torch.Generator().manual_seed(C)
    x, layer = torch.randn(11, C, generator=draw), torch.nn.Sequential(Linear(C, N, bias=False))
    layer[0].weight.data = torch.randn(N, C, generator=draw)
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    codes, scales = int8_parts(layer[0].weight)
    exact = x.double() @ (codes.double() * scales.double()).T
    for count in (1, 2, 3, 4, 7, 11):
        made = native.product(x[:count], layer[0].weight)
        torch.testing.assert_close(made.double(), exact[:count], atol=1e-4, rtol=0)


@needs_compiler
def test_a_compiled_engine_in_int8_says_the_same(plain, tokenizer):
    made = quantised(plain, "int8")
    texts = [f"text {i}" * (1 + 3 * i) for i in range(5)]
    settings = [Sampling(temperature=i % 2, max_tokens=20, stop_ids=(), seed=i) for i in range(5)]
    calls, compiled = (
        Engine(made, tokenizer, compiled=compiled).generate(texts, settings) for compiled in (False, True)
    )
    assert [reply.ids for reply in calls] == [reply.ids for reply in compiled]


def test_what_cannot_be_is_said(plain, tokenizer, monkeypatch):
    odd = Qwen(CONFIG.model_copy(update={"hidden_size": 96, "ffn_size": 128}))
    with pytest.raises(UsageError, match="groups of 128"):
        quantised(odd, "int4", group=128)
    with pytest.raises(UsageError, match="for comparisons"):
        Engine(plain, tokenizer, cache="int8-released")
    with pytest.raises(UsageError, match="reads no int8 cache"):
        Engine(plain, tokenizer, compiled=True, cache="int8")
    found = builtins.__import__

    def without(name, *rest):
        if name.startswith("torchao"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingTool, match=r"openqwen\[quantise\]"):
        quantise(copy.deepcopy(plain), Quantisation(weights="int8"))
