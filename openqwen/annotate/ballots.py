"""What annotators said, in SQLite: an answer is on the disk before the page hears of it, and none is stored twice.

Ours. The file holds the instructions and replies as well, so that results need nothing else. Answers are only added; of
several by one annotator on one item the last one counts. An answer has a key that the page chose: sent again, it is known.
`openqwen pairs --scores FILE` reads the view `scores`: the share of an item's other replies that a reply was put before.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from openqwen.annotate.items import Item, Items, Record
from openqwen.core.artifact import digest
from openqwen.core.errors import DataError, OpenQwenError

_VERSION = 1
_PATIENCE = 30.0  # seconds a write waits for another one
_SCHEMA = """
CREATE TABLE study (content TEXT NOT NULL, seed INTEGER NOT NULL, left_out TEXT NOT NULL);
CREATE TABLE items (item TEXT PRIMARY KEY, position INTEGER NOT NULL, prompt TEXT NOT NULL);
CREATE TABLE replies (reply TEXT PRIMARY KEY, item TEXT NOT NULL REFERENCES items, position INTEGER NOT NULL,
    record TEXT NOT NULL);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    item TEXT NOT NULL REFERENCES items,
    annotator TEXT NOT NULL,
    comment TEXT NOT NULL,
    content TEXT NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE INDEX answers_of ON answers (annotator, item, number);
CREATE TABLE marks (
    answer INTEGER NOT NULL REFERENCES answers,
    reply TEXT NOT NULL REFERENCES replies,
    place INTEGER NOT NULL CHECK (place >= 1),
    score INTEGER CHECK (score BETWEEN 1 AND 10),
    broken INTEGER NOT NULL CHECK (broken IN (0, 1)),
    unsafe INTEGER NOT NULL CHECK (unsafe IN (0, 1)),
    PRIMARY KEY (answer, reply)
);
CREATE VIEW last AS SELECT max(number) AS number, item, annotator FROM answers GROUP BY item, annotator;
CREATE VIEW scores AS
    SELECT last.number * 1000 + row_number() OVER (PARTITION BY last.number ORDER BY own.reply) AS rowid,
        own.reply, last.annotator,
        avg(CASE WHEN own.place < other.place THEN 1.0 WHEN own.place = other.place THEN 0.5 ELSE 0.0 END) AS score
    FROM last JOIN marks AS own ON own.answer = last.number
    JOIN marks AS other ON other.answer = own.answer AND other.reply <> own.reply
    GROUP BY last.number, own.reply;
"""


@dataclass(frozen=True)
class Mark:
    """What an annotator says of one reply. place: 1 is best, equal places are ties. score: 1 to 10, or none."""

    place: int
    score: int | None = None
    broken: bool = False
    unsafe: bool = False


@dataclass(frozen=True)
class Answer:
    """An annotator's marks on all replies of an item, by reply."""

    item: str
    annotator: str
    marks: Mapping[str, Mark]
    comment: str = ""


class Study(NamedTuple):
    """What a file is about."""

    content: str  # of the items
    seed: int
    items: list[Item]
    left_out: dict[str, int]


class Conflict(OpenQwenError):
    """A key that stands for another answer already."""


