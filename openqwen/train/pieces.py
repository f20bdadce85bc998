"""Tensors divided by rows among processes: what each writes, and how any number of processes reads it back.

Ours. PyTorch's own distributed checkpoints unpickle their metadata and have no checksums; these are safetensors
files whose headers say where their rows begin.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

ROWS = "openqwen.first_rows"  # header key: {tensor: its first row in the whole}


@dataclass(frozen=True)
class Piece:
    """Tensors of one file. first: where the rows of a divided one begin."""

    tensors: Mapping[str, Tensor]
    first: Mapping[str, int]


def is_divided(tensor: Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    return hasattr(tensor, "placements")


def own_rows(divided: Mapping[str, Any]) -> Piece:
    """The rows of divided tensors that this process holds; of replicas only the first one's."""
    tensors, first = {}, {}
    for name, tensor in divided.items():
        offset, replica = _place(tensor)
        local = tensor.to_local()
        if len(local) and not replica:
            tensors[name], first[name] = local, offset
    return Piece(tensors, first)


def _place(tensor: Any) -> tuple[int, bool]:
    """First row of the local part of a DTensor, and whether it is a copy of another process's."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    where = tensor.device_mesh.get_coordinate()
    copies = [where[i] for i, how in enumerate(tensor.placements) if not isinstance(how, Shard)]
    return (offset[0] if offset else 0), any(copies)


class Pieces:
    """The tensors of one name in a checkpoint, whole in one file or divided among several."""

    def __init__(self, folder: Path, name: str) -> None:
        paths = [folder / f"{name}.safetensors", *sorted(folder.glob(f"{name}.[0-9]*.safetensors"))]
        self._parts: dict[str, list[tuple[int, Any]]] = {}  # tensor -> (first row, file), in order
        for path in paths:
            file = safe_open(path, framework="pt")
            first = json.loads((file.metadata() or {}).get(ROWS, "{}"))
            for key in file.keys():  # noqa: SIM118 - not a mapping
                self._parts.setdefault(key, []).append((first.get(key, 0), file))
        for parts in self._parts.values():
            parts.sort(key=lambda part: part[0])

    @property
    def names(self) -> Collection[str]:
        return self._parts.keys()

    def check_names(self, wanted: Collection[str]) -> None:
        """ValueError for a tensor that has no place."""
        extra = sorted(set(self.names) - set(wanted))
        if extra:
            raise ValueError(f"tensor {extra[0]} has no place")

    def shape(self, key: str) -> list[int]:
        """Of the whole tensor."""
        shapes = [file.get_slice(key).get_shape() for _, file in self._parts[key]]
        return [sum(s[0] for s in shapes), *shapes[0][1:]] if shapes[0] else []

    def whole(self, key: str) -> Tensor:
        """All rows."""
        parts = [file.get_tensor(key) for _, file in self._parts[key]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def like(self, key: str, own: Any) -> Tensor:
        """The tensor as `own` is held: whole, or the rows of this process. ValueError for another shape."""
        if key not in self._parts:
            raise ValueError(f"tensor {key} is missing")
        if self.shape(key) != list(own.shape):
            raise ValueError(f"tensor {key} is {self.shape(key)}, {list(own.shape)} is needed")
        if not is_divided(own):
            return self.whole(key)
        from torch.distributed.tensor import DTensor

        offset, _ = _place(own)
        local = self._rows(key, offset, offset + len(own.to_local())).to(own.device)
        return DTensor.from_local(
            local, own.device_mesh, own.placements, run_check=False, shape=own.shape, stride=own.stride()
        )

    def _rows(self, key: str, begin: int, end: int) -> Tensor:
        found = []
        for first, file in self._parts[key]:
            part = file.get_slice(key)
            low, high = max(begin, first), min(end, first + part.get_shape()[0])
            if low < high:
                found.append(part[low - first : high - first])
        if not found:
            part = self._parts[key][0][1].get_slice(key)
            return part[0:0]
        return torch.cat(found)
