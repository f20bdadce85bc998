"""What pretraining will need, worked out before anything is allocated: memory, disk, floating-point operations, time.

Report §2.3 and §2.4 give the shapes and the mixed precision. Ours: the count. No torch is loaded and no tensor is made;
replay.py plays a step in bytes. The tests hold each number against real runs on a processor, those of divided weights
against FSDP2 among processes that exchange nothing. What a network library takes for itself is not counted, and nothing
was measured on a GPU.

C hidden, K key/value heads, D head dim, F ffn, V vocabulary, L layers, R rank of adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil, prod

from openqwen.core.errors import UsageError, did_you_mean
from openqwen.model.config import ModelConfig
from openqwen.train.config import LoraConfig
from openqwen.train.flops import flops_per_token
from openqwen.train.replay import RANDOM_STATE, Device, Replay, Work
from openqwen.train.tape import BF16, FP32

CHECKPOINTS = 3  # on disk at most: the two that are kept and the one being written


@dataclass(frozen=True)
class Hardware:
    """A device to train on. Memory and rate are the source's; `reserve` and `kept` are ours."""

    name: str
    memory: int  # bytes
    reserve: int  # an estimate: driver's context, libraries, rounding of the allocator; or system and program
    kept: float  # freed memory that the allocator keeps, over the highest mark
    peak_flops: float | None  # a second, dense bf16 products with fp32 sums; None: not known
    device: Device
    source: str


GB, GIB, TERA = 10**9, 2**30, 10**12
# A data sheet's GB are read as 10^9 bytes. Drivers show somewhat more, which is on the safe side. glibc's allocator was
# measured to keep 0.3 to 0.7 of the highest mark in runs of 0.6 to 2.8 GiB (none with MALLOC_TRIM_THRESHOLD_=131072).
KEPT_BY_GLIBC = 0.5  # the laptops' rates differ too much to name one
HARDWARE = {
    row.name: row
    for row in (
        Hardware("h200", 141 * GB, GIB, 0.0, 989.4 * TERA, "cuda", "NVIDIA H200 data sheet, SXM"),
        Hardware("h100-80gb", 80 * GB, GIB, 0.0, 989.4 * TERA, "cuda", "NVIDIA H100 white paper, SXM5"),
        Hardware("a100-80gb", 80 * GB, GIB, 0.0, 312 * TERA, "cuda", "NVIDIA A100 80GB data sheet"),
        Hardware("a100-40gb", 40 * GB, GIB, 0.0, 312 * TERA, "cuda", "NVIDIA A100 white paper"),
        Hardware("rtx-4090", 24 * GB, GIB, 0.0, 165.2 * TERA, "cuda", "NVIDIA Ada white paper"),
        Hardware("rtx-3090", 24 * GB, GIB, 0.0, 71 * TERA, "cuda", "NVIDIA GA102 white paper"),
        Hardware("laptop-24gb", 24 * GIB, 4 * GIB, KEPT_BY_GLIBC, None, "cpu", "ours"),
        Hardware("laptop-16gb", 16 * GIB, 4 * GIB, KEPT_BY_GLIBC, None, "cpu", "ours"),
    )
}


def hardware(name: str) -> Hardware:
    """A device by name; UsageError naming the nearest ones."""
    if name not in HARDWARE:
        longer = [found for found in HARDWARE if found.startswith(name.lower())]
        known = " or ".join(f"'{found}'" for found in longer)
        hint = f" Did you mean {known}?" if longer else did_you_mean(name, HARDWARE)
        raise UsageError(
            f"no hardware '{name}'.{hint}",
            where="flag --hardware",
            fix=f"use one of: {', '.join(HARDWARE)}",
        )
    return HARDWARE[name]


