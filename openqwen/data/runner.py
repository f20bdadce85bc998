"""Three ways to run tasks: in this process, in a pool of processes, as Ray tasks. The result is the same.

Ours. A runner only says where `execute` runs; what is done, and how a failure is told, is task.py's. A process or
node that dies takes its tasks with it and they are sent again; an error of a task is never tried again, it would only
happen again.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple, Protocol

from openqwen.core.console import Progress
from openqwen.core.errors import MissingTool, OpenQwenError
from openqwen.data.config import RunnerConfig
from openqwen.data.store import Store
from openqwen.data.task import Failure, Record, Task, done, execute, fingerprint

_REACH = 10.0  # seconds within which a cluster's address must answer
_QUIET = 2.0  # seconds before a line of progress is worth its place


class Call(NamedTuple):
    """The arguments of `execute`."""

    root: str
    task: Task
    mark: str


class Runner(Protocol):
    """Somewhere to run tasks."""

    def run(self, calls: Sequence[Call]) -> Iterator[Record | Failure]:
        """What became of each call, in the order in which they end."""

    def close(self) -> None:
        """Ends what was started for running."""


class InProcess:
    """One after the other, here."""

    def run(self, calls: Sequence[Call]) -> Iterator[Record | Failure]:
        for call in calls:
            yield execute(*call)

    def close(self) -> None:
        return


class Processes:
    """A pool of processes, started when there is more than one task to do."""

    def __init__(self, workers: int, retries: int) -> None:
        self.workers, self.retries = workers, retries
        self._pool: ProcessPoolExecutor | None = None

    def run(self, calls: Sequence[Call]) -> Iterator[Record | Failure]:
        if len(calls) == 1 or self.workers == 1:
            yield from InProcess().run(calls)
            return
        left = dict(enumerate(calls))
        for _ in range(self.retries):
            for number, result in self._attempt(left):
                del left[number]
                yield result
            if not left:
                return
            self.close()
        # A process died each time. One task at a time, it can be seen which one kills it.
        for number, call in left.items():
            answers = dict(self._attempt({number: call}))
            yield answers.get(number) or _died(call, self.retries, "process")

    def _attempt(self, calls: Mapping[int, Call]) -> Iterator[tuple[int, Record | Failure]]:
        """Sends calls; those that a dying process took with it are missing from the answers."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _begin)
        futures: dict[Future[Record | Failure], int] = {}
        with suppress(BrokenProcessPool):  # one has died already: the rest waits for the next attempt
            for number, call in list(calls.items()):
                futures[self._pool.submit(execute, *call)] = number
        for future in as_completed(futures):
            try:
                result = future.result()
            except BrokenProcessPool:
                continue
            yield futures[future], result

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _begin() -> None:
    """In a new process of the pool: an interrupt ends it without a word, and so does the end of its parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class Ray:
    """Ray tasks on a cluster that is there, or on a local Ray of our own."""

    def __init__(self, address: str | None, workers: int, retries: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingTool(
                "running on Ray needs the package", fix='pip install "openqwen[ray]"'
            ) from error
        self._ray: Any = ray
        self.retries = retries
        self._ours = not ray.is_initialized()
        if self._ours:
            if address and ":" in address:
                _reach(address)
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
            try:
                ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise _no_ray(address, error) from error
        self._execute = ray.remote(num_cpus=1, max_retries=retries)(execute)

    def run(self, calls: Sequence[Call]) -> Iterator[Record | Failure]:
        waiting = {self._execute.remote(*call): call for call in calls}
        try:
            while waiting:
                ready, _ = self._ray.wait(list(waiting), num_returns=1)
                for reference in ready:
                    call = waiting.pop(reference)
                    try:
                        result = self._ray.get(reference)
                    except self._ray.exceptions.RayError as error:
                        result = _died(call, self.retries, f"Ray worker ({str(error).splitlines()[0]})")
                    yield result
        finally:  # a failure ends the run: what waits for a worker shall not start any more
            for reference in waiting:
                self._ray.cancel(reference)

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()


def _reach(address: str) -> None:
    """Raises at once where nobody listens: Ray itself would wait for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
    except (OSError, ValueError) as error:
        raise _no_ray(address, error) from error


def _no_ray(address: str | None, error: Exception) -> OpenQwenError:
    return OpenQwenError(
        f"no Ray there: {error}",
        where=f"runner.address = {address}",
        fix="give a running cluster's address (auto, HOST:PORT or ray://HOST:PORT), or leave it out",
    )


def _died(call: Call, retries: int, what: str) -> Failure:
    return Failure(
        call.task.name,
        "OpenQwenError",
        f"task {call.task.name} ended its {what} {retries + 1} times",
        call.task.where,
        "look at its memory (a smaller --shard_bytes needs less) and at the documents there, then run again; it continues",
    )


def make_runner(config: RunnerConfig) -> Runner:
    """The runner that the settings ask for."""
    workers = config.workers or len(os.sched_getaffinity(0))
    if config.how == "ray":
        return Ray(config.address, workers, config.retries)
    return Processes(workers, config.retries) if config.how == "processes" else InProcess()


class Pipeline:
    """Runs the tasks of one stage after the other; those that are done stay done."""

    def __init__(self, store: Store, runner: Runner) -> None:
        self.store, self.runner = store, runner
        self.counts: Counter[str] = Counter()  # tasks that ran, and that were done already

    def run(self, tasks: Sequence[Task], *, here: bool = False) -> list[Record]:
        """The records of tasks in their order. The first failure ends the run. here: not on other machines."""
        marks = {task.name: fingerprint(task) for task in tasks}
        records = {task.name: done(self.store, task, marks[task.name]) for task in tasks}
        calls = [Call(self.store.root, task, marks[task.name]) for task in tasks if not records[task.name]]
        self.counts += Counter(ran=len(calls), done_before=len(tasks) - len(calls))
        runner = InProcess() if here else self.runner
        began, bar = time.monotonic(), None
        for number, result in enumerate(runner.run(calls), 1):
            if isinstance(result, Failure):
                raise result.error()
            records[result.task] = result
            if bar is None and number < len(calls) and time.monotonic() - began > _QUIET:
                bar = Progress(result.task.partition("/")[0], total=len(calls))
            if bar is not None:
                bar.update(number)
        if bar is not None:
            bar.__exit__()
        return [record for task in tasks if (record := records[task.name])]
