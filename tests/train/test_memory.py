"""Freed memory stays with the process where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Page faults of asking for 64 MiB, touching and freeing them, ten times over. Without huge pages (prctl 41, Linux),
# of which there may be some or none: with them the count says little.
PROGRAM = """
import ctypes, resource, sys
import numpy as np
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
if sys.argv[1] == "kept":
    from openqwen.train.memory import keep_freed_memory
    assert keep_freed_memory()
np.ones(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_touched_for_the_first_time_only_once() -> None:
    faults = {}
    for how in ("kept", "given back"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        faults[how] = int(run.stdout)
    assert faults["kept"] < 1000 < faults["given back"] / 2
