"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

# Of a run with several workers, before any of them or a process of theirs has torch: threads of one would wait for those
# of another in a loop.
if WORKER := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
SMOKE = Path(__file__).parent / "tour" / "smoke.toml"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the checkout (oracles, real texts). The product never needs it."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("reference data is not beside the checkout (../shared)")
    return path


@pytest.fixture(scope="session")
def finished_tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole tour at its smallest size, run once for all tests; log.txt holds what it printed."""
    if WORKER:  # then the folder above a worker's own belongs to the run
        folder = tmp_path_factory.getbasetemp().parent / "tour"
        folder.mkdir(exist_ok=True)
    else:
        folder = tmp_path_factory.mktemp("tour")
    out = folder / "out"
    command = [
        sys.executable,
        "-m",
        "openqwen",
        "tour",
        "--recipe",
        str(SMOKE),
        "--no-chat",
        "--out",
        str(out),
    ]
    with FileLock(folder / "lock"):
        if not (out / "log.txt").exists():
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            (out / "log.txt").write_text(done.stdout, encoding="utf-8")
    return out