# Disk and inference


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's parameters in the order of its modules, without building one."""
    C, qkv = model.hidden_size, (model.num_heads + 2 * model.kv_heads) * model.head_dim
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (C,),
        "attn.qkv.weight": (qkv, C),
        "attn.qkv.bias": (qkv,),
        "attn.out.weight": (C, C),
        "mlp_norm.weight": (C,),
        "mlp.gate.weight": (model.ffn, C),
        "mlp.up.weight": (model.ffn, C),
        "mlp.down.weight": (C, model.ffn),
    }
    layers = {
        f"blocks.{layer}.{name}": shape for layer in range(model.num_layers) for name, shape in block.items()
    }
    table = (model.vocab_size, C)
    return {"embed.weight": table, **layers, "norm.weight": (C,), "head.weight": table}


def trained_shapes(model: ModelConfig, lora: LoraConfig | None = None) -> dict[str, tuple[int, ...]]:
    """The same of what is trained: everything, or adapters and, if the config says so, embedding and head."""
    whole = parameter_shapes(model)
    if lora is None:
        return whole
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in whole.items():
        stem = name.removesuffix(".weight")
        if stem in ("embed", "head"):
            found |= {name: shape} if lora.trains_embeddings else {}
        elif stem.rpartition(".")[2] in lora.targets and len(shape) == 2:
            found |= {f"{stem}.a": (lora.rank, shape[1]), f"{stem}.b": (shape[0], lora.rank)}
    return found


def trained_parameters(model: ModelConfig, lora: LoraConfig | None = None) -> int:
    """How many numbers are trained."""
    return sum(map(prod, trained_shapes(model, lora).values()))


def checkpoint_files(model: ModelConfig, lora: LoraConfig | None = None) -> dict[str, int]:
    """Bytes of the files of tensors in a checkpoint of pretraining; the JSON beside them is a few kilobytes.

    Processes that divide the weights write the same tensors into more files.
    """
    shapes = trained_shapes(model, lora)
    if lora is not None:
        shapes = {name.replace(".", "/"): shape for name, shape in shapes.items()}
    # The optimizer's numbering: matrices (with decay), then vectors.
    ordered = sorted(shapes.values(), key=lambda shape: len(shape) < 2)
    state: dict[str, tuple[int, ...]] = {}
    for number, shape in enumerate(ordered):
        state |= {f"{number}.step": (), f"{number}.exp_avg": shape, f"{number}.exp_avg_sq": shape}
    return {
        "model.safetensors": safetensors_bytes(shapes),
        "adamw.optimizer.safetensors": safetensors_bytes(state),
        "rng.safetensors": safetensors_bytes({"cpu": (RANDOM_STATE,)}, "U8", 1),
    }


def safetensors_bytes(tensors: Mapping[str, Iterable[int]], code: str = "F32", item: int = FP32) -> int:
    """Bytes of a safetensors file: eight, a header padded to a multiple of eight, the numbers."""
    header, offset = {}, 0
    for name in sorted(tensors):
        shape = list(tensors[name])
        stop = offset + prod(shape) * item
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + ceil(text / 8) * 8 + offset


def kv_bytes(
    model: ModelConfig, length: int, item: int = BF16, windows: tuple[int, ...] | None = None
) -> int:
    """Keys and values that the cache holds for one sequence; a layer with a window keeps its last keys only."""
    held = [length] * model.num_layers if windows is None else [min(length, window) for window in windows]
    return 2 * model.kv_heads * model.head_dim * item * sum(held)


# Floating-point operations


def training_flops(work: Work, *, causal: bool = True) -> float:
    """Of one token, forth and back; causal as in `flops_per_token`. Beside adapters frozen matrices have no gradient."""
    model, lora = work.model, work.lora
    whole = flops_per_token(
        model, work.context, causal=causal, backward=True, device=work.device, bf16=work.half
    )
    if lora is None:
        return whole
    shapes = parameter_shapes(model)
    matrices = sum(
        prod(shape) for name, shape in shapes.items() if name.startswith("blocks") and len(shape) == 2
    )
    adapters = sum(
        prod(shape) for name, shape in trained_shapes(model, lora).items() if name.startswith("blocks")
    )
    frozen = matrices + (0 if lora.trains_embeddings else model.vocab_size * model.hidden_size)
    # The first block's input needs no gradient if the embedding is frozen.
    first = 0
    if not lora.trains_embeddings:
        first = prod(shapes["blocks.0.attn.qkv.weight"])
        first += lora.rank * model.hidden_size if "qkv" in lora.targets else 0
    return whole + 6 * adapters - 2 * frozen - 2 * first


