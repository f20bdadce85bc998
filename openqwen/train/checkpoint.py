"""Checkpoints that are whole or absent, checked by hash, and exact to the bit.

Ours. checkpoints/step-00000120/ holds <module>.safetensors and <optimizer>.optimizer.safetensors, rng.safetensors,
state.json and, written last, checkpoint.json with the sha256 of each file. A save goes to a fresh directory that is
flushed to disk and renamed; an existing one is never written into. The newest is used if its hashes hold, else the
one before, saying so. Nothing is pickled.

Where weights are divided among processes, each writes its own rows, <module>.<rank>.safetensors, and says in the
file's header which rows they are; any number of processes can read them back, each the rows it needs (pieces.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from openqwen.core.artifact import sha256_file, unwritable
from openqwen.core.console import console
from openqwen.core.errors import DataError, OpenQwenError
from openqwen.train.distributed import ALONE, World
from openqwen.train.pieces import ROWS, Piece, Pieces, is_divided, own_rows

KEEP = 2
_NAME = re.compile(r"step-(\d{8,})")


def save(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    state: Mapping[str, Any],
    *,
    keep: int = KEEP,
    world: World = ALONE,
) -> Path:
    """Writes the state after `step` steps and removes all but the `keep` newest. `state` must be JSON.

    The random state of torch (all devices) is included. Every process of `world` calls this. Raises OpenQwenError on
    a full or read-only disk; what was saved before is untouched.
    """
    final = folder / f"step-{step:08d}"
    fresh = folder / f".{final.name}.tmp"
    if world.main:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        fresh.mkdir()
    world.barrier()
    with _no_room(folder, fresh):
        for name, part in _pieces_of(modules, optimizers, world).items():
            _save_tensors(fresh / f"{name}.safetensors", part.tensors, part.first)
            (fresh / f"{name}.sha256").write_text(sha256_file(fresh / f"{name}.safetensors"))
    world.barrier()
    if world.main:
        with _no_room(folder, fresh):
            _write_record(fresh, optimizers, {**state, "step": step})
        _put_in_place(folder, fresh, final, step, keep)
    world.barrier()
    return final


@contextmanager
def _no_room(folder: Path, fresh: Path) -> Iterator[None]:
    """Says what a failed write means, and takes its remains away."""
    try:
        yield
    except SafetensorError as error:  # its input/output errors carry only text
        shutil.rmtree(fresh, ignore_errors=True)
        raise OpenQwenError(
            f"checkpoint could not be written: {error}",
            where=str(folder),
            fix="free some space and run again; it continues from the checkpoint before",
        ) from error
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise unwritable(folder, error) from error


def _put_in_place(folder: Path, fresh: Path, final: Path, step: int, keep: int) -> None:
    if final.exists():  # an earlier attempt at this step, damaged or superseded; a rename cannot replace it
        os.rename(final, folder / f".{final.name}.old.tmp")
    os.rename(fresh, final)
    _sync(folder)
    # A run that fell back to an earlier checkpoint leaves a damaged later one behind.
    later = [path for number, path in steps(folder) if number > step]
    for path in later + [path for _, path in steps(folder) if path not in later][:-keep]:
        shutil.rmtree(path)
    _remove_leftovers(folder)


def load_latest(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    *,
    world: World = ALONE,
) -> dict[str, Any] | None:
    """Restores the newest sound checkpoint in place and returns its state (with "step"); None if none was saved.

    A damaged one is reported and the one before is used. DataError when all are damaged or when the shapes are those
    of another model. Every process of `world` calls this; the main one judges for all.
    """
    newest = world.say(_newest_sound(folder) if world.main else None)
    return None if newest is None else _load(folder / newest, modules, optimizers)


def _newest_sound(folder: Path) -> str | None:
    found = steps(folder) if folder.is_dir() else []
    for _, path in reversed(found):
        if not (damage := _damage(path)):
            return path.name
        console.print(f"  checkpoint {path.name} is damaged ({damage}); trying the one before", markup=False)
    if found:
        raise DataError(
            "no checkpoint is sound", where=str(folder), fix="delete this folder to begin the run again"
        )
    return None


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Finished checkpoints in order of their step."""
    return sorted((int(m[1]), path) for path in folder.iterdir() if (m := _NAME.fullmatch(path.name)))


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of the newest checkpoint's files: runs with equal ones are equal to the bit, optimizer included."""
    _, newest = steps(folder)[-1]
    return json.loads((newest / "checkpoint.json").read_text(encoding="utf-8"))["sha256"]


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors: `"12.exp_avg"` is the mean of gradients of its 13th parameter."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def _pieces_of(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], world: World
) -> dict[str, Piece]:
    """What this process writes: file name -> tensors. Whole tensors are the main process's."""
    whole = {name: module.state_dict() for name, module in modules.items()}
    whole |= {f"{name}.optimizer": optimizer_tensors(optimizer) for name, optimizer in optimizers.items()}
    files: dict[str, Piece] = {}
    for name, tensors in whole.items():
        divided = {key: tensor for key, tensor in tensors.items() if is_divided(tensor)}
        if divided:
            files[f"{name}.{world.rank:05d}"] = own_rows(divided)
        if world.main:
            files[name] = Piece({key: t for key, t in tensors.items() if key not in divided}, {})
    if world.main:
        files["rng"] = Piece(_random_state(), {})
    return files


