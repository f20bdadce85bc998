"""Clocks that jump by up to a day, to and fro, at each look of a process, which is in another time zone besides.

Each of Python's clocks jumps, the steady ones too, which no system promises to survive; what libraries in C ask the
system themselves, such as a lock's time limit, is not reached. Each look leaves a letter in a file, so a test can tell
that there was something to survive.
"""

from __future__ import annotations

import datetime
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

DAY = 86_400.0
ZONES = ("EAST-14", "WEST+12", "HALF-05:45")
# The calendar forwards and backwards, the steady clocks forwards and backwards.
LETTERS = {("calendar", 1): "C", ("calendar", -1): "c", ("steady", 1): "S", ("steady", -1): "s"}


def looks(file: Path) -> Counter[str]:
    """How often each clock was looked at, by its letter."""
    return Counter(file.read_text()) if file.exists() else Counter()


def jump(seed: int, file: Path) -> None:
    """From now on no clock of this process can be believed."""
    rng, directions = random.Random(seed), {"calendar": 1, "steady": 1}
    seen = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.environ["TZ"] = rng.choice(ZONES)
    time.tzset()

    def off(clock: str) -> float:
        directions[clock] = -directions[clock]
        os.write(seen, LETTERS[clock, directions[clock]].encode())
        return directions[clock] * rng.uniform(0, DAY)

    real = {
        name: getattr(time, name) for name in ("time", "monotonic", "perf_counter", "gmtime", "localtime")
    }
    strftime = time.strftime

    def calendar() -> float:
        return float(real["time"]()) + off("calendar")

    def monotonic() -> float:
        return float(real["monotonic"]()) + off("steady")

    def perf_counter() -> float:
        return float(real["perf_counter"]()) + off("steady")

    def gmtime(seconds: float | None = None) -> time.struct_time:
        return real["gmtime"](calendar() if seconds is None else seconds)

    def localtime(seconds: float | None = None) -> time.struct_time:
        return real["localtime"](calendar() if seconds is None else seconds)

    class Datetime(datetime.datetime):
        __slots__ = ()  # modules in C ask for its size

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(calendar(), tz)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    class Date(datetime.date):
        __slots__ = ()

        @classmethod
        def today(cls) -> Any:
            return cls.fromtimestamp(calendar())

    jumping = {
        "time": calendar,
        "time_ns": lambda: int(calendar() * 1e9),
        "monotonic": monotonic,
        "monotonic_ns": lambda: int(monotonic() * 1e9),
        "perf_counter": perf_counter,
        "perf_counter_ns": lambda: int(perf_counter() * 1e9),
        "gmtime": gmtime,
        "localtime": localtime,
        "strftime": lambda form, at=None: strftime(form, localtime() if at is None else at),
    }
    for name, clock in jumping.items():
        setattr(time, name, clock)
    for name, kind in {"datetime": Datetime, "date": Date}.items():
        setattr(datetime, name, kind)
