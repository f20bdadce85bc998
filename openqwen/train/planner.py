"""What pretraining will need, worked out before anything is allocated: memory, disk, floating-point operations, time.

Report §2.3 and §2.4 give the shapes and the mixed precision. Ours: the count. No torch is loaded and no tensor is made;
a step is played through on a `Tape` that only adds and subtracts bytes, in the order in which model/qwen.py, train/loss.py
and train/step.py make and drop tensors. On one processor the tests hold each number against real runs.
Nothing was measured on a GPU or over several devices: `devices` is an estimate of full sharding.

B rows, T context, N = B T tokens, C hidden, H heads, K key/value heads, D head dim, F ffn, V vocabulary, L layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Literal

from openqwen.core.errors import UsageError, did_you_mean
from openqwen.model.config import ModelConfig
from openqwen.train.flops import query_blocks

FP32, BF16 = 4, 2  # bytes of a number
# Rows of one chunk of logits (train/loss.py, which needs torch; a test compares them).
CHUNK_BYTES, CHUNK_ROWS = 16 << 20, 128
RANDOM_STATE = 5056  # bytes of torch's generator on the CPU
CHECKPOINTS = 3  # on disk at most: the two that are kept and the one being written

Device = Literal["cpu", "cuda"]


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


# Memory of a training step


@dataclass(frozen=True)
class Work:
    """What one device does in a step: its rows go through the model, forth and back."""

    model: ModelConfig
    rows: int  # B, sequences at a time
    context: int  # T
    half: bool = True  # bf16 products (weights, optimizer and residual stream stay fp32)
    accumulates: bool = True  # several micro-batches a step: gradients are there before the last one
    device: Device = "cuda"
    devices: int = 1


class Tape:
    """Bytes alive by kind while a step goes on, and by kind at the highest mark.

    >>> tape = Tape(parameters=8); tape(temporary=4); tape(temporary=-4, gradients=3); tape.peak
    {'parameters': 8, 'temporary': 4}
    """

    def __init__(self, **live: int) -> None:
        self.live, self.peak = live, dict(live)
        self.now = self.moment = ""

    def __call__(self, **changes: int) -> None:
        for kind, num_bytes in changes.items():
            self.live[kind] = self.live.get(kind, 0) + num_bytes
        if sum(self.live.values()) > sum(self.peak.values()):
            self.peak, self.moment = dict(self.live), self.now


class Step:
    """One training step played on a tape. Each method is a piece of the model; `play` puts them in order.

    Only what can make the highest mark is played: the forward pass with what it keeps, as the loss tops all its
    temporaries; the loss and the backward pass with all of theirs.
    """

    def __init__(self, work: Work) -> None:
        self.work, model = work, work.model
        self.half, self.cpu = work.half, work.device == "cpu"
        self.item = BF16 if work.half else FP32
        self.N = N = work.rows * work.context
        self.C, self.F, self.V = model.hidden_size, model.ffn, model.vocab_size
        self.qkv_width = (model.num_heads + 2 * model.kv_heads) * model.head_dim
        qk_width = (model.num_heads + model.kv_heads) * model.head_dim
        # Bytes of the tensors that a block makes: fp32 beside the residual stream, else in the products' type.
        self.x = N * self.C * FP32
        self.rms = N * FP32
        self.c, self.f = N * self.C * self.item, N * self.F * self.item
        self.qkv, self.qk, self.qk_exact = (
            N * self.qkv_width * self.item,
            N * qk_width * self.item,
            N * qk_width * FP32,
        )
        self.kv = 2 * N * model.kv_heads * model.head_dim * self.item
        self.lse = N * model.num_heads * FP32
        # What dropout remembers of a branch and of the embedding: on the CPU a factor, on a GPU a byte a number.
        dropping = model.dropout > 0
        self.noise = (self.c if self.cpu else N * self.C) if dropping else 0
        self.embed_noise = (self.x if self.cpu else N * self.C) if dropping else 0
        # The gradient of a branch is a tensor of its own where it is cast or dropped, else the residual stream's.
        self.branch = self.c if self.half or dropping else 0
        self.tape = self._begin()

    def _begin(self) -> Tape:
        count, devices = self.work.model.num_parameters, self.work.devices
        gathered = 0
        if (
            devices > 1
        ):  # two blocks (the next is fetched early), embedding and head whole, in the products' type
            gathered = (2 * self.block_weights + 2 * self.V * self.C) * self.item
        return Tape(
            parameters=ceil(count * FP32 / devices),
            optimizer=ceil(optimizer_bytes(self.work.model) / devices),
            gradients=ceil(count * FP32 / devices) if self.work.accumulates else 0,
            copies=gathered,
            activations=0,
            temporary=0,
        )

    @property
    def block_weights(self) -> int:
        """Weights of a block whose bf16 copies are saved: its matrices."""
        return self.qkv_width * self.C + self.C * self.C + 3 * self.C * self.F

    def play(self) -> Tape:
        """The whole step; `activations_kept` and `copies_kept` hold what is saved for the backward pass."""
        layers = self.work.model.num_layers
        self.tape(
            temporary=self.x
        )  # the last micro-batch's output: the loop's variable holds it until the next
        self.forward()
        self.loss()
        self.activations_kept, self.copies_kept = self.tape.live["activations"], self.tape.live["copies"]
        self.loss_backward()
        self.norm_backward(branch=False)
        for layer in reversed(range(layers)):
            self.tape.now = f"backward of block {layer + 1} of {layers}"
            self.mlp_backward()
            self.attention_backward()
        self.embedding_backward()
        return self.tape

    # What the forward pass keeps

    def forward(self) -> None:
        """Embedding, blocks, final norm: only what is saved for the backward pass."""
        tape, layers = self.tape, self.work.model.num_layers
        tape.now = "forward"
        table = self.work.context * self.work.model.head_dim * FP32  # cos and sin of rotary positions
        tape(activations=table + self.embed_noise)
        tape(activations=layers * self.block_saved())
        if self.half and self.work.devices == 1:
            tape(copies=layers * self.block_weights * BF16)
        tape(activations=2 * self.x + self.rms)  # final norm: its input, normalised
        tape(temporary=self.x)  # its output takes the place of the last micro-batch's
        tape(temporary=-self.x)

    def block_saved(self) -> int:
        """Bytes a block keeps: `norm_saved` twice, attention, feed-forward, dropout twice."""
        norms = 2 * (2 * self.x + self.rms)  # the input and what it is multiplied by the weight
        # What the products read. gate and up each cast their input, so bf16 keeps it twice.
        inputs = self.c + (2 * self.c if self.half else self.c)
        return norms + inputs + self.attention_saved() + 4 * self.f + 2 * self.noise

    def attention_saved(self) -> int:
        """Rotated q and k, the whole of qkv (for v's sake), output, log of sums; in blocks also copies of keys."""
        blocks = query_blocks(self.work.context, self.work.device)
        if len(blocks) == 1:
            return self.qk + self.qkv + self.c + self.lse
        keys = sum(keys for _, keys in blocks)
        masks = sum(queries * keys for queries, keys in blocks) * self.item
        return self.qk + self.kv * keys // self.work.context + masks + 2 * self.c + self.lse

    # The loss: chunks of logits

    def loss(self) -> None:
        """Both gradients are formed with the loss itself and kept (train/loss.py)."""
        tape, C, V, item = self.tape, self.C, self.V, self.item
        tape.now = "loss"
        tape(activations=self.x + V * C * FP32)  # gradients of hidden and of the head
        weight = V * C * BF16 if self.half and self.work.devices == 1 else 0
        tape(temporary=weight)
        chunk = max(CHUNK_ROWS, CHUNK_BYTES // (FP32 * V))
        before = 0  # the last chunk's numbers live until they are replaced
        for start in (0, chunk)[: ceil(self.N / chunk)]:
            n = min(chunk, self.N - start)
            hidden = n * C * BF16 if self.half else 0
            logits, exact = n * V * item, n * V * FP32
            tape(temporary=hidden + logits)
            tape(temporary=exact if self.half else 0)  # cast before log_softmax
            tape(temporary=exact)
            tape(temporary=-logits - (exact if self.half else 0) - before)
            tape(temporary=logits if self.half else 0)  # p - onehot in the products' type
            tape(temporary=n * C * item)
            tape(temporary=-n * C * item)
            tape(temporary=V * C * item)
            cast = V * C * FP32 if self.half and self.cpu else 0  # the CPU adds bf16 to fp32 by way of a copy
            tape(temporary=cast)
            tape(temporary=-cast - V * C * item)
            before = hidden + exact + (logits if self.half else 0)
        tape(temporary=-before - weight)

    def loss_backward(self) -> None:
        """Both gradients are scaled into new tensors."""
        self.tape.now = "backward of the loss"
        head = self.V * self.C * FP32
        self.tape(temporary=self.x + head)
        self.tape(activations=-self.x - head)
        self._keep(self.V * self.C)

    # Backward through the model. Between pieces one gradient of the residual stream (x) is alive.

    def norm_backward(self, branch: bool) -> None:
        """branch: the gradient comes from a branch (a second tensor) and is added to the residual stream's."""
        tape, x = self.tape, self.x
        tape(temporary=2 * x)
        tape(temporary=-2 * x, activations=-x)  # the normalised input is no longer needed
        tape(temporary=2 * x)
        tape(temporary=-3 * x if branch else -2 * x)
        tape(temporary=4 * x)  # through the mean of squares
        tape(temporary=-4 * x, activations=-x - self.rms)
        tape(gradients=0 if self.work.accumulates else ceil(self.C * FP32 / self.work.devices))

    def mlp_backward(self) -> None:
        """down, silu(gate) * up, up, gate, norm."""
        tape, c, f, matrix = self.tape, self.c, self.f, self.C * self.F
        self._enter_branch()
        tape(temporary=matrix * self.item)
        tape(temporary=f)
        tape(temporary=-self.branch, activations=-f)
        self._matrix(matrix)
        tape(temporary=2 * f)
        tape(temporary=-f, activations=-2 * f)
        self._product(matrix, f, c if self.half else 0)  # up
        tape(temporary=f)
        tape(temporary=-f, activations=-f)  # through silu
        self._product(matrix, f, c)  # gate
        tape(temporary=0 if self.half else self.x)  # both inputs' gradients are added
        tape(temporary=-self.x if self.half else -2 * self.x)
        self.norm_backward(branch=True)

    def attention_backward(self) -> None:
        """out, attention, rotation, qkv, norm."""
        tape, c = self.tape, self.c
        self._enter_branch()
        tape(temporary=self.C * self.C * self.item)
        tape(temporary=c)
        blocks = query_blocks(self.work.context, self.work.device)
        whole = len(blocks) == 1
        tape(temporary=-self.branch, activations=0 if whole else -c)
        self._matrix(self.C * self.C)
        # Gradients of q, k and v; the flash kernel of a GPU sums that of q in fp32, blocks those of their own keys.
        extra = self.kv if not whole else 0 if self.cpu else self.x
        tape(temporary=c + self.kv + extra)
        tape(temporary=-c - extra, activations=-self.attention_saved() + (0 if whole else c))
        tape(temporary=self.qk)
        tape(temporary=-self.qk)
        tape(temporary=self.qk_exact - self.qk if self.half else 0)
        tape(temporary=2 * self.qk_exact)  # halves turned back
        tape(temporary=-2 * self.qk_exact)
        tape(temporary=self.qk if self.half else 0)
        tape(temporary=-self.qk_exact if self.half else 0)
        tape(temporary=self.qkv)
        tape(temporary=-c - self.kv)
        self._product(self.C * self.qkv_width, self.qkv, c)
        tape(temporary=self.qkv_width * FP32)
        self._keep(self.qkv_width)  # the bias
        self.norm_backward(branch=True)

    def embedding_backward(self) -> None:
        """The gradient of the whole table, most of its rows zero."""
        self.tape.now = "backward of the embedding"
        self.tape(temporary=self.x if self.embed_noise else 0)
        self.tape(temporary=-self.x if self.embed_noise else 0, activations=-self.embed_noise)
        self.tape(temporary=self.V * self.C * FP32)
        self.tape(temporary=-self.x)
        self._keep(self.V * self.C)

    def _enter_branch(self) -> None:
        """The residual stream's gradient into a branch: cast to the products' type, then through dropout."""
        self.tape(temporary=self.branch)
        if self.noise:
            spare = self.c if self.half else 0
            self.tape(temporary=spare)
            self.tape(temporary=-spare, activations=-self.noise)

    def _product(self, weights: int, output: int, saved: int) -> None:
        """Through y = x W: the gradient of W, then of x (fp32 at the end), then y's gradient and x itself are dropped."""
        self.tape(temporary=weights * self.item)
        self.tape(temporary=self.c)
        self.tape(temporary=-output, activations=-saved)
        if self.half:
            self.tape(temporary=self.x)
            self.tape(temporary=-self.c)
        self._matrix(weights)

    def _matrix(self, weights: int) -> None:
        """A matrix's gradient as it leaves its product: its copy is dropped, and what is bf16 becomes fp32."""
        if self.half:
            self.tape(copies=-weights * BF16 if self.work.devices == 1 else 0, temporary=weights * FP32)
            self.tape(temporary=-weights * BF16)
        self._keep(weights)

    def _keep(self, weights: int) -> None:
        """A finished gradient becomes the parameter's own, or is added to the one that is there."""
        kept = 0 if self.work.accumulates else ceil(weights * FP32 / self.work.devices)
        self.tape(temporary=-weights * FP32, gradients=kept)


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


def optimizer_bytes(model: ModelConfig) -> int:
    """AdamW in fp32: two means for each weight and a step counter for each tensor."""
    return 2 * FP32 * model.num_parameters + FP32 * len(parameter_shapes(model))


def checkpoint_files(model: ModelConfig) -> dict[str, int]:
    """Bytes of the files of tensors in a checkpoint of pretraining; the JSON beside them is a few kilobytes."""
    shapes = parameter_shapes(model)
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


# The plan


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they are for. `total` is the highest mark of a step."""

    parameters: int
    gradients: int
    optimizer: int
    copies: int  # bf16 copies of matrices (autocast), or gathered parameters when sharded
    activations: int  # saved for the backward pass, the loss's own gradients included
    peak: Mapping[str, int]  # the same kinds and `temporary` at the highest mark
    moment: str  # when that is

    @property
    def total(self) -> int:
        return sum(self.peak.values())


def memory(work: Work) -> Memory:
    """Memory of a training step once the optimizer has its state (from the second step on)."""
    step = Step(work)
    tape = step.play()
    return Memory(
        parameters=tape.live["parameters"],
        gradients=tape.live["gradients"],
        optimizer=tape.live["optimizer"],
        copies=step.copies_kept,
        activations=step.activations_kept,
        peak=tape.peak,
        moment=tape.moment,
    )


@dataclass(frozen=True)
class Fit:
    """Whether a step fits a device."""

    hardware: Hardware
    kept: int  # bytes that the allocator keeps beyond the step's highest mark
    margin: int  # bytes left; negative: missing

    @property
    def fits(self) -> bool:
        return self.margin >= 0


def fit(need: Memory, on: Hardware) -> Fit:
    """Compares the highest mark with what a device leaves to training."""
    kept = ceil(on.kept * need.total)
    return Fit(on, kept, on.memory - on.reserve - need.total - kept)


def smaller(work: Work, batch: int, on: Hardware) -> Work | None:
    """The fewest devices (doubling) and then the most rows at a time (halving) that make a step of `batch` sequences fit.

    Neither changes what is learnt. None if nothing helps.
    """
    devices = work.devices
    while devices <= batch:
        own = share(batch, devices)
        for rows in _halves(min(work.rows, own)):
            tried = replace(work, rows=rows, accumulates=rows < own, devices=devices)
            if fit(memory(tried), on).fits:
                return tried
        devices *= 2
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
