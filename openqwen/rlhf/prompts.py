"""Prompts for PPO: read, checked, rendered, split by hash into training and held-out.

Report §3.2.2 speaks of queries; the JSONL form is ours: {"id", "messages": [...ending with the user's turn]} plus
whatever a known true reward needs ("task", "lang", "answer"). Which prompts are held out depends on their text
alone, so adding prompts moves none of the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Prompt:
    """One query. item: the whole record; ids: rendered up to where the reply begins."""

    line: int
    item: dict[str, Any]
    ids: list[int]

    @property
    def text(self) -> str:
        """The user's last turn."""
        return self.item["messages"][-1]["content"]


@dataclass
class Prompts:
    """The usable prompts of a file and the lines of the others by reason."""

    train: list[Prompt] = field(default_factory=list)
    heldout: list[Prompt] = field(default_factory=list)
    skipped: dict[str, list[int]] = field(default_factory=dict)

    def summary(self) -> str:
        """`3 without messages (lines 1, 2, 7)`."""
        parts = []
        for reason, lines in self.skipped.items():
            more = ", ..." if len(lines) > LINES_SHOWN else ""
            parts.append(f"{len(lines)} {reason} (lines {', '.join(map(str, lines[:LINES_SHOWN]))}{more})")
        return "; ".join(parts)


def read_prompts(
    path: Path, tokenizer: Tokenizer, max_prompt: int, heldout: int, max_skipped: float = 1.0
) -> Prompts:
    """Reads a JSONL file of prompts. A query that occurs twice is kept once. DataError when too few are usable."""
    prompts, total, seen = Prompts(), 0, set()
    usable: list[Prompt] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            total += 1
            prompt, reason = _prompt(line, number, tokenizer, max_prompt)
            if prompt is None:
                prompts.skipped.setdefault(reason, []).append(number)
            elif (key := tuple(prompt.ids)) not in seen:
                seen.add(key)
                usable.append(prompt)
    bad = sum(map(len, prompts.skipped.values()))
    if bad > max_skipped * total or len(usable) <= heldout:
        found = prompts.summary() or "none is faulty"
        raise DataError(
            f"{len(usable)} of {total} prompts can be used, {heldout} of them are to be held out: {found}",
            where=str(path),
            fix="mend these lines, add prompts, or change heldout, max_prompt or max_skipped",
        )
    chosen = {prompt.line for prompt in sorted(usable, key=_hash)[:heldout]}
    prompts.train = [prompt for prompt in usable if prompt.line not in chosen]
    prompts.heldout = [prompt for prompt in usable if prompt.line in chosen]
    return prompts


def prompts_at(prompts: Sequence[Prompt], step: int, count: int, seed: int) -> list[Prompt]:
    """The prompts of a step, a pure function of the step: each epoch in its own seeded order, none left out."""
    chosen = []
    for place in range(step * count, (step + 1) * count):
        epoch, within = divmod(place, len(prompts))
        chosen.append(prompts[_order(len(prompts), epoch, seed)[within]])
    return chosen


def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _hash(prompt: Prompt) -> str:
    return hashlib.sha256(" ".join(prompt.text.split()).casefold().encode()).hexdigest()


def _prompt(line: bytes, number: int, tokenizer: Tokenizer, max_prompt: int) -> tuple[Prompt | None, str]:
    """The prompt, or None and the reason."""
    try:
        item = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None, "not JSON"
    messages: Any = item.get("messages") if isinstance(item, dict) else None
    if not _ends_with_a_query(messages):
        return None, "without a conversation that ends with the user's turn"
    ids = chatml.render_prompt(messages, tokenizer)
    if len(ids) > max_prompt:
        return None, f"longer than {max_prompt} tokens"
    return Prompt(number, item, ids), ""


def _ends_with_a_query(messages: Any) -> bool:
    """[system,] user, assistant, user, ...: turns in order, the user's last."""
    if not isinstance(messages, list) or not messages:
        return False
    try:
        check_turns(messages)
    except DataError:
        return False
    return messages[-1]["role"] == USER
