"""Runs a task on a model: prompts, options by log-probability or greedy replies, scores, and a card that says how.

Report §2.6, §3.3 (few-shot, greedy). Ours: raw outputs are kept, and every number carries a card with the prompts, items,
weights and decoding it came from; its digest is the cell's manifest. Items of one subject are scored together, so that
the engine computes the examples they share once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openqwen
from openqwen.chat import chatml
from openqwen.core.artifact import digest
from openqwen.core.tables import Cell, average, share
from openqwen.engine.sampling import Sampling
from openqwen.evals import code
from openqwen.evals.choice import LETTERS
from openqwen.evals.journal import Journal
from openqwen.evals.task import Ask, Item, Kind, Protocol, Task, examples, shots_for

BLOCK = 128  # items between two writes of the journal
Pair = tuple[list[int], list[int]]
Record = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model under test. weights: digest of its artefact. max_prompt: tokens a prompt may have.

    scores: whether it tells the log-probability of given texts. counts_tokens: whether ids are the model's own tokens.
    """

    name: str
    kind: Kind
    engine: Any
    tokenizer: Any
    weights: str
    max_prompt: int
    scores: bool = True
    counts_tokens: bool = True


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
    protocol: Protocol = "report",
    data: Mapping[str, Any] | None = None,
    journal: Path | None = None,
) -> Result | None:
    """Scores a seeded subset of the test items. None if the model cannot be asked so here (`obstacle`), or none is there.

    source: what the item set is, in words ("primer, MMLU-shaped"); it stands in the card and the cell. data: where the
    items came from (sets.py), for the card. journal: the file from which an interrupted evaluation goes on.
    UsageError for a protocol that the task has not.
    """
    ask = task.ask(subject.kind, protocol)
    if obstacle(subject, ask) is not None:
        return None
    dev = examples(items, ask, protocol)
    asked = [item for item in items if item["split"] != "dev" and "left_out" not in item]
    tested = subset(asked, limit, seed)
    if not tested:
        return None
    prompts = [fit(subject, ask, item, shots_for(item, dev, shots)) for item in tested]
    max_tokens = ask.tokens or max_tokens
    records = run(subject, ask, tested, prompts, max_tokens, Journal(journal), [task.name, protocol])
    chance = (ask.chance or task.chance)(tested)
    card = {
        "task": task.name,
        "protocol": protocol,
        "source": source,
        "data": dict(data or {}),
        "model": {"name": subject.name, "kind": subject.kind, "weights": subject.weights},
        "tokenizer": subject.tokenizer.content,
        "items": {"sha256": digest(tested), "ids": [item["id"] for item in tested], "seed": seed},
        "left_out": {item["id"]: item["left_out"] for item in items if "left_out" in item},
        "shots": {
            "asked": shots,
            "fitted": sum(p.shots for p in prompts) / len(prompts),
            "cut": sum(p.cut for p in prompts),
            "rows": shot_rows(prompts),
        },
        "prompts": {
            "sha256": digest([p.ids for p in prompts]),
            "first": subject.tokenizer.decode(prompts[0].ids),
        },
        "empty": sum(record["output"].strip() == "" for record in records),
        "refused": sum(record.get("ended", "stop") not in ("stop", "length") for record in records),
        "scoring": scoring(ask),
        "decoding": {"temperature": 0, "max_tokens": max_tokens, "stop": list(ask.stop)},
        "sandbox": code.available() if ask.program else None,
        "code": openqwen.__version__,
    }
    weights = task.weighs(protocol)
    cell = score(records, weights(tested) if weights else None, seed)
    if chance is not None:
        cell["chance"] = 100 * chance
    cell |= {"source": source, "shots": card["shots"]["fitted"], "manifest": digest(card)}
    return Result(card, records, cell)


def obstacle(subject: Subject, ask: Ask) -> str | None:
    """Why a model cannot be asked in this way here, in words; None if it can."""
    if ask.program is not None and (why := code.missing(ask.language)):
        return why
    for name, how in ask.modules:
        if find_spec(name) is None:
            return f"answers are compared with the help of {name}, which is not installed ({how})"
    if (ask.letters or ask.options) and not subject.scores:
        return "options are compared by log-probability, which an address of the chat API does not tell"
    if ask.by == "text" and not subject.counts_tokens:
        return "texts are compared by log-probability a token, and an address does not tell what tokens are"
    return None


