"""Scores every document by a byte n-gram model of the corpus itself and drops what is noise to it.

Report §2.1 (language models among the scorers); ours: half of the documents train the model that scores the other
half, so that no text is judged by a model that has seen it, and no reference corpus has to be downloaded. A model is
trained on the documents of least hash, up to a budget of bytes: a sample of all shards that is the same however the
work is cut. Or the scores are those of one of our models, made by `openqwen data score` (pretrain/score.py).
"""

from __future__ import annotations

import hashlib
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
SCORES, FILE = "scores", "scores.safetensors"  # what `openqwen data score` makes
_HEAD = 2000  # bytes of a document that train or are scored


def head(text: str, size: int = _HEAD) -> bytes:
    """The first whole characters of a text in at most `size` bytes of UTF-8: what a model is given to score."""
    return text[:size].encode("utf-8", "replace")[:size].decode("utf-8", "ignore").encode()


def key(beginning: bytes) -> int:
    """A number for a `head`, by which its score is found."""
    return int.from_bytes(hashlib.blake2b(beginning, digest_size=8).digest(), "big")


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
            "head": pa.array([head(d.text) for d in documents], pa.binary()),
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


def bring(work: Work) -> Facts:
    """The scores that a model of ours gave, into the store. settings: "path", "content" (its digest)."""
    work.write(FILE, filters.named(work, "quality.scores"))
    return {}


def drop_scored(work: Work) -> Facts:
    """Shard -> verdicts by the scores of `bring`. settings: "max_bits", "drop". Holds 16 bytes for each text scored.

    A document without a score stays; they are counted as "unscored".
    """
    found = load(work.store.verified(work.inputs["scores"][0]))
    keys, bits, size = found["keys"], found["bits"], int(found["bytes"][0])
    unscored = 0

    def step(documents: list[Document]) -> tuple[list[Document], list[Dropped]]:
        nonlocal unscored
        own = np.array([key(head(d.text, size)) for d in documents], np.uint64)
        place = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
        scores = np.where(keys[place] == own, bits[place], np.nan)
        unscored += int(np.isnan(scores).sum())
        return _judged(documents, scores, work.settings["max_bits"])

    return {**shards.judge(work, filters.scored(step, work.settings["drop"])), "unscored": unscored}


def filter_noise(
    documents: Sequence[Document], trained: dict[int, NgramModel], max_bits: float, seed: int
) -> tuple[list[Document], list[Dropped]]:
    """Keeps the score (bits per byte) with each document; drops those above `max_bits`."""
    return _judged(documents, _bits_per_byte(documents, trained, seed), max_bits)


def _judged(
    documents: Sequence[Document], scores: np.ndarray, max_bits: float
) -> tuple[list[Document], list[Dropped]]:
    """The same for given scores (documents,); those of NaN have none and stay."""
    kept, dropped = [], []
    for document, score in zip(documents, scores.tolist()):
        score = round(score, 4)  # what is kept is what is judged
        if score == score:  # not NaN
            document.scores["lm"] = score
        if score == score and score > max_bits:
            dropped.append(
                Dropped(document, "noise to the language model", detail=f"{score:.2f} bits per byte")
            )
        else:
            kept.append(document)
    return kept, dropped


def _bits_per_byte(documents: Sequence[Document], trained: dict[int, NgramModel], seed: int) -> np.ndarray:
    """Bits per byte of the beginning of each document under the other half's model, (documents,); NaN without one."""
    heads = [np.frombuffer(head(d.text), np.uint8) for d in documents]
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
