"""Keys and values in 8 bits: ours against bounds and a twin in floating point, the released kind against its oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.engine.deterministic import BatchInvariant
from openqwen.model import Extension, KVCache, ModelConfig, load_model
from openqwen.model.cache_format import FP16, Int8, Plain, ReleasedInt8, cache_format, quantise
from openqwen.model.qwen import Qwen

WAYS = [
    Extension(),
    Extension(dynamic_ntk=True, logn=True),
    Extension(dynamic_ntk=True, windows=(8, 12, 24)),
]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_number_comes_back_within_half_a_step(data):
    seed, width = data.draw(st.integers(0, 999)), data.draw(st.sampled_from([2, 10, 64]))
    scale, shift = 10.0 ** data.draw(st.integers(-6, 3)), data.draw(st.sampled_from([0.0, 1.0, -30.0]))
    x = (torch.randn(5, width, generator=torch.Generator().manual_seed(seed)) + shift) * scale
    back = Int8().decode(Int8().encode(x[None, None]), width, torch.float32)[0, 0]
    low, high = x.aminmax(dim=-1, keepdim=True)
    # Half a step, and what low and scale lose in fp16: 11 bits of each, and the steps of its smallest numbers.
    bound = (high - low) / 510 + (low.abs() + high - low) * 2**-11 + 256 * FP16.smallest_normal * FP16.eps
    assert ((back - x).abs() <= bound).all()


def test_what_cannot_be_told_apart_comes_back_whole():
    for number in (0.0, 1.0, -0.5, 2e-8):
        x = torch.full((1, 1, 1, 8), number)
        back = Int8().decode(Int8().encode(x), 8, torch.float32)
        torch.testing.assert_close(back, x, rtol=0, atol=3e-8)
    beyond = torch.tensor([[[[0.0, 1e6, -1e30, 5.0]]]])
    back = Int8().decode(Int8().encode(beyond), 4, torch.float32)
    torch.testing.assert_close(back[0, 0, 0, 1:3], torch.tensor([65504.0, -65504.0]), rtol=1e-3, atol=0)


def test_an_entry_does_not_depend_on_its_company():
    x = torch.randn(3, 7, 2, 10, generator=torch.Generator().manual_seed(1))
    x[1] *= 100
    ours, released = Int8().encode(x), ReleasedInt8().encode(x)
    for one in ((0, 0, 0), (1, 6, 1), (2, 3, 0)):
        alone = tuple(slice(i, i + 1) for i in one)
        assert torch.equal(Int8().encode(x[alone]), ours[alone])
        assert not torch.equal(ReleasedInt8().encode(x[alone]), released[alone])


@pytest.mark.parametrize("head_dim", [10, 64, 128])
def test_bytes_of_an_entry(head_dim):
    for held, extra in (("int8", 4), ("int8-released", 8 + -head_dim % 4)):
        form = cache_format(held, torch.float32)
        entries = form.encode(torch.randn(1, 2, 3, head_dim))
        assert entries.dtype == torch.uint8 and entries.shape == (1, 2, 3, head_dim + extra)
        assert form.width(head_dim) == head_dim + extra


@pytest.fixture(scope="module")
def even() -> Qwen:
    """Of whole vectors of 16 numbers: with others the deterministic arithmetic can differ in a last bit."""
    model = Qwen(
        ModelConfig(vocab_size=61, hidden_size=64, num_layers=3, num_heads=4, ffn_size=96, max_length=16)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model


class Twin(Plain):
    """Holds the numbers that 8 bits stand for as floating point."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        codes, low, scale = quantise(x)
        return low.float() + codes.float() * scale.float()