# The plan


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they are for. `total` is the highest mark of a step."""

    parameters: int
    gradients: int
    optimizer: int
    copies: int  # bf16 copies of matrices (autocast), or gathered weights when divided
    activations: int  # saved for the backward pass, the loss's own gradients included
    peak: Mapping[str, int]  # the same kinds and `temporary` at the highest mark
    moment: str  # when that is
    saving: int  # host memory: the copy of weights and optimizer from which a checkpoint is written

    @property
    def total(self) -> int:
        return sum(self.peak.values())


def memory(work: Work) -> Memory:
    """Memory of a training step once the optimizer has its state (from the second step on)."""
    step = Replay(work)
    tape = step.play()
    trained = sum(FP32 * weight.size for weight in step.weights() if weight.needs)
    return Memory(
        parameters=tape.live["parameters"],
        gradients=step.gradients_kept,
        optimizer=tape.live["optimizer"],
        copies=step.copies_kept,
        activations=step.activations_kept,
        peak=tape.peak,
        moment=tape.moment,
        saving=tape.live["optimizer"] + ceil(trained / work.shared),
    )


@dataclass(frozen=True)
class Fit:
    """Whether a step fits a device."""

    hardware: Hardware
    kept: int  # bytes that the allocator keeps beyond the step's highest mark
    saving: int  # bytes of a checkpoint that is being written while steps go on, where host memory is the device's
    margin: int  # bytes left; negative: missing

    @property
    def fits(self) -> bool:
        return self.margin >= 0


def fit(need: Memory, on: Hardware) -> Fit:
    """Compares the highest mark with what a device leaves to training."""
    kept, saving = ceil(on.kept * need.total), need.saving if on.device == "cpu" else 0
    return Fit(on, kept, saving, on.memory - on.reserve - need.total - kept - saving)


def smaller(work: Work, batch: int, on: Hardware) -> Work | None:
    """What makes a step of `batch` sequences fit and does not change what is learnt; None if nothing does.

    First fewer rows at a time (halving), then activations computed again, then more devices (doubling) that divide
    the weights, which adapters do not allow.
    """
    devices = work.devices
    while devices <= batch:
        shared = work.shared if devices == work.devices else devices
        own = share(batch, devices * work.shards)
        for recomputes in dict.fromkeys((work.recomputes, True)):
            for rows in _halves(min(work.rows, own)):
                tried = replace(
                    work,
                    rows=rows,
                    accumulates=rows < own,
                    devices=devices,
                    shared=shared,
                    recomputes=recomputes,
                )
                if fit(memory(tried), on).fits:
                    return tried
        if work.lora is not None:
            return None
        devices *= 2
        work = replace(work, shards=1)
    return None


def share(batch: int, devices: int) -> int:
    """Sequences of a step that each device reads."""
    return ceil(batch / devices)


def _halves(rows: int) -> list[int]:
    """`_halves(12)` -> `[12, 6, 3, 1]`"""
    return [rows] if rows == 1 else [rows, *_halves(rows // 2)]


def seconds(flops: float, on: Hardware, devices: int, utilisation: float) -> float:
    """Time of `flops` (the MFU convention's) at a stated share of the devices' peak. UsageError if it is unknown."""
    if on.peak_flops is None:
        raise UsageError(
            f"no rate is known for {on.name}, so no time follows from --mfu",
            where="flag --mfu",
            fix="name a GPU, or leave --mfu out and measure with a short run",
        )
    return flops / (on.peak_flops * devices * utilisation)
