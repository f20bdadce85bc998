"""Scoring multiple choice beside lm-evaluation-harness' own Hugging Face backend, same weights, in one run.

Ours; the report does not say how its scores were computed. Goal: three times the examples a second of the backend's best
batch size on a 5-shot task of MMLU's form, with the same choices and the same log-probabilities.

    python benchmarks/eval.py --peer PYTHON [--items 16] [--threads 1] [--clock wall|cpu] [--quick]

PYTHON is an interpreter that has lm-eval and transformers. Both arms are processes of their own that
answer one call at a time and take turns; a call is the whole evaluation from the items' file to the score, loading the
model left out. Questions are random words, about as long as MMLU's; the model is random too: only what it costs counts.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SUBJECTS, SHOTS = ("astronomy", "marketing", "virology"), 5
LAYERS, HIDDEN, HEADS, FFN, CONTEXT = 6, 256, 4, 704, 2_048
MERGES = 1_500
BATCHES = (1, 8)  # of the backend; the best one counts
GOAL, NEAR = 3.0, 1e-3
Call = Callable[[], list[list[float]]]


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.arm:
        serve(options)
        return 0
    from openqwen.core.artifact import (
        environment,
        write_json,
    )  # the peer's interpreter need not have this package

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.items)
        result = measure(options, folder)
    found = {**result, "clock": options.clock, "threads": options.threads, "environment": environment()}
    print(json.dumps(found))
    if not options.quick:
        write_json(Path(__file__).with_name("results") / "eval.json", found)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", default=sys.executable, help="an interpreter with lm-eval and transformers")
    parser.add_argument("--items", type=int, default=16, help="questions of each of three subjects")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--quick", action="store_true", help="fewer questions, one batch size")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.items = 6
    return options


def measure(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    arms = ("ours", *(f"peer {batch}" for batch in (BATCHES[1:2] if options.quick else BATCHES)))
    children = {arm: start(options, arm, folder) for arm in arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    scores: dict[str, list[list[float]]] = {}
    try:
        for _ in range(2):
            for arm, child in children.items():
                spent, scores[arm] = ask(child)
                seconds[arm].append(spent)
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
    rates = {arm: len(scores["ours"]) / min(times) for arm, times in seconds.items()}
    best = max((arm for arm in arms if arm != "ours"), key=lambda arm: rates[arm])
    apart = max(abs(a - b) for x, y in zip(scores["ours"], scores[best], strict=True) for a, b in zip(x, y))
    same = sum(choice(x) == choice(y) for x, y in zip(scores["ours"], scores[best], strict=True))
    for arm, rate in rates.items():
        print(f"{arm:8} {rate:8.2f} examples a second", flush=True)
    ratio = rates["ours"] / rates[best]
    print(f"ratio over the best peer ({best}) {ratio:.2f}; {same} of {len(scores['ours'])} choices are the same,"
          f" log-probabilities within {apart:.1e}", flush=True)  # fmt: skip
    return {
        "area": "eval",
        "ratios": {"examples a second over lm-evaluation-harness": round(ratio, 2)},
        "goals": {f"{GOAL}x": ratio >= GOAL, "same scores": same == len(scores["ours"]) and apart < NEAR},
        "measured": {arm: {"examples_per_second": round(rate, 2)} for arm, rate in rates.items()},
        "questions": len(scores["ours"]),
    }


def choice(scores: list[float]) -> int:
    return scores.index(max(scores))


# ---- the arms, each in its process --------------------------------------------------------------------------------


def start(options: argparse.Namespace, arm: str, folder: str) -> subprocess.Popen[str]:
    python = sys.executable if arm == "ours" else options.peer
    line = [python, __file__, "--arm", arm, "--folder", folder]
    line += ["--threads", str(options.threads), "--clock", options.clock]
    return subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def ask(child: subprocess.Popen[str]) -> tuple[float, list[list[float]]]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    for answer in child.stdout:
        if answer.startswith("done "):  # libraries print, too
            spent, scores = json.loads(answer.removeprefix("done "))
            return spent, scores
    raise SystemExit(f"{child.args} ended")


def serve(options: argparse.Namespace) -> None:
    """For every line it reads, evaluates all subjects and says how long that took and what the scores were."""
    words = options.arm.split()
    now = time.perf_counter if options.clock == "wall" else time.process_time
    call = ours(options.folder) if words[0] == "ours" else peer(options.folder, int(words[1]))
    for _ in sys.stdin:
        began = now()
        scores = call()
        print("done", json.dumps([now() - began, scores]), flush=True)


def ours(folder: Path) -> Call:
    from openqwen.engine import Engine
    from openqwen.evals.harness import Subject, evaluate
    from openqwen.evals.tasks import TASKS
    from openqwen.model.weights import load_model
    from openqwen.tokenizer import load_tokenizer

    model, tokenizer = load_model(folder).eval(), load_tokenizer(folder)
    subject = Subject("bench", "base", Engine(model, tokenizer), tokenizer, "random", CONTEXT)

    def call() -> list[list[float]]:
        files = [folder / f"{part}-{name}.jsonl" for name in SUBJECTS for part in ("dev", "test")]
        items = [item for file in files for item in TASKS["mmlu"].read(file)]
        done = evaluate(subject, TASKS["mmlu"], items, SHOTS, limit=len(items), protocol="harness")
        assert done is not None and done.card["shots"]["fitted"] == SHOTS
        return [record["scores"] for record in done.records]

    return call


def peer(folder: Path, batch: int) -> Call:
    """lm-evaluation-harness at its own: its task files, its Hugging Face backend on a CPU, float32."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    home = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default" / "_default_template_yaml"
    for name in SUBJECTS:
        files = {"dev": str(folder / f"dev-{name}.jsonl"), "test": str(folder / f"test-{name}.jsonl")}
        header = f"The following are multiple choice questions (with answers) about {name}.\\n\\n"
        config = f'include: {home}\ntask: bench_{name}\ndataset_path: json\ndescription: "{header}"\n'
        config += f"dataset_kwargs:\n  data_files: {json.dumps(files)}\n"
        (folder / f"bench_{name}.yaml").write_text(config, encoding="utf-8")
    model = HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch, max_length=CONTEXT
    )  # its own tokenizer, too
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    tasks = [f"bench_{name}" for name in SUBJECTS]

    def call() -> list[list[float]]:
        done = lm_eval.simple_evaluate(
            model=model, tasks=tasks, num_fewshot=SHOTS, task_manager=manager, bootstrap_iters=0, log_samples=True
        )  # fmt: skip
        samples = [s for task in tasks for s in sorted(done["samples"][task], key=lambda s: s["doc_id"])]
        return [[float(response[0]) for response in sample["filtered_resps"]] for sample in samples]

    return call


