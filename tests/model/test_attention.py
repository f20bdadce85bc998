"""Every way through attention against plain fp64 arithmetic, forward and backward, and the work a window saves."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from openqwen.engine.deterministic import KEYS, BatchInvariant
from openqwen.model.attention import BLOCK, WIDE_BLOCK, WIDE_WINDOW, attend, attend_branches, reference

# Greatest error of output and gradients, over max(1, greatest value), in units of the type's epsilon; inputs N(0, 1)
# and the same rounded numbers for the reference. 300 random shapes up to 1500 keys had at most 68, 49 and 2.1. In
# float64 and float32 the worst is the gradient of queries and keys under a window of 1: the difference of two equal
# sums of D products. bfloat16 sums in float32, so what is left is rounding weights before they meet values, and results.
BOUND = {torch.float64: 128, torch.float32: 128, torch.bfloat16: 4}


def heads_and_keys(
    shape: dict[str, int], dtype: torch.dtype, seed: int, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """q (B, T, H, D), k and v (B, K, S, D), all needing gradients."""
    generator = torch.Generator().manual_seed(seed)
    B, T, S, H, K, D = (shape[name] for name in "BTSHKD")
    sizes = ((B, T, H, D), (B, K, S, D), (B, K, S, D))
    q, k, v = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return tuple(x.to(device, dtype).requires_grad_() for x in (q, k, v))  # type: ignore[return-value]


def errors(q: Tensor, k: Tensor, v: Tensor, ours: Tensor | None = None, **sight: Any) -> list[float]:
    """Errors of output and gradients of q, k and v against `reference` in fp64, in the unit of BOUND.

    ours: what was made of q, k and v; None: by `attend`.
    """
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    ours = attend(q, k, v, **sight) if ours is None else ours
    wanted = reference(*exact, **sight)
    assert ours.dtype == q.dtype and ours.shape == q.shape
    slope = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(9)).to(wanted)
    ours_all = (ours, *torch.autograd.grad(ours, (q, k, v), slope.to(q.dtype)))
    wanted_all = (wanted, *torch.autograd.grad(wanted, exact, slope.to(q.dtype).double()))
    unit = torch.finfo(q.dtype).eps
    return [
        float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max().clamp(min=1)) / unit
        for a, b in zip(ours_all, wanted_all)
    ]


def seen_from_branches(trunk: int, count: int, length: int, visible: Tensor) -> Tensor:
    """(B, 1, T, T) bool, pair by pair: the whole visible trunk and one's own branch, up to one's own place."""
    B, T = len(visible), trunk + count * length
    seen = torch.zeros(B, 1, T, T, dtype=torch.bool)
    for b, i, j in itertools.product(range(B), range(T), range(T)):
        if j > i:
            continue
        if i < trunk:
            seen[b, 0, i, j] = True
        elif j < trunk:
            seen[b, 0, i, j] = visible[b, j]
        else:
            seen[b, 0, i, j] = (i - trunk) // length == (j - trunk) // length
    return seen


@pytest.mark.parametrize("dtype", list(BOUND))
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 12), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_branches_see_their_trunk_and_themselves(dtype, trunk, count, length, padded, seed):
    T = trunk + count * length
    q, k, v = heads_and_keys({"B": 2, "T": T, "S": T, "H": 4, "K": 2, "D": 8}, dtype, seed)
    ends = torch.randint(1, trunk + 1, (2, 1), generator=torch.Generator().manual_seed(seed))
    visible = torch.arange(trunk) < (ends if padded else trunk + 0 * ends)  # (B, Q)
    ways = {"trunk": trunk, "branches": count, "mask": visible if padded else None}
    sight = {"mask": seen_from_branches(trunk, count, length, visible)}
    assert max(errors(q, k, v, ours=attend_branches(q, k, v, **ways), **sight)) < BOUND[dtype]


def own_place(T: int, S: int) -> Tensor:
    """(T, S) bool: every query sees itself."""
    return torch.arange(S - T, S)[:, None] == torch.arange(S)


def some_mask(kind: str, B: int, T: int, S: int, seed: int) -> Tensor | None:
    """(B, 1, T, S) or (1, 1, T, S): padding of differing width, segments, or holes anywhere; itself always."""
    draw = random.Random(seed)
    places = torch.arange(S)
    if kind == "none":
        return None
    if kind == "left padding":
        keys = torch.stack([places >= draw.randint(0, S - 1) for _ in range(B)])[:, None]  # (B, 1, S)
    elif kind == "right padding":
        keys = torch.stack([places <= draw.randint(0, S - 1) for _ in range(B)])[:, None]
    elif kind == "segments":
        number = torch.stack([(places[:, None] >= places[draw.sample(range(S), 1)]).sum(1) for _ in range(B)])
        keys = number[:, S - T :, None] == number[:, None, :]  # (B, T, S)
    else:
        keys = torch.rand(1, T, S, generator=torch.Generator().manual_seed(seed)) < 0.5
    return (keys | own_place(T, S))[:, None]


MASKS = ("none", "left padding", "right padding", "segments", "holes")


@st.composite
def cases(draw: st.DrawFn, longest: int = 420) -> tuple[dict[str, int], dict[str, Any], int]:
    """Shapes and what is seen; lengths and windows often near the edges of blocks."""
    lengths = st.integers(1, longest) | st.sampled_from(
        [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3]
    )
    S, kv_heads = draw(lengths), draw(st.sampled_from([1, 2, 3]))
    T = min(S, draw(st.one_of(st.just(S), st.just(1), lengths)))
    shape = {"B": draw(st.integers(1, 3)), "T": T, "S": S, "D": draw(st.sampled_from([2, 16, 40]))}
    shape |= {"K": kv_heads, "H": kv_heads * draw(st.sampled_from([1, 2, 5]))}
    seed = draw(st.integers(0, 2**31))
    sight = {
        "mask": some_mask(draw(st.sampled_from(MASKS)), shape["B"], T, S, seed),
        "causal": draw(st.booleans()),
        "window": draw(st.none() | lengths),
    }
    return shape, sight, seed


@given(cases())
@settings(max_examples=120, deadline=None)
def test_values_and_gradients_in_fp64(case):
    shape, sight, seed = case
    assert max(errors(*heads_and_keys(shape, torch.float64, seed), **sight)) < BOUND[torch.float64]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(cases())
@settings(max_examples=50, deadline=None)
def test_values_and_gradients_in_training_types(dtype, case):
    shape, sight, seed = case
    assert max(errors(*heads_and_keys(shape, dtype, seed), **sight)) < BOUND[dtype]


@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("window", [WIDE_WINDOW - 1, WIDE_WINDOW, 1499, 1500, None])
@pytest.mark.parametrize("queries", [1500, 301])
def test_wide_windows_have_wide_blocks(dtype, window, queries):
    shape = {"B": 1, "T": queries, "S": 1500, "H": 2, "K": 1, "D": 16}
    q, k, v = heads_and_keys(shape, dtype, 0)
    assert max(errors(q, k, v, window=window, causal=True)) < BOUND[dtype]


def test_the_reference_by_hand():
    """One query at a time, its keys picked by number: what the words of `attend` say."""
    shape = {"B": 2, "T": 5, "S": 7, "H": 6, "K": 3, "D": 4}
    q, k, v = heads_and_keys(shape, torch.float64, 1)
    mask = some_mask("holes", 2, 5, 7, seed=2)
    assert mask is not None
    out = reference(q, k, v, mask=mask, window=3)
    for b, i, h in ((b, i, h) for b in range(2) for i in range(5) for h in range(6)):
        place = i + 2
        seen = [j for j in range(place - 2, place + 1) if j >= 0 and mask[0, 0, i, j]]
        weights = torch.stack([q[b, i, h] @ k[b, h // 2, j] / 2.0 for j in seen]).softmax(0)
        torch.testing.assert_close(out[b, i, h], sum(w * v[b, h // 2, j] for w, j in zip(weights, seen)))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [1, 100, 128, 300])
def test_values_equal_those_of_flex_attention(window):
    """Somebody else's windows. FlexAttention has no backward pass on CPU, so values only."""
    shape = {"B": 2, "T": 300, "S": 300, "H": 4, "K": 2, "D": 16}
    q, k, v = (x.detach() for x in heads_and_keys(shape, torch.float64, 3))
    near = create_block_mask(lambda b, h, i, j: (i >= j) & (i < j + window), None, None, 300, 300, "cpu")
    theirs = flex_attention(q.transpose(1, 2), k, v, block_mask=near, enable_gqa=True)
    assert isinstance(theirs, Tensor)
    torch.testing.assert_close(attend(q, k, v, window=window), theirs.transpose(1, 2), rtol=0, atol=1e-12)


