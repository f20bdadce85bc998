"""Models from and to disk: safetensors, one file or shards with an index; nothing is ever pickled.

Ours. A checkpoint is checked by its headers first (`stored.py`), then read straight into the model's own memory: the
peak is the weights' size in the dtype asked for, not twice that. Weights that would not fit are mapped where they can
be; that is not the rule, because a model runs slower on small pages that the system may drop. Writing goes tensor
by tensor, so that what is only passed on (`export.py`) never needs memory for more than one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from openqwen.core.artifact import check_intact, need_disk, replacing, write_json
from openqwen.core.config import validate
from openqwen.core.errors import OpenQwenError
from openqwen.core.memory import available_memory
from openqwen.model.config import ModelConfig
from openqwen.model.heads import ScalarModel
from openqwen.model.hf import Layout, pieces, write_config
from openqwen.model.qwen import Qwen
from openqwen.model.stored import (
    DTYPES,
    INDEX,
    SINGLE,
    Stored,
    bytes_of,
    can_be_mapped,
    map_tensor,
    open_checkpoint,
    parameter_shapes,
    read_stacked,
)

CODES = {dtype: code for code, dtype in DTYPES.items()}
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written: its dtype and shape, and what gives it when its turn comes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def load_model(
    path: Path | str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    dynamic_ntk: bool | None = None,
    logn: bool | None = None,
    windows: Sequence[int] | None = None,
    dropout: float = 0.0,
    mapped: bool | None = None,
) -> Qwen:
    """A model in eval mode from an artefact, a Hugging Face folder, or a name on the hub (`org/name[@revision]`).

    dtype, dynamic_ntk, logn, windows: None means as the checkpoint says. dropout: for training it further. mapped:
    use the files as memory where dtype and layout allow; None: if the weights are larger than the memory available.
    DataError for a checkpoint that is incomplete, contradicts its config, is pickled, or holds NaN, and for an
    artefact that is not what its stage left.
    """
    checkpoint = open_checkpoint(path)
    check_intact(checkpoint.folder)
    asked = {"dynamic_ntk": dynamic_ntk, "logn": logn, "windows": None if windows is None else tuple(windows)}
    changed = {name: value for name, value in asked.items() if value is not None}
    config = validate(ModelConfig, {**checkpoint.config.model_dump(), **changed, "dropout": dropout})
    with torch.device("meta"):
        model = Qwen(config)
    _fill(model, checkpoint.parts, dtype, device, mapped)
    return model.eval()


def load_scalar(
    path: Path | str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    dropout: float = 0.0,
) -> ScalarModel:
    """A reward or value model in eval mode from a reward artefact."""
    checkpoint = open_checkpoint(path, scalar=True)
    check_intact(checkpoint.folder)
    config = validate(ModelConfig, {**checkpoint.config.model_dump(), "dropout": dropout})
    with torch.device("meta"):
        model = ScalarModel(config)
    _fill(model, checkpoint.parts, dtype, device)
    return model.eval()


def save_model(
    model: Qwen,
    folder: Path | str,
    *,
    layout: Layout = "qwen2",
    eos_ids: Sequence[int] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json, generation_config.json and the weights; the folder is made if absent.

    eos_ids: ids at which generation stops, for programs that read generation_config.json.
    """
    _save(model, model.config, Path(folder), layout, False, eos_ids, shard_bytes)


def save_scalar(model: ScalarModel, folder: Path | str, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a scalar model as Qwen2ForSequenceClassification with one label."""
    _save(model, model.config, Path(folder), "qwen2", True, (), shard_bytes)


def _fill(
    model: nn.Module,
    parts: Mapping[str, Sequence[Stored]],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    mapped: bool | None = None,
) -> None:
    """Replaces the model's meta parameters by memory filled from the files, or by the files."""
    chosen = _to_map(parts, dtype, mapped) if torch.device(device or "cpu").type == "cpu" else set()
    for name, stored in parts.items():
        owner, _, leaf = name.rpartition(".")
        tensor = map_tensor(stored[0]) if name in chosen else read_stacked(stored, dtype, device)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor))


