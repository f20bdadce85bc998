"""Training beside transformers' Qwen2ForCausalLM of the same shape and weights, in one run.

Report §2.4: AdamW, BFloat16 mixed precision. Goals: at shapes S and M at least 1.2 times the tokens a second of the
peer, which is compiled and has fused AdamW as well; the same losses within what bf16 itself changes; the loss of a
152K vocabulary in a fraction of the memory of plain logits.

    python benchmarks/train.py [--part speed|losses|memory] [--quick]
    python benchmarks/train.py --device cuda              # MFU at 1.8B, context 2048; goal: 50 %

Every arm is a process of its own that trains one step when told to. Arms take turns, so what else the machine does
hits all of them; medians count. MFU is the model's own products (half of the attention scores) over the rate measured
for square bf16 products. `kept` arms keep freed memory (train/memory.py), as openqwen does: the peer is given it too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwen.core.artifact import environment
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model, save_model
from openqwen.train.compiled import compile_blocks
from openqwen.train.config import OptimConfig
from openqwen.train.flops import flops_per_token, measured_peak, mfu
from openqwen.train.loss import cross_entropy
from openqwen.train.memory import keep_freed_memory
from openqwen.train.optimizer import decay_groups, make_optimizer
from openqwen.train.precision import autocast
from openqwen.train.step import Guard, clip_and_step

# name: (layers, hidden, heads, FFN, vocabulary, context, sequences a step)
SHAPES = {
    "S": (8, 256, 4, 704, 8_192, 512, 8),
    "M": (12, 512, 8, 1_408, 32_768, 512, 4),
    "V": (4, 256, 4, 704, 151_936, 512, 4),
    "1.8B": (24, 2_048, 16, 5_504, 151_936, 2_048, 4),
}
OURS, OURS_EAGER = "ours compiled kept", "ours kept"
PEER, PEER_KEPT = "peer compiled", "peer compiled kept"
GOAL, GOAL_MFU = 1.2, 0.5
Step = Callable[[Tensor], float]


def main() -> int:
    options = arguments()
    if options.arm:
        serve(options.arm, options.shape, options.weights, options.device)
        return 0
    result: dict[str, Any] = {"area": "train", "ratios": {}, "goals": {}, "measured": {}}
    parts = {"speed": speed, "losses": losses, "memory": memory}
    if options.device == "cuda":
        parts = {"gpu": gpu}
    elif options.part:
        parts = {options.part: parts[options.part]}
    for part in parts.values():
        for key, found in part(options).items():
            result[key] |= found
    result["device"] = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    result["machine"] = environment()
    print(json.dumps(result))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=["speed", "losses", "memory"])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--shape", choices=SHAPES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    return options


def speed(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Tokens a second and MFU of every arm at S and M."""
    found: dict[str, dict[str, Any]] = {"ratios": {}, "goals": {}, "measured": {}}
    peak = measured_peak(torch.bfloat16, seconds=2.0)
    found["measured"]["bf16_gflops"] = round(peak / 1e9, 1)
    for shape in ("S", "M"):
        rounds = take_turns(options, shape, (OURS, OURS_EAGER, PEER, PEER_KEPT), 4 if options.quick else 12)
        rates = {
            arm: tokens_a_step(shape) / statistics.median(times) for arm, times in rounds.seconds.items()
        }
        for arm, rate in rates.items():
            share = mfu(rate, flops_per_token(model_config(shape), SHAPES[shape][5]), peak)
            found["measured"][f"{shape} {arm}"] = {"tokens_per_second": round(rate), "mfu": round(share, 3)}
            print(f"{shape}  {arm:20} {rate:6.0f} tokens/s  MFU {share:.1%}", flush=True)
        for peer in (PEER, PEER_KEPT):
            found["ratios"][f"{shape} over {peer}"] = round(rates[OURS] / rates[peer], 2)
        found["goals"][f"{shape} {GOAL}x"] = rates[OURS] / rates[PEER] >= GOAL
    return found


