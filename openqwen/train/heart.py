"""How the processes of a run hear of each other: that they live, how far they are, and why one has failed.

Ours. All of it goes through the store of the process group (a small server in the main process, or in torchrun's
agent) and nothing through collectives: it works in any thread, and while a collective hangs.

A process that hangs is found in two ways. gloo raises an error in its peers, which then look who is silent. NCCL does
not: a peer waits inside a CUDA call, and after the time limit PyTorch aborts it from another thread without a word of
Python. So every process watches the main one, the main one watches all, and whoever cannot get out of a call once the
run has failed is ended from here, after saying why.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from math import inf
from typing import Any

import torch.distributed as dist

from openqwen.core.errors import OpenQwenError

BEAT = 1.0  # seconds between two signs of life
GRACE = 30.0  # seconds a process has to end by itself once the run has failed
LINGER = 5.0  # seconds the main process, which may hold the store, waits for others that are leaving
FIRST_LOOK, LAST_LOOK = 0.001, 0.25  # seconds between two looks for what another process tells, rising
_LOST = re.compile(
    r"timed? ?out|timeout|connection (closed|reset|refused)|closed by peer|broken pipe|remote process exit",
    re.I,
)


@dataclass(frozen=True)
class Failure:
    """Why the run ends, as all processes are told. code: exit code; silent: how many will not take leave."""

    what: str
    fix: str | None = None
    code: int = 1
    silent: int = 0


class Lost(OpenQwenError):
    """The run ends because of another process; the exit code is that of its error."""

    def __init__(self, failure: Failure, where: str) -> None:
        super().__init__(failure.what, where if failure.fix else None, failure.fix)
        self.exit_code = failure.code


class StoreGone(Exception):
    """The store of the process group does not answer."""


class Heart(threading.Thread):
    """Tells the others that this process lives and how far it is, and hears the same of them.

    timeout: seconds a process may keep the others waiting. `tell` and `ask` may be called from any thread.
    """

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        super().__init__(daemon=True)
        self.rank, self.size, self.timeout = rank, size, timeout
        store: Any = dist.distributed_c10d._get_default_store()
        self.home = store  # kept: it may hold the server
        self.store = store.clone()  # a connection on which nothing ever waits
        self.lock = threading.Lock()
        self.turns = count()  # processes do the same in the same order: what belongs together has one number
        self.passed, self.ticks = 0, 0
        self.failure: Failure | None = None
        self.cut_off = False  # whether the store has gone
        self.stop = threading.Event()
        self._seen: dict[int, tuple[int, int]] = {}  # rank -> its last tick, and own beats since it changed

    @property
    def main(self) -> bool:
        return self.rank == 0

    # ---- beats -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        failed = 0  # beats since the run failed
        while not self.stop.wait(BEAT):
            if not self.cut_off:
                try:
                    self.beat()
                    self._look_around()
                except StoreGone as gone:
                    self._cut(gone)
            if self.failure is not None:
                failed += 1
                if failed * BEAT >= GRACE:
                    self._end(self.failure)

    def beat(self) -> None:
        """A sign of life. One that is behind has passed fewer places where all meet."""
        self.ticks += 1
        with self._store() as store:
            store.set(_key(f"beat/{self.rank}"), f"{self.ticks} {self.passed}")

    def _look_around(self) -> None:
        """Whether the run has failed, or somebody has been silent for too long.

        Counted in own beats, not by the clock: the time for which this process itself was stopped is not theirs.
        """
        if self.heard() is not None:
            return
        for rank in range(1, self.size) if self.main else (0,):
            ticks, beats = self._read(rank)[0], self._seen.get(rank, (-1, 0))
            self._seen[rank] = (ticks, beats[1] + 1 if ticks == beats[0] else 0)
            if self._seen[rank][1] * BEAT >= self.timeout:
                self.fail(_silent([rank]))
                return

    def late(self) -> list[int]:
        """Ranks that do not beat any more; if all do, those that are behind this one.

        This one goes on beating, for the others look around at the same time.
        """
        first = [self._read(rank) for rank in range(self.size)]
        time.sleep(3 * BEAT)
        second = [self._read(rank) for rank in range(self.size)]
        time.sleep(3 * BEAT)
        others = [rank for rank in range(self.size) if rank != self.rank]
        frozen = [rank for rank in others if first[rank][0] == second[rank][0]]
        return frozen or [rank for rank in others if second[rank][1] < self.passed]

    def _read(self, rank: int) -> tuple[int, int]:
        key = _key(f"beat/{rank}")
        with self._store() as store:
            if not store.check([key]):
                return 0, 0
            ticks, passed = store.get(key).split()
        return int(ticks), int(passed)

    @contextmanager
    def _store(self) -> Iterator[Any]:
        """The store, for one thread at a time; StoreGone if it, or the thread before, gets no answer."""
        if not self.lock.acquire(timeout=self.timeout):
            raise StoreGone("timed out")
        try:
            yield self.store
        except RuntimeError as error:
            raise StoreGone(str(error).splitlines()[0]) from error
        finally:
            self.lock.release()

    # ---- what is told ----------------------------------------------------------------------------------------

    def tell(self, name: str, value: Any = None) -> None:
        """Leaves a JSON value for others under a name that is used once."""
        with self._reaching(f"telling {name}"), self._store() as store:
            store.set(_key(name), json.dumps(value))

    def ask(self, name: str, rank: int, place: str, seconds: float = inf, *, last: bool = False) -> Any:
        """What `rank` tells under a name.

        Waits as long as that process lives, and at most for so many seconds. Lost if it does not answer, or if the
        run has failed in the meantime. last: nobody else will ask; it is forgotten.
        """
        key, waited, pause = _key(name), 0.0, FIRST_LOOK
        with self._reaching(place):
            while True:
                with self._store() as store:
                    if store.check([key]):
                        value = json.loads(store.get(key))
                        if last:
                            store.delete_key(key)
                        return value
                if self.failure is None and waited >= seconds:
                    self.fail(_silent([rank]))
                if self.failure is not None:
                    raise Lost(self.failure, self._where(place))
                time.sleep(pause)
                waited, pause = waited + pause, min(2 * pause, LAST_LOOK)

    def meet(self, place: str) -> None:
        """Returns when all processes are here.

        The main one may do its work alone before, however long it takes; it waits for others as long as the time
        limit says. Others wait as long as the main one lives.
        """
        turn = next(self.turns)
        if self.main:
            for rank in range(1, self.size):
                self.ask(f"here/{turn}/{rank}", rank, place, self.timeout, last=True)
            self.tell(f"go/{turn}")
        else:
            self.tell(f"here/{turn}/{self.rank}")
            self.ask(f"go/{turn}", 0, place)

    def say(self, value: Any, place: str) -> Any:
        """The main process's value, in every process. Others wait for it as long as the main one lives."""
        turn = next(self.turns)
        if self.main:
            self.tell(f"said/{turn}", value)
            return value
        return self.ask(f"said/{turn}", 0, place)

    # ---- failures --------------------------------------------------------------------------------------------

    def fail(self, failure: Failure) -> Failure:
        """Tells all that the run has failed; returns what was told first, by whichever process."""
        try:
            with self._store() as store:
                told = store.compare_set(_key("failed"), "", json.dumps(asdict(failure)))
            self.failure = Failure(**json.loads(told))
        except StoreGone:
            self.cut_off, self.failure = True, self.failure or failure
        return self.failure

    def heard(self) -> Failure | None:
        """Why the run has failed, if a process has told so."""
        if self.failure is None:
            with self._store() as store:
                if store.check([_key("failed")]):
                    self.failure = Failure(**json.loads(store.get(_key("failed"))))
        return self.failure

    def publish(self, error: BaseException) -> None:
        """Tells all of an error that ends this process."""
        if isinstance(error, Lost):
            return
        self.fail(_ended(self.rank, error))

    def check(self, place: str) -> None:
        """Lost if this process has heard that the run has failed."""
        if self.failure is not None:
            raise Lost(self.failure, self._where(place))

    def broken(self, error: RuntimeError, place: str) -> OpenQwenError:
        """The error to raise when communication broke: why another process left, or who does not answer."""
        try:
            failure = self.heard()
            if failure is None:
                ranks = self.late()
                failure = self.heard() or self.fail(_silent(ranks, str(error).splitlines()[0]))
        except StoreGone as gone:
            failure = self._cut(gone)
        return Lost(failure, self._where(place))

    def leave(self) -> None:
        """The last thing: the main process, which may hold the store, goes when the others have gone."""
        if self.cut_off:
            return
        try:
            if not self.main:
                with self._store() as store:
                    store.add(_key("left"), 1)
                return
            end = time.monotonic() + LINGER
            others = self.size - 1 - (self.failure.silent if self.failure else 0)
            while time.monotonic() < end:
                with self._store() as store:
                    if store.add(_key("left"), 0) >= others:
                        return
                time.sleep(LAST_LOOK / 5)
        except StoreGone:  # nobody is left to wait for
            return

    @contextmanager
    def _reaching(self, place: str) -> Iterator[None]:
        try:
            yield
        except StoreGone as gone:
            raise Lost(self._cut(gone), self._where(place)) from gone

    def _cut(self, gone: StoreGone) -> Failure:
        """What it means that the store has gone."""
        self.cut_off = True
        if self.failure is None:
            agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            self.failure = (
                Failure(f"torchrun on the first machine does not answer: {gone}", _LOOK)
                if agent
                else _silent([0], str(gone))
            )
        return self.failure

    def _where(self, place: str) -> str:
        return f"rank {self.rank} of {self.size}, {place}"

    def _end(self, failure: Failure) -> None:
        """Ends a process whose main thread waits in a call that never comes back."""
        sys.stderr.write(f"error: {Lost(failure, self._where('waiting for others')).render()}\n")
        sys.stderr.flush()
        os._exit(failure.code)


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process did not answer."""
    return bool(_LOST.search(str(error)))


_LOOK = "look at that process and its machine; the same command continues from the last checkpoint"


def _silent(ranks: list[int], reason: str | None = None) -> Failure:
    names = ", ".join(map(str, ranks)) or "unknown"
    return Failure(
        f"rank {names} does not answer" + (f": {reason}" if reason else ""), _LOOK, silent=len(ranks)
    )


def _ended(rank: int, error: BaseException) -> Failure:
    """One line about an error that ends a process; it shows the rest itself."""
    if isinstance(error, OpenQwenError):
        where = f" ({error.where})" if error.where else ""
        return Failure(f"rank {rank} ended: {error.what}{where}", code=error.exit_code)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    text = (str(error).splitlines() or [""])[0]
    return Failure(f"rank {rank} ended: {type(error).__name__}" + (f": {text}" if text else ""), code=code)


def _key(name: str) -> str:
    return f"openqwen/{name}"
