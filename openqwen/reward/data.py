"""Comparison pairs: read, checked, rendered to token ids, batched by step.

Report §3.2.1 (one query, two responses, a preference). The form is ours, and forms.py brings others to it:

    {"id", "task", "lang", "messages": [...ending with the user's turn], "chosen": str, "rejected": str}

A pair that cannot be trained on is skipped, counted by reason and located by line; above a share the file is refused.
A folder is several data sets, a file each. Ids end with the end-of-turn token, where the score is read; no newline
follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from openqwen.chat import chatml
from openqwen.chat.messages import USER, check_turns
from openqwen.chat.records import read_records
from openqwen.core.artifact import digest
from openqwen.core.errors import DataError
from openqwen.reward.forms import comparisons

if TYPE_CHECKING:
    from openqwen.tokenizer import Tokenizer

T = TypeVar("T")
LINES_SHOWN = 5
Place = int | str  # a line; of a folder's file FILE:LINE
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """One comparison. ids: prompt and reply, up to and with the end-of-turn token."""

    path: Path
    line: int
    task: str
    query: str  # digest of the messages: pairs of one query share it
    prompt: str
    chosen: str
    rejected: str
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def where(self) -> str:
        """Where a person finds it: file:line."""
        return f"{self.path}:{self.line}"

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the chosen and of the rejected side."""
        return len(self.chosen_ids), len(self.rejected_ids)


@dataclass
class Pairs:
    """The usable pairs of a file or of a folder's files, and the places of the others by reason."""

    path: Path
    items: list[Pair] = field(default_factory=list)
    skipped: dict[str, list[Place]] = field(default_factory=dict)

    @property
    def num_skipped(self) -> int:
        return sum(map(len, self.skipped.values()))

    def summary(self) -> str:
        """`12 equal sides (lines 3, 9, ...), 1 too long (line 40)`."""
        return ", ".join(
            f"{len(places)} {reason} ({_places(places)})" for reason, places in self.skipped.items()
        )


def read_pairs(path: Path, tokenizer: Tokenizer, max_length: int, max_skipped: float = 1.0) -> Pairs:
    """Reads a file of pairs, or a folder of such files, in any form of forms.py (.jsonl, .json, .parquet, .gz).

    DataError when nothing is usable, or more than `max_skipped` of it is not.
    """
    pairs = Pairs(path)
    total = 0
    for file in files(path):
        for line, record in _records(file):
            total += 1
            reason = record if isinstance(record, str) else problem(record)
            if not isinstance(record, str) and reason is None:
                pair = _render(record, file, line, tokenizer)
                if max(pair.lengths) <= max_length:
                    pairs.items.append(pair)
                    continue
                reason = f"longer than {max_length} tokens"
            assert reason is not None
            place = line if file == path else f"{file.name}:{line}"
            pairs.skipped.setdefault(reason, []).append(place)
    if not pairs.items or pairs.num_skipped > max_skipped * total:
        raise DataError(
            f"{pairs.num_skipped} of {total} pairs cannot be used: {pairs.summary() or 'the file is empty'}",
            where=str(path),
            fix="mend these lines, or raise max_skipped, or max_length as far as the model's context goes",
        )
    return pairs


def refuse_shared(pairs: Pairs, heldout: Pairs) -> None:
    """DataError for a held-out pair that is trained on: an accuracy on it would mean nothing."""
    known = {(tuple(pair.chosen_ids), tuple(pair.rejected_ids)): pair.where for pair in pairs.items}
    for pair in heldout.items:
        if place := known.get((tuple(pair.chosen_ids), tuple(pair.rejected_ids))):
            raise DataError(
                f"this held-out pair is also trained on ({place})",
                where=pair.where,
                fix="take it out of one of the two files",
            )


def files(path: Path) -> list[Path]:
    """The data sets of a path: the file itself, or a folder's files by name, hidden ones left out."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


def problem(record: Any) -> str | None:
    """Why a record cannot be trained on, or None."""
    if not isinstance(record, dict):
        return "not a JSON object"
    sides = [side.strip() for name in SIDES if isinstance(side := record.get(name), str)]
    if len(sides) < 2 or not all(sides):
        return "with a missing side"
    if sides[0] == sides[1]:
        return "with equal sides"
    return prompt_problem(record.get("messages"))


def prompt_problem(messages: Any) -> str | None:
    """Why messages are not a conversation that ends with the user's turn, or None."""
    if not isinstance(messages, list) or not messages:
        return "without messages"
    try:
        check_turns(messages)
    except DataError:
        return "with wrong roles"
    return None if messages[-1]["role"] == USER else "with wrong roles"


def render_pair_side(messages: Sequence[Mapping[str, str]], reply: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a conversation with its reply, ending with <|im_end|>: what the reward model reads."""
    ids, _ = chatml.render([*messages, {"role": "assistant", "content": reply}], tokenizer)
    end = len(ids) - 1 - ids[::-1].index(tokenizer.im_end_id)
    return ids[: end + 1]


def order(num_pairs: int, epoch: int, seed: int) -> np.ndarray:
    """The order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_pairs)


def batch_at(pairs: Sequence[T], step: int, batch_size: int, seed: int) -> list[T]:
    """The pairs of a step, a pure function of the step. An epoch's last batch may be short."""
    steps = steps_per_epoch(len(pairs), batch_size)
    epoch, within = divmod(step, steps)
    chosen = order(len(pairs), epoch, seed)[within * batch_size : (within + 1) * batch_size]
    return [pairs[i] for i in chosen]


def steps_per_epoch(num_pairs: int, batch_size: int) -> int:
    """Batches an epoch."""
    return -(-num_pairs // batch_size)


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line, comparison) of every pair of a file; instead of the comparison why a line has none."""
    for line, record in read_records(file):
        if not isinstance(record, dict):
            yield line, "not a JSON object"
            continue
        try:
            found = comparisons(record)
        except DataError as error:
            yield line, error.what
            continue
        yield from ((line, comparison) for comparison in found)


def _render(record: dict[str, Any], file: Path, line: int, tokenizer: Tokenizer) -> Pair:
    messages, chosen, rejected = record["messages"], record["chosen"], record["rejected"]
    return Pair(
        path=file,
        line=line,
        task=str(record.get("task", "")),
        query=digest(messages),
        prompt=messages[-1]["content"],
        chosen=chosen,
        rejected=rejected,
        chosen_ids=render_pair_side(messages, chosen, tokenizer),
        rejected_ids=render_pair_side(messages, rejected, tokenizer),
    )


def _places(places: Sequence[Place]) -> str:
    shown = ", ".join(map(str, places[:LINES_SHOWN]))
    return f"line{'s' if len(places) > 1 else ''} {shown}{', ...' if len(places) > LINES_SHOWN else ''}"
