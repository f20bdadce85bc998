"""Drops documents that overlap with evaluation sets, or cuts out what overlaps.

Report §2.1 ("we eliminate any ... samples that exhibit a 13-gram overlap with any data present in the test sets").
That pages may be cut instead, and that runs of many documents are phrases and no evidence, are GPT-3's ways
(appendix C) with limits of ours.

    index = Index(read_benchmarks([Path("gsm8k.jsonl")]), config)
    hits = index.scan(texts)                                    # of one shard
    common = phrases([spread(hits), ...], config)               # from the counts of all shards
    kept, dropped = judge(documents, index.evidence(hits, common), index, config)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from openqwen.data.config import DecontaminateConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.items import Item, read_benchmarks
from openqwen.data.overlap import Hits, Index, changes
from openqwen.data.text import token_stream

__all__ = [
    "CUT",
    "Hits",
    "Index",
    "Item",
    "cut",
    "decontaminate",
    "judge",
    "phrases",
    "read_benchmarks",
    "spread",
]

CUT = "cut"  # score of a document that lost a part: the share of its text; and where it is kept as it was
# Before the space and the line end, so that pieces have the tokens of the whole text: "\n>" begins a quoted line.
_SENTENCE_END = re.compile(r"(?<=[。！？])|(?<=[.!?])(?=\s)|(?=\n)")


def spread(hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """The distinct runs found (runs,) uint64 and in how many documents each was (runs,) int64."""
    order = np.lexsort((hits.documents, hits.runs))
    runs, documents = hits.runs[order], hits.documents[order]
    return np.unique(runs[changes(runs, documents)], return_counts=True)


def phrases(counts: Iterable[tuple[np.ndarray, np.ndarray]], config: DecontaminateConfig) -> np.ndarray:
    """Runs in more documents of the whole corpus than an item would be, (phrases,) uint64, from all `spread`s."""
    parts = [(np.empty(0, np.uint64), np.empty(0, int)), *counts]
    runs, which = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    total = np.bincount(which, weights=np.concatenate([part[1] for part in parts]), minlength=len(runs))
    return runs[total > config.max_documents]


def judge(
    documents: Sequence[Document], hits: Hits, index: Index, config: DecontaminateConfig
) -> tuple[list[Document], list[Dropped]]:
    """Drops every document with hits that are evidence, or cuts them out of those that are no instruction samples."""
    bounds = np.searchsorted(hits.documents, np.arange(len(documents) + 1)).tolist()
    kept, dropped = [], []
    for document, first, last in zip(documents, bounds, bounds[1:]):
        if first == last:
            kept.append(document)
            continue
        own = Hits(*(column[first:last] for column in hits))
        if config.overlap == "cut" and document.source not in config.samples:
            text = cut(document.text, own, config)
            if text is not None and not _overlaps_still(document.text, text, own, index):
                scores = {**document.scores, CUT: round(1 - len(text) / len(document.text), 4)}
                kept.append(replace(document, text=text, scores=scores))
                continue
        item = index.items[own.items[0]]
        reason, detail = f"overlap with {item.benchmark}", f"{last - first} equal runs"
        dropped.append(Dropped(document, reason, kept=f"{item.benchmark}:{item.id}", detail=detail))
    return kept, dropped


def cut(text: str, hits: Hits, config: DecontaminateConfig) -> str | None:
    """A text without its hits, or None where nothing or too many pieces would be left.

    Removed are the sentences that hold a token of a hit and those within `cut_characters` of them; then the pieces
    between that are shorter. What is left is joined by empty lines.
    """
    edges = np.array([0, *(found.end() for found in _SENTENCE_END.finditer(text)), len(text)])
    begins, ends = edges[:-1], edges[1:]
    bounds = token_stream([text[a:b] for a, b in zip(begins.tolist(), ends.tolist())]).bounds
    first, last = (np.searchsorted(bounds, place, "right") - 1 for place in (hits.starts, hits.stops - 1))
    gone = np.zeros(len(edges), int)
    np.add.at(gone, np.searchsorted(ends, begins[first] - config.cut_characters, "right"), 1)
    np.add.at(gone, np.searchsorted(begins, ends[last] + config.cut_characters), -1)
    lost = np.cumsum(gone)[:-1] > 0
    places = np.flatnonzero(changes(lost))
    if lost[places].sum() > config.max_cuts:
        return None
    stretches = [
        text[begins[a] : ends[b - 1]] for a, b in zip(places, [*places[1:], len(lost)]) if not lost[a]
    ]
    pieces = [piece for piece in map(str.strip, stretches) if len(piece) >= max(1, config.cut_characters)]
    return "\n\n".join(pieces) or None


def _overlaps_still(before: str, after: str, evidence: Hits, index: Index) -> bool:
    """Whether a text that was cut holds evidence, or any run that the joining of its pieces has made."""
    found = index.scan([before, after])
    innocent = np.setdiff1d(found.runs[found.documents == 0], evidence.runs)
    return not np.isin(found.runs[found.documents == 1], innocent).all()


def decontaminate(
    documents: Sequence[Document], index: Index, config: DecontaminateConfig
) -> tuple[list[Document], list[Dropped]]:
    """Scans and judges documents that are all there are: phrases are counted among them."""
    hits = index.scan([document.text for document in documents])
    return judge(documents, index.evidence(hits, phrases([spread(hits)], config)), index, config)
