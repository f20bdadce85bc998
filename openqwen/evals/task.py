"""What a benchmark is: how its items are read, how a base and a chat model are asked, how an answer is judged.

Report §2.6, §3.3. A base model continues a text of examples; a chat model answers a turn of its own, examples being
earlier turns. Each task is one small file in `tasks/`, with two protocols: `report`, the scoring the report's numbers
came from (the released scripts, or OpenCompass' modes), and `harness`, that of lm-evaluation-harness 0.4.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openqwen.core.errors import DataError, UsageError

Item = dict[str, Any]
Kind = Literal["base", "chat"]
Protocol = Literal["report", "harness"]
# How options compare: by log-probability, that per character, the mean over the whole text, or whether greedy
# decoding writes the (only) option.
By = Literal["sum", "characters", "text", "greedy"]


def _nothing(item: Item) -> str:
    return ""


@dataclass(frozen=True)
class Ask:
    """How one kind of model is asked.

    query: the open question. answer: what an example shows after it. One of four says how replies count: letters
    (their log-probabilities are compared), options (the texts that are compared, in the way `by` says), judge
    (text, item -> right, or the share of it that is), or program (text, item -> a program that must run through, in the
    sandbox). An item whose options are empty is judged by its text. tokens: longest reply, where the protocol says it.
    shots: examples of the protocol itself, for a set that has none of its own. chance: where it is not the task's.
    modules: (name, how to install it) of what judging imports beyond the package's requirements.
    """

    query: Callable[[Item], str]
    answer: Callable[[Item], str]
    header: Callable[[Item], str] = _nothing
    letters: tuple[str, ...] = ()
    options: Callable[[Item], list[str]] | None = None
    by: By = "sum"
    judge: Callable[[str, Item], bool | float] | None = None
    program: Callable[[str, Item], str] | None = None
    language: str = "python"
    stop: tuple[str, ...] = ()
    tokens: int | None = None
    shots: tuple[Item, ...] = ()
    chance: Callable[[Sequence[Item]], float | None] | None = None
    modules: tuple[tuple[str, str], ...] = ()

    def text(self, item: Item, shots: Sequence[Item]) -> str:
        """The prompt of a base model."""
        examples = "".join(self.query(shot) + self.answer(shot) for shot in shots)
        return self.header(item) + examples + self.query(item)

    def messages(self, item: Item, shots: Sequence[Item]) -> list[dict[str, str]]:
        """The conversation of a chat model up to its turn; a header is its system message."""
        header = self.header(item)
        turns = [{"role": "system", "content": header}] if header else []
        for shot in shots:
            answer = self.answer(shot).removeprefix(" ").rstrip("\n")
            turns += [
                {"role": "user", "content": self.query(shot)},
                {"role": "assistant", "content": answer},
            ]
        return [*turns, {"role": "user", "content": self.query(item)}]


@dataclass(frozen=True)
class Task:
    """One benchmark.

    parse: (record, place) -> an item with id, split and answer, from a published or the primer's record; several from a
    record that holds several; None for a row that the set itself leaves out. weights: what each item counts; None:
    all the same. join: what items take over from the examples beside them, once both are read. prompt: the examples
    in the released script's prompt file.
    """

    name: str
    title: str
    parse: Callable[[Item, str], Item | list[Item] | None]
    base: Ask
    chat: Ask
    chance: Callable[[Sequence[Item]], float | None]
    harness: Ask | None = None
    weights: Callable[[Sequence[Item]], list[float]] | None = None
    join: Callable[[list[Item]], list[Item]] | None = None
    prompt: Callable[[str], list[Item]] | None = None

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        return ("report",) if self.harness is None else ("report", "harness")

    def ask(self, kind: Kind, protocol: Protocol = "report") -> Ask:
        """UsageError if lm-evaluation-harness has no such task.

        The harness asks a chat model as a base model, but in turns: the header is the system message (its
        apply_chat_template).
        """
        if protocol == "report":
            return self.base if kind == "base" else self.chat
        if self.harness is None:
            raise UsageError(f"lm-evaluation-harness has no task for {self.title}", fix="use protocol report")
        return self.harness

    def weighs(self, protocol: Protocol) -> Callable[[Sequence[Item]], list[float]] | None:
        """`weights`; None with lm-evaluation-harness, where every item counts the same."""
        return self.weights if protocol == "report" else None

    def read(self, path: Path) -> list[Item]:
        """The items of a file; DataError at the first row that is none."""
        items, _ = self._rows(path, None)
        return items

    def read_all(self, path: Path) -> tuple[list[Item], list[str]]:
        """(items, what is wrong with each row that is none)."""
        return self._rows(path, [])

    def _rows(self, path: Path, bad: list[str] | None) -> tuple[list[Item], list[str]]:
        items = []
        for place, record in records(path, bad):
            try:
                item = self._item(record, place)
            except DataError as error:
                if bad is None:
                    raise
                bad.append(str(error))
                continue
            if item is not None:
                items += item if isinstance(item, list) else [item]
        return items, bad or []

    def _item(self, record: Item, place: str) -> Item | list[Item] | None:
        try:
            return self.parse(record, place)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"no row of {self.title}: {type(error).__name__}: {error}", where=place
            ) from error


def records(path: Path, bad: list[str] | None = None) -> Iterator[tuple[str, Item]]:
    """(place, record) of a .jsonl, .jsonl.gz or .json file; a .json file may be lines too, or a list under one name.

    What is no record goes to `bad`; without one, DataError names its place.
    """
    if not path.is_file():
        raise DataError("no such item set", where=str(path), fix="give a .jsonl, .jsonl.gz or .json file")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        lines: Iterable[Any] = _whole(file.read()) if path.suffix == ".json" else file
        for number, line in enumerate(lines, 1):
            place = f"{path}:{number}"
            try:
                record = line if isinstance(line, dict) else json.loads(line) if line.strip() else None
                if record is None:
                    continue
                if not isinstance(record, dict):
                    raise DataError("a record must be an object", where=place)
            except DataError as error:
                if bad is None:
                    raise
                bad.append(str(error))
            except ValueError as error:
                wrong = DataError(f"not a JSON record: {error}", where=place)
                if bad is None:
                    raise wrong from error
                bad.append(str(wrong))
            else:
                yield place, record


def _whole(data: bytes) -> list[Any]:
    """The rows of a .json file: a list, the one list in an object, or lines."""
    try:
        found = json.loads(data)
    except ValueError:
        return data.split(b"\n")
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else [found]
    return [row if isinstance(row, dict) else json.dumps(row) for row in found]


def identity(record: Item, place: str, *names: str) -> str:
    """The record's own id, else `file:line`."""
    for name in (*names, "id"):
        if name in record:
            return str(record[name])
    return Path(place).name


