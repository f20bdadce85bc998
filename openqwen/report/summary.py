"""The dozen numbers a run is judged by, read from the manifests of its artefacts.

Ours; they follow the order of the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openqwen.core.artifact import Artifact
from openqwen.core.errors import DataError


@dataclass(frozen=True)
class Number:
    """A closing number: the facts of one artefact, formatted.

    optional: not every run of the stage measures them. needless: a fact beside which the number need not be said.
    """

    label: str
    artefact: str
    facts: tuple[str, ...]
    form: str
    optional: bool = False
    needless: str | None = None

    def text(self, found: Artifact) -> str | None:
        """The number as shown; None if it need not be. DataError if the artefact does not hold what it must."""
        facts = found.manifest["facts"]
        values = {name: _lookup(facts, name) for name in self.facts}
        if self.optional and None in values.values():
            return None
        if self.needless is not None and _lookup(facts, self.needless) is not None:
            return None
        if missing := [name for name, value in values.items() if value is None]:
            what = f"{found.kind} artefact does not say {', '.join(missing)}"
            raise DataError(what, where=str(found.path), fix="make it again")
        return self.form.format(*values.values())


def _lookup(facts: Mapping[str, Any], path: str) -> Any:
    """`_lookup({"tokens": {"train": 3}}, "tokens.train")` -> 3; None where there is nothing."""
    here: Any = facts
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here


NUMBERS = (
    Number("documents kept of those read", "corpus", ("documents", "read"), "{:,} of {:,}"),
    Number("bytes per token", "tokenizer", ("bytes_per_token.all",), "{:.2f}"),
    Number("tokens to train on", "tokens", ("tokens.train",), "{:,}"),
    Number(
        "base model, bits per byte (5-gram)",
        "base",
        ("bits_per_byte", "ngram_bits_per_byte"),
        "{:.3f} ({:.3f})",
        optional=True,
    ),
    Number("base model, bits per byte", "base", ("bits_per_byte",), "{:.3f}", needless="ngram_bits_per_byte"),
    Number(
        "perplexity of long texts, plain / extended",
        "context",
        ("longest", "longest_plain", "longest_extended"),
        "{}: {:.4g} / {:.4g}",
        optional=True,
    ),
    Number("held-out questions answered by the chat model", "evals", ("sft_accuracy",), "{:.1%}"),
    Number("its replies that end by themselves", "evals", ("sft_stops",), "{:.1%}"),
    Number(
        "reward model on held-out pairs (length alone)",
        "reward",
        ("accuracy", "length_accuracy"),
        "{:.1%} ({:.1%})",
    ),
    Number(
        "true preference score before / after PPO",
        "rlhf",
        ("true_before", "true_after"),
        "{:.3f} / {:.3f}",
        optional=True,
    ),
    Number(
        "KL from the chat model after PPO, per reply", "rlhf", ("kl_final",), "{:.3f} nats", optional=True
    ),
    Number(
        "RLHF against SFT, win / tie / loss", "evals", ("wins", "ties", "losses"), "{:.0%} / {:.0%} / {:.0%}"
    ),
    Number(
        "right tool chosen (called without need)",
        "agent",
        ("tool_selection", "false_positive"),
        "{:.1%} ({:.1%})",
    ),
    Number(
        "arithmetic right with / without the interpreter",
        "agent",
        ("arithmetic_interpreter", "arithmetic_own"),
        "{:.1%} / {:.1%}",
        optional=True,
    ),
)


def numbers(artefacts: Mapping[str, Artifact]) -> Iterator[tuple[str, str]]:
    """Label and text of every closing number whose artefact is given."""
    for number in NUMBERS:
        if number.artefact in artefacts and (text := number.text(artefacts[number.artefact])) is not None:
            yield number.label, text
