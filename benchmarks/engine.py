"""Generation beside transformers' generate and llama.cpp, with the same weights, in one run.

Ours; the report does not describe its engine. Goals: at batch 1 at least 70 % of what memory bandwidth allows and 1.5
times the best configuration of transformers; at batch 32 three times its throughput; a first token in bounded time
while others decode. llama.cpp's ratio at equal precision is printed.

    python benchmarks/engine.py [--part decode|first] [--shape S|M] [--threads 1] [--clock wall|cpu] [--quick]

Every arm is a process of its own that answers one call at a time; arms take turns, so what else the machine does hits
all of them; medians count. A call is a prompt of 128 tokens and 64 new ones, greedy; what decoding costs is the
difference to a call for one new token. `--clock cpu` counts the seconds of computing instead of those
that pass: the measure for a machine that other work shares.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openqwen.core.artifact import environment
from openqwen.engine import Engine, Sampling
from openqwen.engine.roofline import decode_bytes
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model, save_model
from openqwen.tokenizer import Tokenizer

# name: (layers, hidden, heads, FFN, vocabulary, context)
SHAPES = {"S": (8, 256, 4, 704, 8_192, 512), "M": (12, 512, 8, 1_408, 32_768, 512)}
PROMPT, NEW = 128, 64
# Bytes of what memory is measured with. Weights of S stay in caches in part: its share can pass what memory allows.
BEYOND_CACHES = 256 << 20
OURS = ("ours fp32", "ours bf16")
PEERS = ("peer fp32", "peer bf16", "peer fp32 static compiled", "peer bf16 static compiled")
LLAMA = ("llama.cpp fp32", "llama.cpp bf16")
GOAL_BANDWIDTH, GOAL_ONE, GOAL_MANY = 0.7, 1.5, 3.0
Call = Callable[[int, int], None]  # (batch, new tokens)


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.arm:
        serve(options)
        return 0
    result: dict[str, Any] = {"area": "engine", "ratios": {}, "goals": {}, "measured": {}}
    parts = {"decode": decode, "first": first_token}
    for name in [options.part] if options.part else parts:
        for shape in [options.shape] if options.shape else SHAPES:
            for key, found in parts[name](options, shape).items():
                result[key] |= found
    result |= {"clock": options.clock, "threads": options.threads, "machine": environment()}
    print(json.dumps(result))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=["decode", "first"])
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--quick", action="store_true", help="shape S, fewer rounds and arms")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick and options.shape is None:
        options.shape = "S"
    return options


def decode(options: argparse.Namespace, shape: str) -> dict[str, dict[str, Any]]:
    """Seconds a decoding step at batch 1 and 32 of every arm, and what memory allows for it."""
    config = model_config(shape)
    found: dict[str, dict[str, Any]] = {"ratios": {}, "goals": {}, "measured": {}}
    rounds = 3 if options.quick else 5
    arms = (*OURS, *(PEERS[:2] if options.quick else PEERS), *([] if options.quick else llama_arms()))
    steps = {1: take_turns(options, shape, ("stream", *arms), 1, rounds)}
    many = tuple(arm for arm in arms if not arm.startswith("llama"))
    steps[32] = take_turns(options, shape, many, 32, 1 if options.quick else 2)
    bandwidth = BEYOND_CACHES / steps[1].pop("stream")
    found["measured"][f"{shape} bandwidth_gb_per_second"] = round(bandwidth / 1e9, 1)
    for batch, seconds in steps.items():
        for arm, step in seconds.items():
            dtype = torch.bfloat16 if "bf16" in arm else torch.float32
            allowed = decode_bytes(config, [PROMPT + NEW // 2] * batch, dtype) / bandwidth
            found["measured"][f"{shape} batch {batch} {arm}"] = {
                "milliseconds_a_step": round(step * 1e3, 2),
                "tokens_per_second": round(batch / step, 1),
                "share_of_bandwidth": round(allowed / step, 3),
            }
            print(f"{shape} batch {batch:2} {arm:28} {step * 1e3:8.2f} ms a step {batch / step:8.1f} tokens/s"
                  f" {allowed / step:6.1%} of bandwidth", flush=True)  # fmt: skip
        best = {
            kind: min(s for arm, s in seconds.items() if arm.startswith(kind)) for kind in ("ours", "peer")
        }
        found["ratios"][f"{shape} batch {batch} over best peer"] = ratio = round(
            best["peer"] / best["ours"], 2
        )
        goal = GOAL_ONE if batch == 1 else GOAL_MANY
        found["goals"][f"{shape} batch {batch} {goal}x"] = ratio >= goal
    share = found["measured"][f"{shape} batch 1 ours fp32"]["share_of_bandwidth"]
    found["goals"][f"{shape} batch 1 {GOAL_BANDWIDTH:.0%} of bandwidth"] = share >= GOAL_BANDWIDTH
    for ours, llama in zip(OURS, LLAMA):
        if llama in steps[1]:
            found["ratios"][f"{shape} batch 1 {ours} over {llama}"] = round(
                steps[1][llama] / steps[1][ours], 2
            )
    return found


def first_token(options: argparse.Namespace, shape: str) -> dict[str, dict[str, Any]]:
    """How long a new request waits for its first token while 31 others decode, in steps and in time."""
    engine = Engine(Qwen(model_config(shape)).eval(), tokenizer(), max_batch=64, budget=256, compiled=True)
    for i in range(31):
        engine.submit(prompt(i), sampling(350))
    for _ in range(25):
        engine.step()
    now, waits, steps, alone = clock(options), [], [], []
    for i in range(6 if options.quick else 15):
        began = now()
        engine.step()
        alone.append(now() - began)
        began, count = now(), 0
        number = engine.submit(prompt(100 + i), sampling(1))
        while all(update.request != number for update in engine.step()):
            count += 1
        waits.append(now() - began)
        steps.append(count + 1)
    step, worst = statistics.median(alone), max(waits)
    print(f"{shape} first token while 31 decode: {max(steps)} steps at most, median {statistics.median(waits):.3f} s,"
          f" worst {worst:.3f} s; a step of the others takes {step:.3f} s", flush=True)  # fmt: skip
    return {
        "measured": {
            f"{shape} first token while 31 decode": {
                "steps_at_most": max(steps),
                "median_seconds": round(statistics.median(waits), 4),
                "worst_seconds": round(worst, 4),
                "seconds_of_a_step_without": round(step, 4),
            }
        },
        "goals": {f"{shape} first token in the next step": max(steps) == 1},
    }


# ---- the arms, each in its process --------------------------------------------------------------------------------


def take_turns(
    options: argparse.Namespace, shape: str, arms: tuple[str, ...], batch: int, rounds: int
) -> dict[str, float]:
    """Median seconds of a decoding step of each arm; one call of each length is not counted."""
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        write_model(shape, Path(folder))
        children = {arm: start(options, arm, shape, folder) for arm in arms}
        try:
            for number in range(rounds + 1):
                for arm, child in children.items():
                    short, long = (ask(child, f"{batch} {count}") for count in (1, NEW))
                    if number:
                        seconds[arm].append((long - short) / (NEW - 1))
        finally:
            for child in children.values():
                child.kill()
                child.communicate()
    return {arm: statistics.median(times) for arm, times in seconds.items()}


def start(options: argparse.Namespace, arm: str, shape: str, folder: str) -> subprocess.Popen[str]:
    line = [sys.executable, __file__, "--arm", arm, "--shape", shape, "--weights", folder]
    line += ["--threads", str(options.threads), "--clock", options.clock]
    return subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def ask(child: subprocess.Popen[str], line: str) -> float:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()
    for answer in child.stdout:
        if answer.startswith("seconds "):  # libraries print, too
            return float(answer.split()[1])
    raise SystemExit(f"{child.args} ended")


def serve(options: argparse.Namespace) -> None:
    """For every line, batch and number of new tokens, generates and says how long it took."""
    words = options.arm.split()
    kinds = {"stream": stream, "ours": ours, "peer": peer, "llama.cpp": llama}
    call, now = kinds[words[0]](options, words), clock(options)
    for line in sys.stdin:
        batch, count = map(int, line.split())
        began = now()
        call(batch, count)
        print(f"seconds {now() - began}", flush=True)


def stream(options: argparse.Namespace, words: list[str]) -> Call:
    """What memory does at its best: a step is one sum over numbers that no cache holds."""
    data = torch.ones(BEYOND_CACHES // 4)

    def call(batch: int, count: int) -> None:
        for _ in range(count):
            data.sum()

    return call


def ours(options: argparse.Namespace, words: list[str]) -> Call:
    engine = Engine(
        load_model(options.weights, dtype=dtype_of(words)).eval(), tokenizer(), 32, budget=4096, compiled=True
    )

    def call(batch: int, count: int) -> None:
        replies = engine.generate([prompt(i) for i in range(batch)], sampling(count))
        assert all(len(reply.ids) == count for reply in replies)

    return call


def peer(options: argparse.Namespace, words: list[str]) -> Call:
    """transformers at its best: scaled dot-product attention; a static cache and a compiled model where asked."""
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(
        options.weights, dtype=dtype_of(words), attn_implementation="sdpa"
    ).eval()
    if "compiled" in words:
        model.forward = torch.compile(model.forward)
    cache = {"cache_implementation": "static"} if "static" in words else {}

    def call(batch: int, count: int) -> None:
        ids = torch.tensor([prompt(i) for i in range(batch)])
        with torch.no_grad():
            out = model.generate(
                ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, **cache
            )
        assert out.shape == (batch, PROMPT + count)

    return call


def llama(options: argparse.Namespace, words: list[str]) -> Call:
    """llama.cpp in this process, without its prompt cache, its keys and values as precise as its weights."""
    import xllamacpp

    params, kind = xllamacpp.CommonParams(), xllamacpp.ggml_type
    params.model.path = str(options.weights / f"{words[1]}.gguf")
    params.n_ctx, params.n_parallel, params.warmup, params.cache_prompt = 512, 1, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.cache_type_k = params.cache_type_v = (
        kind.GGML_TYPE_F32 if words[1] == "fp32" else kind.GGML_TYPE_BF16
    )
    if words[1] == "fp32":
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)

    def call(batch: int, count: int) -> None:
        assert batch == 1
        body = {
            "prompt": prompt(0),
            "n_predict": count,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        told = server.handle_completions(body)
        assert told["usage"]["completion_tokens"] == count, told

    return call


def llama_arms() -> tuple[str, ...]:
    try:
        import gguf  # noqa: F401
        import xllamacpp  # noqa: F401
    except ImportError as error:
        print(f"llama.cpp is left out: {error}", flush=True)
        return ()
    return LLAMA


# ---- what all arms share ------------------------------------------------------------------------------------------


def write_model(shape: str, folder: Path) -> None:
    """The same random weights for every arm, also as llama.cpp reads them."""
    save_model(Qwen(model_config(shape)), folder)
    tokenizer().save(folder)
    for dtype in ("fp32", "bf16") if llama_arms() else ():
        line = [
            "export",
            str(folder),
            "--format",
            "gguf",
            "--dtype",
            dtype,
            "--out",
            str(folder / f"{dtype}.gguf"),
        ]
        subprocess.run([sys.executable, "-m", "openqwen", *line], check=True, stdout=subprocess.DEVNULL)


def model_config(shape: str) -> ModelConfig:
    layers, hidden, heads, ffn, vocabulary, context = SHAPES[shape]
    return ModelConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_layers=layers, num_heads=heads, ffn_size=ffn, max_length=context
    )  # fmt: skip


def tokenizer() -> Tokenizer:
    """Bytes, and the one merge without which llama.cpp reads no vocabulary: the models are random, only ids count."""
    return Tokenizer({**{bytes([i]): i for i in range(256)}, b"ab": 256}, encoder="tiktoken")


def prompt(number: int) -> list[int]:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (PROMPT,), generator=generator).tolist()


def sampling(count: int) -> Sampling:
    return Sampling(temperature=0, max_tokens=count, stop_ids=())


def dtype_of(words: list[str]) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[words[1]]


def clock(options: argparse.Namespace) -> Callable[[], float]:
    return time.perf_counter if options.clock == "wall" else time.process_time


if __name__ == "__main__":
    sys.exit(main())
