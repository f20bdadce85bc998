"""The pure parts of benchmarks/specialists.py: intervals, what is trained on, what is held out."""

from __future__ import annotations

import math
import random
import re
import statistics
import sys
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
import torch

from openqwen.cli import main
from openqwen.core.artifact import read_jsonl, write_jsonl
from openqwen.data.primer import benchmarks, tasks
from openqwen.math_qwen import check

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def specialists() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import specialists
    finally:
        sys.path.pop(0)
    return specialists


@pytest.mark.parametrize(
    "runs", [[1.0, 3.0], [1.0, 2.0, 6.0], [0.5, 0.75, 1.5, 4.0], [3.0, 1.0, 4.0, 1.5, 9.0]]
)
def test_intervals_are_students(specialists: ModuleType, runs: list[float]) -> None:
    """The ends, in standard errors, enclose 95 % of the t distribution's mass, as torch has it."""
    count = len(runs)
    found = specialists.difference(
        [{"a": run + 5, "b": run - 5} for run in runs], [{"a": 0.0, "b": 0.0}] * count
    )
    low, high = found["over_seeds"]
    assert found["difference"] == pytest.approx(statistics.mean(runs)) == pytest.approx((low + high) / 2)
    end = (high - low) / 2 / (statistics.stdev(runs) / math.sqrt(count))
    x = torch.linspace(-end, end, 100_001, dtype=torch.float64)
    density = torch.distributions.StudentT(torch.tensor(count - 1.0, dtype=torch.float64)).log_prob(x).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(0.95, abs=1e-4)


def test_questions_are_resampled_with_all_their_seeds(specialists: ModuleType) -> None:
    """What differs between seeds alone, and not between questions, leaves the interval over questions empty."""
    ours = [{"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0}]
    found = specialists.difference(ours, [{"a": 0.0, "b": 0.0}] * 2)
    assert found["over_questions"] == (2.0, 2.0) and found["questions"] == 2
    assert found["over_seeds"][0] < 0 < found["over_seeds"][1]
    with pytest.raises(KeyError):
        specialists.difference(ours, [{"a": 0.0}] * 2)


def test_a_win_needs_both_intervals_on_the_better_side(specialists: ModuleType) -> None:
    below, across = (-2.0, -1.0), (-2.0, 1.0)
    assert specialists.wins({"over_seeds": below, "over_questions": below}, True)
    assert not specialists.wins({"over_seeds": below, "over_questions": below}, False)
    for intervals in ((below, across), (across, below)):
        assert not specialists.wins(dict(zip(("over_seeds", "over_questions"), intervals)), True)


def test_nothing_held_out_is_trained_on(specialists: ModuleType) -> None:
    made = specialists.problems(400)
    assert len({one["question"] for one in made}) == len(made) > 200
    assert {tasks.split_of(one["question"]) for one in made} == {"train"}
    asked = benchmarks.math(random.Random(3), 60, specialists.ASKED)
    assert not {one["question"] for one in made} & {one["question"] for one in asked}
    for one in made:
        assert check.is_right(one["answer"], Fraction(one["answer"].split("#### ")[1])), one
    kept = {
        tasks.function(operation, number)
        for operation in tasks.OPERATIONS
        for number in tasks.CODE_NUMBERS
        if tasks.split_of(tasks.code_key(operation, number)) == "train"
    }
    for conversation in specialists.programming(100):
        for turn in conversation["messages"][1::2]:
            lines = turn["content"].split("\n")[1:-1]
            assert "\n".join(line for line in lines if '"""' not in line) in kept


def facts(text: str) -> list[frozenset[str]]:
    """The steps of a working, however they are written: 3 + 4 is 4 + 3."""
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = ", text)
    return [frozenset((f"{a}l", f"{b}r") if sign in "-/" else (a, b)) | {sign} for a, sign, b in found]


def test_no_working_of_what_is_asked_is_trained_on(specialists: ModuleType, tmp_path: Path) -> None:
    made = specialists.problems(8_000)
    write_jsonl(tmp_path / "problems.jsonl", made)
    given = ["--problems", str(tmp_path / "problems.jsonl"), "--out", str(tmp_path / "math")]
    assert main(["data", "math", *given, "--recipe", "math-qwen-laptop", "--count", "180"]) == 0
    trained = [record["messages"] for record in read_jsonl(tmp_path / "math" / "train.jsonl")]
    paths = {tuple(facts(answer["content"])) for _, answer in trained}
    steps = set(chain.from_iterable(paths))
    assert len(steps) > 150 and len(paths) > 400
    specialists.write_sets(tmp_path)
    for name, file, least in (
        ("sums", "gsm8k", 100),
        ("wide", "gsm8k", 100),
        ("numbers", "gsm8k", 80),
        ("numbers", "math", 80),
    ):
        asked = list(read_jsonl(tmp_path / "sets" / name / f"{file}.jsonl"))
        asked = [record for record in asked if record.get("split") != "dev"]
        assert len(asked) >= least
        assert not {one["question"] for one in asked} & {question["content"] for question, _ in trained}
        for record in asked:
            path = tuple(facts(record["answer"]))
            assert len(path) == 1 or path not in paths, record
            assert path and (name != "sums" or not steps.intersection(path)), record


def test_whole_repositories_are_held_out(specialists: ModuleType, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / "given" / name / ".git").mkdir(parents=True)
        (tmp_path / "given" / name / "x.py").write_text(f"{name} = 1\n")
    specialists.write_repositories(tmp_path, tmp_path / "absent.jsonl.gz", tmp_path / "given")
    trained, heldout = (tmp_path / part for part in ("repositories", "repositories-heldout"))
    assert [folder.name for folder in sorted(trained.iterdir())] == ["b", "c"]
    assert [folder.name for folder in sorted(heldout.iterdir())] == ["a", "d"]
    assert (trained / "b" / "x.py").read_text() == "b = 1\n" and not (trained / "b" / ".git").exists()
