"""Steps that judge each document by itself: language, spam, offence, rules.

Report §2.1 ("language identification tools", "rule-based and machine-learning-based methods"). Here they are only cut
into tasks over shards; what they do is in language.py, classifier.py and quality.py.
"""

from __future__ import annotations

from pathlib import Path

from openqwen.core.errors import DataError
from openqwen.data import classifier, language, quality, shards
from openqwen.data.config import LanguageConfig, RulesConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.task import Facts, Work
from openqwen.data.text import batches

_PART = 1 << 20  # characters: features of a text take fifty times its room


def scored(step: shards.Step, drop: bool) -> shards.Step:
    """A step on a part of a shard's documents at a time, or where nothing may be dropped one that only leaves scores."""

    def parts(documents: list[Document]) -> tuple[list[Document], list[Dropped]]:
        kept: list[Document] = []
        dropped: list[Dropped] = []
        for start, stop in batches([document.text for document in documents], _PART):
            some, gone = step(documents[start:stop])
            kept += some
            dropped += gone
        return (kept, dropped) if drop else ([*kept, *(gone.document for gone in dropped)], [])

    return parts


def identify(work: Work) -> Facts:
    """Shard -> verdicts on languages. settings: "language"."""
    config = LanguageConfig(**work.settings["language"])
    return shards.judge(work, lambda documents: language.identify(documents, config))


def train(work: Work) -> Facts:
    """A classifier from the shipped examples. settings: "label", "content" (their digest)."""
    examples = classifier.read_examples(classifier.EXAMPLES)
    work.write("model.safetensors", classifier.train(examples, work.settings["label"]).to_bytes())
    return {"examples": len(examples)}


def named(work: Work, setting: str) -> bytes:
    """The file at settings["path"], which a setting names. DataError if it cannot be read."""
    path = Path(work.settings["path"])
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=str(path), fix=f"mend {setting}"
        ) from error


def bring(work: Work) -> Facts:
    """A classifier that a user has trained, into the store. settings: "path" (of its model), "content" (its digest)."""
    data = named(work, "quality.models")
    classifier.HashedLinear.from_bytes(data, work.settings["path"])
    work.write("model.safetensors", data)
    return {}


def classify(work: Work) -> Facts:
    """Shard -> verdicts of a classifier. settings: "name" (one of JUDGEMENTS), "threshold", "drop"."""
    model = classifier.HashedLinear.from_bytes(work.store.verified(work.inputs["model"][0]))
    name, threshold = work.settings["name"], work.settings["threshold"]
    step = scored(
        lambda documents: classifier.filter_label(documents, model, name, threshold), work.settings["drop"]
    )
    return shards.judge(work, step)


def rules(work: Work) -> Facts:
    """Shard -> verdicts of the rules. settings: "limits", "drop"."""
    config = RulesConfig(**work.settings["limits"])
    step = scored(lambda documents: quality.filter_rules(documents, config), work.settings["drop"])
    return shards.judge(work, step)
