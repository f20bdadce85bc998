"""Does masking the inputs speed convergence in mathematical finetuning?

Report §5.1: inputs are "examination questions", random conditions and numbers, so system and user turns are masked; "we find
masking them accelerates the convergence". Here: a small base model of the primer's world, finetuned on the math stage's
problems with the report's mask and with everything trained, the same rows in the same order, over several seeds. Shown is
the held-out loss of replies by step, and after how many steps the masked run has what the other ends with.

    python benchmarks/masking.py [--quick] [--threads 1] [--out FOLDER]

Nothing but the mask differs. The figure is results/masking.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openqwen.core.artifact import environment, write_json
from openqwen.report.figures import Series, curves, standalone

RESULTS = Path(__file__).with_name("results")
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # t of a 95 % interval by the number of seeds
MASKS = {"report": "inputs masked (report)", "everything": "everything trained"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps and two seeds; nothing is written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keeps the runs there, and goes on with them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options.out or Path(scratch), options.quick, options.threads)
    print(json.dumps(found["summary"], indent=2))
    if not options.quick:
        write_json(RESULTS / "masking.json", found)
        draw(found, RESULTS / "masking")
    return 0


def measure(out: Path, quick: bool, threads: int) -> dict[str, Any]:
    seeds, steps = (range(2), 40) if quick else (range(3), 400)
    every = steps // 20
    base = make_base(out, 60 if quick else 800, threads)
    openqwen(
        out, threads, "data", "math", "--count", "800" if quick else "6000", "--heldout", "0", "--out", "math"
    )
    runs: dict[str, list[list[tuple[int, float]]]] = {mask: [] for mask in MASKS}
    for seed in seeds:
        for mask in MASKS:
            name = f"{mask}-{seed}"
            openqwen(
                out, threads, "sft", "--model", base, "--data", "math/train.jsonl", "--out", name, "--recipe", "tour",
                "--mask", mask, "--seed", str(seed), "--steps", str(steps), "--eval-interval", str(every),
                "--checkpoint-interval", str(steps), "--heldout-samples", "128", "--max-length", "320",
                "--num-samples", "2", "--stop-prompts", "2", "--sample-tokens", "8",
            )  # fmt: skip
            lines = map(json.loads, (out / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
            runs[mask].append([(r["step"], r["heldout_loss"]) for r in lines if "heldout_loss" in r])
            print(f"seed {seed} {mask:10} held-out loss {runs[mask][-1][-1][1]:.4f}", flush=True)
    return {"runs": runs, "summary": summary(runs), "machine": environment(), "threads": threads}


def make_base(out: Path, steps: int, threads: int) -> str:
    """A base model of the primer's world, by the tour's recipe."""
    openqwen(out, threads, "data", "primer", "--out", "primer", "--recipe", "tour")
    openqwen(out, threads, "data", "build", "--primer", "primer", "--out", "corpus", "--recipe", "tour")
    openqwen(
        out, threads, "tokenizer", "train", "--corpus", "corpus", "--out", "tokenizer", "--recipe", "tour"
    )
    openqwen(out, threads, "pack", "--corpus", "corpus", "--tokenizer", "tokenizer", "--out", "tokens")
    openqwen(
        out, threads, "pretrain", "--tokens", "tokens", "--tokenizer", "tokenizer", "--out", "base", "--recipe", "tour",
        "--steps", str(steps), "--eval-interval", str(steps), "--checkpoint-interval", str(steps),
    )  # fmt: skip
    return "base"


def openqwen(folder: Path, threads: int, *words: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["env", f"OMP_NUM_THREADS={threads}", sys.executable, "-m", "openqwen", *words],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"openqwen {' '.join(words)}: {done.stderr[-2000:]}")


def summary(runs: dict[str, list[list[tuple[int, float]]]]) -> dict[str, Any]:
    """Losses at the end, their paired difference, and the share of steps that the masked run needs for the other's end."""
    ends = {mask: [run[-1][1] for run in own] for mask, own in runs.items()}
    differences = [b - a for a, b in zip(ends["report"], ends["everything"])]
    shares = []
    for masked, other in zip(runs["report"], runs["everything"]):
        reached = next((step for step, loss in masked if loss <= other[-1][1]), None)
        shares.append(None if reached is None else reached / other[-1][0])
    mean = statistics.mean(differences)
    half = STUDENT[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    return {
        "heldout_loss": {mask: round(statistics.mean(values), 4) for mask, values in ends.items()},
        "difference": round(mean, 4),
        "difference_95": [round(mean - half, 4), round(mean + half, 4)],
        "share_of_steps_for_the_same_loss": shares,
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Mean held-out loss by step with the range over seeds."""
    series = []
    for mask, label in MASKS.items():
        own: Sequence[Sequence[tuple[int, float]]] = found["runs"][mask]
        steps = [step for step, _ in own[0]]
        losses = list(zip(*([loss for _, loss in run] for run in own)))
        means = [statistics.mean(column) for column in losses]
        series.append(Series(label, steps, means, [min(c) for c in losses], [max(c) for c in losses]))
    path.with_suffix(".svg").write_text(
        standalone(curves(series, "step", "held-out loss of replies, nats a token", log_y=True))
    )


if __name__ == "__main__":
    raise SystemExit(main())
