"""Models from and to disk: safetensors, one file or shards with an index; nothing is ever pickled.

Ours. Headers are read first and compared with the configuration, so a wrong checkpoint is refused (tensor name and
both shapes) before memory is spent. Weights are then read straight into the model's own memory in pieces, converted
and checked for NaN and infinity on the way: the peak is the weights' size in the dtype asked for, not twice that.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from openqwen.core.artifact import need_disk, unwritable, write_json
from openqwen.core.config import validate
from openqwen.core.errors import DataError, did_you_mean
from openqwen.model.config import ModelConfig
from openqwen.model.heads import ScalarModel
from openqwen.model.hf import (
    CONSTANTS,
    Layout,
    is_tied,
    piece_rows,
    published_names,
    read_config,
    write_config,
)
from openqwen.model.qwen import Qwen

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
CODES = {dtype: code for code, dtype in DTYPES.items()}
PIECE_BYTES = 64 << 20  # read and checked at a time
SHARD_BYTES = 5 << 30
_MAX_HEADER = 100 << 20


@dataclass(frozen=True)
class Stored:
    """One tensor in a safetensors file: where it lies and what it is."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte offset from the beginning of the file
    stop: int


def load_model(
    path: Path | str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    dynamic_ntk: bool | None = None,
    logn: bool | None = None,
    windows: Sequence[int] | None = None,
    dropout: float = 0.0,
) -> Qwen:
    """A model in eval mode from an artefact or a Hugging Face folder.

    dtype, dynamic_ntk, logn, windows: None means as the checkpoint says. dropout: for training it further.
    DataError for a checkpoint that is incomplete, contradicts its config, is pickled, or holds NaN.
    """
    path = Path(path)
    values = _read_json(path / "config.json")
    config, layout = read_config(values, str(path / "config.json"))
    asked = {"dynamic_ntk": dynamic_ntk, "logn": logn, "windows": None if windows is None else tuple(windows)}
    changed = {name: value for name, value in asked.items() if value is not None}
    config = validate(ModelConfig, {**config.model_dump(), **changed, "dropout": dropout})
    names = published_names(config, layout)
    if is_tied(values):
        names["head.weight"] = names["embed.weight"]
    with torch.device("meta"):
        model = Qwen(config)
    _fill(model, config, names, path, dtype, device)
    return model.eval()


def load_scalar(
    path: Path | str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    dropout: float = 0.0,
) -> ScalarModel:
    """A reward or value model in eval mode from a reward artefact."""
    path = Path(path)
    config, layout = read_config(_read_json(path / "config.json"), str(path / "config.json"))
    config = validate(ModelConfig, {**config.model_dump(), "dropout": dropout})
    with torch.device("meta"):
        model = ScalarModel(config)
    _fill(model, config, published_names(config, layout, scalar=True), path, dtype, device)
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


# Reading


