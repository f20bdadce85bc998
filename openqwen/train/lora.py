"""LoRA and QLoRA: adapters of low rank beside frozen matrices, merged exactly, exchanged in peft's file format.

Not in the report. From the released finetuning scripts: rank 64, alpha 16, dropout 0.05, every matrix of a block, and
for base models embedding and head whole. The initial values are peft's. Ours: the layer itself, because peft cannot be
imported without transformers; merging in fp64 with one rounding; NF4 for the frozen base (nf4.py).

    y = W x + (alpha / rank) B A dropout(x)          W frozen, A (R, I) and B (O, R) trained, B zero at first

R rank, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from openqwen.core.artifact import digest, write_json
from openqwen.core.errors import DataError, UsageError, did_you_mean
from openqwen.model.hf import Layout, Piece, pieces
from openqwen.model.qwen import Linear, Qwen
from openqwen.model.stored import parameter_shapes, read_json
from openqwen.model.weights import Planned, load_model, write_safetensors
from openqwen.train.config import MATRICES, LoraConfig
from openqwen.train.nf4 import NF4Linear

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "openqwen.json"
_STEM = "base_model.model."  # peft's, before the name of each tensor
_OUTER = ("embed.weight", "head.weight")
# What would change the result if it were set, and is not computed here: name -> values that mean "off".
_OTHER: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
}


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter. origin: hash of the first row of its matrix before it was quantised."""

    def __init__(
        self, base: nn.Linear | NF4Linear, rank: int, alpha: float, dropout: float, origin: str
    ) -> None:
        super().__init__()
        device = base.codes.device if isinstance(base, NF4Linear) else base.weight.device
        self.base, self.alpha, self.origin = base, alpha, origin
        self.dropout = nn.Dropout(dropout)
        self.a = nn.Parameter(torch.zeros(rank, base.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        """How many times the adapter counts."""
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(self.dropout(x), self.a.to(x.dtype)) * self.scale  # (B, T, R)
        return self.base(x) + F.linear(low, self.b.to(x.dtype))  # (B, T, O)


def load_base(
    path: Path, config: LoraConfig | None, seed: int, dropout: float, device: torch.device | None = None
) -> Qwen:
    """A model to train further: whole in fp32, or with adapters on a frozen base. The same seed, the same adapters."""
    if config is None:
        return load_model(path, dtype=torch.float32, device=device, dropout=dropout)
    # What will be quantised is read as it stands: in fp32 it would first take the memory that is to be saved.
    stands = config.quantize is not None
    model = load_model(path, dtype=None if stands else torch.float32, dropout=dropout)
    add_lora(model, config, seed)
    return model.to(device) if device is not None else model


def add_lora(model: Qwen, config: LoraConfig, seed: int) -> None:
    """Freezes a model in place and puts adapters beside its matrices; it computes what it did before.

    Only adapters, and embedding and head if the config says so, want gradients afterwards.
    """
    _must_be_plain(model)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in _matrices(model):
        linear = _get(model, name)
        base = NF4Linear(linear) if config.quantize else linear
        if name.rpartition(".")[2] in config.targets:
            _put(model, name, _adapted(base, _first_row(linear), config, generator))
        else:
            _put(model, name, base)
    model.train(model.training)  # new modules too
    if config.quantize:
        model.float()  # what is not quantised; it was read as it stands
    model.embed.weight.requires_grad_(config.trains_embeddings)
    model.head.weight.requires_grad_(config.trains_embeddings)


def _must_be_plain(model: Qwen) -> None:
    if any(isinstance(module, LoraLinear | NF4Linear) for module in model.modules()):
        raise UsageError("the model has adapters already", fix="merge them first")


def _adapted(
    base: nn.Linear | NF4Linear, origin: str, config: LoraConfig, generator: torch.Generator
) -> LoraLinear:
    """A layer with a new adapter: A uniform within 1 / sqrt(inputs), B zero."""
    layer = LoraLinear(base, config.rank, config.alpha, config.dropout, origin)
    bound = 1 / math.sqrt(base.in_features)
    with torch.no_grad():
        layer.a.copy_(torch.empty(layer.a.shape).uniform_(-bound, bound, generator=generator))
    return layer


def _matrices(model: Qwen) -> list[str]:
    """Names, not modules: a list of modules would keep each alive that is replaced by a smaller one."""
    modules = model.blocks.named_modules(prefix="blocks")
    return [name for name, m in modules if isinstance(m, nn.Linear) and name.rpartition(".")[2] in MATRICES]


def _get(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


def _first_row(linear: nn.Linear) -> str:
    row = linear.weight[0].detach().bfloat16()  # the same whether the model was read in fp32 or bf16
    return hashlib.sha256(row.cpu().view(torch.int16).numpy().tobytes()).hexdigest()


def adapters(model: nn.Module) -> dict[str, LoraLinear]:
    """Name of a matrix -> its layer with adapter; names are those of the model without adapters."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def trained(model: nn.Module) -> nn.Module:
    """What a checkpoint holds: the model, or beside adapters the trained parameters alone; the base is in its own file."""
    if not adapters(model):
        return model
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return nn.ParameterDict({name.replace(".", "/"): p for name, p in parameters.items()})


def sizes(model: Qwen) -> dict[str, int]:
    """Parameters trained, and bytes of everything frozen."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return {
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "frozen_bytes": sum(t.numel() * t.itemsize for t in [*frozen, *model.buffers()]),
    }


# Merging


@torch.no_grad()
def merge(model: Qwen) -> Qwen:
    """Turns every adapted or quantised layer, in place, into a plain one that computes the same.

    W + (alpha / rank) B A is computed in fp64 and rounded once, to the dtype of W. A quantised base is merged as it was
    trained: W is what its codes stand for, in fp32, so memory must hold the whole matrices.
    """
    for name in [name for name, m in model.named_modules() if isinstance(m, LoraLinear)]:
        layer = model.get_submodule(name)
        assert isinstance(layer, LoraLinear)
        _put(model, name, _plain(layer.base, merged(layer)))
    for name in [name for name, m in model.named_modules() if isinstance(m, NF4Linear)]:
        packed = model.get_submodule(name)
        assert isinstance(packed, NF4Linear)
        _put(model, name, _plain(packed, packed.weight))
    return model


def merged(layer: LoraLinear) -> Tensor:
    """The (O, I) matrix of a layer with its adapter in it."""
    weight = layer.base.weight
    return round_once(weight.double() + layer.scale * (layer.b.double() @ layer.a.double()), weight.dtype)


def round_once(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """fp64 to a narrower dtype, to the nearest. The plain conversion to 16 bits goes by way of fp32 and rounds twice."""
    if dtype.itemsize >= 4:
        return exact.to(dtype)
    near = exact.float()
    # To odd: what is not exact in fp32 is cut towards zero and its last bit set, so it can be no tie afterwards.
    bits = near.view(torch.int32)
    cut = torch.where(near.double().abs() > exact.abs(), bits - 1, bits)
    return torch.where(near.double() == exact, bits, cut | 1).view(torch.float32).to(dtype)


def _plain(base: nn.Linear | NF4Linear, weight: Tensor) -> Linear:
    outputs, inputs = weight.shape
    with torch.device("meta"):
        linear = Linear(inputs, outputs, bias=base.bias is not None)
    linear.weight, linear.bias = nn.Parameter(weight), base.bias
    return linear


# Files


def save_adapter(model: Qwen, folder: Path, layout: Layout = "qwen2") -> None:
    """Writes the trained parameters as peft does, for a base in the published `layout`; the folder is made if absent.

    One adapter of a stacked matrix (query, key, value) becomes one for each part, with equal A. openqwen.json, which
    peft ignores, says which base it belongs to.
    """
    found = adapters(model)
    if not found:
        raise UsageError("the model has no adapters to save", where=str(folder))
    kinds = {(layer.rank, layer.alpha, layer.dropout.p) for layer in found.values()}
    if len(kinds) > 1:
        raise UsageError(
            "adapters of different ranks do not fit into one file",
            where=str(folder),
            fix="merge them instead",
        )
    ((rank, alpha, dropout),) = kinds
    tensors: dict[str, Tensor] = {}
    whole: list[str] = []
    places = _places(model, layout)
    for name, layer in found.items():
        for piece in places[f"{name}.weight"]:
            stem = _STEM + piece.name.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"] = layer.a
            tensors[f"{stem}.lora_B.weight"] = layer.b[piece.first : piece.first + piece.rows]
    for name, parameter in model.named_parameters():
        if name in _OUTER and parameter.requires_grad:
            tensors[_STEM + places[name][0].name] = parameter
            whole.append(_module(places[name][0])[1])
    folder.mkdir(parents=True, exist_ok=True)
    planned = {name: Planned(t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()}  # type: ignore[misc]
    write_safetensors(folder / WEIGHTS, planned)
    write_json(folder / BASE, {"base": _origin(found)})
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": None,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "target_modules": _target_names(places, {f"{name}.weight" for name in found}),
            "modules_to_save": whole or None,
        },
    )


def load_adapter(model: Qwen, folder: Path) -> None:
    """Puts an adapter saved by `save_adapter` or by peft on a model in place, trainable further.

    DataError for a damaged file, one made for a model of other shape, one that says it was trained on another base,
    or one of a kind that is not computed here.
    """
    _must_be_plain(model)
    said = _read_config(folder)
    rest = _read_tensors(folder)
    layout: Layout = "qwen1" if any(name.startswith(f"{_STEM}transformer.") for name in rest) else "qwen2"
    places, parameters = _places(model, layout), dict(model.named_parameters())
    layers: dict[str, LoraLinear] = {}
    for name in _matrices(model):
        linear = _get(model, name)
        parts = _take_parts(rest, places[f"{name}.weight"], said["r"], linear.in_features, folder)
        if parts:
            layers[name] = _layer(linear, parts, said)
    outer = {name: rest.pop(key) for name in _OUTER if (key := _STEM + places[name][0].name) in rest}
    for name, tensor in outer.items():
        _check_shape(places[name][0].name, tensor, parameters[name].shape, folder)
    if rest:
        known = [_STEM + place.name for group in places.values() for place in group]
        raise DataError(
            f"tensor {min(rest)} has no place in this model.{did_you_mean(min(rest), known)}",
            where=str(folder),
        )
    if not layers:
        raise DataError("the file holds no adapter", where=str(folder / WEIGHTS))
    _check_base(layers, folder)
    model.requires_grad_(False)
    for name, layer in layers.items():
        _put(model, name, layer)
        layer.train(model.training)
    with torch.no_grad():
        for name, tensor in outer.items():
            parameters[name].copy_(tensor)
            parameters[name].requires_grad_(True)


def _places(model: Qwen, layout: Layout) -> dict[str, list[Piece]]:
    """Our parameter -> the published tensors stacked in it."""
    found: dict[str, list[Piece]] = {}
    for piece in pieces(model.config, layout, parameter_shapes(model.config)):
        found.setdefault(piece.ours, []).append(piece)
    return found


def _module(piece: Piece) -> list[str]:
    """`["self_attn", "q_proj"]` of `model.layers.0.self_attn.q_proj.weight`."""
    return ["", *piece.name.split(".")][-3:-1]


def _target_names(places: Mapping[str, list[Piece]], adapted: set[str]) -> list[str]:
    """Ends of the names of adapted modules, as short as they can be without meaning others too."""
    kinds = tuple(f"{name}.weight" for name in MATRICES)
    matrices = {ours: group for ours, group in places.items() if ours.endswith(kinds)}
    left = {_module(piece)[1] for ours, group in matrices.items() if ours not in adapted for piece in group}
    names: set[str] = set()
    for ours in adapted:
        for piece in matrices[ours]:
            owner, leaf = _module(piece)
            names.add(leaf if leaf not in left else f"{owner}.{leaf}")
    return sorted(names)


def _origin(layers: Mapping[str, LoraLinear]) -> str:
    return digest({name: layer.origin for name, layer in layers.items()})


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        kind, rank, alpha = said["peft_type"], said["r"], said["lora_alpha"]
        dropout = said.get("lora_dropout", 0.0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"no adapter there: {error}", where=str(path), fix="give a folder that peft or openqwen saved"
        ) from error
    numbers = [isinstance(value, int | float) for value in (rank, alpha, dropout)]
    if kind != "LORA" or not all(numbers) or not (rank > 0 and alpha > 0 and 0 <= dropout < 1):
        raise DataError(
            f"this is no LoRA adapter: {kind!r}, r {rank!r}, lora_alpha {alpha!r}", where=str(path)
        )
    for name, off in _OTHER.items():
        if said.get(name) not in off:
            raise DataError(f"{name} = {said[name]!r} is not computed here", where=str(path))
    return said


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise DataError(
            "adapter_model.bin is pickled, which is not read" if pickled else f"no {WEIGHTS} there",
            where=str(folder),
            fix="save the adapter with safetensors (peft: save_pretrained does)",
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"the file is damaged: {error}", where=str(path)) from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise DataError(f"tensor {name} holds NaN or infinity", where=str(path))
    return tensors


def _take_parts(
    rest: dict[str, Tensor], places: list[Piece], rank: int, inputs: int, folder: Path
) -> list[tuple[Piece, Tensor, Tensor]]:
    """Takes the adapters of the parts of one matrix out of `rest`: (place, A (R, I), B (rows, R)) each."""
    parts = []
    for place in places:
        stem = _STEM + place.name.removesuffix(".weight")
        a, b = (rest.pop(f"{stem}.lora_{half}.weight", None) for half in "AB")
        if a is None and b is None:
            continue
        if a is None or b is None:
            raise DataError(f"{stem} has only one half of its adapter", where=str(folder))
        _check_shape(f"{stem}.lora_A.weight", a, torch.Size((rank, inputs)), folder)
        _check_shape(f"{stem}.lora_B.weight", b, torch.Size((place.rows, rank)), folder)
        parts.append((place, a.float(), b.float()))
    return parts


def _check_shape(name: str, tensor: Tensor, wanted: torch.Size, folder: Path) -> None:
    if tensor.shape != wanted:
        raise DataError(
            f"{name} is {list(tensor.shape)}, {list(wanted)} is needed: the adapter is of another model",
            where=str(folder),
        )


def _layer(
    linear: nn.Linear, parts: list[tuple[Piece, Tensor, Tensor]], said: Mapping[str, Any]
) -> LoraLinear:
    """One adapter from those of the parts of a matrix: of their rank if A is the same in all, else of the summed rank."""
    shared = all(torch.equal(a, parts[0][1]) for _, a, _ in parts)
    r, times = said["r"], 1 if shared else len(parts)
    alpha = float(times * said["lora_alpha"])
    layer = LoraLinear(linear, times * r, alpha, float(said.get("lora_dropout", 0.0)), _first_row(linear))
    with torch.no_grad():
        for number, (place, a, b) in enumerate(parts):
            columns = slice(0, r) if shared else slice(number * r, (number + 1) * r)
            layer.a[columns] = a.to(layer.a.device)
            layer.b[place.first : place.first + place.rows, columns] = b.to(layer.b.device)
    return layer


def _check_base(layers: Mapping[str, LoraLinear], folder: Path) -> None:
    """Adapters of peft do not say which weights they were trained on; ours do."""
    path = folder / BASE
    if path.is_file() and read_json(path).get("base") != _origin(layers):
        raise DataError(
            "the adapter was trained on a base with other weights",
            where=str(folder),
            fix="load the model it was trained on; a merged one has the adapter already",
        )
