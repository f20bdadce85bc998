"""Tables 2, 5 and 10 to 17: published rows, and ours beside them.

Report Tables 2, 5, 10-17. Our cells say which item set they are from; it is never called the published benchmark, and
a cell without a manifest is not shown. A column whose set is missing is named in the notes with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Any

from openqwen.core.artifact import digest
from openqwen.core.tables import Cell, by_chance, published
from openqwen.evals.harness import Result
from openqwen.evals.stats import compare, shares
from openqwen.evals.subjects import PARTS
from openqwen.evals.task import Item
from openqwen.evals.tasks import APPENDIX, COLUMNS, TASKS

Key = tuple[str, int]  # (task, shots)
Sets = Mapping[str, Sequence[Item]]
AVERAGE = "Avg"  # Table 11's last column, the mean of the others


@dataclass(frozen=True)
class Column:
    """What fills a column: a task with its shots, or only the subjects of one of its parts."""

    task: str
    shots: int
    part: str | None = None

    @property
    def key(self) -> Key:
        return self.task, self.shots


def _parts(task: str, shots: int, whole: str) -> dict[str, Column]:
    return {whole: Column(task, shots)} | {part: Column(task, shots, part) for part in PARTS[task]}


def _appendix(**names: str) -> dict[str, Column]:
    return {name: Column(task, APPENDIX[task]) for task, name in names.items()}


LAYOUT: dict[int, dict[str, Column]] = {
    **{number: {name: Column(*key) for name, key in columns.items()} for number, columns in COLUMNS.items()},
    13: _parts("mmlu", 5, "Average"),
    14: _parts("ceval", 5, "Avg."),
    15: _appendix(
        cmmlu="CMMLU", agieval="AGIEval", gaokao="Gaokao-Bench", arc_easy="ARC-e", arc_challenge="ARC-c"
    ),
    16: _appendix(boolq="BoolQ", commonsenseqa="CommonsenseQA", nq="NaturalQuestions", lambada="LAMBADA"),
    17: _appendix(hellaswag="HellaSwag", piqa="PIQA", siqa="SIQA", ocnli="OCNLI"),
}


def keys(number: int) -> list[Key]:
    """What must be run for Table `number`, each once."""
    return list(dict.fromkeys(column.key for column in LAYOUT[number].values()))


def build(
    number: int,
    models: Mapping[str, Mapping[Key, Result]],
    sets: Sets,
    notes: Sequence[str],
    missing: Mapping[str, str] | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Table `number` with a row for each model of ours that has a cell in it, and paired tests between them.

    missing: task -> why its items are not there, in words.
    """
    data = published(number)
    known = {column["name"] for column in data["columns"]}
    assert LAYOUT[number].keys() <= known, f"Table {number} has no column {LAYOUT[number].keys() - known}"
    for model, results in models.items():
        row = cells(number, results, sets)
        if row:
            data["rows"].append({"model": f"ours: {model}", "origin": "ours", "cells": row})
    data["tests"] = tests(number, models, sets, seed)
    absent = {TASKS[task].title: why for task, why in (missing or {}).items() if task in dict(keys(number))}
    data["notes"] += [
        *notes,
        *(f"Missing set, {title}: {why}." for title, why in absent.items()),
        *map(in_words, data["tests"]),
    ]
    if lucky := sorted(at_chance(data)):
        data["notes"].append(f"Not significantly above chance: {'; '.join(lucky)}.")
    return data


def cells(number: int, results: Mapping[Key, Result], sets: Sets) -> dict[str, Cell]:
    """Column -> cell of one model, for the columns it has results for."""
    found = {}
    for name, column in LAYOUT[number].items():
        if column.key in results and (
            made := cell(results[column.key], sets.get(column.task, ()), column.part)
        ):
            found[name] = made
    if number == 11 and found.keys() == LAYOUT[11].keys():
        found[AVERAGE] = mean(list(found.values()))
    return found


def cell(result: Result, items: Sequence[Item], part: str | None = None) -> Cell | None:
    """A result's cell, its interval clustered by subject; None where no item of `part` was asked."""
    records, names = chosen(result, items, part)
    if not records:
        return None
    whole = all(isinstance(record["right"], bool) for record in records)
    if not whole or TASKS[result.card["task"]].weighs(result.card["protocol"]) is not None:
        return dict(result.cell) if part is None else None
    made = {**result.cell, **shares(records, names)}
    return made if part is None else {**made, "part": part}


def chosen(
    result: Result, items: Sequence[Item], part: str | None
) -> tuple[list[dict[str, Any]], list[str] | None]:
    """(records of the subjects of `part`, their subjects if items have any)."""
    subjects = {item["id"]: item["subject"] for item in items if "subject" in item}
    wanted = None if part is None else PARTS[result.card["task"]][part]
    records = [r for r in result.records if wanted is None or subjects.get(r["id"]) in wanted]
    if any(record["id"] not in subjects for record in records):
        return records, None
    return records, [subjects[record["id"]] for record in records]


def mean(parts: Sequence[Cell]) -> Cell:
    """The unweighted mean of independent cells; half its interval is the root of their squared halves over their number."""
    value = sum(part["value"] for part in parts) / len(parts)
    down = sqrt(sum((part["value"] - part["low"]) ** 2 for part in parts)) / len(parts)
    up = sqrt(sum((part["high"] - part["value"]) ** 2 for part in parts)) / len(parts)
    return {
        "value": value,
        "low": value - down,
        "high": value + up,
        "n": sum(part["n"] for part in parts),
        "source": parts[0]["source"],
        "manifest": digest([part["manifest"] for part in parts]),
    }


def tests(
    number: int, models: Mapping[str, Mapping[Key, Result]], sets: Sets, seed: int
) -> list[dict[str, Any]]:
    """Every two models against each other, column by column, on the items both were asked."""
    done = []
    for (a, first), (b, second) in combinations(models.items(), 2):
        for name, column in LAYOUT[number].items():
            if column.key not in first or column.key not in second:
                continue
            items = sets.get(column.task, ())
            ours, theirs = (chosen(found[column.key], items, column.part)[0] for found in (first, second))
            if made := compare(ours, theirs, seed):
                done.append({"column": name, "models": [a, b], **made})
    return done


def in_words(test: Mapping[str, Any]) -> str:
    """A paired test as a line of a table's notes."""
    a, b = test["models"]
    p = "" if test["p"] is None else f", McNemar p = {test['p']:.2g}"
    sure = "" if test["low"] > 0 or test["high"] < 0 else ": no difference shown"
    return (
        f"{test['column']}, {a} minus {b}: {test['difference']:+.1f} points "
        f"[{test['low']:.1f}, {test['high']:.1f}]{p} on {test['n']} items{sure}."
    )


def at_chance(data: Mapping[str, Any]) -> list[str]:
    """`model, column (chance c)` of our cells that guessing may explain."""
    return [
        f"{row['model']}, {name} (chance {found['chance']:.3g})"
        for row in data["rows"]
        if row["origin"] == "ours"
        for name, found in row["cells"].items()
        if by_chance(found)
    ]
