"""The tour: every stage of the report in order, from raw pages to an aligned assistant.

Figure 1 of the report with our artefacts. Ours: the sizes, chosen so that two processor cores finish in
minutes (recipes/tour*.toml). A stage whose settings and inputs have not changed is not run again.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.config import Resolved, find_recipe, read_recipe, resolve
from openqwen.core.console import console, duration, note, sample, stage_header
from openqwen.report.summary import numbers
from openqwen.stages import STAGES, Stage

RECIPES = {"small": ("tour",), "laptop": ("tour", "tour-laptop"), "gpu": ("tour", "tour-gpu")}
DISK_NEEDED = 2 * 2**30  # measured: a small tour leaves about 300 MB, checkpoints of the larger sizes more


@dataclass(frozen=True)
class Step:
    """One stage of the tour. `inputs`: name -> step, or step/file within its artefact."""

    name: str
    stage: str
    title: str
    section: str
    why: str
    inputs: Mapping[str, str]


STEPS = (
    Step(
        "primer",
        "primer",
        "A small world",
        "§2.1",
        "Bilingual pages, questions and preferences are written with known truth, so that every later claim can be checked.",
        {},
    ),
    Step(
        "corpus",
        "data",
        "Raw pages to corpus",
        "§2.1",
        "Web pages are mostly not text: extract, find the language, drop duplicates, spam and leaked benchmarks, say why.",
        {"primer": "primer"},
    ),
    Step(
        "tokenizer",
        "tokenizer",
        "Vocabulary",
        "§2.2, Figure 3",
        "Byte-level BPE learnt from the corpus: fewer tokens for the same text make everything after it cheaper.",
        {"corpus": "corpus"},
    ),
    Step(
        "tokens",
        "pack",
        "Token shards",
        "§2.4",
        "The corpus becomes one memory-mapped stream of ids that training reads at any position.",
        {"corpus": "corpus", "tokenizer": "tokenizer"},
    ),
    Step(
        "base",
        "pretrain",
        "Base model",
        "§2.3, §2.4",
        "The report's architecture and recipe, small: predict the next token until the text stops surprising.",
        {"tokens": "tokens", "tokenizer": "tokenizer"},
    ),
    Step(
        "context",
        "extend",
        "Longer than trained",
        "§2.5, Table 3",
        "Without new training, NTK-aware rotation, LogN scaling and layer-wise windows keep long texts readable.",
        {"model": "base", "tokens": "tokens"},
    ),
    Step(
        "chat",
        "sft",
        "Chat model",
        "§3.1",
        "Supervised finetuning on conversations, the loss on the replies only: the base model learns to answer and to stop.",
        {"model": "base", "data": "primer/sft.train.jsonl", "tools": "primer/tools.train.jsonl"},
    ),
    Step(
        "preference",
        "pmp",
        "Preference model",
        "§3.2.1",
        "Many rough comparisons teach a copy of the base model what people tend to prefer.",
        {"model": "base", "pairs": "primer/pmp.jsonl", "heldout": "primer/pairs.heldout.jsonl"},
    ),
    Step(
        "reward",
        "reward",
        "Reward model",
        "§3.2.1, Table 4",
        "A few clean comparisons turn it into the judge that PPO will listen to.",
        {"model": "preference", "pairs": "primer/pairs.train.jsonl", "heldout": "primer/pairs.heldout.jsonl"},
    ),
    Step(
        "rlhf",
        "ppo",
        "PPO",
        "§3.2.2",
        "Policy, value, reference and reward model together: raise the reward without drifting far from the chat model.",
        {"policy": "chat", "reward": "reward", "prompts": "primer/prompts.train.jsonl", "tokens": "tokens"},
    ),
    Step(
        "agent",
        "agent",
        "Tool use",
        "§3.4, Table 6",
        "The assistant reads tool descriptions and decides which to call, with what arguments, or none.",
        {"model": "rlhf", "tools": "primer/tools.heldout.jsonl"},
    ),
    Step(
        "evals",
        "evals",
        "Evaluation",
        "§2.6, §3.3, §4.3, §5.2",
        "The report's tables for our models, on questions that were in no training data, with intervals.",
        {
            "base": "base",
            "chat": "chat",
            "rlhf": "rlhf",
            "reward": "reward",
            "primer": "primer",
            "tokens": "tokens",
        },
    ),
    Step(
        "report",
        "report",
        "Report page",
        "all",
        "Everything on one page that opens without a network.",
        {
            name: name
            for name in (
                *("primer", "corpus", "tokenizer", "tokens", "base", "context", "chat"),
                *("preference", "reward", "rlhf", "agent", "evals"),
            )
        },
    ),
)


def run_tour(
    out: Path, size: str, extra: Sequence[str] = (), *, chat: bool = True, plan: bool = False
) -> int:
    """Runs what is missing or out of date below `out`, prints the summary, offers the chat. Returns the exit code."""
    settings = resolve_all((*RECIPES[size], *extra))
    if plan:
        return show_plan(out, settings)
    artifact.need_disk(out, DISK_NEEDED)
    began = time.monotonic()
    with artifact.alone_in(out):
        made = [run_step(step, number, out, settings[step.stage]) for number, step in enumerate(STEPS, 1)]
    if any(made):
        note(f"the tour took {duration(time.monotonic() - began)}")
    summary(out)
    farewell(out)
    if chat and sys.stdin.isatty() and sys.stdout.isatty():
        from openqwen.serve.terminal import chat as terminal_chat

        terminal_chat(out / "rlhf")
    return 0


def resolve_all(recipes: Sequence[str]) -> dict[str, Resolved[Any]]:
    """The settings of every stage, checked before anything runs."""
    for recipe in recipes:
        read_recipe(find_recipe(recipe), tuple(STAGES))
    return {step.stage: resolve(STAGES[step.stage].config, step.stage, recipes) for step in STEPS}


def input_paths(step: Step, out: Path) -> dict[str, Path]:
    return {name: out / source for name, source in step.inputs.items()}


def finished(step: Step, stage: Stage, out: Path, resolved: Resolved[Any]) -> Artifact | None:
    """The step's artefact if it is what these settings and the inputs as they are now would give."""
    opened: dict[str, Artifact | Path] = {}
    for name, path in input_paths(step, out).items():
        found = artifact.find(path) if path.is_dir() else (path if path.is_file() else None)
        if found is None:
            return None
        opened[name] = found
    return artifact.current(out / step.name, stage.kind, resolved.config, opened)


