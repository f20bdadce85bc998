"""Checkpoints that are whole or absent, checked by hash, and exact to the bit.

Ours. checkpoints/step-00000120/ holds <module>.safetensors and <optimizer>.optimizer.safetensors, rng.safetensors,
state.json and, written last, checkpoint.json with the sha256 of each file. A save goes to a fresh directory that is
flushed to disk and renamed; an existing one is never written into. The newest is used if its hashes hold, else the
one before, saying so. Nothing is pickled.

Training waits while tensors are copied to host memory; a thread writes the copy. Where weights are divided among
processes, each writes its own rows, <module>.<rank>.safetensors, and says in the file's header which rows they are;
any number of processes can read them back, each the rows it needs (pieces.py). The main one writes the record when all
have told it, through the store and not by collectives (heart.py), the hashes of what they wrote.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from openqwen.core.artifact import sha256_file, unwritable
from openqwen.core.console import console, error_console
from openqwen.core.errors import DataError, Interrupted, OpenQwenError
from openqwen.train.distributed import ALONE, World
from openqwen.train.heart import BEAT, Lost
from openqwen.train.pieces import ROWS, Piece, Pieces, is_divided, own_rows

KEEP = 2
FORMAT = 2
ALWAYS = ("state.json", "rng.safetensors")  # beside modules and optimizers
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class _Save:
    """What a save holds in host memory until it is on disk."""

    step: int
    turn: int  # one number in all processes
    pieces: Mapping[str, Piece]
    record: str  # state.json


class Saver:
    """Saves in the background. The host memory of a copy of this process's state is needed while one is written.

        with Saver(folder, modules, optimizers, world=world) as saver:
            ...
            saver.save(step, state)

    The next save, `wait` and the end of the body wait for the save before and raise its error: OpenQwenError on a full
    or read-only disk, of whichever process; what was saved earlier is untouched. Every process of `world` has one and
    calls the same. All but the `keep` newest are removed.
    """

    def __init__(
        self,
        folder: Path,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        *,
        keep: int = KEEP,
        world: World = ALONE,
    ) -> None:
        self.folder, self.modules, self.optimizers = folder, modules, optimizers
        self.keep, self.world = keep, world
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Returns, once the state after `step` steps is copied, the path it will have. `state` must be JSON.

        The random state of torch (all devices) is included.
        """
        self.wait()
        name = f"step-{step:08d}"
        final, fresh = self.folder / name, self.folder / f".{name}.tmp"
        if self.world.main:
            with _no_room(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                _remove_leftovers(self.folder)
                fresh.mkdir()
        self.world.barrier(f"saving step {step}")
        pieces = _pieces_of(self.modules, self.optimizers, self.world)
        copied = {name: Piece(_on_host(piece.tensors), piece.first) for name, piece in pieces.items()}
        record = json.dumps({"state": {**state, "step": step}, "groups": _groups(self.optimizers)})
        turn = next(self.world.heart.turns) if self.world.heart else 0
        job = _Save(step, turn, copied, record)
        self._thread = threading.Thread(target=self._work, args=(job, fresh, final), daemon=True)
        self._thread.start()
        return final

    def wait(self) -> None:
        """Until nothing is being written; raises the error of the last save."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(BEAT)
            if self.world.heart is not None and self.world.heart.cut_off:
                self.world.heart.check("waiting for a save")  # the thread may wait for an answer for ever
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Interrupted):  # which says that all is saved
            self.wait()
            return
        try:
            self.wait()  # Ctrl-C ends that: the checkpoint before stands
        except Exception as late:
            if not isinstance(error, Lost):
                error_console.print(f"the last save failed too: {late}", markup=False)

    # ---- in the background -----------------------------------------------------------------------------------

    def _work(self, job: _Save, fresh: Path, final: Path) -> None:
        try:
            written = self._write_pieces(job, fresh)
            if self.world.main:
                self._finish(job, fresh, final, written)
            else:
                self._follow(job, written)
        except BaseException as error:  # the next call raises it
            self._error = error

    def _write_pieces(self, job: _Save, fresh: Path) -> dict[str, str] | Exception:
        """sha256 of each file of this process, or why one could not be written: others want to know it first."""
        try:
            with _no_room(self.folder):
                return {
                    f"{name}.safetensors": _save_tensors(
                        fresh / f"{name}.safetensors", piece.tensors, piece.first
                    )
                    for name, piece in job.pieces.items()
                }
        except Exception as error:
            return error

    def _follow(self, job: _Save, written: dict[str, str] | Exception) -> None:
        heart, place = self.world.heart, f"saving step {job.step}"
        assert heart is not None
        heart.tell(f"wrote/{job.turn}/{heart.rank}", _told(written))
        outcome = heart.ask(f"saved/{job.turn}", 0, place)
        if isinstance(written, Exception):
            raise written
        if outcome is not None:
            raise OpenQwenError(*outcome)

    def _finish(self, job: _Save, fresh: Path, final: Path, written: dict[str, str] | Exception) -> None:
        """Waits for what the others wrote, puts the whole in its place, or takes it away; tells all."""
        told, heart = {0: _told(written)}, self.world.heart
        for rank in range(1, self.world.size):
            assert heart is not None
            place = f"saving step {job.step}"
            told[rank] = heart.ask(f"wrote/{job.turn}/{rank}", rank, place, heart.timeout, last=True)
        if _first_failure(told, self.folder) is None:
            hashes = {name: digest for part in told.values() for name, digest in part["sha256"].items()}
            try:
                with _no_room(self.folder):
                    _write_record(fresh, job.record, hashes)
                    _put_in_place(self.folder, fresh, final, job.step, self.keep)
            except Exception as error:
                written, told[0] = error, _told(error)
        failure = _first_failure(told, self.folder)
        if heart is not None:
            outcome = None if failure is None else [failure.what, failure.where, failure.fix]
            heart.tell(f"saved/{job.turn}", outcome)
        if failure is not None:
            shutil.rmtree(fresh, ignore_errors=True)  # now that nobody writes into it
            raise written if isinstance(written, Exception) else failure


def _told(written: dict[str, str] | Exception) -> dict[str, Any]:
    """What a process tells of its part."""
    if isinstance(written, OpenQwenError):
        return {"error": [written.what, written.where, written.fix]}
    if isinstance(written, Exception):
        return {"error": [f"{type(written).__name__}: {written}", None, None]}
    return {"sha256": written}


def _first_failure(told: Mapping[int, Mapping[str, Any]], folder: Path) -> OpenQwenError | None:
    for rank, part in told.items():
        if "error" in part:
            what, where, fix = part["error"]
            return OpenQwenError(
                f"rank {rank} could not write its part of a checkpoint: {what}", where or str(folder), fix
            )
    return None


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of their own, in host memory."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


@contextmanager
def _no_room(folder: Path) -> Iterator[None]:
    """Says what a failed write means."""
    try:
        yield
    except SafetensorError as error:  # its input/output errors carry only text
        raise OpenQwenError(
            f"checkpoint could not be written: {error}",
            where=str(folder),
            fix="free some space and run again; it continues from the checkpoint before",
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error


def _put_in_place(folder: Path, fresh: Path, final: Path, step: int, keep: int) -> None:
    if final.exists():  # an earlier attempt at this step, damaged or superseded; a rename cannot replace it
        os.rename(final, folder / f".{final.name}.old.tmp")
    os.rename(fresh, final)
    _sync(folder)
    # A run that fell back to an earlier checkpoint leaves a damaged later one behind.
    later = [path for number, path in steps(folder) if number > step]
    for path in later + [path for _, path in steps(folder) if path not in later][:-keep]:
        _remove(path)
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
    newest = world.say(_newest_sound(folder) if world.main else None, "looking for a checkpoint")
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


def _groups(optimizers: Mapping[str, Optimizer]) -> dict[str, Any]:
    """Settings of each optimizer's groups of parameters."""
    return {
        name: [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        for name, optimizer in optimizers.items()
    }


def _write_record(folder: Path, record: str, hashes: Mapping[str, str]) -> None:
    _save_text(folder / "state.json", record)
    listed = {**hashes, "state.json": sha256_file(folder / "state.json")}
    _save_text(
        folder / "checkpoint.json", json.dumps({"format": FORMAT, "sha256": dict(sorted(listed.items()))})
    )
    _sync(folder)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], first: Mapping[str, int]) -> str:
    """Writes a file that is on disk afterwards; returns its sha256."""
    save_file(dict(tensors), path, {ROWS: json.dumps(first)} if first else None)
    _sync(path)
    return sha256_file(path)


def _save_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*.tmp"):
        _remove(path)


def _remove(path: Path) -> None:
    """A folder with all that is in it; of a link only the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        for file in (path, *path.iterdir()):
            if file.is_symlink():  # what it leads to is not ours, and may change after it was checked
                return f"{file.name} is a link"
        record = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            return f"checkpoint.json: format {record['format']}, {FORMAT} is known"
        expected = dict(record["sha256"])
        found = {file.name for file in path.iterdir()} - {"checkpoint.json"}
        for name in sorted(found | expected.keys() | set(ALWAYS)):
            if name not in expected:
                return f"checkpoint.json does not know {name}"
            if name not in found:
                return f"{name} is missing"
            if sha256_file(path / name) != expected[name]:
                return f"{name} does not have its hash"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
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
