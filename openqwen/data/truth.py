"""How right each step was, where the input knows the truth (the primer's truth.jsonl).

Ours. A step is judged on the documents that reached it. Removing either of two equal pages is right: duplicates are
compared as groups, not by which copy the truth happens to call the original.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import DataError
from openqwen.data import shards
from openqwen.data.documents import Document, Dropped
from openqwen.data.store import Output, Store
from openqwen.data.text import tokens


@dataclass(frozen=True)
class Truth:
    """The known label, original and main text of every page, by file name."""

    records: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path, prefix: str = "") -> Truth:
        """Reads truth.jsonl; file names get `prefix` before them, as the documents' have."""
        records = {}
        for number, record in enumerate(read_jsonl(path), 1):
            missing = {"file", "id", "label", "text"} - set(record)
            if missing:
                raise DataError(f"truth record lacks {', '.join(sorted(missing))}", where=f"{path}:{number}")
            records[prefix + record["file"]] = record
        return cls(records)

    def label(self, document: Document) -> str | None:
        record = self.records.get(document.file)
        return record["label"] if record else None

    def groups(self) -> dict[str, str]:
        """Group of duplicates of each file: the id at the end of its chain of originals."""
        by_id = {r["id"]: r for r in self.records.values()}
        out = {}
        for file, record in self.records.items():
            seen = set()
            while (
                record.get("of") in by_id
                and record["label"].endswith("duplicate")
                and record["id"] not in seen
            ):
                seen.add(record["id"])
                record = by_id[record["of"]]
            out[file] = record["id"]
        return out


# What each step should find, and only that.
LABELS = {
    "language": "other-language", "spam": "spam", "offensive": "offensive", "rules": "boilerplate", "decontaminate": "leak",
}  # fmt: skip
GROUPS = {"exact": ["exact-duplicate"], "fuzzy": ["exact-duplicate", "near-duplicate"]}


def judge(truth: Truth, store: Store, found: Sequence[tuple[Output, Mapping[str, Output]]]) -> dict[str, Any]:
    """Judges every step on the documents and verdicts of each shard.

    What is held are the documents of known truth without their texts.
    """
    kept, dropped = defaultdict(list), defaultdict(list)
    scores: list[tuple[float, float, float]] = []
    for documents, verdicts in found:
        written = shards.read(store, documents).to_pydict()
        extracted = shards.joined(written, shards.read(store, verdicts["extract"]))
        scores += extraction(truth, (document for document, drop in extracted if drop is None))
        for step, output in verdicts.items():
            columns = shards.read(store, output, ["row", "reason", "of"]).to_pydict()
            for row, reason, of in zip(*columns.values()):
                document = Document(written["id"][row], "", "", file=written["file"][row])
                if document.file not in truth.records:
                    continue
                if reason is None:
                    kept[step].append(document)
                else:
                    dropped[step].append(Dropped(document, reason, of))
    judged: dict[str, Any] = {"extract": mean_score(scores)}
    for step in kept.keys() | dropped.keys():
        if step in LABELS:
            judged[step] = by_label(truth, kept[step], dropped[step], LABELS[step])
        elif step in GROUPS:
            judged[step] = by_group(truth, kept[step], dropped[step], GROUPS[step])
    return dict(sorted(judged.items()))


def ratio(part: int, whole: int) -> float | None:
    """A share, or None where there is nothing to divide by."""
    return round(part / whole, 4) if whole else None


def by_label(
    truth: Truth, kept: Sequence[Document], dropped: Sequence[Dropped], label: str
) -> dict[str, Any]:
    """Precision and recall of a step that should drop exactly one label."""
    removed = [truth.label(d.document) for d in dropped if truth.label(d.document)]
    missed = sum(truth.label(d) == label for d in kept)
    right = sum(name == label for name in removed)
    wrong = Counter(name for name in removed if name != label)
    return {
        "label": label, "precision": ratio(right, len(removed)), "recall": ratio(right, right + missed),
        "dropped": len(removed), "wrong": dict(wrong),
    }  # fmt: skip


def by_group(
    truth: Truth, kept: Sequence[Document], dropped: Sequence[Dropped], labels: Iterable[str]
) -> dict[str, Any]:
    """Precision and recall of a deduplication step over groups of duplicates.

    A drop is right if the document kept in its place belongs to the same group. What should have been dropped are
    all but one of the members of a group that reached the step, if the group holds one of `labels`.
    """
    groups = truth.groups()
    files = {d.id: d.file for d in [*kept, *(x.document for x in dropped)]}
    known = [d for d in dropped if d.document.file in groups and files.get(d.kept or "") in groups]
    right = sum(groups[d.document.file] == groups[files[d.kept or ""]] for d in known)
    wanted = set(labels)
    members: dict[str, list[Document]] = defaultdict(list)
    for document in [*kept, *(x.document for x in dropped)]:
        if document.file in groups:
            members[groups[document.file]].append(document)
    removed = Counter(groups[d.document.file] for d in known)
    should = done = 0
    for group, documents in members.items():
        copies = sum(truth.label(d) in wanted for d in documents)
        expected = min(copies, len(documents) - 1)
        should += expected
        done += min(expected, removed[group])
    return {"precision": ratio(right, len(known)), "recall": ratio(done, should), "dropped": len(known)}


def extraction(truth: Truth, documents: Iterable[Document]) -> list[tuple[float, float, float]]:
    """Token precision, recall and F1 of each extracted text against the true main text."""
    return [
        token_f1(d.text, truth.records[d.file]["text"])
        for d in documents
        if d.file in truth.records and truth.records[d.file]["text"]
    ]


def mean_score(scores: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """Averages of `extraction` over pages."""
    if not scores:
        return {"token_f1": None, "pages": 0}
    precision, recall, f1 = (round(sum(column) / len(scores), 4) for column in zip(*scores))
    return {"token_f1": f1, "token_precision": precision, "token_recall": recall, "pages": len(scores)}


def token_f1(found: str, wanted: str) -> tuple[float, float, float]:
    """(precision, recall, F1) of two texts as bags of tokens."""
    a, b = Counter(tokens(found)), Counter(tokens(wanted))
    common = sum((a & b).values())
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / sum(a.values()), common / sum(b.values())
    return precision, recall, 2 * precision * recall / (precision + recall)
