"""Artefact directories: every stage reads directories and writes one; DONE is written last.

Ours. A directory without DONE is not an artefact. With DONE, a run asked for the same fingerprint (kind,
configuration, inputs) is skipped; a different fingerprint is a reason to run again. Writers go through
temporary names and renames, so that no reader ever meets half a file.

    out/NAME/STAGE/  config.toml  origin.json  manifest.json  metrics.jsonl  samples.jsonl  checkpoints/  DONE
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import openqwen
from openqwen.core.config import Config, Resolved, dump_toml, reads_files
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.core.metrics import Metrics, read_metrics

# What a run leaves beside its result. Not part of the artefact's identity: times and logs differ between reruns.
_RECORDS = {"metrics.jsonl", "throughput.jsonl", "incidents.jsonl", "log.txt"}
_SIDE_FILES = _RECORDS | {"STARTED", "manifest.json", "origin.json", "DONE", ".lock"}
_SIDE_DIRS = {"checkpoints", "tensorboard"}
_DONE = ("kind", "fingerprint", "content", "manifest")  # what DONE holds


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form in which things are hashed."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    # Names of files need not be UTF-8.
    return hashlib.sha256(canonical(value).encode("utf-8", "backslashreplace")).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when the body ends well: temporary name, flush to disk, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Writes a whole file or nothing."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Pretty JSON, written atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, records: Iterator[Any] | list[Any]) -> int:
    """One JSON value a line, streamed to a temporary name and renamed. Returns the number of records."""
    count = 0
    with replacing(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file. Splits on newline bytes only; DataError names file and line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise DataError(f"not a JSON record: {error}", where=f"{path}:{number}") from error


def unwritable(path: Path, error: OSError) -> OpenQwenError:
    """The one-line error for a folder or disk that refuses a write."""
    if error.errno == errno.ENOSPC:
        return OpenQwenError(
            "the disk is full", where=str(path), fix="free some space and run again; it continues"
        )
    return OpenQwenError(
        f"cannot write: {error.strerror or error}",
        where=str(path),
        fix="choose a folder you can write to with --out",
    )


def need_disk(folder: Path, num_bytes: int) -> None:
    """Refuses to begin when the file system of `folder` has less than `num_bytes` free."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < num_bytes:
        raise OpenQwenError(
            f"too little disk: {num_bytes / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free",
            where=str(folder),
            fix="free some space or choose another folder with --out",
        )


