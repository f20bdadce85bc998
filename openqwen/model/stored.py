"""What lies in a checkpoint folder: its config.json and the headers of its safetensors files, checked, unread.

Ours. Headers are compared with the configuration before a single weight is read, so a wrong checkpoint is refused
(tensor name and both shapes) at no cost. Weights are then read in pieces straight to where they are wanted,
converted and checked for NaN and infinity on the way; or the file itself becomes their memory (`map_tensor`).
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openqwen.core.errors import DataError, did_you_mean
from openqwen.core.hub import local_folder
from openqwen.model.config import ModelConfig
from openqwen.model.hf import CONSTANTS, Layout, Piece, is_scalar, is_tied, pieces, read_config

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PIECE_BYTES = 64 << 20  # read and checked at a time
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_HEADER = 100 << 20
_POINTER = b"version https://git-lfs"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Stored:
    """One tensor in a safetensors file: where it lies and what it is."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte offset from the beginning of the file
    stop: int

    def rows(self, first: int, count: int) -> Stored:
        """Some of its rows, which lie together in the file."""
        row = prod(self.shape[1:]) * self.dtype.itemsize
        start = self.start + first * row
        return replace(self, shape=(count, *self.shape[1:]), start=start, stop=start + count * row)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose headers fit its configuration. parts: our parameter -> the tensors stacked in it."""

    folder: Path
    values: dict[str, Any]  # config.json as it stands there
    config: ModelConfig
    layout: Layout
    parts: dict[str, list[Stored]]

    def cut(self, piece: Piece) -> list[Stored]:
        """Where the rows of a piece lie; several where it is stored in parts."""
        found: list[Stored] = []
        at = 0
        for stored in self.parts[piece.ours]:
            begin = max(piece.first - at, 0)
            end = min(piece.first + piece.rows - at, stored.shape[0])
            if begin < end:
                found.append(stored.rows(begin, end - begin))
            at += stored.shape[0]
        return found


def open_checkpoint(path: Path | str, *, scalar: bool = False) -> Checkpoint:
    """Reads config.json and all headers of a folder, or of a model of the hub, and compares them.

    scalar: a reward or value model is wanted. DataError for a checkpoint that is incomplete, contradicts its config,
    or is pickled.
    """
    path = local_folder(path)
    if path.is_file():
        raise (
            _pickled(path.name, path)
            if path.suffix in _PICKLES
            else DataError(
                "this is a file; a model is a folder", where=str(path), fix="give the folder with config.json"
            )
        )
    values = read_json(path / "config.json")
    if is_scalar(values) and not scalar:
        raise DataError(
            "this is a reward model: one number a token instead of a head over the vocabulary",
            where=str(path),
            fix="give the base or chat model it was made from",
        )
    config, layout = read_config(values, str(path / "config.json"))
    found = find_tensors(path)
    if config.num_layers > len(
        found
    ):  # or the names of a billion layers would be made to find the first missing
        raise DataError(
            f"config.json asks for {config.num_layers} layers, the file has {len(found)} tensors",
            where=str(path),
            fix="the weights and config.json are of different models",
        )
    shapes = parameter_shapes(config, scalar)
    wanted = pieces(config, layout, shapes, scalar)
    if is_tied(values):
        wanted = [piece for piece in wanted if piece.ours != "head.weight"]
    _check(found, {piece.name: (piece.rows, *shapes[piece.ours][1:]) for piece in wanted}, path)
    parts: dict[str, list[Stored]] = {}
    for piece in sorted(wanted, key=lambda piece: piece.first):
        parts.setdefault(piece.ours, []).append(found[piece.name])
    if is_tied(values):
        parts["head.weight"] = parts["embed.weight"]
    return Checkpoint(path, values, config, layout, parts)


def parameter_shapes(config: ModelConfig, scalar: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of Qwen, or of ScalarModel, without building one."""
    V, C, F, stem = config.vocab_size, config.hidden_size, config.ffn, "backbone." if scalar else ""
    qkv = (config.num_heads + 2 * config.kv_heads) * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {f"{stem}embed.weight": (V, C), f"{stem}norm.weight": (C,)}
    for i in range(config.num_layers):
        block = f"{stem}blocks.{i}"
        shapes[f"{block}.attn_norm.weight"] = shapes[f"{block}.mlp_norm.weight"] = (C,)
        shapes[f"{block}.attn.qkv.weight"], shapes[f"{block}.attn.qkv.bias"] = (qkv, C), (qkv,)
        shapes[f"{block}.attn.out.weight"] = (C, C)
        shapes[f"{block}.mlp.gate.weight"] = shapes[f"{block}.mlp.up.weight"] = (F, C)
        shapes[f"{block}.mlp.down.weight"] = (C, F)
    shapes["scalar.weight" if scalar else "head.weight"] = (1 if scalar else V, C)
    return shapes


