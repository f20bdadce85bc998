"""Paths that a model samples become its training data if they are right and new; what is no text is left out."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import tiny_artefacts as tiny

from openqwen.cli import main
from openqwen.core.artifact import load
from openqwen.data.documents import Bad
from openqwen.math_qwen.stage import judge, read_problems

PAIRS = [(a, b) for a in range(2, 6) for b in range(2, 6) if a != b]
STEPS = 150
FINETUNING = {
    "steps": STEPS, "optim.lr": 1e-2, "schedule.warmup_steps": 5, "max_length": 300, "batch_size": 8, "micro_batch": 8,
    "heldout_samples": 1, "eval_interval": STEPS, "checkpoint_interval": STEPS, "num_samples": 1, "sample_tokens": 6,
    "dropout": 0,
}  # fmt: skip
SAMPLING = {"temperatures": "[1.0]", "top_ps": "[1.0]", "replies": 4, "max_tokens": 24}
GIVEN_ONLY = {"count": 0, "heldout": 0}


def command(*words: object, **flags: object) -> None:
    settings = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert main([*map(str, words), *settings]) == 0


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def sums_by_python(text: str) -> list[tuple[str, bool]]:
    """Each chain of equal sides in a text without spaces, and whether Python finds the sides equal."""
    found = []
    for chain in re.findall(r"[\d+/ -]+(?:=[\d+/ -]+)+", text):
        try:
            values = {eval(side.strip(), {"__builtins__": {}}) for side in chain.split("=")}
        except (SyntaxError, TypeError, ZeroDivisionError):  # no arithmetic
            continue
        found.append((chain.replace(" ", ""), len(values) == 1))
    return found


def test_a_model_learns_from_its_own_right_and_new_paths(tmp_path: Path) -> None:
    """It is taught sums in both orders and asked about problems whose solution has one: the other is a new path."""
    taught = [
        {
            "messages": [
                {"role": "user", "content": f"{a} and {b}?"},
                {"role": "assistant", "content": f"{x} + {y} = {a + b}\n#### {a + b}"},
            ]
        }
        for a, b in PAIRS
        for x, y in ((a, b), (b, a))
    ]
    problems = written(
        tmp_path / "problems.jsonl",
        [{"question": f"{a} and {b}?", "answer": f"{a} + {b} = {a + b}\n#### {a + b}"} for a, b in PAIRS],
    )
    base, chat = tiny.model_artefact(tmp_path / "base"), tmp_path / "chat"
    data = written(tmp_path / "taught.jsonl", taught)
    command("sft", "--model", base, "--data", data, "--out", chat, **FINETUNING)
    command("data", "math", "--problems", problems, "--out", tmp_path / "asked", **GIVEN_ONLY)
    asked, replies, more = tmp_path / "asked" / "train.jsonl", tmp_path / "replies", tmp_path / "more"
    command("sample", "--prompts", asked, "--model", chat, "--out", replies, **SAMPLING)
    words = ("data", "math", "--problems", problems, "--replies", replies)
    command(*words, "--out", more, **GIVEN_ONLY)

    drawn = [record["text"].strip() for record in lines(replies / "replies.jsonl")]
    paths = load(more, "math").manifest["facts"]["paths"]
    assert sum(paths.values()) == len(drawn) == 4 * len(PAIRS)
    rejected = {reason: count for reason, count in paths.items() if reason not in ("kept", "no such problem")}
    assert paths["kept"] >= 1 and sum(rejected.values()) >= 1
    assert set(rejected) <= {"wrong answer", "no answer", "wrong equation", "known path", "enough"}

    solutions: dict[str, list[str]] = {}
    for record in lines(more / "train.jsonl"):
        question, solution = (message["content"] for message in record["messages"])
        solutions.setdefault(question, []).append(solution)
    known = {f"{a} and {b}?": (f"{a} + {b} = {a + b}\n#### {a + b}", a + b) for a, b in PAIRS}
    kept = 0
    for question, (first, *others) in solutions.items():
        assert first == known[question][0]
        equations = [sums_by_python(text) for text in (first, *others)]
        assert all(holds for found in equations for _, holds in found)
        assert len({tuple(found) for found in equations}) == len(equations)
        assert all(re.search(rf"####\s*{known[question][1]}\Z", text) for text in others)
        assert set(others) <= set(drawn)
        kept += len(others)
    assert kept == paths["kept"] and len(solutions) == len(PAIRS)
    assert any(sums_by_python(text) for _, *others in solutions.values() for text in others)

    last = {
        **FINETUNING,
        "steps": 2,
        "schedule.warmup_steps": 1,
        "eval_interval": 2,
        "checkpoint_interval": 2,
    }
    command("sft", "--model", chat, "--data", more / "train.jsonl", "--out", tmp_path / "again", **last)
    facts = load(tmp_path / "again", "model").manifest["facts"]
    assert facts["samples"] == {"data": len(PAIRS) + kept} and facts["skipped"] == {}


@pytest.mark.fault("data", "a problem holds half a character", "skipped with the reason")
@pytest.mark.parametrize("field", ["question", "answer"])
def test_half_a_character_in_a_problem_is_skipped(field: str, tmp_path: Path) -> None:
    good = {"question": "2 and 3?", "answer": "2 + 3 = 5\n#### 5"}
    broken = {**good, field: f"\ud83d {good[field]}"}
    problems = written(tmp_path / "problems.jsonl", [broken, good])
    command("data", "math", "--problems", problems, "--out", tmp_path / "math", **GIVEN_ONLY)
    facts = load(tmp_path / "math", "math").manifest["facts"]
    assert facts["problems"] == 1 and facts["skipped"] == {"a lone surrogate": 1}
    (skipped,) = lines(tmp_path / "math" / "skipped.jsonl")
    assert skipped["where"].endswith("problems.jsonl:1")


def test_half_a_character_in_a_reply_is_no_text() -> None:
    assert judge("3 + 2 = 5 \ud83d\n#### 5", Fraction(5), set()) == "no text"


def test_a_file_of_problems_that_ends_too_soon_is_read_so_far(tmp_path: Path) -> None:
    record = {"question": "2 and 3?", "answer": "2 + 3 = 5\n#### 5"}
    data = gzip.compress(json.dumps(record).encode() + b"\n" + b"\n" * 20_000)
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(data[:-12])
    bad = Bad(1.0)
    assert [problem.question for problem in read_problems(path, bad)] == ["2 and 3?"]
    assert Counter(bad.reasons) == {"unreadable": 1}