def run_step(step: Step, number: int, out: Path, resolved: Resolved[Any]) -> bool:
    """Runs one step unless it is up to date, and shows what came out. True if it ran."""
    stage = STAGES[step.stage]
    stage_header(number, len(STEPS), step.title, step.section, step.why)
    if done := finished(step, stage, out, resolved):
        artifact.drop_checkpoints(done)
        note(f"already made in {duration(done.manifest['seconds'])}: {done.path}")
        return False
    result = stage.run(resolved, input_paths(step, out), out / step.name)
    show_result(result)
    gc.collect()
    return True


def show_result(result: Artifact) -> None:
    """Samples and facts of a fresh artefact."""
    for record in samples(result):
        sample(
            record["label"],
            f"{record['prompt']} → {record['text']}" if record.get("prompt") else record["text"],
        )
    manifest = result.manifest
    facts = [f"{key} {_short(value)}" for key, value in manifest["facts"].items() if _is_scalar(value)]
    note("; ".join(facts[:8]))
    note(f"done in {duration(manifest['seconds'])}: {result.path}")


def samples(result: Artifact, limit: int = 6) -> Iterator[dict[str, Any]]:
    """The first samples a stage recorded."""
    path = result.path / "samples.jsonl"
    if path.is_file():
        for number, record in enumerate(artifact.read_jsonl(path)):
            if number == limit:
                return
            yield record


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float, str))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def artefacts(out: Path) -> dict[str, Artifact]:
    """The finished artefacts of a tour by step."""
    return {step.name: found for step in STEPS if (found := artifact.find(out / step.name))}


def summary(out: Path) -> None:
    """Prints the dozen numbers."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, value in numbers(artefacts(out)):
        table.add_row(f"  {label}", value)
    console.print()
    console.print(table)


def farewell(out: Path) -> None:
    """Where to look and what to type next."""
    console.print(f"\n  Report: {out / 'report' / 'report.html'}", markup=False)
    console.print(f"  Chat:   openqwen chat {out / 'rlhf'}", markup=False)
    console.print(
        f"  Serve:  openqwen serve {out / 'rlhf'}     (OpenAI-compatible, page at the same address)",
        markup=False,
    )


def show_plan(out: Path, settings: Mapping[str, Resolved[Any]]) -> int:
    """Which steps are up to date and which would run: those that are not, and those made from them."""
    stale: set[str] = set()
    for number, step in enumerate(STEPS, 1):
        sources = {source.split("/")[0] for source in step.inputs.values()}
        if sources & stale or not finished(step, STAGES[step.stage], out, settings[step.stage]):
            stale.add(step.name)
        state = "would run" if step.name in stale else "up to date"
        note(f"{number:2d}  {step.name:<11} {state:<11} {step.title} ({step.section})")
    return 0
