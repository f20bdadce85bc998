"""A small linear classifier over hashed words and character runs, and the steps that drop what it finds.

Report §2.1 ("text-quality scoring models, and models for identifying potentially offensive or inappropriate
content"); the model and the shipped examples are ours. Training is deterministic: fixed order, fixed steps, no
random numbers, sums in one order. classifier_stage.py makes one from a user's examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import DataError
from openqwen.data.config import TrainingConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.text import batches, code_points, grams, token_stream

EXAMPLES = Path(__file__).with_name("examples.jsonl")
BITS = 18
_MARKS = "!！?？$%€¥#*…0123456789"
_TRUSTED = ("code", "docs")  # sources that prose is no measure of
_COLUMNS = (1 << BITS) + len(_MARKS)


@dataclass(frozen=True)
class Judgement:
    """One question to a classifier: which label it knows, and on which side of the threshold a document ends."""

    label: str  # of the examples
    reason: str
    drops_below: bool = False


# By the name of the score and of the setting: the probability of the label.
JUDGEMENTS = {
    "spam": Judgement("spam", "spam"),
    "offensive": Judgement("offensive", "offensive"),
    "quality": Judgement("clean", "low quality", drops_below=True),
}


def judges(source: str, lang: str) -> bool:
    """Whether documents of this source and language can be dropped by a classifier."""
    return source not in _TRUSTED


def features(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse rows (row, column, value): hashed runs of 1 to 3 tokens, of unit length together, and `punctuation`."""
    rows, columns, values = [], [], []
    for start, stop in batches(texts):
        row, column, value = _features(texts[start:stop])
        rows.append(row + start)
        columns.append(column)
        values.append(value)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)


