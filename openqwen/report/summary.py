"""The dozen numbers a run is judged by, read from the manifests of its artefacts.

Ours; they follow the order of the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from openqwen.core.artifact import Artifact
from openqwen.core.errors import DataError


@dataclass(frozen=True)
class Number:
    """A closing number: the facts of one artefact, formatted."""

    label: str
    artefact: str
    facts: tuple[str, ...]
    form: str

    def text(self, found: Artifact) -> str:
        """The number as shown. DataError if the artefact does not hold it."""
        facts = found.manifest["facts"]
        if missing := [name for name in self.facts if facts.get(name) is None]:
            raise DataError(
                f"{found.kind} artefact does not say {', '.join(missing)}", str(found.path), "make it again"
            )
        return self.form.format(*(facts[name] for name in self.facts))


NUMBERS = (
    Number("documents kept of those read", "corpus", ("kept", "read"), "{:,} of {:,}"),
    Number("bytes per token", "tokenizer", ("bytes_per_token",), "{:.2f}"),
    Number("tokens to train on", "tokens", ("train_tokens",), "{:,}"),
    Number(
        "base model, bits per byte (5-gram)",
        "base",
        ("bits_per_byte", "ngram_bits_per_byte"),
        "{:.3f} ({:.3f})",
    ),
    Number(
        "perplexity at 4x the length, plain / extended",
        "context",
        ("plain_4x", "extended_4x"),
        "{:.4g} / {:.4g}",
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
        "true preference score before / after PPO", "rlhf", ("true_before", "true_after"), "{:.3f} / {:.3f}"
    ),
    Number("KL from the chat model after PPO, per reply", "rlhf", ("kl_final",), "{:.3f} nats"),
    Number(
        "RLHF against SFT, win / tie / loss", "evals", ("wins", "ties", "losses"), "{:.0%} / {:.0%} / {:.0%}"
    ),
    Number(
        "right tool chosen (called without need)",
        "agent",
        ("tool_selection", "false_positive"),
        "{:.1%} ({:.1%})",
    ),
)


def numbers(artefacts: Mapping[str, Artifact]) -> Iterator[tuple[str, str]]:
    """Label and text of every closing number whose artefact is given."""
    for number in NUMBERS:
        if number.artefact in artefacts:
            yield number.label, number.text(artefacts[number.artefact])
