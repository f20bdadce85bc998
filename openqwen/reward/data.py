"""Comparison pairs: read, checked, rendered to token ids, batched by step.

Report §3.2.1 (one query, two responses, a preference). The JSONL form is ours:

    {"id", "task", "lang", "messages": [...ending with the user's turn], "chosen": str, "rejected": str}

A record that cannot be trained on is skipped, counted by reason and located by line; above a share the file is
refused. Ids end with the end-of-turn token, where the score is read; no newline follows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openqwen.chat import chatml
from openqwen.chat.messages import USER, check_turns
from openqwen.core.errors import DataError

if TYPE_CHECKING:
    from openqwen.tokenizer import Tokenizer

LINES_SHOWN = 5
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """One comparison. ids: prompt and reply, up to and with the end-of-turn token."""

    line: int
    task: str
    prompt: str
    chosen: str
    rejected: str
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the chosen and of the rejected side."""
        return len(self.chosen_ids), len(self.rejected_ids)


@dataclass
class Pairs:
    """The usable pairs of a file and the lines of the others by reason."""

    path: Path
    items: list[Pair] = field(default_factory=list)
    skipped: dict[str, list[int]] = field(default_factory=dict)

    @property
    def num_skipped(self) -> int:
        return sum(map(len, self.skipped.values()))

    def summary(self) -> str:
        """`12 equal sides (lines 3, 9, ...), 1 too long (line 40)`."""
        return ", ".join(
            f"{len(lines)} {reason} ({_places(lines)})" for reason, lines in self.skipped.items()
        )


def read_pairs(path: Path, tokenizer: Tokenizer, max_length: int, max_skipped: float = 1.0) -> Pairs:
    """Reads a JSONL file of pairs. DataError when nothing is usable or more than `max_skipped` of it is not."""
    pairs = Pairs(path)
    total = 0
    for number, line in _lines(path):
        total += 1
        record = _parse(line)
        reason = problem(record)
        if reason is None:
            assert isinstance(record, dict)
            pair = _render(record, number, tokenizer)
            if max(pair.lengths) <= max_length:
                pairs.items.append(pair)
                continue
            reason = f"longer than {max_length} tokens"
        pairs.skipped.setdefault(reason, []).append(number)
    if not pairs.items or pairs.num_skipped > max_skipped * total:
        raise DataError(
            f"{pairs.num_skipped} of {total} pairs cannot be used: {pairs.summary() or 'the file is empty'}",
            where=str(path),
            fix="mend these lines, or raise max_skipped or max_length",
        )
    return pairs


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


def batch_at(pairs: Sequence[Pair], step: int, batch_size: int, seed: int) -> list[Pair]:
    """The pairs of a step, a pure function of the step. An epoch's last batch may be short."""
    steps = steps_per_epoch(len(pairs), batch_size)
    epoch, within = divmod(step, steps)
    chosen = order(len(pairs), epoch, seed)[within * batch_size : (within + 1) * batch_size]
    return [pairs[i] for i in chosen]


def steps_per_epoch(num_pairs: int, batch_size: int) -> int:
    """Batches an epoch."""
    return -(-num_pairs // batch_size)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _parse(line: bytes) -> Any:
    """The value of a line; None, which is no object, when it is not JSON."""
    try:
        return json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def _render(record: dict[str, Any], line: int, tokenizer: Tokenizer) -> Pair:
    messages, chosen, rejected = record["messages"], record["chosen"], record["rejected"]
    return Pair(
        line=line,
        task=str(record.get("task", "")),
        prompt=messages[-1]["content"],
        chosen=chosen,
        rejected=rejected,
        chosen_ids=render_pair_side(messages, chosen, tokenizer),
        rejected_ids=render_pair_side(messages, rejected, tokenizer),
    )


def _places(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:LINES_SHOWN]))
    return f"line{'s' if len(lines) > 1 else ''} {shown}{', ...' if len(lines) > LINES_SHOWN else ''}"