@dataclass(frozen=True)
class Artifact:
    """A finished stage directory."""

    path: Path
    kind: str
    fingerprint: str
    content: str  # digest over the result files: equal content means equal input for whoever reads it
    record: str | None = None  # sha256 of manifest.json; None: made before DONE held one

    def file(self, name: str) -> Path:
        """The path of one of its files; DataError if it is missing."""
        path = self.path / name
        if not path.exists():
            raise DataError(f"{self.kind} artefact has no {name}", where=str(self.path), fix="make it again")
        return path

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json. DataError if it is not what it was when the stage ended."""
        data = self.file("manifest.json").read_bytes()
        try:
            if self.record not in (None, hashlib.sha256(data).hexdigest()):
                raise ValueError("it does not have its hash")
            return json.loads(data)
        except ValueError as error:
            raise DataError(
                f"manifest.json is damaged: {error}", where=str(self.path), fix="make it again"
            ) from error

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.path / "metrics.jsonl")


def find(path: Path) -> Artifact | None:
    """The artefact at a path, or None if it is not finished."""
    done = path / "DONE"
    if not done.is_file():
        return None
    try:
        record = json.loads(done.read_text(encoding="utf-8"))
        if unknown := record.keys() - _DONE:
            raise ValueError(f"{min(unknown)!r} is not known")
        return Artifact(
            path, record["kind"], record["fingerprint"], record["content"], record.get("manifest")
        )
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"DONE is damaged: {error}", where=str(done), fix="delete the folder and run again"
        ) from error


def load(path: Path | str, kind: str | tuple[str, ...]) -> Artifact:
    """The finished artefact at a path, of the kind asked for. DataError says what is wrong and what to do."""
    path = Path(path)
    kinds = (kind,) if isinstance(kind, str) else kind
    wanted = " or ".join(kinds)
    if not path.exists():
        raise DataError(
            f"no {wanted} artefact there",
            where=str(path),
            fix="check the path, or run the stage that makes it",
        )
    found = find(path)
    if found is None:
        raise DataError(
            f"{wanted} artefact is not finished (no DONE)",
            where=str(path),
            fix="run its stage again; it continues",
        )
    if found.kind not in kinds:
        raise DataError(f"a {wanted} artefact is needed, this is '{found.kind}'", where=str(path))
    return found


def fingerprint(kind: str, config: Config, inputs: Mapping[str, Artifact | Path]) -> str:
    """Identity of a run before it happens: kind, settings and what they name, contents of the inputs, version."""
    return digest(
        {
            "kind": kind,
            "version": openqwen.__version__,
            "config": _settings(config),
            "inputs": {name: input_content(value) for name, value in sorted(inputs.items())},
        }
    )


def _settings(config: Config) -> dict[str, Any]:
    """The settings of a run as JSON; with the names of files and artefacts goes what they hold."""
    values = config.model_dump(mode="json")
    for name in values:
        value, info = getattr(config, name), type(config).model_fields[name]
        if isinstance(value, Config):
            values[name] = _settings(value)
        elif reads_files(info):
            values[name] = _named(values[name])
    return values


def _named(value: Any) -> Any:
    """What a setting's paths lead to: an artefact's content wherever it is, of others the path and the content.

    What is not there, and what is in an object store, is known by its name alone.
    """
    if isinstance(value, dict):
        return {key: _named(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_named(own) for own in value]
    if value is None or not Path(value).exists():
        return value
    found = find(Path(value))
    return found.content if found else [value, input_content(Path(value))]


def input_content(value: Artifact | Path) -> str:
    """Content digest of an input: an artefact's own, a file's bytes, or a folder's names, sizes and times."""
    if isinstance(value, Artifact):
        return value.content
    if value.is_file():
        return sha256_file(value)
    # A folder of raw documents may hold terabytes: its listing identifies it, each file's hash is the stage's work.
    listing = []
    for root, folders, names in os.walk(value):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            stat = path.lstat()
            listing.append([str(path.relative_to(value)), stat.st_size, stat.st_mtime_ns])
    return digest(listing)


def output_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every result file of a stage directory by relative name; side files and checkpoints left out."""
    hashes = {}
    for root, folders, names in os.walk(directory):
        folders[:] = sorted(f for f in folders if f not in _SIDE_DIRS)
        for name in sorted(names):
            path = Path(root, name)
            relative = str(path.relative_to(directory))
            if relative not in _SIDE_FILES and not name.endswith(".tmp"):
                hashes[relative] = sha256_file(path)
    return hashes


def damage(found: Artifact) -> dict[str, str]:
    """Result files of an artefact that are not what they were when it was finished: name -> what happened."""
    then, now = found.manifest["outputs"], output_hashes(found.path)
    gone = dict.fromkeys(then.keys() - now.keys(), "missing")
    changed = {name: "changed" for name in then.keys() & now.keys() if then[name] != now[name]}
    return dict(sorted((gone | changed | dict.fromkeys(now.keys() - then.keys(), "added")).items()))


def check_intact(value: Artifact | Path) -> None:
    """DataError unless an artefact's results, or a file that lies in one, are to the byte what the stage left.

    Everything is read once; files and folders that belong to no artefact are not judged. Logs and metrics are no results.
    """
    found = value if isinstance(value, Artifact) else find(value if value.is_dir() else value.parent)
    if found is None:
        return
    manifest = found.manifest
    content = _content(found.kind, manifest.get("outputs", {}))
    said = [manifest.get(key) for key in ("kind", "fingerprint", "content")]
    if not said == [found.kind, found.fingerprint, content] == [found.kind, found.fingerprint, found.content]:
        raise DataError("DONE and manifest.json disagree", where=str(found.path), fix="make it again")
    hashes = {found.path / name: digest for name, digest in manifest["outputs"].items()}
    wanted = list(hashes) if isinstance(value, Artifact) or value.is_dir() else [value]
    for path in wanted:
        if path in hashes and not (path.is_file() and sha256_file(path) == hashes[path]):
            raise DataError(
                f"{'changed' if path.exists() else 'missing'} since it was finished",
                where=str(path),
                fix="make it again; to use a file that you have changed yourself, copy it out of the folder",
            )


def _content(kind: str, outputs: Mapping[str, str]) -> str:
    """Digest of an artefact's kind and results; its settings are not among them."""
    return digest({"kind": kind, "outputs": {k: v for k, v in outputs.items() if k != "config.toml"}})


