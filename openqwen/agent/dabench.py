"""DABench (InfiAgent): questions about a table, answered with the interpreter as @name[value].

Report §3.4 (a code interpreter for data); the set is not the report's. Scores are its paper's: by question (all values
right), proportional by sub-question (mean share of a question's values), by sub-question (share of all values). Ours:
the model itself writes the form, where the paper has another model rewrite its answer, and what has no answer is wrong.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.agent.coding import each, executable
from openqwen.agent.config import AgentEvalConfig
from openqwen.agent.loop import Model
from openqwen.agent.rows import is_file_name, rows, take
from openqwen.core.errors import DataError
from openqwen.core.intervals import clustered
from openqwen.core.tables import Cell, average, share

PUBLISHED = 257
_QUESTIONS = ("dabench.jsonl", "dabench.jsonl.gz", "da-dev-questions.jsonl")
_LABELS = "da-dev-labels.jsonl"
_TABLES = ("dabench_tables.zip", "da-dev-tables")
_VALUE = re.compile(r"@(\w+)\[(.*?)\]")
_CLOSE = 1e-6
_PROMPT = """{question}

The table is in the file {file_name}.
Constraints: {constraints}
Give the final answer in this form: {format}"""


@dataclass(frozen=True)
class Question:
    """A question about a table. labels: the right value under each name."""

    id: int
    query: str
    file_name: str
    table: bytes
    labels: Mapping[str, str]
    part: str = "all"


def load(folder: Path) -> tuple[list[Question], list[str]]:
    """The questions of FOLDER/code_interpreter with their tables. DataError for a row that is none, or has no table."""
    home = folder / "code_interpreter"
    path = next((home / name for name in _QUESTIONS if (home / name).is_file()), None)
    if path is None:
        return [], [f"no {' or '.join(_QUESTIONS)} in {home}"]
    beside = home / _LABELS
    labels = {row.get("id"): row.get("common_answers") for _, row in rows(beside)} if beside.is_file() else {}
    questions = [_question(row, labels, home, place) for place, row in rows(path)]
    return questions, [f"{len(questions)} of {PUBLISHED}"]


def _question(row: Mapping[str, Any], labels: Mapping[Any, Any], home: Path, place: str) -> Question:
    number = take(row, "id", int, place)
    texts = {key: take(row, key, str, place) for key in ("question", "constraints", "format", "file_name")}
    pairs = row.get("common_answers") or labels.get(number)
    if not isinstance(pairs, list) or not pairs or not all(map(_is_pair, pairs)):
        raise DataError('"common_answers" is not a list of [name, value]', where=place)
    table = _table(home, texts["file_name"], place)
    return Question(number, _PROMPT.format(**texts), texts["file_name"], table, dict(pairs))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _table(home: Path, name: str, place: str) -> bytes:
    """The bytes of a table, from the archive or the folder of tables."""
    archive, folder = (home / one for one in _TABLES)
    if not is_file_name(name):
        raise DataError(f"{name!r} is no file name", where=place)
    try:
        if archive.is_file():
            with zipfile.ZipFile(archive) as tables:
                return tables.read(name)
        return (folder / name).read_bytes()
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the table {name} is not there: {error}", place, f"put {' or '.join(_TABLES)} into {home}"
        ) from error


def play(
    model: Model, questions: Sequence[Question], config: AgentEvalConfig, folder: Path
) -> list[dict[str, Any]]:
    """Every question with an interpreter of its own; one record each. Pictures lie in FOLDER/pictures/dabench-ID."""
    asked = [(f"dabench-{q.id}", q.query, {q.file_name: q.table}) for q in questions]
    return [
        {
            "id": question.id,
            "executable": executable(talk),
            "right": judge(talk.answer or "", question.labels),
            "labels": dict(question.labels),
            "trace": talk.trace(),
        }
        for question, (talk, _) in zip(
            questions, each(model, "DABench", asked, folder / "pictures", config.sets), strict=True
        )
    ]


def judge(answer: str, labels: Mapping[str, str]) -> dict[str, bool]:
    """Which values are right. `judge("@mean[2.50] @sd[1]", {"mean": "2.5", "sd": "2"})` -> mean True, sd False"""
    given = dict(_VALUE.findall(answer))
    return {name: name in given and _same(given[name], label) for name, label in labels.items()}


def _same(given: str, label: str) -> bool:
    """The same text, or numbers that differ by less than a millionth."""
    if given == label:
        return True
    try:
        return abs(float(given) - float(label)) < _CLOSE
    except ValueError:
        return False


def cells(records: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Cell]:
    """The three scores, and the share of conversations whose code all ran."""
    rights = [list(record["right"].values()) for record in records]
    flags = [flag for right in rights for flag in right]
    low, high = clustered(flags, [number for number, right in enumerate(rights) for _ in right])
    return {
        "dabench_question": share([all(right) for right in rights]),
        "dabench_proportional": average([sum(right) / len(right) for right in rights], seed),
        "dabench_subquestion": {**share(flags), "low": 100 * low, "high": 100 * high},
        "dabench_executable": share([record["executable"] for record in records]),
    }
