"""Other bad luck of the trainings: each ends, with or without being started again, in the bits of a run without it.

The newest checkpoint is torn, the disk is full in the middle (a small file system of its own), SIGTERM comes, the clock
jumps, one of two processes dies. OPENQWEN_FAULTS: how often each of them happens to each training.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from faults import jumping, small_runs
from faults.compared import LIMIT, Runs, watched
from faults.record import record
from train import forked

from openqwen.train import trainer

FAULTS = int(os.environ.get("OPENQWEN_FAULTS", "10"))
SEED = 12
TRAININGS = ("pretrain", "sft", "reward", "ppo")
DISK_MB = 24
# A process that dies before it has come is waited for so long, and by PyTorch's store for about three times that.
TWO = ["--parallel.shards", "2", "--parallel.timeout", "20"]


def torn(runs: Runs, rng: random.Random) -> bool:
    """Killed once it has two checkpoints, and then a file of the newer one is cut short. False: it was quicker."""
    process = runs.start(runs.out)
    while process.is_alive() and len(saved_in(runs.out)) < 2:
        time.sleep(0.002)
    process.kill()
    runs.code(process)
    saved = saved_in(runs.out)
    if len(saved) < 2 or (runs.out / "DONE").exists():
        return False
    file = rng.choice(sorted(saved[-1].iterdir()))
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
    return True


def saved_in(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*"))


def terminated(runs: Runs, rng: random.Random) -> bool:
    """SIGTERM at a random moment: 130 once a training listens, saved; before that it ends at once."""
    process = runs.start(runs.out)
    process.join(rng.uniform(0.2, 1) * runs.seconds)
    process.terminate()
    code = runs.code(process)
    assert code in (0, 130, -15), (code, runs.log.read_text(errors="replace"))
    return code == 130


def clocks(seed: int, looks: Path) -> None:
    watched()
    jumping.jump(seed, looks)


def clocks_that_matter(seed: int, looks: Path) -> None:
    """As `clocks`, in a training that learns at a rate by the time of day: what the comparison must see."""
    clocks(seed, looks)
    rate = trainer.lr_at
    vars(trainer)["lr_at"] = lambda *words: rate(*words) * (1 + time.time() % 1)


def jumped(runs: Runs, rng: random.Random, how: Callable[[int, Path], None] = clocks) -> bool:
    """The run's whole life with clocks that jump; killed once besides."""
    looks = runs.log.with_name("looks")
    looks.unlink(missing_ok=True)
    process = runs.start(runs.out, prepare=partial(how, rng.randrange(1 << 30), looks))
    process.join(rng.uniform(0.3, 1) * runs.seconds)
    process.kill()
    runs.code(process)
    before = jumping.looks(looks)
    process = runs.start(runs.out, prepare=partial(how, rng.randrange(1 << 30), looks))
    assert runs.code(process) == 0, runs.log.read_text(errors="replace")
    seen = jumping.looks(looks)
    assert set(seen) == set(jumping.LETTERS.values()), seen
    return seen.total() > before.total()  # the second found something left to do


def widowed(runs: Runs, rng: random.Random) -> bool:
    """Of two processes one is killed: the other ends in an error by itself. One process goes on."""
    words = [*runs.words, "--out", str(runs.out)]
    running = forked.together(2, words, runs.log.with_name("ranks"))
    dead = rng.randrange(2)
    running[dead].join(rng.uniform(0.3, 1) * runs.seconds)
    died = running[dead].is_alive()
    running[dead].kill()
    codes = forked.end(running, LIMIT)
    assert None not in codes and (not died or codes[1 - dead] != 0 or (runs.out / "DONE").exists()), codes
    return died


def filled(runs: Runs, rng: random.Random) -> bool:
    """The disk has a random little room left: one clear error. False: it was enough."""
    free = shutil.disk_usage(runs.out.parent).free
    ballast = runs.out.parent / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - rng.randrange(4096, 4 << 20)))
    code = runs.code(runs.start(runs.out))
    said = runs.log.read_text(errors="replace")
    ballast.unlink()
    assert code == 0 or "disk is full" in said or "No space left" in said or "too little disk" in said, said
    assert "Traceback" not in said, said
    return code != 0


Fault = Callable[[Runs, random.Random], bool]
EVERYWHERE: dict[str, Fault] = {"torn checkpoints": torn, "SIGTERM": terminated, "jumping clocks": jumped}


def suffer(runs: Runs, fault: Fault, times: int, rng: random.Random) -> list[str]:
    """Lets a fault happen so many times, each time to a run from its start that is then let end; what differs."""
    found, happened, attempts = [], 0, 0
    while happened < times:
        attempts += 1
        assert attempts <= 20 * times, f"{fault.__name__} happened {happened} times in {attempts} attempts"
        happened += fault(runs, rng)
        found += runs.finish()
        shutil.rmtree(runs.out)
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of its own can be mounted by root only")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.fault(
    "training", "SIGTERM comes at any moment, or the newest checkpoint is torn, in any training", "same bits"
)
@pytest.mark.slow
def test_faults_leave_no_trace(finished_tour: Path, tmp_path: Path) -> None:
    runs = Runs("pretrain", small_runs.words("pretrain", finished_tour, tmp_path), tmp_path)
    for fault in (torn, terminated):
        assert suffer(runs, fault, 1, random.Random(SEED)) == []


@pytest.mark.fault(
    "training",
    "clocks jump by hours at each look, in another time zone, while a training runs, saves and is killed",
    "same bits; a training whose rate hangs on the time of day is seen to differ",
)
@pytest.mark.slow
def test_clocks_that_jump_leave_no_trace(finished_tour: Path, tmp_path: Path) -> None:
    runs = Runs("pretrain", small_runs.words("pretrain", finished_tour, tmp_path), tmp_path)
    assert suffer(runs, jumped, 1, random.Random(SEED)) == []
    # Each of the 60 steps is timed and each of the 30 saves is logged with its time.
    seen = jumping.looks(tmp_path / "looks")
    assert seen["S"] + seen["s"] >= 2 * 60 and seen["C"] + seen["c"] >= 30
    assert jumped(runs, random.Random(SEED), clocks_that_matter)
    assert "pretrain: model.safetensors" in runs.finish()


@pytest.mark.long
def test_every_fault_of_every_training(finished_tour: Path, small_disk: Path, tmp_path: Path) -> None:
    begun, counts, differing = time.monotonic(), Counter[str](), list[str]()
    for name in TRAININGS:
        words = small_runs.words(name, finished_tour, tmp_path)
        runs = Runs(name, words if name == "ppo" else [*words, *TWO], small_disk)
        runs.log = tmp_path / "log.txt"  # which a full disk would cut off
        faults = EVERYWHERE | {"full disks": filled}
        if name != "ppo":  # which is one process
            faults["dead ranks"] = widowed
        for fault, happens in faults.items():
            differing += suffer(runs, happens, FAULTS, random.Random(f"{SEED} {name} {fault}"))
            counts[fault] += FAULTS
            print(name, fault, differing, flush=True)
        shutil.rmtree(runs.whole)
    record(
        "Other faults of pretraining, finetuning, reward model and PPO",
        **{name.replace(" ", "_"): count for name, count in counts.items()},
        differing=len(differing),
        seconds=round(time.monotonic() - begun),
        seed=SEED,
    )
    assert differing == []
