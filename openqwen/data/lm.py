"""Scores every document by a byte n-gram model of the corpus itself and drops what is noise to it.

Report §2.1 (language models among the scorers); ours: half of the documents train the model that scores the other
half, so that no text is judged by a model that has seen it, and no reference corpus has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openqwen.data.config import QualityConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.mix import unit_hash
from openqwen.data.ngram import NgramModel

_HEAD = 2000  # bytes of a document that train or are scored


def _head(document: Document) -> np.ndarray:
    return np.frombuffer(document.text.encode("utf-8", "replace")[:_HEAD], np.uint8)


def bits_per_byte(documents: Sequence[Document], settings: QualityConfig, seed: int) -> np.ndarray:
    """Bits per byte of the beginning of each document under the other half's model, (documents,)."""
    heads = [_head(d) for d in documents]
    half = np.array([unit_hash(seed, "lm half", d.id) < 0.5 for d in documents])
    out = np.full(len(documents), np.nan)
    for side in (False, True):
        # In an order that mixes the sources, up to the budget.
        order = sorted(
            np.flatnonzero(half != side), key=lambda i: unit_hash(seed, "lm", documents[int(i)].id)
        )
        sizes = np.cumsum([len(heads[i]) for i in order])
        chosen = order[: int(np.searchsorted(sizes, settings.lm_train_bytes)) + 1]
        judged = [i for i in np.flatnonzero(half == side) if len(heads[i])]
        if not chosen or not sizes[-1] or not judged:
            continue
        model = NgramModel.fit([heads[i] for i in chosen], settings.lm_order, vocab_size=256)
        bits = model.token_bits([heads[i] for i in judged])
        ends = np.cumsum([len(heads[i]) for i in judged])
        totals = np.diff(np.concatenate([[0.0], np.cumsum(bits)])[np.concatenate([[0], ends])])
        out[judged] = totals / np.array([len(heads[i]) for i in judged])
    return out


def filter_noise(
    documents: Sequence[Document], settings: QualityConfig, seed: int
) -> tuple[list[Document], list[Dropped]]:
    """Keeps the score with each document; drops those above `lm_max_bits`. Few documents are no judge: all stay."""
    kept, dropped = [], []
    enough = len(documents) >= 200
    scores = bits_per_byte(documents, settings, seed) if enough else np.full(len(documents), np.nan)
    for document, score in zip(documents, scores.tolist()):
        if score == score:  # not NaN
            document.scores["lm"] = round(score, 4)
        if score == score and score > settings.lm_max_bits:
            dropped.append(
                Dropped(document, "noise to the language model", detail=f"{score:.2f} bits per byte")
            )
        else:
            kept.append(document)
    return kept, dropped
