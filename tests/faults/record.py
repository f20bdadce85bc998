"""The long figures: what each long test last counted, on which machine and day; a section of docs/reliability.md.

from faults.record import record

record("SIGKILLs over all stages", kills=1000, differing=0, seconds=2412)
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
from pathlib import Path

from faults import catalogue


def record(name: str, **figures: int | float | str) -> None:
    """Writes the figures of one long test in place of its last ones, and the document anew; others' stay.

    `name` says what was done, in the document's words; a figure's name is shown with spaces for underscores.
    """
    with Path(__file__).open(
        "rb"
    ) as lock:  # this file is always there, and is never replaced while tests run
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = catalogue.figures()
        found[name] = {"figures": figures, "machine": machine(), "date": f"{datetime.date.today()}"}
        text = json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n"
        _replace(catalogue.FIGURES, text)
        _replace(catalogue.DOCUMENT, catalogue.document())


def machine() -> str:
    """What the figures were counted on: cores that may be used, processor, system."""
    cores = f"{len(os.sched_getaffinity(0))} cores"
    return ", ".join([cores, _processor(), f"{platform.system()} {platform.machine()}"])


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unnamed processor"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