# ---- what both arms read ------------------------------------------------------------------------------------------


def write(folder: Path, items: int) -> None:
    """Items in MMLU's form on the hub, a tokenizer trained on them, and a model of random weights."""
    from openqwen.model.config import ModelConfig
    from openqwen.model.qwen import Qwen
    from openqwen.model.weights import save_model
    from openqwen.tokenizer import Tokenizer
    from openqwen.tokenizer.pattern import split
    from openqwen.tokenizer.train import byte_ranks, extended, train

    rng = random.Random(7)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(3_000)]
    rows = {
        f"{part}-{name}": [
            row(rng, words, name, f"{part}/{name}/{i}") for i in range(SHOTS if part == "dev" else items)
        ]
        for name in SUBJECTS
        for part in ("dev", "test")
    }
    counts: Counter[bytes] = Counter()
    for name, some in rows.items():
        lines = "".join(json.dumps(one) + "\n" for one in some)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        for one in some:
            text = " ".join([one["question"], *one["choices"], *"ABCD", "Answer:"])
            counts.update(piece.encode() for piece in split(text))
    tokenizer = Tokenizer(extended(byte_ranks(), train(counts, MERGES)))
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, ffn_size=FFN,
        max_length=CONTEXT,
    )  # fmt: skip
    model = Qwen(shape)
    model.init_weights(1)
    save_model(model, folder)
    tokenizer.save(folder)


def row(rng: random.Random, words: list[str], subject: str, name: str) -> dict[str, Any]:
    """A question of 10 to 60 words and four choices of 1 to 8."""
    question = " ".join(rng.choices(words, k=rng.randint(10, 60))) + "?"
    choices = [" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(4)]
    return {
        "id": name,
        "subject": subject,
        "question": question,
        "choices": choices,
        "answer": rng.randrange(4),
    }


if __name__ == "__main__":
    sys.exit(main())