def check_rows(num_ids: int, num_rows: int, where: str) -> None:
    """DataError if a tokenizer has more ids than the embedding has rows."""
    if num_ids > num_rows:
        raise DataError(
            f"the tokenizer has {num_ids} ids, the model {num_rows} embedding rows",
            where=where,
            fix="use the tokenizer the model was trained with",
        )


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
    extra = sorted(name for name in found if name not in wanted)
    if extra:
        raise DataError(
            f"tensor {extra[0]} {list(found[extra[0]].shape)} has no place in this model"
            + (f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""),
            where=str(found[extra[0]].file),
        )


# Headers


def find_tensors(folder: Path) -> dict[str, Stored]:
    """All weights of a checkpoint folder by published name, from model.safetensors or the shards of its index."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise _no_weights(folder)
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(f, str) and Path(f).name == f for f in places.values()
    ):
        raise DataError("weight_map is missing or names files outside the folder", where=str(index))
    found: dict[str, Stored] = {}
    shards = sorted(set(places.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(shards)})" if len(missing) > 1 else ""
        raise DataError(
            f"shard {missing[0]} is missing{more}", where=str(index), fix="fetch the checkpoint again"
        )
    for shard in shards:
        for name, stored in read_header(folder / shard).items():
            if places.get(name) != shard:
                raise DataError(
                    f"tensor {name} is in {shard}, the index says {places.get(name)}", where=str(index)
                )
            found[name] = stored
    absent = sorted(name for name in set(places) - set(found) if not CONSTANTS.search(name))
    if absent:
        raise DataError(f"tensor {absent[0]} is not in its shard {places[absent[0]]}", where=str(index))
    return found


def read_header(path: Path) -> dict[str, Stored]:
    """The weights of one safetensors file; DataError if it is truncated or not such a file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            begin = file.read(9)
            if begin == _POINTER[:9]:
                raise DataError(
                    "this is a Git LFS pointer, not the weights it stands for",
                    where=str(path),
                    fix="run `git lfs pull` in the folder, or fetch the model from the hub",
                )
            if begin[8:] != b"{" and begin.startswith((b"PK\3\4", b"\x80")):
                raise _pickled(path.name, path)
            (length,) = struct.unpack("<Q", begin[:8])
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header = json.loads(begin[8:] + file.read(length - 1), object_pairs_hook=_no_repeats)
        header.pop("__metadata__", None)
        _check_filled(path, header, size - 8 - length)
        return {
            name: _stored(path, name, entry, 8 + length)
            for name, entry in header.items()
            if not CONSTANTS.search(name)
        }
    except (
        struct.error,
        ArithmeticError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,
        RecursionError,
    ) as error:
        raise DataError(f"not a readable safetensors file: {error}", where=str(path)) from error


def _no_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _check_filled(path: Path, header: Mapping[str, Mapping[str, Any]], size: int) -> None:
    """The tensors must follow each other without gap or overlap and fill the file."""
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        start, stop = entry["data_offsets"]
        if stop > size:
            raise DataError(
                f"truncated: tensor {name} {list(entry['shape'])} ends at byte {stop} of the weights, the file has {size}",
                where=str(path),
                fix="copy or fetch the file again",
            )
        if start != at:
            raise DataError(
                f"tensor {name} begins at byte {start}, the one before ends at {at}", where=str(path)
            )
        at = stop
    if at != size:
        raise DataError(f"{size - at} bytes follow the last tensor", where=str(path))


def _stored(path: Path, name: str, entry: Mapping[str, Any], base: int) -> Stored:
    start, stop = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    if entry["dtype"] not in DTYPES:
        raise DataError(
            f"tensor {name} has dtype {entry['dtype']}",
            where=str(path),
            fix="quantised or integer weights cannot be used; give the F32, BF16 or F16 checkpoint",
        )
    dtype = DTYPES[entry["dtype"]]
    if not 0 <= start <= stop or stop - start != prod(shape) * dtype.itemsize:
        raise DataError(
            f"tensor {name} of shape {list(shape)} does not fit its {stop - start} bytes", where=str(path)
        )
    return Stored(name, path, dtype, shape, base + start, base + stop)


