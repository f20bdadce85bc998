"""At which steps of a run documents were trained on: the loader's order read backwards.

Report §2.4; the question is ours. A batch is a pure function of its number (loader.py), so nothing needs to be recorded
while a run trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from openqwen.core.shards import Tokens
from openqwen.train.loader import num_pieces, samples_with


@dataclass(frozen=True)
class Reading:
    """How a run reads the training split: batches 0 to `batches`, `per_step` in each step after the first `before`."""

    context: int
    batch_size: int
    batches: int
    seed: int
    before: int = 0
    per_step: int = 1


class Seen(NamedTuple):
    """A step (counted from 1, as metrics are) that trained on a sequence with some of a document in it."""

    epoch: int  # from 1: a pass over the tokens
    step: int


def steps_with(tokens: Tokens, documents: Iterable[int], reading: Reading) -> list[Seen]:
    """The steps that saw any of the documents, by their numbers in the split, in order, each once an epoch."""
    samples = reading.batches * reading.batch_size
    epochs = -(-samples // num_pieces(tokens, reading.context))
    numbers, found = list(documents), set()
    for epoch in range(epochs):
        for document in numbers:
            for sample in samples_with(tokens, document, epoch, reading.context, reading.seed).tolist():
                if sample < samples:
                    batch = sample // reading.batch_size
                    found.add(Seen(epoch + 1, reading.before + batch // reading.per_step + 1))
    return sorted(found)
