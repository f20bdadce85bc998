"""Task functions that misbehave, for workers of any kind: importable wherever this folder is on the path."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from openqwen.core.errors import DataError
from openqwen.data.task import Facts, Work


def count(work: Work) -> Facts:
    """Sums its numbers; leaves a mark in the folder of marks for each time that it begins."""
    _mark(work)
    data = b"".join(work.store.verified(output) for output in work.inputs.get("numbers", ()))
    total = work.settings["number"] + sum(map(int, data.split()))
    work.write("sum.txt", f"{total}\n".encode())
    return {"total": total}


def _mark(work: Work) -> None:
    if marks := work.settings.get("marks"):
        name = f"{work.task.name.replace('/', '-')}.{os.getpid()}.{time.monotonic_ns()}"
        Path(marks, name).touch()


def die_once(work: Work) -> Facts:
    """The first time kills its own process in the middle of writing."""
    _mark(work)
    first = Path(work.settings["marks"], "died")
    if not first.exists():
        first.touch()
        work.write("half.txt", b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return count(work)


def die_always(work: Work) -> Facts:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def refuse(work: Work) -> Facts:
    _mark(work)
    raise DataError("this number is odd", where="numbers.txt:3", fix="give even ones")


def stumble(work: Work) -> Facts:
    work.at = "document x/7"
    return {"quotient": 1 // work.settings["number"]}


def together(work: Work) -> Facts:
    """Goes on to write only once two have begun."""
    _mark(work)
    end = time.monotonic() + 20
    while len(list(Path(work.settings["marks"]).iterdir())) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    return count(work)


def slow(work: Work) -> Facts:
    _mark(work)
    time.sleep(work.settings["seconds"])
    return count(work)
