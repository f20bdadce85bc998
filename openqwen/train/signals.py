"""Ctrl-C and SIGTERM finish the running step, save, and end with exit code 130.

Ours.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from openqwen.core.errors import Interrupted


class Stop:
    """Whether a signal asked the run to end."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def interrupted(self, what: str) -> Interrupted:
        """The error to raise once the state is saved."""
        name = signal.Signals(self.signal).name if self.signal else "request"
        return Interrupted(
            f"{what} stopped by {name}; its state is saved", fix="run the same command to continue"
        )


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Yields a flag that SIGINT and SIGTERM raise. A second SIGINT stops at once (the last checkpoint stands).

    A signal that the body did not act on, in its last step or after it, ends the run when the body is done.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # handlers can only be set there
        yield stop
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    if stop:  # asked after the body last looked; from here on a signal does what it did before
        raise stop.interrupted("the run, after its last step,")
