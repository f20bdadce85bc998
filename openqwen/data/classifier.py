"""A small linear classifier over hashed words and character runs, trained from examples in a moment.

Report §2.1 ("text-quality scoring models, and models for identifying potentially offensive or inappropriate
content"); the model and the shipped examples are ours. Training is deterministic: fixed order, fixed steps, no
random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import DataError
from openqwen.data.documents import Document, Dropped
from openqwen.data.text import batches, grams, token_stream

EXAMPLES = Path(__file__).with_name("examples.jsonl")
BITS = 18
_MARKS = "!！?？$%€¥#*…0123456789"


def features(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse rows of hashed tokens and token pairs: (row, column, value), rows of unit length."""
    rows, columns = [], []
    for start, stop in batches(texts):
        stream = token_stream(texts[start:stop])
        for n in (1, 2, 3):
            runs = grams(stream, n)
            rows.append(np.repeat(np.arange(start, stop), np.diff(runs.bounds)))
            columns.append((runs.hashes >> np.uint64(64 - BITS)).astype(np.int64))
    row, column = np.concatenate(rows), np.concatenate(columns)
    pairs, counts = np.unique(row * (1 << BITS) + column, return_counts=True)
    row, column, value = pairs >> BITS, pairs & ((1 << BITS) - 1), np.sqrt(counts)
    norm = np.sqrt(np.bincount(row, weights=value**2, minlength=len(texts)))
    return row, column, value / norm[row]


def punctuation(texts: Sequence[str]) -> np.ndarray:
    """How often the marks of advertising occur per character, (texts, marks), scaled to matter."""
    counts = [[text.count(mark) for mark in _MARKS] for text in texts]
    lengths = np.array([[max(20, len(text))] for text in texts])
    return np.minimum(np.array(counts, float).reshape(len(texts), len(_MARKS)) / lengths * 20, 1.0)


@dataclass(frozen=True)
class HashedLinear:
    """Logistic regression over `features` and `punctuation`."""

    weights: np.ndarray  # (2**BITS,) float64
    marks: np.ndarray  # (len(_MARKS),) float64
    bias: float

    @classmethod
    def train(
        cls,
        texts: Sequence[str],
        labels: Sequence[bool],
        steps: int = 300,
        rate: float = 4.0,
        decay: float = 3e-4,
    ) -> HashedLinear:
        """Full-batch gradient descent with both classes weighing the same."""
        y = np.asarray(labels, float)
        if not 0 < y.sum() < len(y):
            raise DataError("a classifier needs examples of both kinds", where="HashedLinear.train")
        row, column, value = features(texts)
        extra = punctuation(texts)
        balance = np.where(y > 0, 0.5 / y.sum(), 0.5 / (len(y) - y.sum()))
        model = cls(np.zeros(1 << BITS), np.zeros(len(_MARKS)), 0.0)
        for _ in range(steps):
            logits = np.bincount(row, weights=value * model.weights[column], minlength=len(y))
            error = (_sigmoid(logits + extra @ model.marks + model.bias) - y) * balance
            slope = np.bincount(column, weights=value * error[row], minlength=1 << BITS)
            model = cls(
                model.weights - rate * (slope + decay * model.weights),
                model.marks - rate * (extra.T @ error + decay * model.marks),
                model.bias - rate * float(error.sum()),
            )
        return model

    def probability(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of the positive label, (texts,)."""
        if not len(texts):
            return np.empty(0)
        row, column, value = features(texts)
        logits = np.bincount(row, weights=value * self.weights[column], minlength=len(texts))
        return _sigmoid(logits + punctuation(texts) @ self.marks + self.bias)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def read_examples(path: Path) -> list[tuple[str, str]]:
    """(text, label) of a JSONL file; labels: clean, spam, offensive."""
    out = []
    for number, record in enumerate(read_jsonl(path), 1):
        if not (isinstance(record, dict) and isinstance(record.get("text"), str) and "label" in record):
            raise DataError('an example needs "text" and "label"', where=f"{path}:{number}")
        out.append((record["text"], str(record["label"])))
    return out


def train(examples: Iterable[tuple[str, str]], label: str) -> HashedLinear:
    """A classifier of one label against everything else."""
    pairs = list(examples)
    return HashedLinear.train([text for text, _ in pairs], [name == label for _, name in pairs])


def passages(text: str, size: int = 160) -> list[str]:
    """A text in pieces of whole sentences of about `size` characters: abuse must not drown in a long page."""
    pieces, piece = [], ""
    for line in (
        text.replace("。", "。\n").replace("！", "！\n").replace(". ", ".\n").replace("! ", "!\n").split("\n")
    ):
        piece = f"{piece} {line}".strip()
        if len(piece) >= size:
            pieces.append(piece[: 4 * size])
            piece = ""
    return [*pieces, piece] if piece or not pieces else pieces


def filter_label(
    documents: Sequence[Document], model: HashedLinear, label: str, threshold: float
) -> tuple[list[Document], list[Dropped]]:
    """Drops documents whose passages are of the label, judged by the mean of the worst third; scores are kept."""
    parts = [passages(d.text) for d in documents]
    probability = model.probability([p for document in parts for p in document])
    kept, dropped = [], []
    position = 0
    for document, pieces in zip(documents, parts):
        own = np.sort(probability[position : position + len(pieces)])[::-1]
        position += len(pieces)
        score = float(own[: max(1, -(-len(own) // 3))].mean())
        document.scores[label] = round(score, 4)
        if score >= threshold and document.source not in ("code", "docs"):
            dropped.append(Dropped(document, label, detail=f"probability {score:.3f}"))
        else:
            kept.append(document)
    return kept, dropped