@settings(max_examples=8, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_any_pieces_give_the_same_bits_as_the_whole(even, data):
    """And as a twin in floating point: whatever is cut, copied and grown, over windows and chunks of NTK."""
    way, length = data.draw(st.sampled_from(WAYS)), 40
    ids = torch.randint(
        0, 61, (1, length), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    )
    pieces = []
    while sum(pieces) < length:
        pieces.append(min(data.draw(st.sampled_from([1, 2, 9, 30])), length - sum(pieces)))
    caches = [KVCache(even.config, 2, 4, extension=way, keep_all=True, held="int8") for _ in range(2)]
    twin = KVCache(even.config, 2, 4, extension=way, keep_all=True)
    twin.format = Twin(torch.float32)
    for cache in (*caches, twin):
        cache.open(0, way, expected=length)
    with BatchInvariant():
        whole = even(ids, cache=caches[0].select([0]))
        parts, wanted, row = [], [], 0
        for part in ids.split(pieces, 1):
            parts.append(even(part, cache=caches[1].select([row])))
            wanted.append(even(part, cache=twin.select([row])))
            if data.draw(st.booleans()):
                for cache in (caches[1], twin):
                    cache.move(row, 1 - row)
                row = 1 - row
    assert torch.equal(torch.cat(parts, 1), whole)
    torch.testing.assert_close(torch.cat(parts, 1), torch.cat(wanted, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("extension", WAYS)
@torch.inference_mode()
def test_windows_hold_their_own_keys_in_8_bits_too(small, extension):
    ids = torch.randint(0, 61, (2, 60), generator=torch.Generator().manual_seed(5))
    caches = [KVCache(small.config, 2, 4, extension=extension, held="int8") for _ in range(2)]
    caches[1].format, twin_stores = Twin(torch.float32), KVCache(small.config, 2, 4, extension=extension)
    caches[1].keys, caches[1].values = twin_stores.keys, twin_stores.values
    for start, stop in ((0, 7), (7, 8), (8, 40), (40, 41), (41, 60)):
        ours, twin = (small(ids[:, start:stop], cache=cache) for cache in caches)
        # Where a number lies between two codes, the last bit of another sum can choose the other one.
        torch.testing.assert_close(ours, twin, atol=0.05, rtol=0.01)
    assert caches[0].num_bytes * 4 * 8 == caches[1].num_bytes * (8 + 4)  # head_dim 8


@pytest.mark.shared
@pytest.mark.parametrize("case", ["P40_E60", "P100_E128"])
@torch.inference_mode()
def test_the_released_kind_equals_released_code(shared, qwen1, case):
    start, end = (int(part[1:]) for part in case.split("_"))
    model, ids = load_model(shared / "oracle/tiny_qwen1"), qwen1["input_ids_257"].long()
    cache = KVCache(model.config, 1, mode="released", held="int8-released")
    prefill = model(ids[:, :start], cache=cache)[0]
    D = model.config.head_dim
    for stores, name in ((cache.keys, "key"), (cache.values, "value")):
        entries = stores[0][0, :, :start]  # (K, P, W)
        scale, zero = entries[..., D:].contiguous().view(torch.float32).split(1, -1)
        torch.testing.assert_close(scale, qwen1[f"int8kv_{case}.layer0.{name}_scale"], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(zero, qwen1[f"int8kv_{case}.layer0.{name}_zero"], rtol=1e-5, atol=1e-3)
        off = entries[..., :D].int() - qwen1[f"int8kv_{case}.layer0.q{name}"].int()
        assert off.abs().max() <= 1 and (off != 0).float().mean() < 1e-3  # a last bit before the cut
    steps = [model(ids[:, t : t + 1], cache=cache)[0, -1] for t in range(start, end)]
    ours = torch.cat((prefill, torch.stack(steps)))
    theirs = torch.cat((qwen1[f"int8kv_{case}.prefill_logits"], qwen1[f"int8kv_{case}.logits"][1:]))
    off = (ours - theirs).abs()
    # A code that rounds the other way, as another processor's sums may make it, moves all logits after it a little.
    assert off.mean() < 2e-3 and (off > 0.03).float().mean() < 2e-3 and off.max() < 0.1


@pytest.mark.shared
@torch.inference_mode()
def test_ours_stays_nearer_to_floating_point_than_the_released_kind(shared, qwen1):
    model, ids = load_model(shared / "oracle/tiny_qwen1"), qwen1["input_ids_257"][:, :128].long()
    exact = model(ids, cache=KVCache(model.config, 1))
    off = {
        held: float((model(ids, cache=KVCache(model.config, 1, held=held)) - exact).square().mean().sqrt())
        for held in ("int8", "int8-released")
    }
    assert 0 < off["int8"] < off["int8-released"] / 2
