"""Stages as command lines that take a second or two, on the artefacts of a finished tour at its smallest size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from openqwen.cli import main

SMOKE = Path(__file__).parents[1] / "tour" / "smoke.toml"
SMALL = f"--recipe tour --recipe {SMOKE}"
SHORT = "--drawing.max_new_tokens 8"

# {tour}: the finished tour; {beside}: a folder of inputs that a tour does not have (`beside`).
COMMANDS = {
    "primer": f"data primer {SMALL}",
    "data": f"data build --primer {{tour}}/primer {SMALL}",
    "code": "data code --input {beside}/repository",
    "math": "data math --count 40",
    "classifier": "data classifier train --examples {beside}/examples.jsonl --label good",
    "score": "data score --corpus {tour}/corpus --model {tour}/base",
    "tokenizer": f"tokenizer train --corpus {{tour}}/corpus {SMALL}",
    "pack": f"pack --corpus {{tour}}/corpus --tokenizer {{tour}}/tokenizer {SMALL}",
    "pretrain": (
        f"pretrain --tokens {{tour}}/tokens --tokenizer {{tour}}/tokenizer {SMALL} "
        "--steps 60 --eval_interval 30 --checkpoint_interval 2"
    ),
    "extend": f"extend --model {{tour}}/base --tokens {{tour}}/tokens {SMALL} --blocks 2",
    "long_code": "long-code --model {tour}/base --input {beside}/repositories --files 12",
    "sft": (
        "sft --model {tour}/base --data {tour}/primer/sft.train.jsonl --tools {tour}/primer/tools.train.jsonl "
        f"{SMALL} --steps 20 --eval_interval 10 --checkpoint_interval 2"
    ),
    "tags": "tags --prompts {tour}/primer/prompts.train.jsonl",
    "sample": "sample --prompts {tour}/primer/prompts.heldout.jsonl --model {tour}/chat --max_tokens 8",
    "pairs": "pairs --replies {beside}/replies --scores {beside}/scores.jsonl",
    "pmp": (
        "pmp --model {tour}/base --pairs {tour}/primer/pmp.jsonl --heldout {tour}/primer/pairs.heldout.jsonl "
        f"{SMALL} --batch_size 4 --checkpoint_interval 2"
    ),
    "reward": (
        "reward --model {tour}/preference --pairs {tour}/primer/pairs.train.jsonl "
        f"--heldout {{tour}}/primer/pairs.heldout.jsonl {SMALL} --batch_size 4 --checkpoint_interval 2"
    ),
    "ppo": (
        "ppo --policy {tour}/chat --reward {tour}/reward --prompts {tour}/primer/prompts.train.jsonl "
        f"--tokens {{tour}}/tokens {SMALL} --steps 6 --checkpoint_every 2"
    ),
    "dpo": (
        "dpo --policy {tour}/chat --pairs {tour}/primer/pairs.train.jsonl "
        f"--heldout {{tour}}/primer/pairs.heldout.jsonl {SMALL} --batch_size 8"
    ),
    "rft": (
        "rft --policy {tour}/chat --reward {tour}/reward --prompts {tour}/primer/prompts.train.jsonl "
        f"{SMALL} {SHORT} --heldout 10 --steps 6"
    ),
    "rrhf": (
        "rrhf --policy {tour}/chat --reward {tour}/reward --prompts {tour}/primer/prompts.train.jsonl "
        f"{SMALL} --drawing.max_new_tokens 100 --heldout 10 --epochs 1 --batch_size 8"
    ),
    "compare": (
        "compare --model chat={tour}/chat --model rlhf={tour}/rlhf --reward {tour}/reward "
        f"--prompts {{tour}}/primer/prompts.heldout.jsonl --tokens {{tour}}/tokens {SMALL} {SHORT}"
    ),
    "agent": f"agent-eval --model {{tour}}/rlhf --tools {{tour}}/primer/tools.heldout.jsonl {SMALL}",
    "agentbench": "agent-bench --model {tour}/rlhf --max_tokens 8 --limit 2",
    "evals": (
        "eval --base {tour}/base --chat {tour}/chat --rlhf {tour}/rlhf --reward {tour}/reward "
        f"--primer {{tour}}/primer --tokens {{tour}}/tokens {SMALL}"
    ),
    "report": "report {tour}/corpus {tour}/base {tour}/chat",
}

# Stages that have no such command line, and why.
EXCEPTIONS = {
    "selfinstruct": (
        "an untrained model writes nothing that it keeps, so it needs a server of written answers; killed in "
        "tests/agent/test_agent_instruct.py::test_a_killed_run_goes_on_where_it_stopped"
    ),
}

TRAININGS = ("pretrain", "sft", "pmp", "reward", "ppo", "dpo", "rft", "rrhf")  # what has checkpoints


def words(name: str, tour: Path, beside: Path) -> list[str]:
    """The command line of a stage without --out."""
    return COMMANDS[name].format(tour=tour, beside=beside).split()


def make_beside(folder: Path, tour: Path) -> Path:
    """Inputs that a tour does not have: repositories, examples of good text and bad, replies and their scores."""
    _copy_program("core", folder / "repository")
    for name in ("core", "train"):
        _copy_program(name, folder / "repositories" / name)
    good = [f"A plain sentence about the number {n}, its half {n / 2} and what follows." for n in range(100)]
    spam = [f"BUY NOW {n} cheap click here to win {n} free free money {n}" for n in range(100)]
    texts = [{"text": text, "label": "good"} for text in good] + [
        {"text": text, "label": "spam"} for text in spam
    ]
    _write_lines(folder / "examples.jsonl", texts)
    assert main([*words("sample", tour, folder), "--out", str(folder / "replies")]) == 0
    replies = [json.loads(line) for line in (folder / "replies/replies.jsonl").read_text().splitlines()]
    scores = [{"reply": one["id"], "annotator": "a", "score": n % 5} for n, one in enumerate(replies)]
    _write_lines(folder / "scores.jsonl", scores)
    return folder


def _copy_program(part: str, to: Path) -> None:
    to.mkdir(parents=True)
    for path in sorted(Path(main.__code__.co_filename).parents[1].glob(f"{part}/*.py")):
        shutil.copy(path, to)
    shutil.copy(Path(__file__).parents[2] / "LICENSE", to)


def _write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
