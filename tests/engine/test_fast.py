"""The fast decoding step against its readable twin, the plain forward pass."""

from __future__ import annotations

import copy
import random
import subprocess
import sys

import pytest
import torch

from openqwen.core.errors import MissingTool
from openqwen.engine import Engine, Sampling, native
from openqwen.engine.fast import decode, is_plain
from openqwen.engine.roofline import decode_bytes
from openqwen.model import Extension, KVCache, ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.train.config import LoraConfig
from openqwen.train.lora import add_lora
from tests.engine.conftest import sharpened

NTK = Extension(dynamic_ntk=True, logn=True)
WINDOWS = Extension(dynamic_ntk=True, logn=True, windows=(5, 24))
CONFIG = ModelConfig(
    vocab_size=61, hidden_size=40, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=56, max_length=16
)


# Heads of five vectors of 16 numbers; matrices of whole vectors and of rests.
WIDE = ModelConfig(
    vocab_size=61, hidden_size=320, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=200, max_length=16
)


@pytest.fixture(scope="module")
def small() -> Qwen:
    return sharpened(CONFIG)


@pytest.mark.parametrize("compiled", [False, True], ids=["calls", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "ways", [[NTK], [WINDOWS], [NTK, WINDOWS, Extension()]], ids=["ntk", "windows", "mixed"]
)
def test_a_step_is_that_of_the_plain_forward(small, ways, dtype, compiled):
    check_steps(small, ways, dtype, compiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_whole_vectors_is_that_of_the_plain_forward(processor, dtype):
    check_steps(sharpened(WIDE), [NTK, WINDOWS], dtype, True)


@torch.no_grad()
def check_steps(small, ways, dtype, compiled):
    """Rows of any lengths, in any order, across chunks of NTK; the caches stay the same too."""
    model, draw = copy.deepcopy(small).to(dtype), random.Random(1)
    caches = [KVCache(model.config, 5, 4, dtype=dtype) for _ in range(2)]
    for row, length in enumerate((1, 3, 14, 20, 30)):
        ids = torch.randint(0, 61, (1, length))
        for cache in caches:
            cache.open(row, ways[row % len(ways)])
            model(ids, cache=cache.select([row]))
    atol = {"atol": 2e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.15, "rtol": 0.05}
    for _ in range(12):
        rows = draw.sample(range(5), draw.randint(1, 5)) if draw.random() < 0.5 else list(range(5))
        ids = torch.randint(0, 61, (len(rows), 1))
        fast = decode(model, ids, caches[0].select(rows), compiled)
        plain = model.hidden(ids, cache=caches[1].select(rows))[:, 0]
        assert fast.dtype == plain.dtype
        torch.testing.assert_close(fast, plain, **atol)
    assert caches[0].lengths == caches[1].lengths and caches[0].written == caches[1].written
    for ours, theirs in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values):
        torch.testing.assert_close(ours, theirs, **atol)


@torch.no_grad()
def test_what_is_not_plain_goes_the_plain_way(small):
    """An adapter must not be left out; neither must autocast."""
    model = copy.deepcopy(small)
    assert is_plain(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_plain(model)
    add_lora(model, LoraConfig(rank=2), seed=1)
    for name, parameter in model.named_parameters():
        if name.endswith((".a", ".b")):
            parameter.normal_()
    assert not is_plain(model)
    caches = [KVCache(CONFIG, 1), KVCache(CONFIG, 1)]
    ids = torch.randint(0, 61, (1, 8))
    for cache in caches:
        model(ids, cache=cache)
    fast, plain = decode(model, ids[:, :1], caches[0].select([0])), model.hidden(ids[:, :1], cache=caches[1])
    assert torch.equal(fast, plain[:, 0])


def test_a_compiled_engine_gives_the_same_tokens(model, tokenizer):
    settings = [
        Sampling(temperature=i % 2, max_tokens=40, stop_ids=(), logprobs=1, seed=i) for i in range(11)
    ]
    texts = [f"text {i}" * (1 + 5 * i) for i in range(11)]
    plain = Engine(model, tokenizer, max_batch=11).generate(texts, settings)
    compiled = Engine(model, tokenizer, max_batch=11, compiled=True).generate(texts, settings)
    for ours, theirs in zip(compiled, plain):
        assert ours.ids == theirs.ids
        for a, b in zip(ours.scores, theirs.scores):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-3)


@torch.no_grad()
def test_compiled_rows_do_not_depend_on_their_company(small):
    """Bit for bit: each row's sums run in the same order whatever the batch."""
    ids = torch.randint(0, 61, (6, 12))
    caches = [KVCache(CONFIG, 6) for _ in range(2)]
    for cache in caches:
        small(ids, cache=cache)
    together = native.decode(
        small, ids[:, :1], (rows := caches[0].select(range(6))), rows.contexts(ids[:, :1], None)
    )
    for row in range(6):
        rows = caches[1].select([row])
        alone = native.decode(
            small, ids[row : row + 1, :1], rows, rows.contexts(ids[row : row + 1, :1], None)
        )
        assert torch.equal(alone[0], together[row])
    logits = native.product(together, small.head.weight)
    torch.testing.assert_close(logits, small.head(together), atol=1e-4, rtol=1e-4)
    assert torch.equal(native.product(together[2:3], small.head.weight)[0], logits[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("C", "N"), [(5, 3), (32, 16), (70, 57), (512, 20), (1100, 17)])
def test_products_are_exact_sums_and_each_row_its_own(processor, C, N, dtype):
    draw = torch.Generator().manual_seed(C)
    x, weight = torch.randn(11, C, generator=draw), torch.randn(N, C, generator=draw).to(dtype)
    made = native.product(x, weight)
    exact = x.double() @ weight.double().T
    # A processor that multiplies bfloat16 rounds x to it.
    torch.testing.assert_close(
        made.double(), exact, atol=1e-4 if dtype == torch.float32 else 0.02 * C**0.5, rtol=0
    )
    for count in range(1, 11):
        assert torch.equal(native.product(x[-count:], weight), made[-count:])


def test_exponentials_hold_over_their_whole_range():
    """Through attention of one head over two keys: its weights are 1 / (1 + e^-d), from even to one-sided."""
    config = WIDE.model_copy(update={"num_layers": 1})
    model = sharpened(config)
    for scale in (0.0, 1.0, 30.0, 300.0):
        with torch.no_grad():
            model.blocks[0].attn.qkv.weight.mul_(scale)
            caches = [KVCache(config, 1) for _ in range(2)]
            for cache in caches:
                model(torch.tensor([[3]]), cache=cache)
            ids = torch.tensor([[7]])
            ours = decode(model, ids, caches[0].select([0]), compiled=True)
            plain = model.hidden(ids, cache=caches[1].select([0]))[:, 0]
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_the_library_leaves_the_processors_settings_alone():
    """A new process, since the settings stay once they are made."""
    code = """
import torch
from openqwen.engine import native
native.library()
assert float(torch.tensor(1e-40) * 0.5) > 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@torch.no_grad()
def test_threads_change_nothing(small):
    x, weight = torch.randn(3, 40), torch.randn(57, 40)
    one = native.product(x, weight)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(native.product(x, weight), one)
    finally:
        torch.set_num_threads(before)


def test_without_a_compiler_the_line_to_type_is_said(model, tokenizer, monkeypatch):
    monkeypatch.setenv("PATH", "")
    native.library.cache_clear()
    with pytest.raises(MissingTool, match=r"apt install g\+\+"):
        Engine(model, tokenizer, compiled=True)
    native.library.cache_clear()


@pytest.mark.parametrize("windows", [None, (8, 12)])
def test_bytes_of_a_step_are_those_of_what_it_reads(windows):
    config = CONFIG.model_copy(update={"windows": windows})
    model, cache = Qwen(config), KVCache(config, 2, 10)
    read = sum(p.nbytes for name, p in model.named_parameters() if name != "embed.weight")
    read += 2 * model.embed.weight[0].nbytes + cache.num_bytes
    assert decode_bytes(config, [10, 10]) == read
    assert decode_bytes(config, [10, 10], torch.bfloat16) == read // 2
