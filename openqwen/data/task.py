"""One piece of a stage: a plain function on files of a store, and the record that it is done.

Ours. A task's fingerprint covers what it reads (by content), the code it may run, the libraries' versions and the
settings. Its record is written last, so that a task is done or not, wherever it was killed; a record of another
fingerprint is not trusted. What a task writes is named after the fingerprint too: files of other settings are never
taken for its own.

    def lengths(work: Work) -> Facts:
        table = shards.read(work.store, work.inputs["documents"][0])
        ...
        return {"longest": 12}

    Task("lengths/00000", lengths, {"documents": [output]}, {"unit": "bytes"})
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from openqwen.core import errors
from openqwen.core.artifact import digest
from openqwen.core.errors import OpenQwenError
from openqwen.data.store import Output, Store

Facts = dict[str, Any]
# Settings are in the fingerprint by value: that another stage got a new one changes nothing.
_NO_CODE = {"openqwen.data.config"}


@dataclass(frozen=True)
class Task:
    """A call that anyone may run: the function at a module's top level, the files it reads, its settings (JSON)."""

    name: str  # "exact.keys/00003": of the record, and where outputs are
    function: Callable[[Work], Facts]
    inputs: Mapping[str, Sequence[Output]]
    settings: Mapping[str, Any]
    about: str = ""  # what it reads besides, for people

    @property
    def where(self) -> str:
        """What it reads, for messages."""
        return self.about or ", ".join(o.name for group in self.inputs.values() for o in group[:1])


@dataclass(frozen=True)
class Record:
    """A task that is done: what it wrote, and what it found out."""

    task: str
    fingerprint: str
    outputs: dict[str, Output]
    facts: Facts
    seconds: float

    @classmethod
    def load(cls, store: Store, name: str) -> Record | None:
        """The record of a task; None if there is none, or none that can be read."""
        path = f"{name}.json"
        if store.sizes([path]) == [None]:
            return None
        try:
            values = json.loads(store.read(path))
            outputs = {part: Output(**output) for part, output in values.pop("outputs").items()}
            return cls(outputs=outputs, **values)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
        ):  # damaged: as good as none, the task runs again
            return None

    def save(self, store: Store) -> None:
        store.write(f"{self.task}.json", json.dumps(asdict(self), ensure_ascii=False, indent=1).encode())


@dataclass
class Work:
    """What a task's function gets: what it reads and from where, and how to write."""

    store: Store
    task: Task
    fingerprint: str
    outputs: dict[str, Output] = field(default_factory=dict)
    at: str = ""  # what the function is busy with: said with an error that it does not expect

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.task.settings

    @property
    def inputs(self) -> Mapping[str, Sequence[Output]]:
        return self.task.inputs

    def write(self, part: str, data: bytes) -> None:
        """Writes one output; `part` is its name in the record, and its ending says the format."""
        name = f"{self.task.name}.{self.fingerprint[:12]}.{part}"
        self.store.write(name, data)
        self.outputs[part.partition(".")[0]] = Output(name, len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Failure:
    """A task that failed, in a form that passes between processes."""

    task: str
    kind: str  # class of the error
    what: str
    where: str | None
    fix: str | None
    trace: str = ""

    @classmethod
    def of(cls, work: Work, error: Exception) -> Failure:
        """What an error in the work's function means for people."""
        trace = traceback.format_exc()
        if isinstance(error, OpenQwenError):
            return cls(work.task.name, type(error).__name__, error.what, error.where, error.fix, trace)
        what = f"task {work.task.name} failed: {type(error).__name__}: {error}"
        where = work.at or work.task.where
        fix = "mend or take away what is named there and run again; tasks that are done stay done"
        return cls(work.task.name, "OpenQwenError", what, where, fix, trace)

    def error(self) -> OpenQwenError:
        """The error to raise in the driver. Its cause holds the trace from where it happened."""
        found = getattr(errors, self.kind, OpenQwenError)(self.what, self.where, self.fix)
        found.__cause__ = RuntimeError(self.trace)
        return found


def execute(root: str, task: Task, mark: str) -> Record | Failure:
    """Runs a task in this process and writes its record. Errors come back as a Failure: the same for every runner."""
    work = Work(Store(root), task, mark)
    try:
        if fingerprint(task) != mark:
            raise OpenQwenError(
                "this process runs other code than the one that sent the task",
                where=f"process {os.getpid()} on {platform.node()}",
                fix="install the same versions of Python, openqwen and its libraries everywhere",
            )
        before = Record.load(work.store, task.name)
        began = time.monotonic()
        facts = task.function(work)
        record = Record(task.name, mark, work.outputs, facts, round(time.monotonic() - began, 3))
        record.save(work.store)
        if before is not None and before.fingerprint != mark:
            for output in before.outputs.values():
                work.store.delete(output.name)
        return record
    except Exception as error:  # the driver raises it: any error of a task stops the run
        return Failure.of(work, error)


def done(store: Store, task: Task, mark: str) -> Record | None:
    """The record of a task if it is of this fingerprint and everything it speaks of is there."""
    record = Record.load(store, task.name)
    if record is None or record.fingerprint != mark:
        return None
    outputs = list(record.outputs.values())
    there = store.sizes([o.name for o in outputs]) if outputs else []
    return record if there == [o.bytes for o in outputs] else None


def fingerprint(task: Task) -> str:
    """Identity of what a task would write."""
    function = task.function
    return digest(
        {
            "function": f"{function.__module__}:{function.__qualname__}",
            "code": code_of(function.__module__),
            "inputs": {label: [o.sha256 for o in group] for label, group in task.inputs.items()},
            "settings": task.settings,
        }
    )


@cache
def code_of(module: str) -> str:
    """Digest of what a module's functions may run: its source, that of the data modules it names, their libraries."""
    sources: dict[str, str] = {}
    libraries: set[str] = set()
    names = [module]
    while names:
        name = names.pop()
        if name in sources or name in _NO_CODE:
            continue
        source = _source(name)
        sources[name] = hashlib.sha256(source).hexdigest()
        for imported in _imports(source):
            top = imported.partition(".")[0]
            if top == "openqwen":
                names += [imported] if imported.startswith("openqwen.data.") and _is_module(imported) else []
            elif top not in sys.stdlib_module_names:
                libraries.add(top)
    versions = {name: _version(name) for name in sorted(libraries)}
    return digest({"sources": sources, "libraries": versions, "python": platform.python_version()})


def _source(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        raise OpenQwenError("no source of a module that a task runs", where=module)
    return Path(spec.origin).read_bytes()


def _imports(source: bytes) -> Iterator[str]:
    """Everything that an import statement names, lazy ones included; `from a import b` is both a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a function of a module
        return False


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
