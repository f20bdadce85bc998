"""How much of an item set stands in the training corpus: 13-gram overlap, for a table's footnote.

Report §2.1 removes such overlap from the training data; looking for it again afterwards is ours.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from openqwen.core.jsonl import read_corpus
from openqwen.evals.task import Item

SIZE = 13
_TOKEN = re.compile(r"[a-z0-9_]+|[\u3400-\u9fff]")


def tokens(text: str) -> list[str]:
    """Words, and each Chinese character for itself; case, width and punctuation do not count."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def grams(text: str) -> set[tuple[str, ...]]:
    """Its runs of 13 tokens; empty for a shorter text."""
    words = tokens(text)
    return {tuple(words[i : i + SIZE]) for i in range(len(words) - SIZE + 1)}


def item_text(item: Item) -> str:
    """What of an item must not have been read in training: its texts and choices, or prompt and solution."""
    if "prompt" in item:
        return f"{item['prompt']}\n{item['answer']}"
    texts = [item[name] for name in ("passage", "context", "premise") if name in item]
    return "\n".join([*texts, item["question"], *item.get("choices", [])])


def overlap(sets: Mapping[str, Sequence[Item]], documents: Iterable[str]) -> dict[str, tuple[int, int]]:
    """For each set (items that share a 13-gram with a document, items long enough to be looked for)."""
    owners: dict[tuple[str, ...], set[tuple[str, int]]] = {}
    long_enough = {}
    for name, items in sets.items():
        found = [grams(item_text(item)) for item in items]
        long_enough[name] = sum(map(bool, found))
        for i, parts in enumerate(found):
            for gram in parts:
                owners.setdefault(gram, set()).add((name, i))
    touched: set[tuple[str, int]] = set()
    for text in documents:
        for gram in grams(text) & owners.keys():
            touched |= owners[gram]
    return {name: (sum(owner == name for owner, _ in touched), long_enough[name]) for name in sets}


def corpus_of(tokens_artifact: Path) -> Path | None:
    """The corpus that a tokens artefact was made from, if it is still where its manifest says."""
    manifest = json.loads((tokens_artifact / "manifest.json").read_text(encoding="utf-8"))
    recorded = manifest["inputs"].get("corpus")
    path = (tokens_artifact / recorded["path"]).resolve() if recorded else None
    return path if path is not None and (path / "DONE").is_file() else None


def footnote(sets: Mapping[str, Sequence[Item]], tokens_artifact: Path) -> str:
    """One line for the tables' notes."""
    corpus = corpus_of(tokens_artifact)
    if corpus is None:
        return "Contamination: the training corpus is not there to compare with."
    found = overlap(sets, (document["text"] for document in read_corpus(corpus, "train")))
    parts = [f"{name} {hits}/{n}" for name, (hits, n) in found.items() if n]
    return f"Items sharing 13 tokens in a row with the training corpus: {', '.join(parts) or 'none is that long'}."
