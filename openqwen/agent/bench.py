"""Stage "agentbench": the benchmarks in which a model writes Python, Tables 7, 8 and 9.

Report §3.4. The report's questions are in-house; ours have the same kinds, and the tables say so. Needs the sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openqwen.agent import coding, hf_agent, hf_problems
from openqwen.agent.cases import KINDS, Case, all_cases
from openqwen.agent.config import AgentBenchConfig, JudgeConfig
from openqwen.agent.hf_problems import Problem
from openqwen.agent.loop import Model
from openqwen.agent.models import speaker
from openqwen.agent.vision import Asked, Judge
from openqwen.annotate.models import only_model
from openqwen.core.artifact import Artifact, find, open_inputs, stage_run, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.tables import average, published, share
from openqwen.sandbox.run import required

Record = dict[str, Any]
Cells = dict[str, dict[str, Any]]
# column -> kinds of questions in it
EXECUTABLE = {
    "Math": ("math",),
    "Visualization": ("visual-easy", "visual-hard"),
    "General": ("general",),
    "All": KINDS,
}
CORRECT = {
    "Math": ("math",),
    "VisHard": ("visual-hard",),
    "VisEasy": ("visual-easy",),
    "VisAll": ("visual-easy", "visual-hard"),
}
SCORES = {"Tool Selection": "tool_selection", "Tool Used": "tool_used", "Code Correctness": "code"}


def run(resolved: Resolved[AgentBenchConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """inputs: model (unless an address is set), problems (a file in the form of the Hugging Face benchmark)."""
    config = resolved.config
    opened = open_inputs(inputs, {"model": "model"})
    required()  # before the model is loaded
    with stage_run(out, "agent-bench", resolved, opened) as stage:
        model = speaker(only_model(inputs.get("model"), config, "agent-bench"), config.max_tokens)
        singles = (
            hf_problems.read_problems(inputs["problems"])
            if "problems" in inputs
            else hf_problems.run_problems()
        )
        cases = few(all_cases(), config.limit)
        coded = play_cases(model, cases, config, out / "pictures")
        if config.judge.address is not None:
            look(coded, cases, config.judge, out / "pictures")
        seen = judged(coded, config.seed)
        modes = {
            "Run": play_problems(model, singles[: config.limit], config),
            "Chat": play_problems(model, hf_problems.chat_problems()[: config.limit], config),
        }
        found = {7: table_7(coded), 8: table_8(coded), 9: table_9(modes, config.seed)}
        for number, cells in found.items():
            filled = table(number, cells, stage.fingerprint)
            if number == 8 and config.judge.address is not None:
                filled["notes"].append(judged_note(coded, seen, config.judge.address))
            write_json(out / f"table_{number:02d}.json", filled)
        write_jsonl(out / "interpreter.jsonl", coded)
        write_jsonl(out / "hf_agent.jsonl", [{"mode": m, **r} for m, rs in modes.items() for r in rs])
        write_jsonl(out / "samples.jsonl", [sample(record) for record in coded[:8]])
        stage.fact(
            questions=len(coded),
            turns=sum(map(len, modes.values())),
            **{f"judged_{_slug(name)}": cell["value"] / 100 for name, cell in seen.items()},
            **{
                f"table_{n}_{_slug(name)}": cell["value"] / 100
                for n, cells in found.items()
                for name, cell in cells.items()
            },
        )
    done = find(out)
    assert done is not None
    return done


def few(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """At most `limit` of each kind."""
    return [case for kind in KINDS for case in [c for c in cases if c.kind == kind][:limit]]


def play_cases(model: Model, cases: Sequence[Case], config: AgentBenchConfig, folder: Path) -> list[Record]:
    """Every question for the interpreter, in batches."""
    records: list[Record] = []
    with Progress("interpreter", total=len(cases)) as bar:
        for start in range(0, len(cases), config.batch_size):
            part = cases[start : start + config.batch_size]
            records += coding.play(
                model,
                part,
                folder,
                config.interpreter,
                config.max_steps,
                config.max_repeats,
                config.max_observation,
            )
            bar.update(len(records))
    return records


def look(records: Sequence[Record], cases: Sequence[Case], config: JudgeConfig, folder: Path) -> None:
    """Adds the vision model's verdict to the record of every question for a picture."""
    drawing = [(record, case) for record, case in zip(records, cases, strict=True) if case.figure]
    asked = [
        Asked(case.query, (folder / record["picture"]).read_bytes()) if record["picture"] else None
        for record, case in drawing
    ]
    for (record, _), verdict in zip(drawing, Judge(config).judge(asked), strict=True):
        record["verdict"] = asdict(verdict)