@dataclass
class Run:
    """An open stage directory: where a stage writes."""

    path: Path
    kind: str
    fingerprint: str
    resumed: bool  # the directory holds an unfinished run of the same fingerprint
    inputs: Mapping[str, Artifact | Path]
    seed: int | None = None
    _known: dict[str, Any] = field(default_factory=dict)
    _facts: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.time)
    _metrics: list[Metrics] = field(default_factory=list)

    def open_metrics(self, resume_step: int | None = None, name: str = "metrics.jsonl") -> Metrics:
        """A file of records, truncated to `resume_step` (None: begun anew)."""
        self._metrics.append(Metrics(self.path / name, resume_step))
        return self._metrics[-1]

    def fact(self, **values: Any) -> None:
        """Adds results worth finding in the manifest (counts, final scores). Must be JSON."""
        self._facts.update(values)

    @property
    def checkpoints(self) -> Path:
        """checkpoints/, made on first use."""
        path = self.path / "checkpoints"
        path.mkdir(exist_ok=True)
        return path

    def log(self, text: str) -> None:
        """Appends a line to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def _begin(self) -> None:
        """Writes what is known before it ends, so that a checkpoint can tell what its run reads."""
        self._known = {
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "inputs": {
                name: {"path": _relative(value, self.path), "content": input_content(value)}
                for name, value in self.inputs.items()
            },
        }
        write_json(self.path / "manifest.json", self._known)

    def _finish(self) -> Artifact:
        for file in self._metrics:
            file.close()
        for leftover in self.path.rglob(".*.tmp"):  # of `replacing`, in a process that was killed
            if leftover.is_file():
                leftover.unlink()
        outputs = output_hashes(self.path)
        content = _content(self.kind, outputs)
        write_json(
            self.path / "manifest.json",
            {
                **self._known,
                "content": content,
                "outputs": outputs,
                "facts": self._facts,
                "seed": self.seed,
                "seconds": round(time.time() - self._began, 2),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "environment": environment(),
            },
        )
        values = (self.kind, self.fingerprint, content, sha256_file(self.path / "manifest.json"))
        write_atomic(self.path / "DONE", canonical(dict(zip(_DONE, values))) + "\n")
        return Artifact(self.path, *values)


def _relative(value: Artifact | Path, base: Path) -> str:
    path = value.path if isinstance(value, Artifact) else value
    return os.path.relpath(path, base)


def environment() -> dict[str, Any]:
    """What the run ran on: versions of what is loaded, platform, processors."""
    versions = {
        name: str(module.__version__)
        for name in ("torch", "numpy", "tokenizers", "tiktoken", "pyarrow", "safetensors")
        if (module := sys.modules.get(name)) is not None and hasattr(module, "__version__")
    }
    return {
        "openqwen": openqwen.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions,
    }


@contextmanager
def stage_run(
    path: Path | str,
    kind: str,
    resolved: Resolved[Any],
    inputs: Mapping[str, Artifact | Path],
    *,
    fresh: bool = False,
) -> Iterator[Run]:
    """Opens a stage directory for writing; leaves DONE behind only if the body ends without an error.

    An unfinished directory of the same fingerprint is continued (`run.resumed`); one of another fingerprint is
    cleared first, a finished one too. Two processes on one directory refuse each other. UsageError for a directory
    that holds files of somebody else, DataError for an input that is not what its stage left.

        with stage_run(out, "base", resolved, {"tokens": tokens}) as run:
            ...
        artifact = find(out)
    """
    path = Path(path)
    config = resolved.config
    for value in inputs.values():
        check_intact(value)
    mark = fingerprint(kind, config, inputs)
    with alone_in(path) as lock:
        started = path / "STARTED"
        same = started.is_file() and started.read_text(encoding="utf-8").strip() == mark
        resumed = same and not fresh and not (path / "DONE").exists()
        if not resumed:
            clear(path)
        write_atomic(started, mark + "\n")
        write_atomic(path / "config.toml", dump_toml(config))
        write_json(path / "origin.json", resolved.origin)
        run = Run(path, kind, mark, resumed, inputs, getattr(config, "seed", None))
        run._begin()
        try:
            with _quiet_threads(path, lock):
                yield run
        except (OSError, OpenQwenError) as error:
            _check_there(path, lock, inputs)  # or whatever could not be read is named, and not why
            if isinstance(error, OSError) and error.errno in (
                errno.ENOSPC,
                errno.EROFS,
                errno.EACCES,
                errno.EDQUOT,
            ):
                raise unwritable(path, error) from error
            raise
        _check_there(path, lock, {})
        run._finish()


def _is_there(path: Path, lock: TextIO) -> bool:
    """Whether a stage's folder is still the one whose lock it holds."""
    try:
        return os.path.samestat((path / ".lock").stat(), os.fstat(lock.fileno()))
    except OSError:
        return False


