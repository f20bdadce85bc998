"""A decoding step of few rows and the drawing of their tokens in compiled code (decode.cpp, sample.cpp), for CPUs.

Ours. A step for a row multiplies with each weight once: torch spends more time between hundreds of calls than in them,
and its bfloat16 products of one row read memory at a third of its rate. One call does the whole step, as fast as memory
is read. The twins are `Qwen.hidden(ids, cache=rows)` and sampler.py. The live parameters are read where they lie, so
training between steps is seen. Weights in int8 (model/quantise.py) are read as codes and become numbers in registers
only.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openqwen.core.errors import MissingTool, OpenQwenError, UsageError
from openqwen.model.cache import CacheRows
from openqwen.model.context import LayerContext
from openqwen.model.quantise import Quantised, int8_parts
from openqwen.model.qwen import Block, Linear, Qwen

SOURCES = tuple(Path(__file__).with_name(name) for name in ("decode.cpp", "sample.cpp"))
# Sums may be cut into lanes. Not -ffast-math: libraries built with it make the whole process flush denormal numbers.
SUMS = (
    "-fassociative-math",
    "-freciprocal-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
)
FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=c++17", "-shared", "-fPIC", *SUMS)
MAX_ROWS = 256  # of a step, up to which this was measured to be faster than calls of torch
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def fits(model: Qwen, count: int, rows: CacheRows) -> bool:
    """Whether a step of `count` rows is one for this code; the model is one for fast.is_plain."""
    weight, cache = model.embed.weight, rows.cache
    return (
        count <= MAX_ROWS
        and weight.device.type == "cpu"
        and weight.dtype in NAMES
        and cache.keys[0].dtype == weight.dtype
        and not cache.keep_all
        and reads_weights(model)
    )


def reads_weights(model: Qwen) -> bool:
    """Whether there is code for how the model's matrices are held."""
    return _codes(model) is not None


def _codes(model: Qwen) -> str | None:
    """What `decode` is called beside the dtype for a model's matrices; None: there is none for them."""
    qkv: Any = model.blocks[0]._modules["attn"]._modules["qkv"]  # type: ignore[union-attr]
    if type(qkv) is Linear:
        return ""
    return "int8_" if int8_parts(qkv._parameters["weight"]) is not None else None


def reads(head: torch.nn.Module, x: Tensor) -> bool:
    """Whether `product` may stand for a call of the head with x (B, C)."""
    if x.device.type != "cpu" or len(x) > MAX_ROWS or torch.is_autocast_enabled("cpu"):
        return False
    if type(head) is Quantised:
        return int8_parts(head.weight) is not None
    return type(head) is Linear and head.weight.dtype in NAMES


def decode(model: Qwen, ids: Tensor, rows: CacheRows, contexts: list[LayerContext]) -> Tensor:
    """ids (B, 1) of rows for which `contexts` has begun -> (B, C) after the final norm, in the model's dtype."""
    config, cache, plan = model.config, rows.cache, rows.plan
    B, longest = len(ids), plan.longest
    x = model.embed.weight[ids[:, 0]].float()  # (B, C)
    layers = [
        _layer(block, context, cache.keys[i], cache.values[i], plan.windows[i])  # type: ignore[arg-type]
        for i, (block, context) in enumerate(zip(model.blocks, contexts))
    ]
    table = torch.tensor(layers)  # (L, 20) int64
    per_row = 3 * config.hidden_size + 2 * config.kv_heads * config.head_dim + 2 * config.ffn
    work = torch.empty(B * (per_row + config.num_heads * longest) + 16)
    numbers = torch.tensor([rows.rows, plan.starts])  # (2, B)
    sizes = torch.tensor([
        config.num_layers, B, config.hidden_size, config.num_heads, config.kv_heads, config.head_dim, config.ffn,
        longest, torch.get_num_threads(),
    ])  # fmt: skip
    pointers = (table, model.norm.weight, x, work, numbers[0], numbers[1], sizes)
    _function(f"decode_{_codes(model)}{NAMES[model.embed.weight.dtype]}")(
        *(ctypes.c_void_p(t.data_ptr()) for t in pointers), ctypes.c_float(config.norm_eps)
    )
    rows.commit()
    return x.to(model.embed.weight.dtype)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, C), weight (N, C), row after row -> (B, N) float32."""
    wide, out = x.float().contiguous(), torch.zeros(len(x), len(weight))
    parts = int8_parts(weight)
    codes, scale = (weight, None) if parts is None else parts
    _function("product_" + ("int8" if parts else NAMES[weight.dtype]))(
        *(ctypes.c_void_p(0 if t is None else t.data_ptr()) for t in (codes, scale, wide, out)),
        *(ctypes.c_int64(n) for n in (len(x), x.shape[1], len(weight))),
        ctypes.c_int(torch.get_num_threads()),
    )
    return out


def draw(
    logp: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What sampler.py draws from truncated rows: ids (b,), their log-probabilities (b,), and each row's support.

    logp (b, V) float32 of whole distributions; settings and uniform (b,), top_k in int64, the rest in float64.
    """
    (b, V), logp = logp.shape, logp.contiguous()
    ids, kept = torch.empty(2, b, dtype=torch.int64)
    drawn, support = torch.empty(b), torch.empty(b, V, dtype=torch.int32)
    tensors = (logp, top_k, top_p, min_p, uniform, ids, drawn, kept, support)
    _function("sample")(
        *(ctypes.c_void_p(t.data_ptr()) for t in tensors),
        *(ctypes.c_int64(n) for n in (b, V)),
        ctypes.c_int(torch.get_num_threads()),
    )
    return ids, drawn, [row[:count].long() for row, count in zip(support, kept.tolist())]


