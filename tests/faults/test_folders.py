"""Folders that cannot be written, or that are gone while a stage runs: one clear error, and nothing that looks finished."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import small_runs
from faults.compared import LIMIT, watched
from train import forked

from openqwen.core.artifact import damage, find

READ_ONLY = ("primer", "data", "tokenizer", "pack", "pretrain", "sft", "reward", "ppo", "evals", "report")
OUTPUTS_GONE = ("data", "tokenizer", "pack", "pretrain", "pmp", "ppo", "evals")
INPUTS_GONE = ("data", "tokenizer", "pack", "extend", "sft", "compare", "evals")
ERROR = re.compile(r"^error: \S.*\n  where: \S.*\n  fix:   \S.*$", re.M)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that nobody can write."""
    place = tmp_path / "read-only"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1g", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of its own can be mounted by root only")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def start(name: str, tour: Path, out: Path, log: Path) -> Any:
    return forked.start([*small_runs.words(name, tour, tour.parent), "--out", str(out)], log, None, watched)


def one_error(name: str, code: int | None, log: Path) -> str:
    """What was said, which must be one error in the project's form."""
    said = log.read_text(errors="replace")
    assert code is not None and code > 0, (name, code, said)
    assert "Traceback" not in said and said.count("error: ") == 1 and ERROR.search(said), (name, said)
    return said


def stopped_when(begun: Callable[[], bool], process: Any) -> None:
    """The process stands still from the moment that something is there."""
    limit = time.monotonic() + LIMIT
    while not begun():
        assert process.is_alive() and time.monotonic() < limit
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGSTOP)


def remove(folder: Path) -> None:
    """All of it at once."""
    gone = folder.with_name(f"{folder.name}-gone")
    folder.rename(gone)
    shutil.rmtree(gone)


def ended(process: Any) -> int | None:
    os.kill(process.pid, signal.SIGCONT)
    (code,) = forked.end([process], LIMIT)
    return code


@pytest.mark.fault(
    "artefacts",
    "the output lies on a file system that is read-only",
    "one clear error, whatever the stage",
)
@pytest.mark.slow
def test_a_read_only_disk_is_one_clear_error(finished_tour: Path, read_only: Path, tmp_path: Path) -> None:
    for name in READ_ONLY:
        log = tmp_path / "log.txt"
        code = ended(start(name, finished_tour, read_only / "deep" / name, log))
        assert "Read-only file system" in one_error(name, code, log)
    assert list(read_only.iterdir()) == []


@pytest.mark.fault(
    "artefacts",
    "the output folder is removed while a stage runs, and may be made anew by what it writes",
    "one clear error; nothing looks finished",
)
@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS_GONE)
def test_an_output_that_vanishes_is_one_clear_error(name: str, finished_tour: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    process = start(name, finished_tour, out, log)
    # A training that has saved makes the folder of its next checkpoint, and what lies above it.
    saved = name in small_runs.TRAININGS
    stopped_when(lambda: bool(list(out.glob("checkpoints/step-*" if saved else "manifest.json"))), process)
    assert not (out / "DONE").exists()
    remove(out)
    said = one_error(name, ended(process), log)
    assert str(out) in said and find(out) is None


@pytest.mark.fault(
    "artefacts",
    "an input's folder is removed while a stage runs",
    "one clear error, or the whole result where all had been read",
)
@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS_GONE)
def test_an_input_that_vanishes_is_one_clear_error(name: str, finished_tour: Path, tmp_path: Path) -> None:
    tour, out, log = tmp_path / "tour", tmp_path / "out", tmp_path / "log.txt"
    shutil.copytree(finished_tour, tour)
    process = start(name, tour, out, log)
    stopped_when(lambda: (out / "manifest.json").exists(), process)
    assert not (out / "DONE").exists()
    remove(tour)
    code = ended(process)
    if code == 0:
        made = find(out)
        assert made is not None and damage(made) == {}
    else:
        assert str(tour) in one_error(name, code, log) and find(out) is None


@pytest.mark.fault("data", "a folder of pages is removed while the corpus is built", "one clear error")
def test_a_folder_of_pages_that_vanishes_is_one_clear_error(tmp_path: Path) -> None:
    pages, out, log = tmp_path / "pages", tmp_path / "out", tmp_path / "log.txt"
    pages.mkdir()
    for number in range(40):
        (pages / f"{number:02d}.html").write_text(f"<p>{number} pages about a river, one of them this.</p>")
    process = forked.start(["data", "build", "--input", str(pages), "--out", str(out)], log, None, watched)
    stopped_when(lambda: (out / "manifest.json").exists(), process)
    remove(pages)
    said = one_error("data", ended(process), log)
    assert f"where: {pages}" in said and find(out) is None