def take(record: Item, place: str, *names: str) -> Any:
    """The first of several fields that a record has (sets name them differently)."""
    for name in names:
        if name in record:
            return record[name]
    raise DataError(f"record without {' or '.join(names)}", where=place)


def examples(items: Sequence[Item], ask: Ask, protocol: Protocol) -> list[Item]:
    """What shots are taken from: examples made for the protocol, else the set's, else the protocol's fixed ones."""
    dev = [item for item in items if item["split"] == "dev"]
    own = [item for item in dev if item.get("protocol") == protocol]
    return own or [item for item in dev if "protocol" not in item] or list(ask.shots)


def shots_for(item: Item, dev: Sequence[Item], count: int) -> list[Item]:
    """The first `count` examples of the item's own subject or task, if it has one; never the item itself."""
    group = next((key for key in ("subject", "task") if key in item), None)
    near = [d for d in dev if d["id"] != item["id"] and (group is None or d.get(group) == item[group])]
    return near[:count]


def by_subject(items: Sequence[Item]) -> list[float]:
    """Weights under which each subject counts the same, however many items it has."""
    subjects = [item["subject"] for item in items]
    return [1 / subjects.count(subject) for subject in subjects]


def constant_guess(items: Sequence[Item]) -> float | None:
    """Chance of a text answer: how often the commonest gold answer would be right."""
    golds = [str(item["answer"]) for item in items]
    return max(map(golds.count, set(golds))) / len(golds) if golds else None


def uniform_guess(items: Sequence[Item]) -> float | None:
    """Chance of a choice: one over the number of choices, averaged."""
    return sum(1 / len(item["choices"]) for item in items) / len(items) if items else None


def no_guess(items: Sequence[Item]) -> float | None:
    """Code is not hit by guessing."""
    return None
