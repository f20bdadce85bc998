"""What fewer bits cost and save: weights in bf16, int8, int4, and a KV cache in 8 bits, ours and the released kind.

Ours. The loss is read from held-out text of a trained model, every piece through a KV cache, beside the same pieces in
float32: bits per byte, their difference with the standard error over pieces, and how far predictions moved
(Kullback-Leibler divergence, nats a token), which noise hides less. Memory and speed are those of a random model that no
processor cache holds.

    python benchmarks/quantise.py [--model out/tour/base] [--tokens out/tour/tokens] [--part loss|use] [--threads 1]

Speed counts seconds of computing (process time), so that what else the machine does does not count; arms take turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from openqwen.core.artifact import environment
from openqwen.core.shards import open_tokens
from openqwen.engine import Engine, Sampling
from openqwen.model import KVCache, ModelConfig, load_model
from openqwen.model.config import CacheFormat, Quantisation
from openqwen.model.quantise import quantise, weight_bytes
from openqwen.model.qwen import Qwen
from openqwen.pretrain.heldout import HeldOut, held_out
from openqwen.tokenizer import Tokenizer, load_tokenizer

# name: what becomes of the weights
WEIGHTS: dict[str, Quantisation | torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": Quantisation(weights="int8"),
    "int8 and head": Quantisation(weights="int8", head=True),
    "int4, groups of 128": Quantisation(weights="int4", group=128),
    "int4, groups of 64": Quantisation(weights="int4", group=64),
    "int4, groups of 32": Quantisation(weights="int4", group=32),
    "int4, groups of 32, and head": Quantisation(weights="int4", group=32, head=True),
}
# name: (dtype, format, pieces a text is fed in)
CACHES: dict[str, tuple[torch.dtype, CacheFormat | None, int]] = {
    "bfloat16": (torch.bfloat16, None, 1),
    "int8": (torch.float32, "int8", 1),
    "int8, in 4 pieces": (torch.float32, "int8", 4),
    "int8 as released": (torch.float32, "int8-released", 1),
    "int8 as released, in 4 pieces": (torch.float32, "int8-released", 4),
}
LARGE = ModelConfig(vocab_size=8192, hidden_size=1024, num_layers=4, num_heads=16, max_length=512)
# name: (weights, compiled, cache)
SPEEDS: dict[str, tuple[Quantisation | torch.dtype, bool, CacheFormat | None]] = {
    "float32": (torch.float32, False, None),
    "float32, compiled": (torch.float32, True, None),
    "float32, int8 cache": (torch.float32, False, "int8"),
    "bfloat16": (torch.bfloat16, False, None),
    "bfloat16, compiled": (torch.bfloat16, True, None),
    "int8": (Quantisation(weights="int8"), False, None),
    "int8 in bfloat16": (Quantisation(weights="int8"), False, None),
    "int8, compiled": (Quantisation(weights="int8"), True, None),
    "int8 and head, compiled": (Quantisation(weights="int8", head=True), True, None),
    "int4, groups of 32": (Quantisation(weights="int4"), False, None),
    "int4, groups of 128": (Quantisation(weights="int4", group=128), False, None),
}
PROMPT, NEW, ROUNDS = 16, 8, 2
BATCHES = (1, 8)


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"area": "quantise"}
    if options.part in (None, "loss"):
        for path in (options.model, options.tokens):
            if not path.is_dir():
                raise SystemExit(
                    f"{path} is not there: run `python3 run.py tour`, or name --model and --tokens"
                )
        result["loss"] = losses(options)
    if options.part in (None, "use"):
        result["use"] = speeds()
    print(json.dumps(result | {"threads": options.threads, "machine": environment()}))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=["loss", "use"])
    parser.add_argument("--model", type=Path, default=Path("out/tour/base"))
    parser.add_argument("--tokens", type=Path, default=Path("out/tour/tokens"))
    parser.add_argument("--limit", type=int, default=40_000, help="tokens of held-out text")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


# ---- loss ---------------------------------------------------------------------------------------------------------


def losses(options: argparse.Namespace) -> dict[str, Any]:
    """The same text through every way to hold weights, and through every cache with weights in float32."""
    model, tokenizer = load_model(options.model, dtype=torch.float32), load_tokenizer(options.model)
    text = held_out(open_tokens(options.tokens, "valid"), tokenizer, model.config.max_length, options.limit)
    exact = [read(model, ids, torch.float32, None, 1) for ids in text.ids.split(8)]
    found: dict[str, Any] = {
        "parameters": model.config.num_parameters,
        "head_dim": model.config.head_dim,
        "bytes": text.num_bytes,
        "tokens": int((text.labels != -100).sum()),
        "float32_bits_per_byte": compare(text, exact, exact)["bits_per_byte"],
        "weights": {},
        "cache": {},
    }
    for name, how in WEIGHTS.items():
        made = changed(model, how)
        dtype = made.embed.weight.dtype
        logits = [read(made, ids, dtype, None, 1) for ids in text.ids.split(8)]
        found["weights"][name] = compare(text, exact, logits) | {"mib": round(weight_bytes(made) / 2**20, 3)}
        say(f"weights {name}", found["weights"][name])
    for name, (dtype, held, pieces) in CACHES.items():
        logits = [read(model, ids, dtype, held, pieces) for ids in text.ids.split(8)]
        found["cache"][name] = compare(text, exact, logits)
        say(f"cache {name}", found["cache"][name])
    return found


def changed(model: Qwen, how: Quantisation | torch.dtype) -> Qwen:
    made = copy.deepcopy(model)
    if isinstance(how, torch.dtype):
        return made.to(how)
    quantise(made, how)
    return made


@torch.inference_mode()
def read(
    model: Qwen, ids: torch.Tensor, dtype: torch.dtype, held: CacheFormat | None, pieces: int
) -> torch.Tensor:
    """ids (B, T) -> logits (B, T, V) float32, the text fed in pieces of like length."""
    cache = KVCache(model.config, len(ids), ids.shape[1], dtype=dtype, held=held)
    parts = ids.split(ids.shape[1] // pieces, 1)
    return torch.cat([model(part, cache=cache).float() for part in parts], 1)


def compare(text: HeldOut, exact: list[torch.Tensor], logits: list[torch.Tensor]) -> dict[str, float]:
    """Bits per byte, how many more than float32 takes, and how far predictions are from its own."""
    bits: list[float] = []
    more: list[float] = []
    moved, count = 0.0, int((text.labels != -100).sum())
    for wanted, found, labels in zip(exact, logits, text.labels.split(8)):
        nats = [
            F.cross_entropy(x.transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)
            for x in (wanted, found)
        ]  # (B,) each
        bits += (nats[1] / math.log(2)).tolist()
        more += ((nats[1] - nats[0]) / math.log(2)).tolist()
        sure = wanted.log_softmax(-1)
        apart = (sure.exp() * (sure - found.log_softmax(-1))).sum(-1)  # (B, T)
        moved += float(apart[labels != -100].double().sum())
    error = statistics.stdev(more) * math.sqrt(len(more)) / text.num_bytes
    return {
        "bits_per_byte": round(sum(bits) / text.num_bytes, 6),
        "more": round(sum(more) / text.num_bytes, 6),
        "more_standard_error": round(error, 6),
        "divergence": float(f"{moved / count:.3g}"),
    }


def say(name: str, found: dict[str, Any]) -> None:
    mib = f"  {found['mib']:.2f} MiB" if "mib" in found else ""
    print(f"{name:38} {found['bits_per_byte']:.5f} bits per byte  {found['more']:+.5f} +- {found['more_standard_error']:.5f}"
          f"  divergence {found['divergence']:.2e}{mib}", flush=True)  # fmt: skip


# ---- memory and speed ---------------------------------------------------------------------------------------------


def speeds() -> dict[str, Any]:
    """Memory of weights and cache of a larger model, and seconds of computing a decoding step takes."""
    model, tokenizer = Qwen(LARGE).eval(), Tokenizer({bytes([i]): i for i in range(256)}, encoder="tiktoken")
    engines: dict[str, Engine] = {}
    found: dict[str, Any] = {"parameters": LARGE.num_parameters, "arms": {}}
    for name, (how, compiled, held) in SPEEDS.items():
        base = copy.deepcopy(model).bfloat16() if "in bfloat16" in name else model
        made = changed(base, how)
        engines[name] = Engine(made, tokenizer, max(BATCHES), compiled=compiled, cache=held)
        found["arms"][name] = {"weights_mib": round(weight_bytes(made) / 2**20, 1)}
    for batch in BATCHES:
        steps: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(ROUNDS + 1):
            for name, engine in engines.items():
                short, long = (taken(engine, batch, count) for count in (1, NEW))
                if number:
                    steps[name].append((long - short) / (NEW - 1))
        for name, times in steps.items():
            found["arms"][name][f"batch {batch} tokens_per_second"] = round(
                batch / statistics.median(times), 1
            )
    for name, engine in engines.items():
        arm = found["arms"][name]
        arm["cache_mib"] = round(engine._cache().num_bytes / 2**20, 2)
        print(f"{name:24} weights {arm['weights_mib']:7.1f} MiB  cache {arm['cache_mib']:6.2f} MiB  "
              + "  ".join(f"{arm[f'batch {b} tokens_per_second']:7.1f} tokens/s at batch {b}" for b in BATCHES),
              flush=True)  # fmt: skip
    return found


def taken(engine: Engine, batch: int, count: int, now: Callable[[], float] = time.process_time) -> float:
    """Seconds of one call that generates `count` tokens for each of `batch` prompts."""
    prompts = [[(7 * i + j) % 256 for j in range(PROMPT)] for i in range(batch)]
    began = now()
    engine.generate(prompts, Sampling(temperature=0, max_tokens=count, stop_ids=()))
    return now() - began


if __name__ == "__main__":
    sys.exit(main())