def _features(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stream = token_stream(texts)
    runs = [grams(stream, n) for n in (1, 2, 3)]
    row = np.concatenate([np.repeat(np.arange(len(texts)), np.diff(own.bounds)) for own in runs])
    column = np.concatenate([own.hashes >> np.uint64(64 - BITS) for own in runs]).astype(np.int64)
    # Three runs of ascending rows: a sort that merges runs is faster than that of np.unique.
    pairs = np.sort(row << BITS | column, kind="stable")
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    row, column = pairs[first] >> BITS, pairs[first] & ((1 << BITS) - 1)
    value = np.sqrt(np.diff(first, append=len(pairs)))
    norm = np.sqrt(np.bincount(row, weights=value**2, minlength=len(texts)))
    marks = punctuation(texts)
    marked, mark = np.nonzero(marks)
    return (
        np.concatenate([row, marked]),
        np.concatenate([column, (1 << BITS) + mark]),
        np.concatenate([value / norm[row], marks[marked, mark]]),
    )


def punctuation(texts: Sequence[str]) -> np.ndarray:
    """How often the marks of advertising occur per character, (texts, marks), scaled to matter."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    marks = _mark_numbers().take(code_points("".join(texts)))
    places = np.flatnonzero(marks)
    text = np.searchsorted(np.cumsum(lengths), places, "right")
    size = len(texts) * len(_MARKS)
    counts = np.bincount(text * len(_MARKS) + marks[places] - 1, minlength=size).reshape(-1, len(_MARKS))
    return np.minimum(counts / np.maximum(lengths, 20)[:, None] * 20, 1.0)


@cache
def _mark_numbers() -> np.ndarray:
    """The number from 1 on of each of the marks among the code points, 0 for all others, (0x110000,) uint8."""
    table = np.zeros(0x110000, np.uint8)
    table[[ord(mark) for mark in _MARKS]] = np.arange(1, len(_MARKS) + 1)
    return table


@dataclass(frozen=True)
class HashedLinear:
    """Logistic regression over `features`."""

    weights: np.ndarray  # (2**BITS + marks,) float32
    bias: float

    @classmethod
    def train(
        cls, texts: Sequence[str], labels: Sequence[bool], config: TrainingConfig | None = None
    ) -> HashedLinear:
        """Full-batch gradient descent with both classes weighing the same. DataError without examples of both."""
        config = config or TrainingConfig()
        y = np.asarray(labels, float)
        if not 0 < y.sum() < len(y):
            raise DataError("a classifier needs examples of both kinds", where="HashedLinear.train")
        row, column, value = features(texts)
        used, column = np.unique(column, return_inverse=True)  # the other weights stay zero
        weights, bias = np.zeros(len(used)), 0.0
        balance = np.where(y > 0, 0.5 / y.sum(), 0.5 / (len(y) - y.sum()))
        apart = _apart(row)
        rows, values, columns = row[apart], value[apart], column[apart]
        for _ in range(config.steps):
            logits = np.bincount(rows, weights=values * weights.take(columns), minlength=len(y)) + bias
            error = (_sigmoid(logits) - y) * balance
            slope = np.bincount(column, weights=value * error.take(row), minlength=len(used))
            weights -= config.rate * (slope + config.decay * weights)
            bias -= config.rate * float(error.sum())
        whole = np.zeros(_COLUMNS, np.float32)
        whole[used] = weights
        return cls(whole, bias)

    def to_bytes(self) -> bytes:
        """The model as a safetensors file."""
        return save({"weights": self.weights, "bias": np.array([self.bias])})

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "HashedLinear.from_bytes") -> HashedLinear:
        """The model of `to_bytes`. DataError if it is none."""
        try:
            found = load(data)
            weights, bias = found["weights"], float(found["bias"][0])
        except (SafetensorError, KeyError) as error:
            raise DataError(f"not a classifier: {error}", where=where, fix="train it again") from error
        if weights.shape != (_COLUMNS,):
            raise DataError(
                f"a classifier of {weights.shape} weights, not {_COLUMNS}", where=where, fix="train it again"
            )
        return cls(weights, bias)

    def probability(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of the positive label, (texts,) float64."""
        if not len(texts):
            return np.empty(0)
        row, column, value = features(texts)
        return _sigmoid(
            np.bincount(row, weights=value * self.weights[column], minlength=len(texts)) + self.bias
        )


def _apart(row: np.ndarray) -> np.ndarray:
    """An order (n,) in which neighbours are of different rows (n,) and each row keeps its own.

    A sum over each row is the same to the last bit, and faster: no addition has to wait for the one before it.
    """
    order = np.argsort(row, kind="stable")
    place = np.empty(len(row), np.int64)
    place[order] = np.arange(len(row)) - np.searchsorted(row[order], row[order])
    return np.argsort(place, kind="stable")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def read_examples(path: Path) -> list[tuple[str, str]]:
    """(text, label) of a JSONL file. DataError names the line that is none."""
    out = []
    for number, record in enumerate(read_jsonl(path), 1):
        if not (
            isinstance(record, dict)
            and isinstance(record.get("text"), str)
            and isinstance(record.get("label"), str)
        ):
            raise DataError('an example needs "text" and "label"', where=f"{path}:{number}")
        out.append((record["text"], record["label"]))
    return out


def train(
    examples: Sequence[tuple[str, str]], label: str, config: TrainingConfig | None = None
) -> HashedLinear:
    """A classifier of one label against everything else."""
    return HashedLinear.train([text for text, _ in examples], [name == label for _, name in examples], config)


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
    documents: Sequence[Document], model: HashedLinear, name: str, threshold: float
) -> tuple[list[Document], list[Dropped]]:
    """Drops what a model finds in a document's passages; the score is kept under `name`, one of JUDGEMENTS.

    Spam and abuse must not drown in a long page: the mean of the worst third counts. Quality is that of the whole.
    """
    judgement = JUDGEMENTS[name]
    parts = [passages(d.text) for d in documents]
    probability = model.probability([p for document in parts for p in document])
    kept, dropped = [], []
    position = 0
    for document, pieces in zip(documents, parts):
        own = np.sort(probability[position : position + len(pieces)])[::-1]
        position += len(pieces)
        score = round(float((own if judgement.drops_below else own[: max(1, -(-len(own) // 3))]).mean()), 4)
        document.scores[name] = score  # what is kept is what is judged
        beyond = score < threshold if judgement.drops_below else score >= threshold
        if beyond and judges(document.source, document.lang):
            sign = "<" if judgement.drops_below else ">="
            detail = f"probability of {judgement.label} {score:.3f} {sign} {threshold:g}"
            dropped.append(Dropped(document, judgement.reason, detail=detail))
        else:
            kept.append(document)
    return kept, dropped
