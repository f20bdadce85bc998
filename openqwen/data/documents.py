"""Documents on their way through the pipeline, and the account of what was dropped, skipped or damaged.

Ours. Every step is a function from the documents of a shard to (kept, dropped with reasons); nothing disappears
without one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwen.core.errors import DataError

MEASURE = "rules."  # before the names of scores that rules measure: too many for a document's record


def printable(text: str) -> str:
    """Text as UTF-8 can hold it: lone surrogates (of odd file names, of JSON) become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: JSON may escape half a character."""
    return printable(text) == text


@dataclass(slots=True)
class Raw:
    """A document as found: bytes of HTML, or text already decoded."""

    id: str
    source: str  # web, text, docs, code or what the record itself says
    html: bytes | None = None
    text: str | None = None
    charset: str | None = None  # as declared by whoever sent the page
    file: str = ""  # name in the input, by which ground truth refers to it
    lang: str = ""  # where the source knows it; otherwise it is identified


@dataclass(slots=True)
class Document:
    """A document with text. `scores` holds every number a filter computed for it."""

    id: str
    text: str
    source: str
    lang: str = ""
    file: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    row: int = -1  # where it stands in its shard

    def record(self) -> dict[str, Any]:
        """The form in which it is written."""
        return {
            "id": self.id,
            "text": self.text,
            "source": self.source,
            "lang": self.lang,
            "scores": {name: value for name, value in self.scores.items() if not name.startswith(MEASURE)},
        }


@dataclass(slots=True)
class Dropped:
    """A document that ends here, why, and where one exists the document that stays in its place."""

    document: Document
    reason: str
    kept: str | None = None  # id of the document it duplicates, or of the benchmark item it holds
    detail: str = ""

    def record(self) -> dict[str, Any]:
        """The document's record with the reason."""
        more: dict[str, Any] = {"reason": self.reason}
        if self.kept is not None:
            more["of"] = self.kept
        if self.detail:
            more["detail"] = self.detail
        return {**self.document.record(), **more}


@dataclass(slots=True)
class Bad:
    """Counts input that cannot be read, remembers where, and stops the run when there is too much of it."""

    max_fraction: float
    seen: int = 0
    records: list[dict[str, str]] = field(default_factory=list)
    odd: list[dict[str, str]] = field(default_factory=list)

    def skip(self, where: Path | str, reason: str) -> None:
        """Notes one unreadable file or record."""
        self.records.append({"where": printable(str(where)), "reason": printable(reason)})

    def note(self, where: Path | str, reason: str) -> None:
        """Notes a record that is read although something about it is odd: it does not count as unreadable."""
        self.odd.append({"where": printable(str(where)), "reason": reason})

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(r["reason"].split(":")[0] for r in self.records))

    @property
    def noted(self) -> dict[str, int]:
        """What was odd about records that are read, and how often."""
        return dict(Counter(r["reason"].split(":")[0] for r in self.odd))

    def check(self, minimum: int = 20) -> None:
        """DataError when more than `max_fraction` of what was met is unreadable (few records prove nothing)."""
        total = self.seen + len(self.records)
        if len(self.records) > minimum and len(self.records) > self.max_fraction * total:
            first = self.records[0]
            raise DataError(
                f"{len(self.records)} of {total} input records are unreadable, "
                f"more than bad_fraction = {self.max_fraction:g}; the first: {first['reason']}",
                where=first["where"],
                fix="look at the files, or raise --bad_fraction",
            )