def shot_rows(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Which examples were shown: their ids in order, and in how many prompts these were all."""
    counts: dict[tuple[str, ...], int] = {}
    for prompt in prompts:
        counts[prompt.shown] = counts.get(prompt.shown, 0) + 1
    return [{"ids": list(shown), "prompts": count} for shown, count in counts.items()]


def score(records: Sequence[Record], weights: Sequence[float] | None, seed: int) -> Cell:
    """A share of right ones with Wilson's interval, or a weighted mean with the bootstrap's."""
    rights = [record["right"] for record in records]
    if weights is None and all(isinstance(right, bool) for right in rights):
        return share(rights)
    weights = weights or [1.0] * len(rights)
    mean = sum(weights) / len(weights)
    cell = average([right * weight / mean for right, weight in zip(rights, weights, strict=True)], seed)
    return cell | {"high": min(100.0, cell["high"])}


def scoring(ask: Ask) -> str:
    """In a word, for the card."""
    if ask.letters:
        return "letters"
    if ask.program:
        return f"sandboxed tests, {ask.language}"
    if ask.options is None:
        return "extracted answer"
    return f"options by {ask.by}" + (", extracted answer" if ask.judge else "")


@dataclass(frozen=True)
class Prompt:
    """Ids of a prompt, the ids of the examples that fitted into it, its text, whether its beginning was cut off."""

    ids: list[int]
    shown: tuple[str, ...] = ()
    cut: bool = False
    text: str = ""

    @property
    def shots(self) -> int:
        return len(self.shown)


def fit(subject: Subject, ask: Ask, item: Item, shots: Sequence[Item]) -> Prompt:
    """The prompt with as many of the examples as fit; a question too long by itself loses its beginning."""
    for count in range(len(shots), -1, -1):
        fitted = shots[len(shots) - count :]
        ids = encode(subject, ask, item, fitted)
        text = ask.text(item, fitted) if subject.kind == "base" else ""
        if len(ids) <= subject.max_prompt:
            return Prompt(ids, tuple(shot["id"] for shot in fitted), text=text)
    return Prompt(ids[-subject.max_prompt :], cut=True, text=text)


def encode(subject: Subject, ask: Ask, item: Item, shots: Sequence[Item]) -> list[int]:
    if subject.kind == "chat":
        return chatml.render_prompt(ask.messages(item, shots), subject.tokenizer)
    return subject.tokenizer.encode(ask.text(item, shots))


def run(
    subject: Subject,
    ask: Ask,
    items: Sequence[Item],
    prompts: Sequence[Prompt],
    max_tokens: int,
    journal: Journal,
    what: Sequence[str],
) -> list[Record]:
    """The items' records in their order; those that the journal has are not computed again."""
    common = [*what, subject.weights, subject.tokenizer.content, scoring(ask), max_tokens, list(ask.stop)]
    keys = [digest([common, item, prompt.ids]) for item, prompt in zip(items, prompts, strict=True)]
    for block in blocks(ask, items, [i for i, key in enumerate(keys) if key not in journal.records]):
        some, asked = [items[i] for i in block], [prompts[i] for i in block]
        if has_options(ask, some[0]):
            found = compare(subject, ask, some, asked)
        else:
            found = generate(subject, ask, some, asked, max_tokens)
        journal.add({keys[i]: record for i, record in zip(block, found, strict=True)})
    return [journal.records[key] for key in keys]


def blocks(ask: Ask, items: Sequence[Item], left: Sequence[int]) -> Iterator[list[int]]:
    """Indexes in parts of at most BLOCK, each of one subject and one way of asking."""
    groups: dict[Any, list[int]] = {}
    for i in left:
        subject = items[i].get("subject", items[i].get("task"))
        groups.setdefault((subject, has_options(ask, items[i])), []).append(i)
    for group in groups.values():
        for start in range(0, len(group), BLOCK):
            yield group[start : start + BLOCK]


def compare(subject: Subject, ask: Ask, items: Sequence[Item], prompts: Sequence[Prompt]) -> list[Record]:
    """Which option the model finds likeliest; records hold the log-probabilities."""
    options = [option_texts(ask, item) for item in items]
    pairs = [
        [pair(subject, ask, prompt, option) for option in some]
        for prompt, some in zip(prompts, options, strict=True)
    ]
    answers = iter(subject.engine.loglikelihood([one for some in pairs for one in some]))
    found = [[next(answers) for _ in some] for some in pairs]
    before = iter(whole_texts(subject, pairs) if ask.by == "text" else [0.0] * len(items))
    return [
        judged(
            ask, item, texts, [score for score, _ in some], [greedy for _, greedy in some], ends, next(before)
        )
        for item, texts, some, ends in zip(items, options, found, pairs, strict=True)
    ]


def has_options(ask: Ask, item: Item) -> bool:
    return bool(ask.letters or (ask.options is not None and ask.options(item)))


def option_texts(ask: Ask, item: Item) -> list[str]:
    if ask.letters:
        return list(ask.letters[: len(item["choices"])])
    assert ask.options is not None
    return ask.options(item)


def pair(subject: Subject, ask: Ask, prompt: Prompt, option: str) -> Pair:
    """(prompt, option) as ids.

    Letters of the released scripts stand by themselves. All other options are encoded with the prompt and parted
    after it, blanks at its end being the option's, as lm-evaluation-harness does; in a chat model's turn these are the
    line end that opens it, and the option has no blank before it.
    """
    encode = subject.tokenizer.encode
    if ask.letters:
        return prompt.ids, encode(option)
    if subject.kind == "chat":
        rest = encode("\n" + option.removeprefix(" "))
        turn = prompt.ids[: -len(encode("\n"))]
        return turn[-max(1, subject.max_prompt - len(rest)) :], rest
    bare = prompt.text.rstrip()
    before = encode(bare)
    rest = encode(prompt.text + option)[len(before) :]
    return before[-max(1, subject.max_prompt - len(rest)) :], rest


def whole_texts(subject: Subject, pairs: Sequence[Sequence[Pair]]) -> list[float]:
    """Log-probability of each prompt itself after its first token.

    Only where an item's options differ in length does it bear on which text is likelier a token; elsewhere it is 0.
    """
    uneven = [i for i, some in enumerate(pairs) if len({len(option) for _, option in some}) > 1]
    prompts = [pairs[i][0][0] for i in uneven]
    scores = subject.engine.loglikelihood([(prompt[:1], prompt[1:]) for prompt in prompts])
    found = dict(zip(uneven, (score for score, _ in scores), strict=True))
    return [found.get(i, 0.0) for i in range(len(pairs))]


def judged(
    ask: Ask,
    item: Item,
    texts: Sequence[str],
    scores: Sequence[float],
    greedy: Sequence[bool],
    pairs: Sequence[Pair],
    before: float,
) -> Record:
    """The record of an item whose options were compared."""
    if ask.by == "greedy":
        return {"id": item["id"], "output": texts[0], "scores": list(scores), "right": greedy[0]}
    lengths = [len(text.removeprefix(" ")) for text in texts]
    by_length = [score / length for score, length in zip(scores, lengths, strict=True)]
    by_token = [(before + s) / (len(p) + len(o)) for s, (p, o) in zip(scores, pairs, strict=True)]
    counted = {"sum": list(scores), "characters": by_length, "text": by_token}[ask.by]
    golds = [LETTERS.index(letter) for letter in item["answer"]]  # one is enough where several are right
    best = counted.index(max(counted))
    return {
        "id": item["id"],
        "output": texts[best].strip(),
        "scores": list(scores),
        "right": best in golds,
        "right_by_length": by_length.index(max(by_length)) in golds,
    }


def generate(
    subject: Subject, ask: Ask, items: Sequence[Item], prompts: Sequence[Prompt], max_tokens: int
) -> list[Record]:
    """Greedy replies, judged. An empty one is never right."""
    sampling = greedy(subject, max_tokens, ask.stop)
    done = subject.engine.generate([prompt.ids for prompt in prompts], sampling)
    texts = [completion.text for completion in done]
    rights: list[bool | float]
    if ask.program is not None:
        programs = [ask.program(text, item) for text, item in zip(texts, items, strict=True)]
        rights = list(code.passes(programs, language=ask.language))
    else:
        assert ask.judge is not None
        rights = [
            ask.judge(text, item) if text.strip() else False for text, item in zip(texts, items, strict=True)
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
