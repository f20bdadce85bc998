"""Runs a task on a model: prompts, letters by log-probability or greedy replies, scores, and a card that says how.

Report §2.6, §3.3 (few-shot, greedy). Ours: raw outputs are kept, and every number carries a card with the prompts, items,
weights and decoding it came from; its digest is the cell's manifest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import openqwen
from openqwen.chat import chatml
from openqwen.core.artifact import digest
from openqwen.core.tables import Cell, share
from openqwen.engine.sampling import Sampling
from openqwen.evals import code
from openqwen.evals.task import Ask, Item, Kind, Task, shots_for


@dataclass(frozen=True)
class Subject:
    """A model under test. weights: digest of its artefact. max_prompt: tokens a prompt may have."""

    name: str
    kind: Kind
    engine: Any
    tokenizer: Any
    weights: str
    max_prompt: int


@dataclass(frozen=True)
class Result:
    """What one task gave: the card, one record an item, and the cell of a table."""

    card: dict[str, Any]
    records: list[dict[str, Any]]
    cell: Cell

    @property
    def manifest(self) -> str:
        return digest(self.card)


def subset(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """A seeded part of the items in their order; all of them if they are few."""
    if len(items) <= limit:
        return list(items)
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), limit))]


def evaluate(
    subject: Subject,
    task: Task,
    items: Sequence[Item],
    shots: int,
    *,
    limit: int,
    seed: int = 1,
    max_tokens: int = 96,
    source: str = "",
) -> Result | None:
    """Scores a seeded subset of the test items. None if the task needs a sandbox and there is none.

    source: what the item set is, in words ("primer, MMLU-shaped"); it stands in the card and the cell.
    """
    ask = task.ask(subject.kind)
    if ask.program is not None and code.available() is None:
        return None
    dev = [item for item in items if item["split"] == "dev"]
    tested = subset([item for item in items if item["split"] != "dev"], limit, seed)
    if not tested:
        return None
    prompts = [fit(subject, ask, item, shots_for(item, dev, shots)) for item in tested]
    if ask.letters:
        records = compare_letters(subject, ask, tested, prompts)
    else:
        records = generate(subject, ask, tested, prompts, max_tokens)
    chance = task.chance(tested)
    card = {
        "task": task.name,
        "source": source,
        "model": {"name": subject.name, "kind": subject.kind, "weights": subject.weights},
        "tokenizer": subject.tokenizer.content,
        "items": {"sha256": digest(tested), "ids": [item["id"] for item in tested], "seed": seed},
        "shots": {
            "asked": shots,
            "fitted": sum(p.shots for p in prompts) / len(prompts),
            "cut": sum(p.cut for p in prompts),
        },
        "prompts": {
            "sha256": digest([p.ids for p in prompts]),
            "first": subject.tokenizer.decode(prompts[0].ids),
        },
        "scoring": "letters" if ask.letters else "sandboxed tests" if ask.program else "extracted answer",
        "decoding": {"temperature": 0, "max_tokens": max_tokens, "stop": list(ask.stop)},
        "sandbox": code.available() if ask.program else None,
        "code": openqwen.__version__,
    }
    cell: Cell = share([record["right"] for record in records])
    if chance is not None:
        cell["chance"] = 100 * chance
    cell |= {"source": source, "shots": card["shots"]["fitted"], "manifest": digest(card)}
    return Result(card, records, cell)


@dataclass(frozen=True)
class Prompt:
    """Ids of a prompt, how many examples fitted into it, and whether its beginning was cut off."""

    ids: list[int]
    shots: int
    cut: bool = False


def fit(subject: Subject, ask: Ask, item: Item, shots: Sequence[Item]) -> Prompt:
    """The prompt with as many of the examples as fit; a question too long by itself loses its beginning."""
    for count in range(len(shots), -1, -1):
        ids = encode(subject, ask, item, shots[len(shots) - count :])
        if len(ids) <= subject.max_prompt:
            return Prompt(ids, count)
    return Prompt(ids[-subject.max_prompt :], 0, cut=True)


def encode(subject: Subject, ask: Ask, item: Item, shots: Sequence[Item]) -> list[int]:
    if subject.kind == "chat":
        return chatml.render_prompt(ask.messages(item, shots), subject.tokenizer)
    return subject.tokenizer.encode(ask.text(item, shots))


def compare_letters(
    subject: Subject, ask: Ask, items: Sequence[Item], prompts: Sequence[Prompt]
) -> list[dict[str, Any]]:
    """The letter with the highest log-probability after the prompt."""
    letters = [subject.tokenizer.encode(letter) for letter in ask.letters]
    pairs, sizes = [], []
    for item, prompt in zip(items, prompts, strict=True):
        sizes.append(len(item["choices"]))
        pairs += [(prompt.ids, ids) for ids in letters[: sizes[-1]]]
    scores = iter(subject.engine.loglikelihood(pairs))
    records = []
    for item, size in zip(items, sizes, strict=True):
        found = [next(scores)[0] for _ in range(size)]
        said = ask.letters[found.index(max(found))].strip()
        records.append({"id": item["id"], "output": said, "scores": found, "right": said == item["answer"]})
    return records


def generate(
    subject: Subject, ask: Ask, items: Sequence[Item], prompts: Sequence[Prompt], max_tokens: int
) -> list[dict[str, Any]]:
    """Greedy replies, judged."""
    sampling = greedy(subject, max_tokens, ask.stop)
    done = subject.engine.generate([prompt.ids for prompt in prompts], sampling)
    texts = [completion.text for completion in done]
    if ask.program is not None:
        rights = code.passes([ask.program(text, item) for text, item in zip(texts, items, strict=True)])
    else:
        assert ask.judge is not None
        rights = [
            bool(text.strip()) and ask.judge(text, item) for text, item in zip(texts, items, strict=True)
        ]
    return [
        {
            "id": item["id"],
            "output": completion.text,
            "ended": completion.finish_reason,
            "gold": item["answer"],
            "right": right,
        }
        for item, completion, right in zip(items, done, rights, strict=True)
    ]


def greedy(subject: Subject, max_tokens: int, stop: Sequence[str] = ()) -> Sampling:
    """Greedy decoding that ends with the turn or the document."""
    ids = tuple(sorted(chatml.stop_ids(subject.tokenizer)))
    return replace(Sampling(temperature=0.0), max_tokens=max_tokens, stop=tuple(stop), stop_ids=ids)


def converse(
    subject: Subject, conversations: Sequence[Sequence[dict[str, str]]], max_tokens: int
) -> list[Any]:
    """Greedy replies to conversations, as completions."""
    prompts = [chatml.render_prompt(messages, subject.tokenizer) for messages in conversations]
    return list(subject.engine.generate(prompts, greedy(subject, max_tokens)))
