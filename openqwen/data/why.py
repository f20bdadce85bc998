"""Whether and why a text is in a corpus: found by id, by a piece of its text, or by what resembles it.

Report §2.1 leaves open how a corpus answers for itself; this is ours. A piece of text is looked for in the form that
exact deduplication compares. If nothing holds it, documents are ranked by the share of its shingles that they hold, and
shown with the similarity that fuzzy deduplication would estimate.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from openqwen.core.errors import UsageError
from openqwen.data import minhash
from openqwen.data.account import COPIES, KEPT, Account, Place, Written
from openqwen.data.documents import printable
from openqwen.data.text import batches, normal_form, normal_forms, token_stream

SHOWN = 10  # documents that are told of
NEAR = 0.3  # share of a text's shingles that a document holds to be called near
_AT_ONCE = 256  # documents that are compared together


@dataclass(frozen=True)
class Found:
    """A document that a question is about."""

    id: str
    how: str  # "id", "text": it holds the text; "near": much of it
    held: float = 1.0  # share of the text's shingles that stand in it
    similarity: float | None = None  # estimated Jaccard similarity of the whole texts


def find(account: Account, question: str, label: str | None = None) -> tuple[list[Found], int]:
    """The documents of an id, or those that hold a text, or else the nearest ones; and how many there were in all.

    label: of a progress line. UsageError for a text of which nothing can be compared.
    """
    if account.find([printable(question)]):
        return [Found(printable(question), "id")], 1
    wanted = normal_form(question).encode("utf-8", "surrogatepass")
    if not wanted:
        raise UsageError(
            "no document has this id, and as a text there is nothing in it to compare",
            where="openqwen data why",
            fix="give an id, or a piece of text with letters or digits",
        )
    holding = [Found(ident, "text") for ident in _holding(account, wanted, label)]
    if holding:
        return holding[:SHOWN], len(holding)
    near = _near(account, question, label)
    return near, len(near)


def _many(account: Account, label: str | None) -> Iterator[list[Written]]:
    documents = account.documents(account.folders, label)
    while batch := list(islice(documents, _AT_ONCE)):
        yield batch


def _holding(account: Account, wanted: bytes, label: str | None) -> Iterator[str]:
    """Ids of the documents whose normal form holds this."""
    for batch in _many(account, label):
        for document, form in zip(batch, normal_forms([d.record["text"] for d in batch])):
            if wanted in form:
                yield document.record["id"]


def _near(account: Account, text: str, label: str | None) -> list[Found]:
    """The documents that hold most of a text's shingles, the best first."""
    wanted = np.unique(minhash.shingles(token_stream([text]), account.config.dedup.shingle)[0])
    found = heapq.nlargest(SHOWN, _candidates(account, wanted, label))
    return [
        Found(ident, "near", round(held, 4), _similarity(account, text, other))
        for held, _, ident, other in found
    ]


def _candidates(
    account: Account, wanted: np.ndarray, label: str | None
) -> Iterator[tuple[float, int, str, str]]:
    """(share of the shingles, order, id, text) of documents that hold enough of the distinct shingles (wanted,)."""
    order = 0
    for batch in _many(account, label and f"{label} (near)"):
        texts = [document.record["text"] for document in batch]
        for document, held in zip(batch, _shares(texts, wanted, account.config.dedup.shingle)):
            order -= 1
            if held >= NEAR:
                yield held, order, document.record["id"], document.record["text"]


def _shares(texts: Sequence[str], wanted: np.ndarray, n: int) -> Iterator[float]:
    """The share of the distinct shingles (wanted,) that each text holds."""
    for start, stop in batches(texts):
        hashes, bounds = minhash.shingles(token_stream(texts[start:stop]), n)
        for first, last in pairwise(bounds):
            yield float(np.isin(wanted, hashes[first:last]).mean()) if len(wanted) else 0.0


def _similarity(account: Account, text: str, other: str) -> float:
    config = account.config.dedup
    signature, _ = minhash.signatures([text, other], config.shingle, config.num_hashes, account.config.seed)
    return round(float(minhash.agreement(signature, np.array([[0, 1]]))[0]), 4)


def explain(account: Account, ident: str) -> dict[str, Any]:
    """What became of a document, and of the documents it stands for.

    {"id", "source", "lang", "bytes", "in", "split", "copies", "cut", "step", "reason", "detail", "scores",
    "instead", "stands_for"}. copies: how often it is in the training split. cut: the share of its text that
    decontamination took out. instead: for a copy the chain of documents that stayed in its place, each with the step
    and reason that dropped it (none: it is in) and, after a near duplicate, the similarity that fuzzy deduplication
    estimates. stands_for: the documents dropped for this one.
    """
    place = account.find([ident])[ident]
    row = account.verdict(place)
    kept = account.written(place) if row["step"] is None else None
    return {
        "id": ident,
        **{name: row[name] for name in ("source", "lang", "bytes")},
        "in": kept is not None,
        "split": kept and kept.folder,
        "copies": kept.copies if kept is not None and kept.folder == KEPT[0] else 0,
        "cut": row["scores"].get("cut"),
        **{name: row[name] for name in ("step", "reason", "of", "detail", "scores")},
        "instead": list(_instead(account, place)),
        "stands_for": account.copies(ident),
    }


def _instead(account: Account, place: Place) -> Iterator[dict[str, Any]]:
    row = account.verdict(place)
    while row["step"] in COPIES:
        before, place = place, account.find([row["of"]])[row["of"]]
        fuzzy = row["step"] == "fuzzy"
        similarity = _similarity(account, account.text(before), account.text(place)) if fuzzy else None
        row = account.verdict(place)
        yield {**{name: row[name] for name in ("id", "step", "reason")}, "similarity": similarity}