def _check_there(path: Path, lock: TextIO, inputs: Mapping[str, Artifact | Path]) -> None:
    """OpenQwenError if a stage's folder is gone, or is another one by now; DataError for an input that is gone."""
    if not _is_there(path, lock):
        raise OpenQwenError(
            "the folder was removed while a stage was writing it",
            where=str(path),
            fix="run it again; it begins anew" + (", once that folder is away" if path.exists() else ""),
        )
    for name, value in inputs.items():
        place = value.path if isinstance(value, Artifact) else value
        if not place.exists():
            raise DataError(
                f"input '{name}' was removed while a stage was reading it",
                where=str(place),
                fix="put it back and run again; it continues",
            )


@contextmanager
def _quiet_threads(path: Path, lock: TextIO) -> Iterator[None]:
    """Threads that write beside a stage, as TensorBoard's does, show no traceback if its folder is gone: it says so."""
    usual = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if _is_there(path, lock) or not issubclass(failed.exc_type, OSError):
            usual(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual


@contextmanager
def alone_in(path: Path) -> Iterator[TextIO]:
    """Makes a folder if need be, and keeps other processes out of it that ask for the same. UsageError for the second.

    Yields the open lock, by which a folder of that name that has come in its place can be told from it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise unwritable(path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "another process is writing this folder",
                where=str(path),
                fix="wait for it or use another --out",
            ) from error
        yield lock


def clear(path: Path) -> None:
    """Empties a stage directory; UsageError, and nothing is touched, where no stage has written.

    DONE goes first and what says which run it was: half gone, it neither looks finished nor is gone on with. STARTED
    itself stays, by which it is known as a stage's.
    """
    held = [child for child in path.iterdir() if child.name != ".lock" and not child.match(".STARTED.*.tmp")]
    if not held:
        return
    if not any((path / name).is_file() for name in ("STARTED", "DONE")):
        raise UsageError(
            f"this folder holds files that no stage has written, such as {min(child.name for child in held)}",
            where=str(path),
            fix="take another --out: a folder that is empty or does not exist",
        )
    (path / "DONE").unlink(missing_ok=True)
    write_atomic(path / "STARTED", "cleared\n")
    for child in held:
        if child.name in ("STARTED", "DONE"):
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def current(path: Path, kind: str, config: Config, inputs: Mapping[str, Artifact | Path]) -> Artifact | None:
    """The finished artefact at `path` if it is what these settings and inputs would give; else None."""
    found = find(path)
    return found if found and found.fingerprint == fingerprint(kind, config, inputs) else None


def drop_checkpoints(done: Artifact) -> None:
    """Removes what a run leaves that was killed between its end and its tidying up."""
    shutil.rmtree(done.path / "checkpoints", ignore_errors=True)


def open_inputs(
    inputs: Mapping[str, Path], kinds: Mapping[str, str | tuple[str, ...]]
) -> dict[str, Artifact | Path]:
    """A stage's inputs checked before it begins: names in `kinds` must be finished artefacts, others must exist."""
    opened: dict[str, Artifact | Path] = {}
    for name, path in inputs.items():
        if name in kinds:
            opened[name] = load(path, kinds[name])
        elif not path.exists():
            raise DataError(f"input '{name}' does not exist", where=str(path))
        else:
            opened[name] = path
    return opened