def find_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint folder by published name, from model.safetensors or the shards of its index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise _no_weights(folder)
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(f, str) and Path(f).name == f for f in places.values()
    ):
        raise DataError("weight_map is missing or names files outside the folder", where=str(index))
    found: dict[str, Stored] = {}
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            raise DataError(f"shard {shard} is missing", where=str(index), fix="fetch the checkpoint again")
        for name, stored in read_header(folder / shard).items():
            if places.get(name) != shard:
                raise DataError(
                    f"tensor {name} is in {shard}, the index says {places.get(name)}", where=str(index)
                )
            found[name] = stored
    absent = sorted(set(places) - set(found))
    if absent:
        raise DataError(f"tensor {absent[0]} is not in its shard {places[absent[0]]}", where=str(index))
    return found


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file; DataError if it is truncated or not such a file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found = {name: _stored(path, name, entry, 8 + length, size) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a readable safetensors file: {error}", where=str(path)) from error
    return found


def _stored(path: Path, name: str, entry: Mapping[str, Any], base: int, size: int) -> Stored:
    start, stop = (base + int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    if entry["dtype"] not in DTYPES:
        raise DataError(
            f"tensor {name} has dtype {entry['dtype']}",
            where=str(path),
            fix="quantised or integer weights cannot be used; give the F32, BF16 or F16 checkpoint",
        )
    dtype = DTYPES[entry["dtype"]]
    if stop > size:
        raise DataError(
            f"truncated: tensor {name} ends at byte {stop}, the file has {size}",
            where=str(path),
            fix="copy or fetch the file again",
        )
    if not 0 <= start <= stop or stop - start != prod(shape) * dtype.itemsize:
        raise DataError(
            f"tensor {name} of shape {list(shape)} does not fit its {stop - start} bytes", where=str(path)
        )
    return Stored(path, dtype, shape, start, stop)


def _fill(
    model: nn.Module,
    config: ModelConfig,
    names: Mapping[str, tuple[str, ...]],
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> None:
    """Checks all headers, then replaces the model's meta parameters by memory filled from the files."""
    found = find_tensors(folder)
    wanted: dict[str, tuple[int, ...]] = {}
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(names)
    for ours, theirs in names.items():
        shape = tuple(parameters[ours].shape)
        rows = piece_rows(config, ours, len(theirs)) or [shape[0]]
        wanted.update({name: (n, *shape[1:]) for name, n in zip(theirs, rows)})
    _check(found, wanted, folder)
    target = torch.device(device or "cpu")
    for ours, theirs in names.items():
        stored = [found[name] for name in theirs]
        out = torch.empty(parameters[ours].shape, dtype=dtype or stored[0].dtype, device=target)
        row = 0
        for name, one in zip(theirs, stored):
            _read_into(out[row : row + one.shape[0]], name, one)
            row += one.shape[0]
        owner, _, leaf = ours.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(out))


def _check(found: Mapping[str, Stored], wanted: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    for name, shape in wanted.items():
        if name not in found:
            raise DataError(
                f"tensor {name} {list(shape)} is missing.{did_you_mean(name, found)}", where=str(folder)
            )
        if found[name].shape != shape:
            raise DataError(
                f"tensor {name} is {list(found[name].shape)}, config.json asks for {list(shape)}",
                where=str(found[name].file),
                fix="the weights and config.json are of different models",
            )
    extra = sorted(name for name in found if name not in wanted and not CONSTANTS.search(name))
    if extra:
        raise DataError(
            f"tensor {extra[0]} {list(found[extra[0]].shape)} has no place in this model"
            + (f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""),
            where=str(found[extra[0]].file),
        )


def _read_into(out: Tensor, name: str, stored: Stored) -> None:
    """Fills `out` (contiguous, any dtype and device) from the file, piece by piece."""
    flat, item = out.view(-1), stored.dtype.itemsize
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.start)
        for begin in range(0, flat.numel(), PIECE_BYTES // item):
            part = flat[begin : begin + PIECE_BYTES // item]
            direct = part.device.type == "cpu" and part.dtype == stored.dtype
            buffer = part if direct else torch.empty(part.shape, dtype=stored.dtype)
            _read_exactly(file, _bytes_of(buffer), stored)
            if not direct:
                part.copy_(buffer)
            bad = int((~torch.isfinite(part)).sum())
            if bad:
                kind = (
                    "is out of range for"
                    if torch.isfinite(buffer).all()
                    else "holds NaN or infinity, read as"
                )
                raise DataError(f"tensor {name} {kind} {part.dtype}: {bad} values", where=str(stored.file))


def _bytes_of(flat: Tensor) -> memoryview:
    """The memory of a contiguous (N,) CPU tensor as bytes, not copied."""
    return flat.view(torch.uint8).numpy().data


def _read_exactly(file: Any, view: memoryview, stored: Stored) -> None:
    while len(view):
        count = file.readinto(view)
        if not count:
            raise DataError("the file ended while it was read", where=str(stored.file))
        view = view[count:]


def _no_weights(folder: Path) -> DataError:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickled:
        return DataError(
            f"{pickled[0]} is a pickle, which may run code when read; it is not opened",
            where=str(folder),
            fix="convert it where it is trusted: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            "'model.safetensors', metadata={'format': 'pt'})",
        )
    return DataError("no model.safetensors and no model.safetensors.index.json", where=str(folder))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"no {path.name} there", where=str(path.parent), fix="give the folder of a model"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot be read as JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise DataError("must hold a JSON object", where=str(path))
    return value


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
    tensors: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for ours, theirs in published_names(config, layout, scalar).items():
        whole = parameters[ours].detach()
        rows = piece_rows(config, ours, len(theirs)) or [whole.shape[0]]
        tensors.update(zip(theirs, whole.split(rows)))
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    values = write_config(config, layout, dtype, scalar)
    generation: dict[str, Any] = {"_from_model_config": not eos_ids}
    if eos_ids:
        values["eos_token_id"] = eos_ids[0]
        generation["eos_token_id"] = list(eos_ids)
    folder.mkdir(parents=True, exist_ok=True)
    need_disk(folder, sum(t.numel() * t.element_size() for t in tensors.values()))
    write_weights(folder, tensors, shard_bytes)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "config.json", values)


def write_weights(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """model.safetensors, or shards of at most `shard_bytes` (a larger tensor alone) with their index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in tensors.items():
        num_bytes = tensor.numel() * tensor.element_size()
        if shards[-1] and size + num_bytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size, total = size + num_bytes, total + num_bytes
    for old in (*folder.glob("model-*-of-*.safetensors"), folder / "model.safetensors.index.json"):
        old.unlink(missing_ok=True)
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", shards[0])
        return
    (folder / "model.safetensors").unlink(missing_ok=True)
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, shard)
        places.update(dict.fromkeys(shard, file))
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places}
    )


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One safetensors file, streamed tensor by tensor to a temporary name, flushed and renamed."""
    # The order of the format's own library: wide types first, then by name; equal tensors give equal bytes.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        stop = offset + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": CODES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            _write_all(file, (tensors[name] for name in order))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def _write_all(file: BinaryIO, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().view(-1)
        file.write(_bytes_of(flat))