class Calls(TorchFunctionMode):
    """Notes the sizes (T, S) and the masks of all calls of torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []
        self.masks: list[Tensor | None] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.sizes.append((args[0].shape[2], args[1].shape[2]))
            self.masks.append((kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))

    @property
    def scores(self) -> int:
        return sum(T * S for T, S in self.sizes)


def scores(q: Tensor, k: Tensor, v: Tensor, **sight: Any) -> int:
    """How many pairs of query and key are computed in each head."""
    with Calls() as calls, torch.no_grad():
        attend(q, k, v, **sight)
    return calls.scores


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_window_costs_what_it_sees(queries, keys, window, masked):
    queries = min(queries, keys)
    q, k, v = heads_and_keys({"B": 1, "T": queries, "S": keys, "H": 1, "K": 1, "D": 1}, torch.float32, 0)
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool).expand(1, 1, queries, keys) if masked else None
    block = BLOCK if window < WIDE_WINDOW else WIDE_BLOCK
    assert scores(q, k, v, window=window, mask=mask) <= queries * min(keys, window + block + 2 * BLOCK)


@pytest.mark.parametrize("window", [128, 256, 512, 1024])
def test_flops_fall_with_the_window(window):
    """Counted by torch's own counter on tensors without content, 4096 tokens long."""
    with torch.device("meta"):
        q, k = torch.empty(1, 4096, 8, 64), torch.empty(1, 8, 4096, 64)

    def flops(**sight: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            attend(q, k, k, **sight)
        return counter.get_total_flops()

    triangle = flops(causal=True) / 2  # the counter charges the whole square, flash kernels do half of it
    assert flops(window=window) <= triangle * (window + WIDE_BLOCK) / 2048
    assert flops(window=window) > triangle * window / 2048 * 0.8  # it does count


def test_a_mask_over_a_triangle_costs_little_more_than_the_triangle():
    q, k, v = heads_and_keys({"B": 1, "T": 2048, "S": 2048, "H": 1, "K": 1, "D": 1}, torch.float32, 0)
    mask = torch.ones(1, 1, 2048, 2048, dtype=torch.bool)
    assert scores(q, k, v, mask=mask, causal=True) == 2048 * (2048 + WIDE_BLOCK) / 2


class Elements(TorchDispatchMode):
    """Counts the elements of all tensors that operators return."""

    total = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        views = ("view", "slice", "split", "transpose", "expand", "detach")
        if not any(name in str(func) for name in views):
            self.total += sum(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if x is not None)
        return out


def test_the_backward_pass_is_linear_in_length_too():
    """The gradient of a plain slice would be as long as the sequence, once for each block."""

    def elements(length: int) -> int:
        shape = {"B": 1, "T": length, "S": length, "H": 1, "K": 1, "D": 64}
        q, k, v = heads_and_keys(shape, torch.float32, 0)
        with Elements() as counted:
            out = attend(q, k, v, window=128)
            torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
        return counted.total

    assert elements(4096) < 2.1 * elements(2048)


def test_a_decoding_step_is_one_plain_call():
    q, k, v = heads_and_keys({"B": 3, "T": 1, "S": 700, "H": 4, "K": 2, "D": 8}, torch.float32, 0)
    with torch.no_grad():
        for sight in ({}, {"causal": True}, {"causal": True, "window": 700}):
            with Calls() as calls:
                attend(q, k, v, **sight)
            assert calls.sizes == [(1, 700)] and calls.masks == [None]
        with Calls() as calls:
            attend(q, k, v, window=100)
    ((T, S),) = calls.sizes
    assert T == 1 and S < 100 + BLOCK


@pytest.mark.parametrize(
    ("length", "gradients", "products"), [(300, True, 3), (1030, True, 5), (300, False, 3), (2049, True, 0)]
)
def test_bf16_goes_by_products_up_to_a_length(length: int, gradients: bool, products: int) -> None:
    shape = {"B": 1, "T": length, "S": length, "H": 2, "K": 1, "D": 16}
    q, k, v = (x.requires_grad_(gradients) for x in heads_and_keys(shape, torch.bfloat16, 0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attend(q, k, v, causal=True)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts.get("aten::baddbmm", 0) == products
    assert ("aten::_scaled_dot_product_flash_attention_for_cpu" in counts) == (products == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backward_pass_that_may_follow_changes_no_bit(dtype: torch.dtype) -> None:
    shape = {"B": 2, "T": 70, "S": 70, "H": 4, "K": 2, "D": 16}
    q, k, v = (x.requires_grad_() for x in heads_and_keys(shape, dtype, 3))
    for sight in ({"causal": True}, {"window": 20}):
        with torch.no_grad():
            without = attend(q, k, v, **sight)
        assert torch.equal(attend(q, k, v, **sight), without)


@pytest.mark.parametrize("window", [1, 50, 64, 130, 200, 330])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_with_tiled_sums_a_query_is_bitwise_the_same_in_any_piece(window, kv_heads):
    """Alone, in a chunk of a prompt or in the whole, with or without longer rows beside it."""
    assert BLOCK % KEYS == 0
    shape = {"B": 2, "T": 340, "S": 340, "H": 4, "K": kv_heads, "D": 16}
    q, k, v = (x.detach() for x in heads_and_keys(shape, torch.float32, 5))
    with BatchInvariant():
        whole = attend(q, k, v, window=window)
        torch.testing.assert_close(whole, reference(q, k, v, window=window))
        for start, stop in ((0, 1), (63, 64), (200, 201), (339, 340), (0, 65), (100, 230), (129, 340)):
            seen = slice(0, stop)
            piece = attend(q[1:, start:stop], k[1:, :, seen], v[1:, :, seen], window=window)
            assert torch.equal(piece[0], whole[1, start:stop])
        distance = torch.arange(250)[:, None] - torch.arange(340)  # a row of 250 beside longer ones
        beside = attend(q[1:, :250], k[1:], v[1:], mask=((distance >= 0) & (distance < window))[None, None])
        assert torch.equal(beside[0], whole[1, :250])


@pytest.mark.parametrize("sight", [{"causal": True}, {"window": 100}], ids=str)
@pytest.mark.parametrize("length", [64, 300])
def test_compiles_into_one_graph(sight, length):
    shape = {"B": 2, "T": length, "S": length, "H": 4, "K": 2, "D": 8}
    q, k, v = heads_and_keys(shape, torch.float64, 7)
    mask = some_mask("segments", 2, length, length, 8)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for seen in (sight, {**sight, "mask": mask}):
        torch._dynamo.reset()
        ours, wanted = compiled(q, k, v, **seen), attend(q, k, v, **seen)
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
        gradients = (torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (ours, wanted))
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


@pytest.mark.parametrize("sight", [{}, {"causal": True}, {"window": 100}], ids=str)
def test_under_autocast(sight):
    shape = {"B": 2, "T": 300, "S": 300, "H": 4, "K": 2, "D": 8}
    q, k, v = heads_and_keys(shape, torch.float32, 11)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v, **sight)
    assert out.dtype == torch.bfloat16
    rounded = (x.detach().bfloat16() for x in (q, k, v))
    torch.testing.assert_close(
        out, attend(*rounded, **sight), rtol=0.02, atol=0.01
    )  # maybe by another kernel
    assert all(x.dtype == torch.float32 for x in torch.autograd.grad(out.float().sum(), (q, k, v)))