@dataclass
class Ballots:
    """A file of answers that is there. DataError if it is none."""

    path: Path
    _known: dict[str, Item] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError("no file of answers there", where=str(self.path), fix="openqwen annotate SAMPLES")
        self._known = {item.id: item for item in self.study.items}

    @classmethod
    def start(cls, path: Path, found: Items, seed: int) -> Ballots:
        """The file for these items, made if it is not there. DataError if it is about others, or another seed."""
        content = digest([[item.prompt, item.replies] for item in found.items])
        with _open(path) as base:
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("BEGIN IMMEDIATE")
            if base.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
                _create(base, content, found, seed)
            base.execute("COMMIT")
        ballots = cls(path)
        if (ballots.study.content, ballots.study.seed) != (content, seed):
            what = "other instructions or replies" if ballots.study.content != content else "another seed"
            raise DataError(
                f"this file holds answers for {what}", where=str(path), fix="name another file with --db"
            )
        return ballots

    @cached_property
    def study(self) -> Study:
        with _open(self.path) as base:
            if base.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                raise DataError("no file of answers", where=str(self.path), fix="name another file with --db")
            ((content, seed, left_out),) = base.execute("SELECT content, seed, left_out FROM study")
            prompts = [
                json.loads(row[0]) for row in base.execute("SELECT prompt FROM items ORDER BY position")
            ]
            replies: dict[str, list[Record]] = {}
            for item, record in base.execute("SELECT item, record FROM replies ORDER BY position"):
                replies.setdefault(item, []).append(json.loads(record))
        items = [Item(prompt, tuple(replies[prompt["id"]])) for prompt in prompts]
        return Study(content, seed, items, json.loads(left_out))

    def item(self, name: str) -> Item | None:
        """The item of that id."""
        return self._known.get(name)

    def add(self, key: str, answer: Answer) -> None:
        """Stores an answer; on return it is on the disk. Known keys change nothing; Conflict if it was another answer."""
        content = digest([answer.item, answer.annotator, _plain(answer.marks), answer.comment])
        with _open(self.path) as base:
            base.execute("BEGIN IMMEDIATE")
            known = base.execute("SELECT content FROM answers WHERE key = ?", (key,)).fetchone()
            if known is None:
                number = base.execute(
                    "INSERT INTO answers (key, item, annotator, comment, content) VALUES (?, ?, ?, ?, ?)",
                    (key, answer.item, answer.annotator, answer.comment, content),
                ).lastrowid
                base.executemany(
                    "INSERT INTO marks VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (number, name, m.place, m.score, m.broken, m.unsafe)
                        for name, m in answer.marks.items()
                    ],
                )
            base.execute("COMMIT")
        if known not in (None, (content,)):
            raise Conflict("this key stands for another answer", where=key)

    def answers(self, annotator: str | None = None) -> list[Answer]:
        """Those that count, in the order in which they were given; of all annotators or of one."""
        found: dict[int, Answer] = {}
        with _open(self.path) as base:
            rows = base.execute(
                "SELECT number, item, annotator, comment, reply, place, score, broken, unsafe FROM last"
                " JOIN answers USING (number, item, annotator) JOIN marks ON answer = number"
                " WHERE ?1 IS NULL OR annotator = ?1 ORDER BY number, reply",
                (annotator,),
            )
            for number, item, who, comment, reply, place, score, broken, unsafe in rows:
                answer = found.setdefault(number, Answer(item, who, {}, comment))
                assert isinstance(answer.marks, dict)
                answer.marks[reply] = Mark(place, score, bool(broken), bool(unsafe))
        return list(found.values())

    def counts(self) -> dict[str, int]:
        """How many annotators have answered each item that somebody has."""
        with _open(self.path) as base:
            return dict(base.execute("SELECT item, count(*) FROM last GROUP BY item").fetchall())


def _create(base: sqlite3.Connection, content: str, found: Items, seed: int) -> None:
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            base.execute(statement)
    base.execute("INSERT INTO study VALUES (?, ?, ?)", (content, seed, json.dumps(found.left_out)))
    for position, item in enumerate(found.items):
        base.execute("INSERT INTO items VALUES (?, ?, ?)", (item.id, position, _json(item.prompt)))
        rows = [(reply["id"], item.id, n, _json(reply)) for n, reply in enumerate(item.replies)]
        base.executemany("INSERT INTO replies VALUES (?, ?, ?, ?)", rows)
    base.execute(f"PRAGMA user_version = {_VERSION}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(marks: Mapping[str, Mark]) -> dict[str, list[Any]]:
    return {name: [m.place, m.score, m.broken, m.unsafe] for name, m in marks.items()}


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of this call's own: SQLite's are not for several threads. What is not committed is undone."""
    try:
        with closing(sqlite3.connect(path, _PATIENCE, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
    except sqlite3.OperationalError as error:  # a full disk, a folder that is not there, a lock that stays
        raise OpenQwenError(f"answers cannot be written: {error}", where=str(path)) from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"no file of answers: {error}", where=str(path), fix="name another file with --db"
        ) from error
