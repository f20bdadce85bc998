"""Conversations to rows of ids, labels and segments.

Report §3.1.1 (ChatML), §3.1.2 (system and user masked), §3.4 (tool conversations mixed in). The files and their forms
are read by openqwen.chat.records. Packing is ours: several samples share a row, and `segments` keep each from seeing
the others.

A record that cannot be used is counted with its line and reason, never trained on and never silently dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from openqwen.chat import chatml
from openqwen.chat.messages import ASSISTANT, Message, check_turns
from openqwen.chat.records import read_conversations
from openqwen.core.errors import DataError
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train.loss import IGNORE

T = TypeVar("T")
OPEN_ROWS = 64  # rows a sample may still be put into; more gains nothing measurable


@dataclass(frozen=True)
class Sample:
    """One conversation in ids. `trained[i]`: id i is to be predicted."""

    source: str  # name of the input it came from
    line: int
    messages: list[Message]
    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Skipped:
    """A record that is not trained on."""

    source: str
    line: int
    reason: str


@dataclass(frozen=True)
class Batch:
    """Rows of a step. labels are already shifted: labels[b, t] is what follows ids[b, t], or -100."""

    ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64
    segments: Tensor  # (B, T) int64, 1, 2, ... by sample; 0 is padding


def read_samples(
    path: Path, source: str, tok: Tokenizer, max_length: int, mask: chatml.Mask
) -> tuple[list[Sample], list[Skipped]]:
    """Every usable conversation of a file, in order, and what was left out."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for line, found in read_conversations(path):
        try:
            if isinstance(found, DataError):
                raise found
            samples.append(_sample(found, source, line, tok, max_length, mask))
        except DataError as error:
            skipped.append(Skipped(source, line, error.what))
    return samples, skipped


def _sample(
    messages: list[Message], source: str, line: int, tok: Tokenizer, max_length: int, mask: chatml.Mask
) -> Sample:
    check_turns(messages)
    if messages[-1]["role"] != ASSISTANT:
        raise DataError("the conversation has no reply at its end")
    if not all(m["content"].strip() for m in messages if m["role"] == ASSISTANT):
        raise DataError("a reply is empty")
    ids, trained = chatml.render(messages, tok, mask=mask)
    if len(ids) > max_length:
        raise DataError(f"longer than max_length {max_length}")
    return Sample(source, line, messages, ids, trained)


def of_replies(sample: Sample, tok: Tokenizer) -> Sample:
    """The same sample with its replies trained: what held-out loss is of, whatever a run trains."""
    return replace(sample, trained=chatml.render(sample.messages, tok, mask="report")[1])


def check_share(samples: Sequence[Sample], skipped: Sequence[Skipped], path: Path, limit: float) -> None:
    """Refuses a file of which too much is unusable, naming the first record."""
    if skipped and len(skipped) > limit * (len(samples) + len(skipped)):
        first = skipped[0]
        raise DataError(
            f"{len(skipped)} of {len(samples) + len(skipped)} records cannot be used; the first: {first.reason}",
            where=f"{path}:{first.line}",
            fix="mend the file, or raise max_bad_share",
        )
    if not samples:
        raise DataError("the file holds no conversation", where=str(path))


# ---- rows --------------------------------------------------------------------------------------------------------
def split_heldout(samples: Sequence[T], count: int, seed: int) -> tuple[list[T], list[T]]:
    """(training, held-out): a seeded choice of `count` samples, but never more than a tenth (at least one)."""
    count = max(1, min(count, len(samples) // 10))
    if len(samples) < 2:
        raise DataError("one conversation is not enough: some must be held out")
    chosen = set(np.random.default_rng([seed, 2]).permutation(len(samples))[:count].tolist())
    training = [sample for i, sample in enumerate(samples) if i not in chosen]
    return training, [samples[i] for i in sorted(chosen)]


def pack(lengths: Sequence[int], capacity: int, seed: int) -> list[list[int]]:
    """Sample numbers of each row: seeded order, each sample into the first open row with room for it."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, list[int]]] = []  # (room left, row)
    for number in np.random.default_rng([seed, 3]).permutation(len(lengths)).tolist():
        for place, (room, row) in enumerate(open_rows):
            if lengths[number] <= room:
                row.append(number)
                open_rows[place] = (room - lengths[number], row)
                break
        else:
            rows.append([number])
            open_rows.append((capacity - lengths[number], rows[-1]))
            if len(open_rows) > OPEN_ROWS:
                open_rows.remove(min(open_rows, key=lambda item: item[0]))  # the fullest
    return rows


def rows_at(num_rows: int, step: int, batch_size: int, seed: int) -> list[int]:
    """Which rows a step trains on: a new seeded order each epoch, a pure function of the step."""
    numbers = range(step * batch_size, (step + 1) * batch_size)
    return [int(_order(num_rows, seed, number // num_rows)[number % num_rows]) for number in numbers]


@lru_cache(maxsize=4)
def _order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 4]).permutation(num_rows)


def make_batch(samples: Sequence[Sample], rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Rows of samples side by side, padded on the right to the longest row."""
    width = max(sum(len(samples[number].ids) for number in row) for row in rows)
    ids = np.full((len(rows), width), pad_id, np.int64)
    labels = np.full((len(rows), width), IGNORE, np.int64)
    segments = np.zeros((len(rows), width), np.int64)
    for b, row in enumerate(rows):
        start = 0
        for segment, number in enumerate(row, 1):
            sample = samples[number]
            here = slice(start, start + len(sample.ids))
            ids[b, here], segments[b, here] = sample.ids, segment
            # What follows the last token of a sample is another sample: it stays ignored.
            following = np.where(sample.trained[1:], sample.ids[1:], IGNORE)
            labels[b, start : here.stop - 1] = following
            start = here.stop
    return Batch(torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(segments))