def _to_map(
    parts: Mapping[str, Sequence[Stored]], dtype: torch.dtype | None, mapped: bool | None
) -> set[str]:
    """Parameters to be mapped. OpenQwenError if the others do not fit into the memory available."""
    room = available_memory()
    sizes = {
        name: sum(prod(one.shape) for one in stored) * (dtype or stored[0].dtype).itemsize
        for name, stored in parts.items()
    }
    total = sum(sizes.values())
    if mapped is None:
        mapped = room is not None and total > room
    chosen = {name for name, stored in parts.items() if mapped and can_be_mapped(stored, dtype)}
    needed = total - sum(sizes[name] for name in chosen)
    if room is not None and needed > room:
        stands = str(next(iter(parts.values()))[0].dtype).removeprefix("torch.")
        raise OpenQwenError(
            f"too little memory: the weights take {needed / 2**30:.1f} GiB, {room / 2**30:.1f} GiB are available",
            fix=f"load them as they stand in the file (dtype {stands}), in the released layout, so that they can "
            "be mapped; or free some memory",
        )
    return chosen


# Writing


def _save(
    model: nn.Module,
    config: ModelConfig,
    folder: Path,
    layout: Layout,
    scalar: bool,
    eos_ids: Sequence[int],
    shard_bytes: int,
) -> None:
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors = {
        piece.name: parameters[piece.ours][piece.first : piece.first + piece.rows]
        for piece in pieces(config, layout, parameter_shapes(config, scalar), scalar)
    }
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    values = write_config(config, layout, dtype, scalar)
    generation: dict[str, Any] = {"_from_model_config": not eos_ids}
    if eos_ids:
        values["eos_token_id"] = eos_ids[0]
        generation["eos_token_id"] = list(eos_ids)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, {name: _in_memory(tensor) for name, tensor in tensors.items()}, shard_bytes)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "config.json", values)


def _in_memory(tensor: Tensor) -> Planned:
    return Planned(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def write_weights(
    folder: Path,
    tensors: Mapping[str, Planned],
    shard_bytes: int = SHARD_BYTES,
    files: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """model.safetensors, or shards of at most `shard_bytes` (a larger tensor alone) with their index.

    files: file name -> tensors, where the division is known already.
    """
    files = files or divide(tensors, shard_bytes)
    need_disk(folder, sum(tensor.num_bytes for tensor in tensors.values()))
    for old in (*folder.glob("model-*-of-*.safetensors"), folder / SINGLE, folder / INDEX):
        if old.name not in files:
            old.unlink(missing_ok=True)
    for file, names in files.items():
        write_safetensors(folder / file, {name: tensors[name] for name in names})
    if SINGLE not in files:
        total = sum(tensor.num_bytes for tensor in tensors.values())
        places = {name: file for file, names in files.items() for name in names}
        write_json(
            folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        )


def divide(tensors: Mapping[str, Planned], shard_bytes: int) -> dict[str, list[str]]:
    """File name -> tensors, filled in order as the Hugging Face programs do: equal limits give equal files."""
    shards: list[list[str]] = []
    current: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if tensor.num_bytes > shard_bytes:
            shards.append([name])
            continue
        if current and size + tensor.num_bytes > shard_bytes:
            shards.append(current)
            current, size = [], 0
        current.append(name)
        size += tensor.num_bytes
    shards += [current] if current else []
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, 1)}


def write_safetensors(path: Path, tensors: Mapping[str, Planned]) -> None:
    """One safetensors file, streamed tensor by tensor to a temporary name, flushed and renamed."""
    # The order of the format's own library: wide types first, then by name; equal tensors give equal bytes.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        stop = offset + tensors[name].num_bytes
        header[name] = {
            "dtype": CODES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        _write_all(file, (tensors[name] for name in order))


def _write_all(file: BinaryIO, tensors: Iterable[Planned]) -> None:
    for tensor in tensors:
        file.write(bytes_of(tensor.read().detach().cpu().contiguous().view(-1)))