def _pickled(name: str, where: Path) -> DataError:
    return DataError(
        f"{name} is a pickle, which may run code when read; it is not opened",
        where=str(where),
        fix="convert it where it is trusted: safetensors.torch.save_file({k: v.contiguous() for f in FILES for k, v "
        "in torch.load(f, map_location='cpu', weights_only=True).items()}, 'model.safetensors', {'format': 'pt'})",
    )


def _no_weights(folder: Path) -> DataError:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES)
    if pickled:
        return _pickled(pickled[0], folder)
    shards = sorted(p.name for p in folder.glob("*.safetensors"))
    if shards:
        return DataError(
            f"{shards[0]} is there, {INDEX} is not: the checkpoint is not complete",
            where=str(folder),
            fix="fetch the missing files",
        )
    return DataError(f"no {SINGLE} and no {INDEX}", where=str(folder))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; DataError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"no {path.name} there", where=str(path.parent), fix="give the folder of a model"
        ) from error
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read as JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise DataError("must hold a JSON object", where=str(path))
    return value


# Weights


def read_stacked(
    stored: Sequence[Stored], dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """The tensors stacked along dimension 0. dtype None: the first one's. DataError for NaN, infinity, overflow."""
    rows = sum(one.shape[0] for one in stored)
    out = torch.empty((rows, *stored[0].shape[1:]), dtype=dtype or stored[0].dtype, device=device or "cpu")
    at = 0
    for one in stored:
        _read_into(out[at : at + one.shape[0]], one)
        at += one.shape[0]
    return out


def can_be_mapped(stored: Sequence[Stored], dtype: torch.dtype | None = None) -> bool:
    """Whether a parameter lies in the file just as it is wanted: in one part, in the dtype asked for, aligned."""
    one = stored[0]
    return len(stored) == 1 and dtype in (None, one.dtype) and one.start % one.dtype.itemsize == 0


def map_tensor(stored: Stored) -> Tensor:
    """The tensor with the file as its memory; what is written to it stays private. DataError as in `read_stacked`.

    The system may drop such pages and read them again, so weights larger than the memory work, slowly. The file
    must not be cut short meanwhile; replacing it by another is harmless.
    """
    begin = stored.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with stored.file.open("rb") as file:
        length = stored.stop - begin
        pages = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=begin)
    flat = torch.frombuffer(pages, dtype=stored.dtype, offset=stored.start - begin)
    for part in flat.split(PIECE_BYTES // stored.dtype.itemsize):
        _check_finite(part, part, stored)
    return flat.view(stored.shape)


def _read_into(out: Tensor, stored: Stored) -> None:
    """Fills `out` (contiguous, any dtype and device) from the file, piece by piece."""
    flat, item = out.view(-1), stored.dtype.itemsize
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.start)
        for begin in range(0, flat.numel(), PIECE_BYTES // item):
            part = flat[begin : begin + PIECE_BYTES // item]
            direct = part.device.type == "cpu" and part.dtype == stored.dtype
            buffer = part if direct else torch.empty(part.shape, dtype=stored.dtype)
            _read_exactly(file, bytes_of(buffer), stored)
            if not direct:
                part.copy_(buffer)
            _check_finite(part, buffer, stored)


def _check_finite(part: Tensor, read: Tensor, stored: Stored) -> None:
    """DataError if values (N,) hold NaN or infinity; `read`: as they stood in the file, if they were converted."""
    if len(part) and not all(torch.isfinite(end) for end in torch.aminmax(part)):  # NaN is both ends then
        bad = int((~torch.isfinite(part)).sum())
        raise _not_finite(stored, part.dtype, bad, bool(torch.isfinite(read).all()))


def _not_finite(stored: Stored, dtype: torch.dtype, bad: int, overflow: bool) -> DataError:
    kind = "is out of range for" if overflow else "holds NaN or infinity, read as"
    return DataError(f"tensor {stored.name} {kind} {dtype}: {bad} values", where=str(stored.file))


def bytes_of(flat: Tensor) -> memoryview:
    """The memory of a contiguous (N,) CPU tensor as bytes, not copied."""
    return flat.view(torch.uint8).numpy().data


def _read_exactly(file: Any, view: memoryview, stored: Stored) -> None:
    while len(view):
        count = file.readinto(view)
        if not count:
            raise DataError(f"the file ended while tensor {stored.name} was read", where=str(stored.file))
        view = view[count:]
