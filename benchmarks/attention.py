"""Windowed and masked attention beside what torch offers for it, in one run: does a window save the work it should?

Report §2.5. Peers: the same window as a mask to scaled dot-product attention (SDPA), full causal attention, and
FlexAttention compiled for the window. Goals: at 2048 tokens a window of 256 at least twice as fast as full causal
attention and 512 faster than it, forward and with the backward pass; time linear in the length.

    python benchmarks/attention.py [--quick] [--device cuda]

Arms take turns and the best round counts. On CPU, float32 on one thread, times are processor seconds, so that what
else the machine does matters as little as possible; on CUDA, bfloat16, they are seconds on the wall until the device is
idle. --quick leaves out FlexAttention on CPU (compiling alone takes up to 30 s) and the longest sequences.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from openqwen.core.artifact import environment
from openqwen.model.attention import attend, band

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Times = dict[str, tuple[float, float]]  # arm -> milliseconds forward, forward and backward

LENGTH, WINDOWS, HEAD_DIMS, WIDTH = 2048, (256, 512), (64, 128), 256
SEGMENTS = 4


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, Any] = {"area": "attention", "ratios": {}, "goals": {}}
    for part in (windows, lengths, segments, flex):
        found = part(options)
        result["ratios"] |= found.get("ratios", {})
        result["goals"] |= found.get("goals", {})
    result["device"] = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    result["machine"] = environment()
    print(json.dumps(result))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 50 s on two cores")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    return options


def windows(options: argparse.Namespace) -> dict[str, Any]:
    """A window in blocks, as a mask, and no window at all."""
    ratios: dict[str, float] = {}
    for head_dim in HEAD_DIMS:
        for window in WINDOWS:
            q, k, v = drawn(options, LENGTH, head_dim)
            arms = {"ours": windowed(window), "masked": masked(window, q), "causal": causal}
            agree(arms, ("ours", "masked"), q, k, v)
            times = measure(options, arms, q, k, v)
            show(f"T {LENGTH}, window {window}, D {head_dim}", times)
            for peer in ("causal", "masked"):
                ratios |= compare(f"window_{window}_D{head_dim}_over_{peer}", times, peer)
    return {"ratios": ratios}


def lengths(options: argparse.Namespace) -> dict[str, Any]:
    """Growth of the time when the length doubles, the window staying: 2 is linear, 4 is quadratic."""
    long = 4096 if options.quick else 16384
    times: Times = {}
    for length in (long // 2, long):
        q, k, v = drawn(options, length, 64)
        times[str(length)] = measure(options, {"ours": windowed(256)}, q, k, v)["ours"]
    show(f"window 256, D 64, T {long // 2} and {long}", times)
    forward, backward = (b / a for a, b in zip(*times.values()))
    return {
        "goals": {
            f"growth_{long}_forward": round(forward, 2),
            f"growth_{long}_forward_backward": round(backward, 2),
        }
    }


def segments(options: argparse.Namespace) -> dict[str, Any]:
    """Several samples packed into one row: a mask under the triangle. The peer is one call with the whole mask."""
    q, k, v = drawn(options, LENGTH, 64)
    number = torch.arange(LENGTH, device=q.device) * SEGMENTS // LENGTH
    mask = (number[:, None] == number).tril()[None, None]  # (1, 1, T, T)
    arms: dict[str, Attention] = {
        "ours": lambda q, k, v: attend(q, k, v, mask=mask, causal=True),
        "masked": lambda q, k, v: attend(q, k, v, mask=mask),
        "causal": causal,
    }
    agree(arms, ("ours", "masked"), q, k, v)
    times = measure(options, arms, q, k, v)
    show(f"T {LENGTH}, {SEGMENTS} segments, D 64", times)
    return {
        "ratios": compare("segments_over_masked", times, "masked")
        | compare("segments_over_causal", times, "causal")
    }


def flex(options: argparse.Namespace) -> dict[str, Any]:
    """FlexAttention's kernel for the same window. On CPU it has no backward pass."""
    if options.device == "cpu" and options.quick:
        print("FlexAttention left out: --quick on CPU")
        return {}
    ratios: dict[str, float] = {}
    goals: dict[str, float] = {}
    for window in WINDOWS:
        q, k, v = drawn(options, LENGTH, 64)
        if options.device == "cpu":
            q, k, v = q.detach(), k.detach(), v.detach()  # it refuses what wants a gradient
        kernel = compiled_flex(window, q)
        began = time.perf_counter()
        with torch.no_grad():
            kernel(q, k, v)
        goals[f"flex_window_{window}_compile_seconds"] = round(time.perf_counter() - began, 1)
        arms = {"ours": windowed(window), "flex": kernel}
        agree(arms, ("ours", "flex"), q, k, v)
        times = measure(options, arms, q, k, v, backward=options.device == "cuda")
        show(f"T {LENGTH}, window {window}, D 64", times)
        ratios |= compare(f"window_{window}_D64_over_flex", times, "flex")
    return {"ratios": ratios, "goals": goals}