def losses(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The same steps from the same weights: losses differ from the peer's by no more than bf16 from fp32."""
    steps = 10 if options.quick else 40
    curves = take_turns(options, "S", (OURS, PEER, "ours fp32"), steps).losses
    apart = max(abs(a / b - 1) for a, b in zip(curves[OURS], curves[PEER]))
    noise = max(
        abs(curves[arm][i] / curves["ours fp32"][i] - 1) for arm in (OURS, PEER) for i in range(steps)
    )
    print(f"S  losses of {steps} steps: {curves[OURS][0]:.4f} to {curves[OURS][-1]:.4f}; ours and the peer's at most "
          f"{apart:.1e} apart, bf16 and fp32 {noise:.1e}", flush=True)  # fmt: skip
    measured = {"largest_difference_to_peer": apart, "largest_difference_to_fp32": noise}
    return {"measured": {f"S losses of {steps} steps": measured}, "goals": {"S losses": apart <= 2 * noise}}


def memory(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Peak memory and time of a step with the 152K vocabulary, with chunked loss, with plain logits, and the peer's."""
    arms = ("ours", "ours plain-loss", "peer")
    rounds = take_turns(options, "V", arms, 2 if options.quick else 5)
    measured: dict[str, Any] = {}
    for arm in arms:
        seconds = statistics.median(rounds.seconds[arm])
        # Gradients and the two means of AdamW are there whatever the loss does.
        above = rounds.peak[arm] - rounds.before[arm] - 12 * model_config("V").num_parameters
        measured[f"V {arm}"] = {"step_seconds": round(seconds, 2), "activations_mib": round(above / 2**20)}
        print(
            f"V  {arm:16} {above / 2**20:6.0f} MiB above weights, gradients and optimizer, {seconds:.2f} s a step",
            flush=True,
        )
    spared = measured["V ours plain-loss"]["activations_mib"] / measured["V ours"]["activations_mib"]
    return {"measured": measured, "ratios": {"V memory of plain logits": round(spared, 2)}}


def gpu(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """MFU at the shape of 1.8B, context 2048, bf16, beside the peer where both fit."""
    peak = measured_peak(torch.bfloat16, "cuda", size=8192, seconds=2.0)
    found: dict[str, dict[str, Any]] = {
        "ratios": {},
        "goals": {},
        "measured": {"bf16_gflops": round(peak / 1e9)},
    }
    rates = {}
    for arm in (OURS, PEER):  # one after the other: two copies of weights and optimizer are 58 GB
        times = take_turns(options, "1.8B", (arm,), 5 if options.quick else 15).seconds[arm]
        rates[arm] = tokens_a_step("1.8B") / statistics.median(times)
        share = mfu(rates[arm], flops_per_token(model_config("1.8B"), SHAPES["1.8B"][5]), peak)
        found["measured"][f"1.8B {arm}"] = {"tokens_per_second": round(rates[arm]), "mfu": round(share, 3)}
        print(f"1.8B  {arm:20} {rates[arm]:6.0f} tokens/s  MFU {share:.1%}", flush=True)
        if arm == OURS:
            found["goals"][f"1.8B MFU {GOAL_MFU:.0%}"] = share >= GOAL_MFU
    found["ratios"]["1.8B over peer compiled"] = round(rates[OURS] / rates[PEER], 2)
    return found


# ---- the arms, each in its process --------------------------------------------------------------------------------


class Rounds:
    """What the arms told: seconds, losses, resident peak and resident memory before the first step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.losses: dict[str, list[float]] = {}
        self.peak: dict[str, int] = {}
        self.before: dict[str, int] = {}


def take_turns(options: argparse.Namespace, shape: str, arms: tuple[str, ...], rounds: int) -> Rounds:
    """`rounds` steps of each arm, after two that are not timed; every arm begins with the same weights."""
    found = Rounds()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save_model(Qwen(model_config(shape)), folder)
        children = {arm: start(options, arm, shape, folder) for arm in arms}
        with children_of(children.values()):
            for arm, child in children.items():
                found.before[arm] = ask(child)["resident"]
                found.seconds[arm], found.losses[arm] = [], []
            for number in range(2 + rounds):
                for arm, child in children.items():
                    told = ask(child, str(number))
                    found.losses[arm].append(told["loss"])
                    found.peak[arm] = told["resident"]
                    if number >= 2:
                        found.seconds[arm].append(told["seconds"])
    return found


def start(options: argparse.Namespace, arm: str, shape: str, folder: str) -> subprocess.Popen[str]:
    line = [
        sys.executable,
        __file__,
        "--arm",
        arm,
        "--shape",
        shape,
        "--weights",
        folder,
        "--device",
        options.device,
    ]
    return subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def children_of(children: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.communicate()


def ask(child: subprocess.Popen[str], line: str | None = None) -> dict[str, Any]:
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    if line is not None:
        child.stdin.write(line + "\n")
        child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit(f"{child.args} ended:\n{child.stderr.read()}")
    return json.loads(answer)


def serve(arm: str, shape: str, weights: Path, device: str) -> None:
    """Says when it is ready; then for every line, the number of a batch, trains a step and says how it went."""
    words = arm.split()
    if "kept" in words and not keep_freed_memory():
        raise SystemExit("this C library cannot be told to keep freed memory")
    step = (ours if words[0] == "ours" else peer)(shape, weights, words, torch.device(device))
    print(json.dumps({"resident": resident(device)}), flush=True)
    for line in sys.stdin:
        ids = batch(shape, int(line)).to(device)
        began = time.perf_counter()
        loss = step(ids)  # reading the loss waits for the device
        told = {"seconds": time.perf_counter() - began, "loss": loss, "resident": resident(device)}
        print(json.dumps(told), flush=True)


def ours(shape: str, weights: Path, words: list[str], device: torch.device) -> Step:
    """The step of openqwen/train/trainer.py, without its surroundings."""
    model = load_model(weights).to(device).train()
    if "compiled" in words:
        compile_blocks(model.blocks)
    config, dtype = OptimConfig(), torch.float32 if "fp32" in words else torch.bfloat16
    optimizer, guard = make_optimizer(model, config), Guard(config.max_bad_steps)

    def step(ids: Tensor) -> float:
        with autocast(dtype, device):
            hidden = model.hidden(ids[:, :-1]).flatten(0, 1)
            labels = ids[:, 1:].flatten()
            if "plain-loss" in words:
                total = F.cross_entropy(model.head(hidden).float(), labels, reduction="sum")
            else:
                total, _ = cross_entropy(hidden, model.head.weight, labels)
        loss = total / labels.numel()
        loss.backward()
        clip_and_step(optimizer, loss, config, guard, step=0)
        return float(loss)

    return step


def peer(shape: str, weights: Path, words: list[str], device: torch.device) -> Step:
    """transformers at its best: scaled dot-product attention, fused AdamW, bf16 autocast, compiled where asked."""
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(weights, dtype=torch.float32, attn_implementation="sdpa")
    model = model.to(device).train()
    model.config.use_cache = False
    run = torch.compile(model) if "compiled" in words else model
    config = OptimConfig()
    optimizer = torch.optim.AdamW(
        decay_groups(model, config.weight_decay),
        lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True,
    )  # fmt: skip

    def step(ids: Tensor) -> float:
        labels = ids[:, 1:].contiguous()
        with autocast(torch.bfloat16, device):
            loss = run(input_ids=ids[:, :-1].contiguous(), labels=labels, shift_labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


def model_config(shape: str) -> ModelConfig:
    layers, hidden, heads, ffn, vocabulary, context, _ = SHAPES[shape]
    return ModelConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_layers=layers, num_heads=heads, ffn_size=ffn, max_length=context
    )  # fmt: skip


def tokens_a_step(shape: str) -> int:
    return SHAPES[shape][5] * SHAPES[shape][6]


def batch(shape: str, number: int) -> Tensor:
    """Ids (B, T + 1) with something to learn: half of the tokens follow from the token before."""
    vocabulary, context, sequences = SHAPES[shape][4:]
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(0, vocabulary, (sequences, context + 1), generator=generator)
    follows = torch.rand(ids.shape, generator=generator) < 0.5
    for place in range(1, context + 1):
        ids[:, place] = torch.where(follows[:, place], (ids[:, place - 1] * 7 + 1) % 512, ids[:, place])
    return ids


def resident(device: str) -> int:
    """Peak bytes until now: of the process, or allocated on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
