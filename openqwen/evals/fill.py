"""Asks models everything that tables want of them, and keeps what is needed to check the numbers later.

Ours. A folder of an evaluation holds table_NN.json, cards.jsonl (one line a number: how it came about), outputs.jsonl
(one line an item: what the model said) and items.jsonl (the items that were asked); verify.py reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwen.core.artifact import write_json, write_jsonl
from openqwen.core.console import Progress
from openqwen.evals.config import EvalsConfig
from openqwen.evals.harness import Result, Subject, evaluate, obstacle
from openqwen.evals.tables import Key, Sets
from openqwen.evals.task import Protocol
from openqwen.evals.tasks import TASKS

Results = Mapping[str, Mapping[Key, Result]]  # model -> its results


def run_tasks(
    wanted: Sequence[tuple[Subject, Key]],
    sets: Sets,
    config: EvalsConfig,
    source: str,
    data: Mapping[str, Mapping[str, Any]] | None = None,
    journal: Path | None = None,
    protocol: Protocol = "report",
) -> dict[str, dict[Key, Result]]:
    """Model -> (task, shots) -> result, each once; tasks without a set, and what `why_not` names, are left out.

    source: what the sets are, `{}` standing for a task's title. data: task -> where its items came from, for the card.
    """
    asked = [
        (subject, key)
        for subject, key in dict.fromkeys(wanted)
        if key[0] in sets and why_not(subject, key[0], protocol) is None
    ]
    results: dict[str, dict[Key, Result]] = {subject.name: {} for subject, _ in wanted}
    with Progress("tables", total=len(asked)) as bar:
        for count, (subject, (name, shots)) in enumerate(asked):
            bar.update(count, model=subject.name, task=name)
            found = evaluate(
                subject,
                TASKS[name],
                sets[name],
                shots,
                limit=limit(name, config),
                seed=config.seed,
                max_tokens=config.max_tokens,
                source=source.format(TASKS[name].title),
                data=(data or {}).get(name),
                journal=journal,
                protocol=protocol,
            )
            if found is not None:
                results[subject.name][name, shots] = found
        bar.update(len(asked))
    return results


def why_not(subject: Subject, name: str, protocol: Protocol) -> str | None:
    """Why a model is not asked a task in a protocol, in words; None if it is."""
    task = TASKS[name]
    if protocol not in task.protocols:
        return "lm-evaluation-harness has no task for it"
    return obstacle(subject, task.ask(subject.kind, protocol))


def dashes(wanted: Sequence[tuple[Subject, Key]], sets: Sets, protocol: Protocol) -> list[str]:
    """A line for each task with a set that models were not asked: which, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for subject, name in dict.fromkeys((subject, key[0]) for subject, key in wanted if key[0] in sets):
        if why := why_not(subject, name, protocol):
            reasons.setdefault((TASKS[name].title, why), []).append(subject.name)
    return [f"Not asked, {title} ({', '.join(models)}): {why}." for (title, why), models in reasons.items()]


def limit(name: str, config: EvalsConfig) -> int:
    """How many items of a set are used."""
    task = TASKS[name]
    if task.chat.program is not None:
        return config.code_items
    return config.choice_items if task.base.letters or task.base.options else config.text_items


def fewer_shots(results: Results) -> str | None:
    """A note on tasks of which fewer examples fitted into a model's length than the table has; None if all did."""
    fewer = sorted(
        {
            f"{TASKS[name].title} {result.card['shots']['fitted']:.1f} of {shots}"
            for found in results.values()
            for (name, shots), result in found.items()
            if result.card["shots"]["fitted"] < shots
        }
    )
    return f"Examples that fitted into the models' length, on average: {', '.join(fewer)}." if fewer else None


def keep(folder: Path, tables: Iterable[Mapping[str, Any]], results: Results, sets: Sets) -> None:
    """Writes an evaluation's files into `folder`."""
    found = [result for of_model in results.values() for result in of_model.values()]
    for table in tables:
        write_json(folder / f"table_{table['table']:02d}.json", table)
    write_jsonl(folder / "cards.jsonl", [{"manifest": r.manifest, **r.card} for r in found])
    write_jsonl(folder / "outputs.jsonl", [line for r in found for line in output_lines(r)])
    asked = {r.card["items"]["sha256"]: r.card for r in found}
    write_jsonl(folder / "items.jsonl", [asked_items(card, sets[card["task"]]) for card in asked.values()])


def output_lines(result: Result) -> list[dict[str, Any]]:
    """Raw outputs, so that a changed extractor can score again without a model."""
    model, task = result.card["model"]["name"], result.card["task"]
    head = {"manifest": result.manifest, "model": model, "task": task, "shots": result.card["shots"]["asked"]}
    return [{**head, **record} for record in result.records]


def asked_items(card: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The items of one card in its order."""
    by_id = {item["id"]: item for item in items}
    ids = card["items"]["ids"]
    return {"task": card["task"], "sha256": card["items"]["sha256"], "items": [by_id[i] for i in ids]}
