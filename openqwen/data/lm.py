"""Scores every document by a byte n-gram model of the corpus itself and drops what is noise to it.

Report §2.1 (language models among the scorers); ours: half of the documents train the model that scores the other
half, so that no text is judged by a model that has seen it, and no reference corpus has to be downloaded. A model is
trained on the documents of least hash, up to a budget of bytes: a sample of all shards that is the same however the
work is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from openqwen.data import filters, shards
from openqwen.data.documents import Document, Dropped
from openqwen.data.mix import unit_hash
from openqwen.data.ngram import NgramModel
from openqwen.data.task import Facts, Work

ENOUGH = 200  # documents; fewer are no judge of each other
_HEAD = 2000  # bytes of a document that train or are scored


def _head(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:_HEAD]


def _halves(documents: Sequence[Document], seed: int) -> np.ndarray:
    """Which half each document is in, (documents,) int64 of 0 and 1."""
    return np.array([unit_hash(seed, "lm half", d.id) < 0.5 for d in documents], np.int64)


def sample(work: Work) -> Facts:
    """Shard -> the documents of each half that a model may be trained on. settings: "bytes", "seed"."""
    documents, seed = shards.load(work), work.settings["seed"]
    table = pa.table(
        {
            "half": _halves(documents, seed),
            "hash": np.array([unit_hash(seed, "lm", d.id) for d in documents], np.float64),
            "id": pa.array([d.id for d in documents], pa.string()),
            "head": pa.array([_head(d.text) for d in documents], pa.binary()),
        }
    )
    shards.write(work, "sample", [_least(table, work.settings["bytes"])])
    return {}


def _least(table: pa.Table, budget: int) -> pa.Table:
    """Of each half the rows of least hash, up to the budget of bytes and the one that exceeds it."""
    parts = []
    for half in (0, 1):
        own = table.filter(pa.array(table["half"].to_numpy() == half)).sort_by(
            [("hash", "ascending"), ("id", "ascending")]
        )
        sizes = np.cumsum([len(head) for head in own["head"].to_pylist()])
        parts.append(own.slice(0, int(np.searchsorted(sizes, budget)) + 1))
    return pa.concat_tables(parts)


def models(work: Work) -> Facts:
    """Samples of all shards -> the model of each half. settings: "bytes", "order".

    One task; it holds two budgets of bytes.
    """
    chosen = shards.read(work.store, work.inputs["samples"][0])
    for output in work.inputs["samples"][1:]:
        chosen = _least(pa.concat_tables([chosen, shards.read(work.store, output)]), work.settings["bytes"])
    trained: dict[str, np.ndarray] = {}
    for half in (0, 1):
        heads = chosen.filter(pa.array(chosen["half"].to_numpy() == half))["head"].to_pylist()
        if any(heads):
            model = NgramModel.fit(
                [np.frombuffer(h, np.uint8) for h in heads], work.settings["order"], vocab_size=256
            )
            trained |= {f"{half}.{name}": array for name, array in model.arrays().items()}
    work.write("models.safetensors", save(trained))
    return {"documents": len(chosen)}


def drop_noise(work: Work) -> Facts:
    """Shard -> verdicts of the other half's model. settings: "max_bits", "seed", "drop". Without models all stay."""
    max_bits, seed = work.settings["max_bits"], work.settings["seed"]
    trained: dict[int, NgramModel] = {}
    if work.inputs["models"]:
        arrays = load(work.store.verified(work.inputs["models"][0]))
        for half in (0, 1):
            own = {name[2:]: array for name, array in arrays.items() if name.startswith(f"{half}.")}
            trained |= {half: NgramModel.from_arrays(own)} if own else {}
    step = filters.scored(
        lambda documents: filter_noise(documents, trained, max_bits, seed), work.settings["drop"]
    )
    return shards.judge(work, step)


def filter_noise(
    documents: Sequence[Document], trained: dict[int, NgramModel], max_bits: float, seed: int
) -> tuple[list[Document], list[Dropped]]:
    """Keeps the score (bits per byte) with each document; drops those above `max_bits`."""
    kept, dropped = [], []
    for document, score in zip(documents, _bits_per_byte(documents, trained, seed).tolist()):
        if score == score:  # not NaN
            document.scores["lm"] = round(score, 4)
        if score == score and score > max_bits:
            dropped.append(
                Dropped(document, "noise to the language model", detail=f"{score:.2f} bits per byte")
            )
        else:
            kept.append(document)
    return kept, dropped


def _bits_per_byte(documents: Sequence[Document], trained: dict[int, NgramModel], seed: int) -> np.ndarray:
    """Bits per byte of the beginning of each document under the other half's model, (documents,); NaN without one."""
    heads = [np.frombuffer(_head(d.text), np.uint8) for d in documents]
    out, halves = np.full(len(documents), np.nan), _halves(documents, seed)
    for half in (0, 1):
        judged = [i for i in np.flatnonzero(halves == half) if len(heads[i])]
        if 1 - half not in trained or not judged:
            continue
        lengths = np.array([len(heads[i]) for i in judged])
        bits = trained[1 - half].token_bits([heads[i] for i in judged])
        ends = np.concatenate([[0], np.cumsum(lengths)])
        out[judged] = np.diff(np.concatenate([[0.0], np.cumsum(bits)])[ends]) / lengths
    return out
