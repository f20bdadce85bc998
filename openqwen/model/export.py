"""A checkpoint handed on in another layout or dtype, tensor by tensor: memory for one tensor is enough.

Report §2.3 (architecture), §2.5 (what is lost). Ours. Within one layout nothing else changes: config.json with keys
unknown to us, the division into files and every byte stay. Across layouts two things cannot be said: other programs
have no equal of Qwen-1's dynamic NTK and LogN, and none of windows by layer. NTK is dynamic and LogN begins beyond
the training length, so what is exported is exact up to that length (or the shortest window) and differs after it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from openqwen.core.artifact import unwritable, write_atomic, write_json
from openqwen.core.errors import UsageError
from openqwen.model.config import ModelConfig
from openqwen.model.hf import (
    Layout,
    Naming,
    is_chat,
    is_tied,
    pieces,
    with_dtype,
    write_config,
    write_generation,
)
from openqwen.model.stored import INDEX, SINGLE, Checkpoint, parameter_shapes, read_json, read_stacked
from openqwen.model.weights import SHARD_BYTES, Planned, write_weights

GENERATION = "generation_config.json"


class Ends(NamedTuple):
    """The ids that end a text and a chat turn."""

    eos_id: int
    im_end_id: int


def lost(config: ModelConfig, naming: Naming) -> str | None:
    """What of a model the target cannot say, as one line; None if it says everything."""
    flags = {"dynamic NTK": config.dynamic_ntk, "LogN": config.logn}
    absent = [] if naming == "qwen1" else [name for name, on in flags.items() if on]
    exact = [config.max_length] if absent else []
    if config.windows is not None:
        absent.append("windows by layer")
        exact.append(min(config.windows))
    if not absent:
        return None
    return (
        f"other programs have no {', no '.join(absent)}: they compute this model exactly up to {min(exact)} tokens, "
        "not beyond"
    )


def planned(
    checkpoint: Checkpoint, naming: Naming, dtype: torch.dtype | None, *, wide_vectors: bool = False
) -> dict[str, Planned]:
    """Every tensor of the export in file order. wide_vectors: those of one dimension are fp32 whatever `dtype` is."""
    shapes = parameter_shapes(checkpoint.config)
    same = naming == checkpoint.layout
    plan: dict[str, Planned] = {}
    for piece in pieces(checkpoint.config, naming, shapes):
        if same and piece.ours == "head.weight" and is_tied(checkpoint.values):
            continue
        stored = checkpoint.cut(piece)
        shape = (piece.rows, *shapes[piece.ours][1:])
        to = torch.float32 if wide_vectors and len(shape) == 1 else dtype or stored[0].dtype
        plan[piece.name] = Planned(to, shape, partial(read_stacked, stored, to))
    return plan


def export_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    layout: Layout,
    *,
    ends: Ends,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    chat: bool | None = None,
) -> None:
    """Writes weights, config.json and generation_config.json into an existing folder.

    dtype None: each tensor as it is stored. shard_bytes None: files divided as in the source if their bytes are the
    same, else 5 GB. chat None: as the source's generation_config.json says.
    """
    plan = planned(checkpoint, layout, dtype)
    files = _same_files(checkpoint, layout, plan) if shard_bytes is None else None
    write_weights(folder, plan, shard_bytes or SHARD_BYTES, files)
    if files is not None and SINGLE not in files:
        _keep_index(checkpoint.folder / INDEX, folder / INDEX)
    generation = _write_generation(checkpoint, folder / GENERATION, layout, ends, chat)
    _write_config(checkpoint, folder / "config.json", layout, plan, dtype, generation)


def _same_files(
    checkpoint: Checkpoint, layout: Layout, plan: Mapping[str, Planned]
) -> dict[str, list[str]] | None:
    """The source's division into files, if layout and dtype are its own."""
    stored = {one.name: one for part in checkpoint.parts.values() for one in part}
    if layout != checkpoint.layout or any(stored[name].dtype != one.dtype for name, one in plan.items()):
        return None
    files: dict[str, list[str]] = {}
    for name in plan:
        files.setdefault(stored[name].file.name, []).append(name)
    return files


def _keep_index(source: Path, written: Path) -> None:
    """An index may hold more than we write (a count of parameters): it stays as it is when it names the same."""
    if read_json(source).get("weight_map") == read_json(written)["weight_map"]:
        write_atomic(written, source.read_bytes())


def _write_generation(
    checkpoint: Checkpoint, path: Path, layout: Layout, ends: Ends, chat: bool | None
) -> dict[str, Any]:
    said = _generation_of(checkpoint)
    stage = (
        "openqwen" in checkpoint.values and "_from_model_config" in said
    )  # written while training: only ends
    if said and not stage and layout == checkpoint.layout and chat is None:
        write_atomic(path, (checkpoint.folder / GENERATION).read_bytes())
        return said
    values = generation_values(checkpoint, layout, ends, chat)
    write_json(path, values)
    return values


def generation_values(
    checkpoint: Checkpoint, layout: Layout, ends: Ends, chat: bool | None
) -> dict[str, Any]:
    """generation_config.json of a layout. chat None: as the source's file says."""
    said = _generation_of(checkpoint)
    return write_generation(
        layout,
        chat=is_chat(said, ends.im_end_id) if chat is None else chat,
        eos_id=ends.eos_id,
        im_end_id=ends.im_end_id,
        max_length=checkpoint.config.max_length,
        said=said,
    )


def _generation_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The source's generation_config.json; empty if it has none."""
    path = checkpoint.folder / GENERATION
    return read_json(path) if path.is_file() else {}


def _write_config(
    checkpoint: Checkpoint,
    path: Path,
    layout: Layout,
    plan: Mapping[str, Planned],
    dtype: torch.dtype | None,
    generation: Mapping[str, Any],
) -> None:
    name = str(next(iter(plan.values())).dtype).removeprefix("torch.")
    if layout != checkpoint.layout:
        end = generation["eos_token_id"]
        first = end[0] if isinstance(end, list) else end
        write_json(path, {**write_config(checkpoint.config, layout, name), "eos_token_id": first})
        return
    values = checkpoint.values if dtype is None else with_dtype(checkpoint.values, name)
    if values == checkpoint.values:
        write_atomic(path, (checkpoint.folder / "config.json").read_bytes())
    else:
        write_json(path, values)


def source_is_chat(checkpoint: Checkpoint, im_end_id: int) -> bool:
    """Whether the source's generation_config.json is a chat model's; False if it has none."""
    return is_chat(_generation_of(checkpoint), im_end_id)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes its name only when the body ends well. UsageError if there is something at `path`."""
    path = Path(os.path.abspath(path))
    if path.is_dir() and any(path.iterdir()):
        raise _taken(path, "the folder is not empty")
    if path.exists() and not path.is_dir():
        raise _taken(path, "there is a file of that name; a folder is written")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write under another name, which gets its own only when the body ends well."""
    path = Path(os.path.abspath(path))
    if path.is_dir():
        raise _taken(path, "this is a folder; one file is written")
    if path.exists():
        raise _taken(path, "the file is there already")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _taken(path: Path, what: str) -> UsageError:
    return UsageError(what, where=str(path), fix="choose another --out, or remove it")
