"""What a benchmark is: how its items are read, how a base and a chat model are asked, how an answer is judged.

Report §2.6, §3.3. A base model continues a text of examples; a chat model answers a turn of its own, examples being
earlier turns. Each task is one small file in `tasks/`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openqwen.core.errors import DataError

Item = dict[str, Any]
Kind = Literal["base", "chat"]


def _nothing(item: Item) -> str:
    return ""


@dataclass(frozen=True)
class Ask:
    """How one kind of model is asked.

    query: the open question. answer: what an example shows after it. Exactly one of three says how replies count:
    letters (their log-probabilities are compared, the item's answer is an index), judge (text, item -> right), or
    program (text, item -> a program that must run through, in the sandbox).
    """

    query: Callable[[Item], str]
    answer: Callable[[Item], str]
    header: Callable[[Item], str] = _nothing
    letters: tuple[str, ...] = ()
    judge: Callable[[str, Item], bool] | None = None
    program: Callable[[str, Item], str] | None = None
    stop: tuple[str, ...] = ()

    def text(self, item: Item, shots: Sequence[Item]) -> str:
        """The prompt of a base model."""
        examples = "".join(self.query(shot) + self.answer(shot) for shot in shots)
        return self.header(item) + examples + self.query(item)

    def messages(self, item: Item, shots: Sequence[Item]) -> list[dict[str, str]]:
        """The conversation of a chat model up to its turn."""
        turns = []
        for shot in shots:
            turns += [
                {"role": "user", "content": self.query(shot)},
                {"role": "assistant", "content": self.answer(shot)},
            ]
        return [*turns, {"role": "user", "content": self.query(item)}]


@dataclass(frozen=True)
class Task:
    """One benchmark. `read` normalises published records and the primer's to items with id, split and answer."""

    name: str
    title: str
    read: Callable[[Path], list[Item]]
    base: Ask
    chat: Ask
    chance: Callable[[Sequence[Item]], float | None]

    def ask(self, kind: Kind) -> Ask:
        return self.base if kind == "base" else self.chat


def records(path: Path) -> Iterator[tuple[str, Item]]:
    """(place, record) of a .jsonl or .jsonl.gz file; DataError names the line that is none."""
    if not path.is_file():
        raise DataError("no such item set", where=str(path), fix="give a .jsonl or .jsonl.gz file")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"not a JSON record: {error}", where=place) from error
            if not isinstance(record, dict):
                raise DataError("a record must be an object", where=place)
            yield place, record


def take(record: Item, place: str, *names: str) -> Any:
    """The first of several fields that a record has (sets name them differently)."""
    for name in names:
        if name in record:
            return record[name]
    raise DataError(f"record without {' or '.join(names)}", where=place)


def shots_for(item: Item, dev: Sequence[Item], count: int) -> list[Item]:
    """The first `count` examples of the item's own subject or task, if it has one; never the item itself."""
    group = next((key for key in ("subject", "task") if key in item), None)
    near = [d for d in dev if d["id"] != item["id"] and (group is None or d.get(group) == item[group])]
    return near[:count]


def constant_guess(items: Sequence[Item]) -> float | None:
    """Chance of a text answer: how often the commonest gold answer would be right."""
    golds = [item["answer"] for item in items]
    return max(map(golds.count, set(golds))) / len(golds) if golds else None


def uniform_guess(items: Sequence[Item]) -> float | None:
    """Chance of a choice: one over the number of choices, averaged."""
    return sum(1 / len(item["choices"]) for item in items) / len(items) if items else None


def no_guess(items: Sequence[Item]) -> float | None:
    """Code is not hit by guessing."""
    return None
