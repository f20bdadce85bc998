"""What people said, in SQLite: every judgement is on the disk before it is answered for.

Ours. Judgements are only added; of several that a reviewer gave on one document the last one counts, and undoing takes
the reviewer's last one away. Several servers and reviewers may write at the same time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from openqwen.core.errors import DataError, OpenQwenError
from openqwen.data.account import Place

Verdict = Literal["keep", "drop", "skip"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS corpus (content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS judgements (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    place TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('keep', 'drop', 'skip')),
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE INDEX IF NOT EXISTS by_reviewer ON judgements (reviewer, number);
"""
_PATIENCE = 30.0  # seconds a write waits for another one


class Judgement(NamedTuple):
    """What a reviewer says of a document."""

    place: Place
    reviewer: str
    verdict: Verdict


class Judgements:
    """The judgements on one corpus, in a file of their own. DataError if it holds those on another corpus."""

    def __init__(self, path: Path, content: str) -> None:
        self.path = path
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            connection.execute(
                "INSERT INTO corpus SELECT ? WHERE NOT EXISTS (SELECT 1 FROM corpus)", (content,)
            )
            (known,) = connection.execute("SELECT content FROM corpus").fetchone()
        if known != content:
            raise DataError(
                "these judgements are on another corpus",
                where=str(path),
                fix="name another file with --judgements, or build the corpus as it was",
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of this call's own: SQLite's are not for several threads."""
        try:
            with closing(sqlite3.connect(self.path, _PATIENCE, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except (
            sqlite3.OperationalError
        ) as error:  # a full disk, a folder that is not there, a lock that stays
            raise OpenQwenError(f"judgements cannot be written: {error}", where=str(self.path)) from error
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"no file of judgements: {error}",
                where=str(self.path),
                fix="name another file with --judgements",
            ) from error

    def judge(self, place: Place, reviewer: str, verdict: Verdict) -> None:
        """Adds a judgement; on return it is on the disk."""
        with self._open() as connection:
            connection.execute(
                "INSERT INTO judgements (place, reviewer, verdict) VALUES (?, ?, ?)",
                (str(place), reviewer, verdict),
            )

    def undo(self, reviewer: str) -> Place | None:
        """Takes a reviewer's last judgement away. Returns the document it was on, None if there was none."""
        with self._open() as connection:
            row = connection.execute(
                "DELETE FROM judgements WHERE number = (SELECT max(number) FROM judgements WHERE reviewer = ?)"
                " RETURNING place",
                (reviewer,),
            ).fetchone()
        return Place.parse(row[0]) if row else None

    def all(self) -> list[Judgement]:
        """Those that count, in the order in which they were given."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT place, reviewer, verdict FROM judgements WHERE number IN"
                " (SELECT max(number) FROM judgements GROUP BY place, reviewer) ORDER BY number"
            ).fetchall()
        return [Judgement(Place.parse(place), reviewer, verdict) for place, reviewer, verdict in rows]
