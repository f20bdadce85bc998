"""Stages killed with SIGKILL at random moments: what is finished afterwards is what an undisturbed run finishes.

Each attempt is a process of its own, nine of ten forked from one that has imported everything, the tenth a fresh
`python -m openqwen`. Moments are drawn over the whole run. After some kills in a row the run is left to end and
compared: every file but times, the bits of weights and optimizer included. OPENQWEN_KILLS: how many, of all stages.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults import small_runs
from faults.compared import Runs
from faults.record import record
from train import forked

from openqwen.stages import STAGES

KILLS = int(os.environ.get("OPENQWEN_KILLS", "1000"))
SEED = 12
IN_A_ROW = (1, 2, 5, 20)
REPORTED = ("pretrain", "sft", "reward", "ppo")
FRESH = 10  # every so many attempts is a fresh process


@dataclass
class Tally:
    """What was counted over one stage or several."""

    kills: int = 0
    fresh: int = 0
    ends: int = 0
    after_done: int = 0
    differing: list[str] = field(default_factory=list)
    looks_finished: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def kill_often(runs: Runs, kills: int, rng: random.Random) -> Tally:
    """Kills runs of a stage so many times, in rows of different length; compares each that gets to its end."""
    found = Tally()
    attempts, row = 0, rng.choice(IN_A_ROW)
    while found.kills < kills or row:
        attempts += 1
        fresh = attempts % FRESH == 0
        if row and runs.killed(rng.uniform(0, runs.fresh_seconds if fresh else runs.seconds), fresh):
            found.kills += 1
            found.fresh += fresh
            found.after_done += (runs.out / "DONE").exists()
            found.looks_finished += runs.false_end() if runs.out.exists() else []
            row -= 1
            if row:
                continue
        found.differing += runs.finish()
        found.ends += 1
        shutil.rmtree(runs.out)
        row = rng.choice(IN_A_ROW) if found.kills < kills else 0
    return found


def kill_one(runs: Runs, kills: int, rng: random.Random) -> int:
    """Kills one run so many times before it may end; how many of them found a later checkpoint than the one before.

    Runs that end before begin anew, to be killed earlier.
    """
    latest = runs.seconds
    while True:
        killed, moved, newest = 0, 0, ""
        while killed < kills and runs.killed(rng.uniform(0, latest), False):
            killed += 1
            found = max((path.name for path in runs.out.glob("checkpoints/**/step-*")), default="")
            moved, newest = moved + (found > newest), max(found, newest)
        if killed == kills:
            return moved
        shutil.rmtree(runs.out)
        latest *= 0.85


def shares(kills: int) -> dict[str, int]:
    """Kills of each stage: of a thousand 50 of what the report trains, 25 of others' trainings, the rest in equal parts."""
    each = {name: kills * (50 if name in REPORTED else 25) // 1000 for name in small_runs.TRAININGS}
    others = [name for name in small_runs.COMMANDS if name not in each]
    rest = kills - sum(each.values())
    return each | {name: (rest + number) // len(others) for number, name in enumerate(others)}


def over(kills: dict[str, int], tour: Path, beside: Path, folder: Path) -> Tally:
    """Kills runs of each stage so many times, and says of each what came of it."""
    total = Tally()
    forked.end([forked.start(["--version"], folder / "log.txt")])  # imports are done now
    for name, number in kills.items():
        runs = Runs(name, small_runs.words(name, tour, beside), folder)
        found = kill_often(runs, number, random.Random(f"{SEED} {name}"))
        print(name, {key: value for key, value in vars(found).items() if value}, flush=True)
        total.add(found)
        shutil.rmtree(runs.whole)
    return total


def test_every_stage_is_killed_but_for_the_exceptions_that_are_named() -> None:
    assert set(STAGES) - set(small_runs.COMMANDS) == set(small_runs.EXCEPTIONS)
    assert set(small_runs.COMMANDS) <= set(STAGES)
    kills = shares(1000)
    assert (
        set(kills) == set(small_runs.COMMANDS) and min(kills.values()) >= 20 and sum(kills.values()) >= 1000
    )
    for reason in small_runs.EXCEPTIONS.values():  # each says where that stage is killed instead
        path, name = reason.split()[-1].split("::")
        assert f"def {name}(" in (Path(__file__).parents[2] / path).read_text(encoding="utf-8")


@pytest.mark.fault(
    "artefacts",
    "any stage is killed at random moments",
    "nothing looks finished that is not; run again, it ends in the same bits",
)
@pytest.mark.slow
def test_kills_leave_no_trace(finished_tour: Path, tmp_path: Path) -> None:
    found = over({"pmp": 5}, finished_tour, tmp_path, tmp_path)
    assert found.kills >= 5
    assert found.differing == [] and found.looks_finished == []


@pytest.mark.long
def test_fifty_kills_of_one_run_end_in_the_same_bits(finished_tour: Path, tmp_path: Path) -> None:
    begun, moved, differing = time.monotonic(), {}, list[str]()
    for name in REPORTED:
        runs = Runs(name, small_runs.words(name, finished_tour, tmp_path), tmp_path)
        moved[name] = kill_one(runs, 50, random.Random(f"{SEED} {name}"))
        differing += runs.finish()
        print(name, moved[name], differing, flush=True)
    record(
        "50 SIGKILLs over one run of pretraining, finetuning, reward model and PPO each",
        kills=50 * len(REPORTED),
        after_a_later_checkpoint=sum(moved.values()),
        differing=len(differing),
        seconds=round(time.monotonic() - begun),
        seed=SEED,
    )
    assert differing == [] and sum(moved.values()) > 10


@pytest.mark.long
def test_a_thousand_kills_over_all_stages(finished_tour: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    beside = small_runs.make_beside(tmp_path / "beside", finished_tour)
    found = over(shares(KILLS), finished_tour, beside, tmp_path)
    record(
        "SIGKILLs at random moments over all stages",
        kills=found.kills,
        of_fresh_processes=found.fresh,
        stages=len(small_runs.COMMANDS),
        runs_compared=found.ends,
        differing=len(found.differing),
        looking_finished=len(found.looks_finished),
        seconds=round(time.monotonic() - begun),
        seed=SEED,
    )
    assert found.kills >= KILLS and found.differing == [] and found.looks_finished == []
