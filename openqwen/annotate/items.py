"""What annotators rank: instructions, each with the replies of several models.

Report §3.3: annotators rank the models' responses to each instruction. Ours: how they are read. Replies with the same text
are one card, so that what is equal is ranked equal, and a card's name tells nothing of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.annotate.prompts import Prompt, to_prompt
from openqwen.annotate.sample import FILE
from openqwen.chat.records import read_records
from openqwen.core.artifact import digest, load, read_jsonl
from openqwen.core.errors import DataError

MOST = 9  # cards of an item: as many as there are keys for ranks
Record = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """A text and the replies that say it."""

    name: str
    text: str
    replies: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """An instruction and replies to it, records as `openqwen sample` writes them: "id", "text", "from"."""

    prompt: Record
    replies: tuple[Record, ...]

    @property
    def id(self) -> str:
        return str(self.prompt["id"])

    @property
    def topic(self) -> str:
        task = self.prompt.get("task")
        return task if isinstance(task, str) else ""

    def cards(self, seed: int, annotator: str) -> list[Card]:
        """Distinct texts in an order of this annotator's own, the same whenever the item is shown again."""
        texts: dict[str, list[str]] = {}
        for reply in self.replies:
            texts.setdefault(reply["text"], []).append(reply["id"])
        cards = [Card(digest([self.id, text])[:16], text, tuple(ids)) for text, ids in texts.items()]
        return sorted(cards, key=lambda card: digest([seed, annotator, card.name]))


@dataclass(frozen=True)
class Items:
    """Items to rank, and how many others were left out by reason."""

    items: list[Item]
    left_out: dict[str, int]


def read_items(path: Path) -> Items:
    """From what `openqwen sample` made, or from a file of instructions with "replies": {MODEL: TEXT} each.

    DataError for records without them, and if no instruction has two replies that differ.
    """
    found = _sampled(path) if path.is_dir() else _given(path)
    items: list[Item] = []
    left_out: dict[str, int] = {}
    for prompt, replies in found:
        kept = turns(replies)
        if len({reply["text"] for reply in kept}) > 1:
            items.append(Item(prompt, tuple(kept)))
        else:
            reason = "fewer than two replies" if len(replies) < 2 else "all replies are the same"
            left_out[reason] = left_out.get(reason, 0) + 1
        if len(replies) > len(kept):
            left_out["replies beyond the keys"] = (
                left_out.get("replies beyond the keys", 0) + len(replies) - len(kept)
            )
    if not items:
        raise DataError(
            f"no instruction has two replies that differ: {left_out or 'it is empty'}",
            where=str(path),
            fix="sample from several models: openqwen sample --model A --model B",
        )
    return Items(items, left_out)


def turns(replies: Sequence[Record], most: int = MOST) -> list[Record]:
    """At most `most` of an item's replies, models taking turns, so that no model is left out before another's second."""
    seen: dict[str, int] = {}
    ranked = []
    for position, reply in enumerate(replies):
        model = reply["from"]["model"]
        seen[model] = seen.get(model, 0) + 1
        ranked.append((seen[model], position, reply))
    return [reply for _, _, reply in sorted(ranked, key=lambda entry: entry[:2])[:most]]


def _sampled(path: Path) -> list[tuple[Record, list[Record]]]:
    artefact = load(path, "replies")
    replies: dict[str, list[Record]] = {}
    for record in read_jsonl(artefact.path / FILE):
        if "text" in record:
            replies.setdefault(record["prompt"], []).append(record)
    return [(prompt, replies.get(prompt["id"], [])) for prompt in read_jsonl(artefact.path / "prompts.jsonl")]


def _given(path: Path) -> list[tuple[Record, list[Record]]]:
    found: dict[str, tuple[Record, list[Record]]] = {}
    for line, record in read_records(path):
        try:
            if isinstance(record, DataError):
                raise record
            prompt = to_prompt(record, line)
            texts = prompt.extra.pop("replies", None)
            if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
                raise DataError('"replies" must be {MODEL: TEXT}')
            if prompt.id in found:
                raise DataError(f"the id {prompt.id!r} is there twice")
        except DataError as error:
            raise DataError(error.what, where=f"{path}:{line}", fix="mend the record") from error
        found[prompt.id] = prompt.record(), _replies(prompt, texts)
    return list(found.values())


def _replies(prompt: Prompt, texts: Mapping[str, str]) -> list[Record]:
    return [
        {
            "id": f"{prompt.id}/{model}",
            "prompt": prompt.id,
            "line": prompt.line,
            "from": {"model": model},
            "text": text,
            "finished": True,
        }
        for model, text in texts.items()
    ]
