"""Main text from HTML, in child processes that may hang or crash without harm.

Report §2.1 ("we extract text from HTML"); the child is extractor.py, how the text is found is in html_text.py. Every
page has a limit of processor time, size and memory: one page must not stop a corpus. The processor's time counts, not
the clock's: what is dropped must not depend on what else the machine does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openqwen.core.errors import MissingTool, OpenQwenError
from openqwen.data import extractor
from openqwen.data.config import ExtractConfig
from openqwen.data.documents import Document, Dropped, Raw
from openqwen.data.sources import binary_reason

_BATCH_BYTES = 1 << 19
_BATCH_PAGES = 64
_START_SECONDS = 20.0  # more by the clock: the child may have to start, and the machine may be busy
_TIME_UP = -signal.SIGPROF  # how a child ends whose page took too long


class _Hung(Exception):
    """The page took longer than it may."""


class _Died(Exception):
    """The child ended without an answer."""


class Child:
    """One extraction process; started on first use and again after it had to be killed."""

    def __init__(self, config: ExtractConfig) -> None:
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        self._pending = bytearray()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-m", extractor.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.config.model_dump(mode="json")).encode() + b"\n")
        process.stdin.flush()
        self._pending = bytearray()
        return process

    def stop(self) -> int | None:
        """Kills the process, if there is one; how it ended."""
        if self.process is None:
            return None
        self.process.kill()
        code = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # what was still buffered for the killed child
                    continue
        self.process = None
        return code

    def ask(self, pages: Sequence[Raw]) -> Iterator[dict[str, str]]:
        """Answers in the order of the pages. _Hung or _Died at the page at fault, and the child is gone."""
        try:
            if self.process is None:
                self.process = self._start()
            stdin = self.process.stdin
            assert stdin is not None
            bodies = [page.html or b"" for page in pages]
            meta = [[len(b), p.charset, p.source == "docs"] for b, p in zip(bodies, pages)]
            head = json.dumps(meta).encode()
            stdin.write(struct.pack("<I", len(head)) + head + b"".join(bodies))
            stdin.flush()
            for _ in pages:
                yield self._answer(time.monotonic() + self.config.page_seconds + _START_SECONDS)
        except (_Died, BrokenPipeError) as error:
            if self._ended() == _TIME_UP:
                raise _Hung from error
            raise _Died from error
        except _Hung:
            self.stop()
            raise

    def _ended(self) -> int | None:
        """The exit code of a child that has closed its pipes."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_START_SECONDS)  # kill() must not come before its own end, which says why
        return self.stop()

    def _answer(self, end: float) -> dict[str, str]:
        size = struct.unpack("<I", self._take(4, end))[0]
        return json.loads(self._take(size, end))

    def _take(self, size: int, end: float) -> bytes:
        assert self.process is not None and self.process.stdout is not None
        stream = self.process.stdout.fileno()
        while len(self._pending) < size:
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise _Hung
            data = os.read(stream, 1 << 18)
            if not data:
                raise _Died
            self._pending += data
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


@dataclass
class _Work:
    """Batches still to do and answers so far, shared by the threads that drive the children."""

    batches: list[list[int]]
    answers: dict[int, dict[str, str]]
    lock: threading.Lock
    error: BaseException | None = None

    def take(self) -> list[int] | None:
        with self.lock:
            return self.batches.pop(0) if self.batches and self.error is None else None


def _refused(page: Raw, config: ExtractConfig) -> str | None:
    """Why a page is not even tried."""
    data = page.html or b""
    if len(data) > config.max_page_bytes:
        return "page too large"
    reason = binary_reason(data)
    return reason.split(":")[0] if reason else None


def _batches(pages: Sequence[Raw], refused: Container[int]) -> list[list[int]]:
    out: list[list[int]] = []
    size = _BATCH_BYTES
    for i, page in enumerate(pages):
        if i in refused:
            continue
        length = len(page.html or b"")
        if size + length > _BATCH_BYTES or len(out[-1]) >= _BATCH_PAGES:
            out.append([])
            size = 0
        out[-1].append(i)
        size += length
    return out


def _drive(work: _Work, pages: Sequence[Raw], config: ExtractConfig) -> None:
    """One thread: feeds one child. A page that ends it is named, and the next one goes to a new child."""
    try:
        with Child(config) as child:
            while (batch := work.take()) is not None:
                while batch:
                    batch = batch[_answered(child, batch, pages, work.answers) :]
    except BaseException as error:  # handed to the main thread, which raises it
        work.error = error


def _answered(
    child: Child, batch: Sequence[int], pages: Sequence[Raw], answers: dict[int, dict[str, str]]
) -> int:
    """Asks for a batch; how many of its pages are done when all are, or the child is gone."""
    done = 0
    try:
        for answer in child.ask([pages[i] for i in batch]):
            answers[batch[done]] = answer
            done += 1
    except _Hung:
        answers[batch[done]] = {"reason": "extractor hung"}
        done += 1
    except _Died:
        answers[batch[done]] = _again(child, pages[batch[done]])
        done += 1
    return done


def _again(child: Child, page: Raw) -> dict[str, str]:
    """A second try for a page whose child died: something else may have killed it."""
    try:
        return next(child.ask([page]))
    except _Hung:
        return {"reason": "extractor hung"}
    except _Died:
        return {"reason": "extractor crashed"}


def extract(
    pages: Sequence[Raw], config: ExtractConfig, show: Callable[[int], None] = lambda done: None
) -> tuple[list[Document], list[Dropped]]:
    """Texts of all HTML pages in the order given; pages without a text are dropped with a reason."""
    refused = {i: {"reason": reason} for i, page in enumerate(pages) if (reason := _refused(page, config))}
    work = _Work(_batches(pages, refused), refused, threading.Lock())
    count = min(config.workers, len(work.batches))
    threads = [threading.Thread(target=_drive, args=(work, pages, config), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.2)
        for thread in threads[1:]:
            thread.join(0.05)
        show(len(work.answers))
    if work.error is not None:
        raise work.error
    if missing := next((a["missing"] for a in work.answers.values() if "missing" in a), None):
        raise MissingTool(missing, where="extract.second_opinion", fix='pip install "openqwen[data]"')
    return _sorted_out(pages, work.answers)


def _sorted_out(
    pages: Sequence[Raw], answers: dict[int, dict[str, str]]
) -> tuple[list[Document], list[Dropped]]:
    kept, dropped = [], []
    for i, page in enumerate(pages):
        if i not in answers:
            raise OpenQwenError("an extraction process gave no answer", where=page.id)
        answer = answers[i]
        document = Document(page.id, answer.get("text", ""), page.source, page.lang, page.file)
        if "text" in answer:
            kept.append(document)
        else:
            dropped.append(Dropped(document, answer["reason"], detail=answer.get("detail", "")))
    return kept, dropped
