"""The thread that owns the engine: requests in, updates out to the event loop.

Ours. Everything that touches the engine happens in this thread; the loop hands over callables and gets the
updates of a step in one call. If a step raises, all requests end with an error and the server reports itself ill:
a step computes all rows at once, so what it leaves behind is no row's own fault, and no row's to be trusted. A step
that does not end is reported, too; what waits for it ends with the process.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openqwen.core.errors import OpenQwenError
from openqwen.engine.engine import Engine
from openqwen.engine.guide import Guide
from openqwen.engine.sampling import Sampling
from openqwen.engine.sequence import Update
from openqwen.model.config import Extension
from openqwen.serve.metrics import ServerMetrics

STEP_SECONDS = 600.0  # more than the slowest machine needs for the largest model
CLOSE_SECONDS = 5.0  # for the running step to end; the thread ends with the process otherwise


class Overloaded(OpenQwenError):
    """Too many requests wait already."""


class EngineFailed(OpenQwenError):
    """A step of the engine raised; nothing more can be served."""


@dataclass(frozen=True)
class Event:
    """An update, or the error that ended it, of the index-th reply of a job."""

    index: int
    update: Update | None = None
    error: OpenQwenError | None = None


class Job:
    """One HTTP request's replies: `await next()` until each of `count` has ended; `cancel()` at any time."""

    def __init__(self, worker: Worker, count: int) -> None:
        self.count, self.open = count, count
        self.cancelled = False
        self._worker, self._events = worker, asyncio.Queue[Event]()
        self.loop = asyncio.get_running_loop()
        self.begun = time.monotonic()
        self.first_token: float | None = None

    async def next(self) -> Event:
        """The next event; raises the error of a reply that could not be begun or could not go on."""
        event = await self._events.get()
        if event.error is not None:
            raise event.error
        if event.update is not None and event.update.completion is not None:
            self.open -= 1
            if event.update.completion.error is not None:
                raise event.update.completion.error
        return event

    def deliver(self, events: Sequence[Event]) -> None:
        """Called in the event loop."""
        if self.first_token is None:
            self.first_token = time.monotonic()
            self._worker.metrics.first_token.observe(self.first_token - self.begun)
        for event in events:
            self._events.put_nowait(event)

    def cancel(self) -> None:
        """Stops what still runs; harmless when all is done."""
        if self.open and not self.cancelled:
            self.cancelled = True
            self._worker.cancel(self)


class Worker:
    """Starts with `start()`, ends with `close()`. Public methods are called in the event loop."""

    def __init__(self, engine: Engine, metrics: ServerMetrics, max_waiting: int = 1024) -> None:
        self.engine, self.metrics, self.max_waiting = engine, metrics, max_waiting
        self.failure: BaseException | None = None
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: dict[int, tuple[Job, int]] = {}  # engine's request number -> job and index
        self._pending = 0  # replies submitted and not ended, counted in the event loop
        self._closing = False
        self._stepping: float | None = None  # since when
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the running step; one that hangs keeps nobody from ending."""
        self._closing = True
        self._inbox.put(lambda: None)
        self._thread.join(CLOSE_SECONDS)

    @property
    def healthy(self) -> bool:
        since = self._stepping
        hangs = since is not None and time.monotonic() - since > STEP_SECONDS
        return self.failure is None and self._thread.is_alive() and not hangs

    def check(self, count: int) -> None:
        """Raises Overloaded or EngineFailed if `count` more replies cannot be taken."""
        if not self.healthy:
            raise EngineFailed("the engine has failed; the server must be restarted")
        if self._pending + count > self.max_waiting + self.engine.max_batch:
            raise Overloaded("too many requests are waiting", fix="try again in a moment")

    def submit(
        self,
        prompts: Sequence[list[int]],
        samplings: Sequence[Sampling],
        guides: Sequence[Guide | None],
        stream: bool,
        extension: Extension | None = None,
    ) -> Job:
        """Queues one reply a prompt. Raises Overloaded or EngineFailed at once."""
        self.check(len(prompts))
        job = Job(self, len(prompts))
        self._inbox.put(lambda: self._submit(job, prompts, samplings, guides, stream, extension))
        if self.failure is not None:  # since the check; whether the inbox was emptied before or after is open
            raise EngineFailed("the engine has failed; the server must be restarted")
        self._pending += len(prompts)
        return job

    def cancel(self, job: Job) -> None:
        self._inbox.put(lambda: self._cancel(job))

    # In the engine's thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._receive()
                if self.engine.scheduler:
                    self._stepping = time.monotonic()
                    self._deliver(self.engine.step())
                    self._stepping = None
                self.metrics.observe(self.engine)
        except BaseException as error:
            self.failure = error
            while not self._inbox.empty():
                self._inbox.get()()
            self._fail_all()
            raise

    def _receive(self) -> None:
        if not self.engine.scheduler:
            self._inbox.get()()
        while True:
            try:
                self._inbox.get_nowait()()
            except queue.Empty:
                return

    def _submit(
        self,
        job: Job,
        prompts: Sequence[list[int]],
        samplings: Sequence[Sampling],
        guides: Sequence[Guide | None],
        stream: bool,
        extension: Extension | None,
    ) -> None:
        for index, (prompt, sampling, guide) in enumerate(zip(prompts, samplings, guides)):
            try:
                number = self.engine.submit(prompt, sampling, stream=stream, extension=extension, guide=guide)
            except OpenQwenError as error:
                self._send(job, [Event(index, error=error)], ended=1)
                continue
            self._jobs[number] = (job, index)

    def _cancel(self, job: Job) -> None:
        for number in [n for n, (other, _) in self._jobs.items() if other is job]:
            completion = self.engine.cancel(number)
            del self._jobs[number]
            if completion is not None:
                self.metrics.ended(completion)
                self._send(job, [], ended=1)

    def _deliver(self, updates: Sequence[Update]) -> None:
        by_job: dict[Job, list[Event]] = {}
        ended: dict[Job, int] = {}
        for update in updates:
            job, index = self._jobs[update.request]
            by_job.setdefault(job, []).append(Event(index, update))
            if update.completion is not None:
                del self._jobs[update.request]
                ended[job] = ended.get(job, 0) + 1
                self.metrics.ended(update.completion)
        for job, events in by_job.items():
            self._send(job, events, ended.get(job, 0))

    def _fail_all(self) -> None:
        error = EngineFailed(f"the engine failed: {self.failure}")
        for job, index in self._jobs.values():
            self._send(job, [Event(index, error=error)], ended=1)
        self._jobs.clear()

    def _send(self, job: Job, events: Sequence[Event], ended: int) -> None:
        def arrive() -> None:
            self._pending -= ended
            if events:
                job.deliver(events)

        if not job.loop.is_closed():
            job.loop.call_soon_threadsafe(arrive)
