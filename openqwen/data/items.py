"""The texts of benchmark files that must not occur in a corpus.

Report §2.1 ("any data present in the test sets"); which fields of a record those are is ours. A short question with
choices is an item only together with them: alone it is a sentence that anybody may have written.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.core.errors import DataError, MissingTool
from openqwen.core.jsonl import read_jsonl_zst


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Names of fields, in lower case. The question, in the order in which people read it:
QUESTION = _names("""
    context ctx passage article background premise sentence1 body text original_text stem question query problem
    prompt instruction goal input hypothesis sentence2 messages conversations turns canonical_solution
""")
CHOICES = _names("choices options endings candidates sol1 sol2 a b c d e option_a option_b option_c option_d")
# What says something about an item in a word, and programs that check an answer: no text of its own.
ABOUT = _names("""
    id idx index task task_id unique_id question_id qid prem_id gold label answerkey level difficulty type kind genre
    category subject subject_zh domain topic role from source dataset split year url licence license file file_name
    entry_point
""")
PROGRAMS = _names("""
    import declaration signature test tests test_list test_setup test_setup_code challenge_test_list example_test
""")
SEGMENTED = "segmented_text"  # the question once more, with spaces between words
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Item:
    """One text that must not occur in the corpus."""

    benchmark: str
    id: str
    text: str
    part: bool = False  # an answer or explanation: evidence only where a long run of it is found


def read_benchmarks(paths: Iterable[Path]) -> list[Item]:
    """The items of benchmark files and of all such files in folders. DataError for what cannot be read."""
    items: dict[Item, None] = {}
    for path in paths:
        if not path.exists():
            raise DataError(
                "benchmark file does not exist", where=str(path), fix="mend decontaminate.benchmarks"
            )
        files = sorted(p for p in path.rglob("*") if _known(p)) if path.is_dir() else [path]
        if not files or not all(map(_known, files)):
            raise DataError(
                "no benchmark file there", where=str(path), fix=f"give files that end in {', '.join(ENDINGS)}"
            )
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            found = list(_items(file, name[: -len(_ending(file))]))
            if not found:
                raise DataError("no text in this benchmark file", where=str(file))
            items |= dict.fromkeys(found)
    return list(items)


def _ending(path: Path) -> str:
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def _known(path: Path) -> bool:
    return bool(_ending(path)) and path.is_file()


def _items(file: Path, benchmark: str) -> Iterator[Item]:
    for number, record in enumerate(_records(file), 1):
        if not isinstance(record, dict):
            raise DataError("not a benchmark record (a JSON object)", where=f"{file}:{number}")
        label = next((str(record[name]) for name in ("id", "task_id", "unique_id") if name in record), number)
        for text, part in item_texts(record):
            yield Item(benchmark, str(label), text, part)


def item_texts(record: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """(text, whether it is a part) of one record.

    Question with choices, plain and lettered, or prompt with solution, is one text. Answers and explanations are
    parts. In a record without a question every string is a text, and all of them together are one.
    """
    record = _flat(record)
    question = [text for name in QUESTION for text in _strings(record.get(name))]
    choices = [text for name in CHOICES for text in _strings(record.get(name))]
    known = {*QUESTION, *CHOICES, *PROGRAMS, SEGMENTED}
    rest = [
        text
        for name, value in record.items()
        if name not in known and not (name in ABOUT and isinstance(value, str))
        for text in _strings(value)
    ]
    if question:
        yield "\n".join(question + choices), False
        if choices:
            yield "\n".join([*question, *(f"{chr(65 + i)}. {text}" for i, text in enumerate(choices))]), False
        yield from ((text, True) for text in rest)
    else:
        texts = choices + rest
        yield from ((text, False) for text in texts)
        if len(texts) > 1:
            yield "\n".join(texts), False


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record's fields by lower-case names; those of a question that is an object itself among them."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if name.lower() in QUESTION and isinstance(value, dict):
            fields |= _flat(value)
        else:
            fields[name.lower()] = value
    return fields


def _strings(value: Any) -> Iterator[str]:
    """All texts in a value, nested ones included."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not (name.lower() in ABOUT and isinstance(inner, str)):
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _records(file: Path) -> Iterator[Any]:
    """The records of one file by its ending."""
    name = file.name.lower()
    if name.endswith(".jsonl.zst"):
        return read_jsonl_zst(file)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _json_lines(file)
    if name.endswith(".json"):
        return _json(file)
    if name.endswith(".parquet"):
        return _parquet(file)
    return _table(file)


def _json_lines(file: Path) -> Iterator[Any]:
    number = 0
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    yield json.loads(line)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"damaged: {error}", where=f"{file}:{number}") from error


def _json(file: Path) -> Iterator[Any]:
    """A list of records, or an object with such a list in it."""
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"damaged: {error}", where=str(file)) from error
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else [value]
    yield from value if isinstance(value, list) else [value]


def _table(file: Path) -> Iterator[Any]:
    """Rows as records; where the first is no row of names, question and choices by place."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"damaged: {error}", where=str(file)) from error
    names = [name.strip().lower() for name in rows[0]] if rows else []
    if {*QUESTION} & {*names} and max(map(len, names)) < 40:  # an answer "A" is no name of choices
        yield from (dict(zip(names, row)) for row in rows[1:])
    else:
        yield from ({"question": row[0], "choices": row[1:]} for row in rows if row)


def _parquet(file: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingTool(
            "reading Parquet needs pyarrow", where=str(file), fix='pip install "openqwen[data]"'
        ) from error
    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"damaged: {str(error).splitlines()[0]}", where=str(file)) from error