def _layer(block: Block, context: LayerContext, keys: Tensor, values: Tensor, ring: int | None) -> list[int]:
    """What decode.cpp's Layer holds. Pointers stay valid: parameters, cache and contexts outlive the call."""
    scale = 0 if context.query_scale is None else context.query_scale.data_ptr()
    return [
        *_pointers(block),
        keys.data_ptr(), values.data_ptr(), keys.shape[2], ring or 0,
        context.cos.data_ptr(), context.sin.data_ptr(), scale,
    ]  # fmt: skip


def _pointers(block: Block) -> list[int]:
    """A block's parameters in the order of decode.cpp's Layer, found as in fast.is_plain."""
    parts: dict[str, Any] = block._modules
    attn, mlp = parts["attn"]._modules, parts["mlp"]._modules
    return [
        _pointer(parts["attn_norm"]._parameters["weight"]),
        *_matrix(attn["qkv"]), _pointer(attn["qkv"]._parameters["bias"]), *_matrix(attn["out"]),
        _pointer(parts["mlp_norm"]._parameters["weight"]),
        *_matrix(mlp["gate"]), *_matrix(mlp["up"]), *_matrix(mlp["down"]),
    ]  # fmt: skip


def _matrix(layer: Linear) -> tuple[int, int]:
    """Where the weights lie, and their scales; 0: they have none."""
    weight: Any = layer._parameters["weight"]
    if type(layer) is Linear:
        return _pointer(weight), 0
    parts = int8_parts(weight)
    assert parts is not None  # `fits` has looked
    return _pointer(parts[0]), _pointer(parts[1])


def _pointer(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    function = getattr(library(), name)
    function.restype = None
    return function


def missing() -> str | None:
    """Why this machine has no compiled code; None: it has."""
    try:
        library()
    except OpenQwenError as error:
        return error.what
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled code; kept for the next process. MissingTool without a C++ compiler, UsageError without a place."""
    try:
        return _library()
    except OSError as error:  # nowhere to keep it, or it cannot be loaded from there
        raise UsageError(
            f"compiled decoding has no place for its library: {error}",
            fix="set XDG_CACHE_HOME to a folder that can be written",
        ) from error


def _library() -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        raise MissingTool(
            "compiled decoding needs a C++ compiler", fix="install one (Debian, Ubuntu: apt install g++)"
        )
    processor = Path("/proc/cpuinfo").read_bytes() if Path("/proc/cpuinfo").exists() else b""
    flags_of_cpu = next((line for line in processor.splitlines() if line.startswith(b"flags")), b"")
    key = hashlib.sha256(
        b"".join(source.read_bytes() for source in SOURCES)
        + " ".join((compiler, *FLAGS)).encode()
        + flags_of_cpu
    ).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "openqwen"
    path = folder / f"engine-{key}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / path.name
            done = subprocess.run([compiler, *FLAGS, *SOURCES, "-o", made], capture_output=True, text=True)
            if done.returncode:
                raise MissingTool(f"{compiler} cannot compile the engine's code: {done.stderr.strip()[:300]}")
            made.rename(path)
    return ctypes.CDLL(str(path))