def _write_record(folder: Path, optimizers: Mapping[str, Optimizer], state: Mapping[str, Any]) -> None:
    groups = {
        name: [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        for name, optimizer in optimizers.items()
    }
    _save_json(folder / "state.json", {"state": state, "groups": groups})
    digests = {"state.json": sha256_file(folder / "state.json")}
    for path in sorted(folder.glob("*.sha256")):  # each process has hashed what it wrote
        digests[f"{path.stem}.safetensors"] = path.read_text(encoding="ascii")
        path.unlink()
    _save_json(folder / "checkpoint.json", {"format": 2, "sha256": dict(sorted(digests.items()))})
    _sync(folder)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], first: Mapping[str, int]) -> None:
    metadata = {ROWS: json.dumps(first)} if first else None
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata)
    _sync(path)


def _save_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        record = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        expected = dict(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"checkpoint.json: {error}"
    for name, digest in expected.items():
        file = path / Path(name).name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_file(file) != digest:
            return f"{name} does not have its hash"
    return None


def _load(
    path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> dict[str, Any]:
    record = json.loads((path / "state.json").read_text(encoding="utf-8"))
    try:
        for name, module in modules.items():
            stored, held = Pieces(path, name), module.state_dict()
            stored.check_names(held)
            module.load_state_dict({key: stored.like(key, own) for key, own in held.items()})
        for name, optimizer in optimizers.items():
            _load_optimizer(optimizer, Pieces(path, f"{name}.optimizer"), record["groups"][name])
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise DataError(
            f"the checkpoint is of another model: {str(error).splitlines()[0]}",
            where=str(path),
            fix="use the settings it was made with, or another --out",
        ) from error
    _restore_random_state(load_file(path / "rng.safetensors"))
    return record["state"]


def _load_optimizer(optimizer: Optimizer, stored: Pieces, groups: list[dict[str, Any]]) -> None:
    current = optimizer.state_dict()
    members = [group["params"] for group in current["param_groups"]]
    if len(members) != len(groups):
        raise ValueError("the optimizer has other parameter groups")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key in stored.names:
        number, name = key.split(".", 1)
        index = int(number)
        if index >= len(parameters):
            raise ValueError(f"the optimizer has no parameter {index}")
        # Means of gradients are of the parameter's shape and divided as it is; counters are single numbers.
        value = stored.like(key, parameters[index]) if stored.shape(key) else stored.whole(key)
        state.setdefault(index, {})[name] = value
    restored = [
        {**group, "betas": tuple(group["betas"]), "params": params}
        if "betas" in group
        else {**group, "params": params}
        for group, params in zip(groups, members)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": restored})


def _random_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _restore_random_state(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states.pop("cpu"))
    for name, state in states.items():
        if torch.cuda.is_available() and int(name.split(":")[1]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, name)
