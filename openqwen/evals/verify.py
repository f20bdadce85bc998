"""Scores kept outputs again, without a model, and says which number differs and why.

Ours. Three things are checked of every number: that its card is the one its manifest names, that the items are those
whose hash the card has, and that today's extraction and scoring of the kept outputs give the table's cell again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openqwen
from openqwen.core.artifact import digest, read_jsonl
from openqwen.core.errors import DataError, did_you_mean
from openqwen.evals import code, tables
from openqwen.evals.choice import LETTERS
from openqwen.evals.harness import Result, option_texts, score
from openqwen.evals.task import Ask, Item
from openqwen.evals.tasks import TASKS

FILES = ("cards.jsonl", "outputs.jsonl", "items.jsonl")
SHOWN = 5  # items named of those that differ
_HEAD = ("manifest", "model", "task", "shots")


@dataclass
class Check:
    """One number: what it is of, and what was found. skipped: why it could not be scored again."""

    manifest: str
    name: str
    result: Result
    items: list[Item]
    problems: list[str] = field(default_factory=list)
    skipped: str | None = None


def verify(path: Path) -> tuple[list[Check], list[str]]:
    """(checks of all numbers of an evaluation's folder, what is wrong with its tables).

    path: the folder, or a file in it. DataError if what an evaluation keeps is not there.
    """
    folder = path if path.is_dir() else path.parent
    if lacking := [name for name in FILES if not (folder / name).is_file()]:
        raise DataError(
            f"no {', '.join(lacking)} of an evaluation there",
            where=str(path),
            fix="give the folder that openqwen eval or openqwen table --model wrote",
        )
    outputs: dict[str, list[dict[str, Any]]] = {}
    for line in read_jsonl(folder / "outputs.jsonl"):
        record = {key: value for key, value in line.items() if key not in _HEAD}
        outputs.setdefault(line["manifest"], []).append(record)
    items = {line["sha256"]: line["items"] for line in read_jsonl(folder / "items.jsonl")}
    checks = [check(card, outputs, items) for card in read_jsonl(folder / "cards.jsonl")]
    wrong = [
        f"{file.name}, {problem}"
        for file in sorted(folder.glob("table_*.json"))
        for problem in check_table(json.loads(file.read_text(encoding="utf-8")), checks)
    ]
    return checks, wrong


def check(
    line: Mapping[str, Any], outputs: Mapping[str, Sequence[dict[str, Any]]], items: Mapping[str, list[Item]]
) -> Check:
    """One card against its outputs and items."""
    manifest = line["manifest"]
    card = {key: value for key, value in line.items() if key != "manifest"}
    if card["task"] not in TASKS:
        raise DataError(f"no task {card['task']!r}.{did_you_mean(card['task'], TASKS)}", where="cards.jsonl")
    asked = items.get(card["items"]["sha256"], [])
    records = list(outputs.get(manifest, ()))
    name = f"{card['model']['name']}, {TASKS[card['task']].title} {card['shots']['asked']}-shot"
    found = Check(manifest, name, Result(card, records, {}), asked)
    if digest(card) != manifest:
        found.problems.append("the card was changed after the number was computed")
    if digest(asked) != card["items"]["sha256"]:
        found.problems.append("changed data: the kept items are not those whose hash the card has")
        return found
    if [record["id"] for record in records] != [item["id"] for item in asked]:
        found.problems.append("the kept outputs are not those of the card's items")
        return found
    ask = TASKS[card["task"]].ask(card["model"]["kind"], card["protocol"])
    if ask.program is not None and (why := code.missing(ask.language)):
        found.skipped = why
        return found
    again = rescore(ask, records, asked)
    differ = [record["id"] for record, right in zip(records, again, strict=True) if record["right"] != right]
    if differ:
        named = ", ".join(differ[:SHOWN]) + (" and others" if len(differ) > SHOWN else "")
        version = card["code"]
        reason = (
            f"code {version}, now {openqwen.__version__}"
            if version != openqwen.__version__
            else "same version"
        )
        found.problems.append(
            f"changed extractor or scorer ({reason}): {len(differ)} of {len(records)} items score otherwise: {named}"
        )
    rescored = [{**record, "right": right} for record, right in zip(records, again, strict=True)]
    weights = TASKS[card["task"]].weighs(card["protocol"])
    cell = score(rescored, weights(asked) if weights else None, card["items"]["seed"])
    found.result = Result(card, rescored, cell)
    return found


def rescore(ask: Ask, records: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> list[bool | float]:
    """What today's code makes of kept outputs: `right` of each record.

    Options that were compared by log-probability are read from the option that won; whether greedy decoding writes the
    only option is a fact of the model and stays as it was kept.
    """
    if ask.program is not None:
        programs = [ask.program(record["output"], item) for record, item in zip(records, items, strict=True)]
        return list(code.passes(programs, language=ask.language))
    return [_right(ask, record, item) for record, item in zip(records, items, strict=True)]


def _right(ask: Ask, record: Mapping[str, Any], item: Item) -> bool | float:
    if "scores" not in record:
        assert ask.judge is not None
        return ask.judge(record["output"], item) if record["output"].strip() else False
    if ask.by == "greedy" and not ask.letters:
        return bool(record["right"])
    texts = [text.strip() for text in option_texts(ask, item)]
    return LETTERS[texts.index(record["output"])] in item["answer"]


def check_table(data: Mapping[str, Any], checks: Sequence[Check]) -> list[str]:
    """What of a table's own cells is not what the kept outputs give."""
    known = {check.manifest: check for check in checks}
    wrong = []
    for row in data["rows"]:
        if row["origin"] != "ours":
            continue
        for name, cell in row["cells"].items():
            if data["table"] == 11 and name == tables.AVERAGE:
                again: Mapping[str, Any] | None = tables.mean(
                    [other for column, other in row["cells"].items() if column != name]
                )
            elif (found := known.get(cell.get("manifest", ""))) is None:
                wrong.append(f"{row['model']}, {name}: no card has its manifest")
                continue
            elif found.skipped or not found.result.cell:
                continue
            else:
                again = tables.cell(found.result, found.items, cell.get("part"))
            told = [cell.get(key) for key in ("value", "low", "high", "n")]
            now = [again.get(key) if again else None for key in ("value", "low", "high", "n")]
            if told != now:
                wrong.append(f"{row['model']}, {name}: the table has {told[0]}, the outputs give {now[0]}")
    return wrong