def drawn(options: argparse.Namespace, length: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """q (1, T, H, D), k and v (1, H, T, D); as many heads as make the width on CPU, 16 times that on CUDA."""
    heads = WIDTH // head_dim * (16 if options.device == "cuda" else 1)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    sizes = ((1, length, heads, head_dim), (1, heads, length, head_dim), (1, heads, length, head_dim))
    made = [torch.randn(size, device=options.device, dtype=dtype).requires_grad_() for size in sizes]
    return made[0], made[1], made[2]


def windowed(window: int) -> Attention:
    return lambda q, k, v: attend(q, k, v, window=window)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True).transpose(1, 2)


def masked(window: int, q: Tensor) -> Attention:
    mask = band(0, q.shape[1], q.shape[1], window, q.device)  # made once, outside the time
    return lambda q, k, v: attend(q, k, v, mask=mask[None, None])


def compiled_flex(window: int, q: Tensor) -> Attention:
    length = q.shape[1]
    near = create_block_mask(
        lambda b, h, i, j: (i >= j) & (i < j + window), None, None, length, length, q.device
    )
    kernel = torch.compile(flex_attention, dynamic=False)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel(q.transpose(1, 2), k, v, block_mask=near).transpose(1, 2)

    return run


def agree(arms: dict[str, Attention], names: tuple[str, str], q: Tensor, k: Tensor, v: Tensor) -> None:
    """Two arms compute the same, within the rounding of the type."""
    with torch.no_grad():
        one, other = (arms[name](q, k, v) for name in names)
    torch.testing.assert_close(one, other)


def measure(
    options: argparse.Namespace,
    arms: dict[str, Attention],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    backward: bool = True,
) -> Times:
    """Fewest milliseconds of each arm, forward alone and with the backward pass (NaN without), taking turns."""
    slope = torch.randn_like(q)

    def forward(arm: Attention) -> None:
        with torch.no_grad():
            arm(q, k, v)

    def both(arm: Attention) -> None:
        torch.autograd.grad(arm(q, k, v), (q, k, v), slope)

    best = {name: [float("inf"), float("inf") if backward else float("nan")] for name in arms}
    for _ in range(3 if options.quick else 15):
        for name, arm in arms.items():
            best[name][0] = min(best[name][0], seconds(options, forward, arm))
            if backward:
                best[name][1] = min(best[name][1], seconds(options, both, arm))
    return {name: (1e3 * pair[0], 1e3 * pair[1]) for name, pair in best.items()}


def seconds(options: argparse.Namespace, run: Callable[[Attention], None], arm: Attention) -> float:
    if options.device == "cpu":
        began = time.process_time()
        run(arm)
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    run(arm)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(name: str, times: Times, peer: str) -> dict[str, float]:
    """Ratios peer over ours, larger is better, of what was measured."""
    passes = zip(("forward", "forward_backward"), times[peer], times["ours"])
    return {f"{name}_{what}": round(theirs / ours, 2) for what, theirs, ours in passes if ours == ours}


def show(what: str, times: Times) -> None:
    found = {name: tuple(round(ms, 1) for ms in pair) for name, pair in times.items()}
    print(f"{what}, ms forward and with backward: {found}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