def judged(records: Sequence[Record], seed: int) -> Cells:
    """Mean scores of the vision model, of the columns of Table 8 that are pictures; verdicts without one are left out."""
    scores = {
        name: [
            r["verdict"]["score"] / 100
            for r in records
            if r["kind"] in kinds and "verdict" in r and r["verdict"]["score"] is not None
        ]
        for name, kinds in CORRECT.items()
    }
    return {name: average(found, seed) for name, found in scores.items() if found}


def judged_note(records: Sequence[Record], seen: Cells, judge: str) -> str:
    """One sentence for Table 8."""
    verdicts = [record["verdict"] for record in records if "verdict" in record]
    unparsed = sum(verdict["score"] is None for verdict in verdicts)
    means = ", ".join(f"{name} {cell['value']:.1f}" for name, cell in seen.items()) or "nothing"
    return (
        f"A vision model ({judge.partition('#')[2]}) scores our pictures, of 100: {means}; "
        f"{unparsed} of {len(verdicts)} verdicts held no clear score and count nowhere."
    )


def play_problems(model: Model, problems: Sequence[Problem], config: AgentBenchConfig) -> list[Record]:
    """Every problem of one mode, in batches."""
    parts = range(0, len(problems), config.batch_size)
    return [
        record
        for start in parts
        for record in hf_agent.play(model, problems[start : start + config.batch_size], config.interpreter)
    ]


def table_7(records: Sequence[Record]) -> Cells:
    """The share of conversations whose code ran."""
    return _shares(records, EXECUTABLE, "executable")


def table_8(records: Sequence[Record]) -> Cells:
    """The share of right results; as in the report without the general questions."""
    return _shares(records, CORRECT, "correct")


def _shares(records: Sequence[Record], columns: dict[str, tuple[str, ...]], score: str) -> Cells:
    chosen = {name: [r[score] for r in records if r["kind"] in kinds] for name, kinds in columns.items()}
    return {name: share(flags) for name, flags in chosen.items() if flags}


def table_9(modes: dict[str, list[Record]], seed: int) -> Cells:
    """The three mean scores of each mode."""
    return {
        f"{mode}: {column}": average([r[score] for r in records], seed)
        for mode, records in modes.items()
        for column, score in SCORES.items()
        if records
    }


def table(number: int, cells: Cells, manifest: str) -> dict[str, Any]:
    """A table of the report with our row."""
    data = published(number)
    ours = {name: {**cell, "manifest": manifest} for name, cell in cells.items()}
    data["rows"].append({"model": "ours: our own questions", "origin": "ours", "cells": ours})
    data["notes"].append(
        "Our row: questions of our own of the same kinds, pictures judged by rules on the figure; not comparable."
    )
    return data


def sample(record: Record) -> dict[str, Any]:
    """How a record is shown to people."""
    label = f"{record['kind']}, {'right' if record['correct'] else 'wrong'}"
    trace = record["trace"]
    return {"label": label, "prompt": trace["query"], "text": trace["reply"], "id": record["id"]}


def _slug(name: str) -> str:
    return name.lower().replace(": ", "_").replace(" ", "_")
