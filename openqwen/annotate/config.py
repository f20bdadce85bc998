"""Settings of the stages that make comparison pairs. No torch.

Report §3.2.1: about 6600 tags; responses from models of several sizes and by several sampling strategies; pairs formed by
the annotators' scores. The report gives no other numbers: the rest is ours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from openqwen.core.config import Config, Count, setting


class RemoteConfig(Config):
    """How models behind an address are asked."""

    key_variable: str = setting(
        "OPENAI_API_KEY", source="ours", doc="environment variable with the address's key; unset: no key"
    )
    parallel: int = setting(8, source="ours", doc="requests at once", ge=1)
    timeout: float = setting(120.0, source="ours", doc="seconds until a request counts as failed", gt=0)
    retries: int = setting(
        4, source="ours", doc="further tries of a request that failed for the moment", ge=0
    )


class AskingConfig(Config):
    """What stages that ask models share."""

    address: str | None = setting(
        None, source="ours", doc="an OpenAI-compatible model, ADDRESS#NAME: http://localhost:8000/v1#qwen"
    )
    remote: RemoteConfig = setting(RemoteConfig(), source="ours")
    batch_size: int = setting(32, source="ours", doc="prompts answered at once", ge=1)
    seed: int = setting(1234, source="ours")

    @field_validator("address")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        return None if address is None else checked_address(address)


class TagsConfig(AskingConfig):
    """Tags for prompts, and the prompts that cover them best."""

    tagger: Literal["rules", "model", "given"] = setting(
        "rules", source="ours", doc="who tags; model: --model or address (as InsTag does)"
    )
    fields: tuple[str, ...] = setting(("tags",), source="ours", doc="given: fields of a record with its tags")
    terms: int = setting(4, source="ours", doc="rules: a prompt's rarest words that are tags as well", ge=0)
    term_share: float = setting(
        0.02, source="ours", doc="rules: words in more of the prompts than this are no tags", gt=0, le=1
    )
    min_count: int = setting(2, source="ours", doc="tags of fewer prompts are dropped", ge=1)
    max_tags: Count = setting(6600, source="report §3.2.1", doc="the most frequent are kept", ge=1)
    max_tokens: int = setting(128, source="ours", doc="longest reply of a tagging model", ge=1)
    size: Count | None = setting(
        None, source="ours", doc="prompts to choose; none: all, in balanced order", ge=1
    )
    diversity: float = setting(1.0, source="ours", doc="worth of a tag that a round lacks", gt=0)
    complexity: float = setting(0.1, source="ours", doc="worth of each tag of a prompt", ge=0)
    random_seeds: int = setting(20, source="ours", doc="random choices to compare with", ge=2)
    max_bad_share: float = setting(
        0.05, source="ours", doc="share of records without a prompt that is refused", ge=0, le=1
    )


class SampleConfig(AskingConfig):
    """Responses for annotation: each prompt by each model with each sampling setting."""

    temperatures: tuple[float, ...] = setting((0.5, 1.0), source="ours", doc="0 is greedy, once a prompt")
    top_ps: tuple[float, ...] = setting((0.9,), source="ours", doc="each with each temperature")
    replies: int = setting(1, source="ours", doc="of a prompt with one model and setting", ge=1)
    max_tokens: int = setting(512, source="ours", doc="longest reply", ge=1)
    addresses: tuple[str, ...] = setting((), source="ours", doc="more models, ADDRESS#NAME each")
    max_prompts: Count | None = setting(
        None, source="ours", doc="prompts answered, chosen as openqwen tags does by their tags", ge=1
    )
    max_bad_share: float = setting(
        0.05, source="ours", doc="share of records without a prompt that is refused", ge=0, le=1
    )

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(checked_address, addresses))

    @model_validator(mode="after")
    def _possible(self) -> SampleConfig:
        if not self.temperatures or not all(0 <= t <= 100 for t in self.temperatures):
            raise ValueError(f"temperatures {self.temperatures} are not between 0 and 100")
        if not self.top_ps or not all(0 < p <= 1 for p in self.top_ps):
            raise ValueError(f"top_ps {self.top_ps} are not in (0, 1]")
        return self

    @property
    def every_address(self) -> tuple[str, ...]:
        return (*([self.address] if self.address else []), *self.addresses)


class PairsConfig(AskingConfig):
    """Scores of sampled replies, and the comparison pairs that follow from them."""

    judge: Literal["people", "rules", "model"] = setting(
        "people", source="report §3.2.1", doc="whose scores: --scores FILE, a rule, --model or address"
    )
    rule: Literal["answer", "primer"] = setting(
        "answer",
        source="ours",
        doc="answer: the record's answer stands last in the reply; primer: known truth",
    )
    max_tokens: int = setting(256, source="ours", doc="longest verdict of a judging model", ge=1)
    min_gap: float = setting(0.0, source="ours", doc="scores of a pair differ by more than this", ge=0)
    max_pairs: int = setting(3, source="ours", doc="pairs a prompt, greatest differences first", ge=1)
    heldout_share: float = setting(
        0.1, source="ours", doc="share of prompts whose pairs are held out, by hash", ge=0, lt=1
    )
    max_bad_share: float = setting(
        0.05, source="ours", doc="share of scores or replies that may be unusable", ge=0, le=1
    )


class ResultsConfig(Config):
    """What a file of answers is asked."""

    baseline: str = setting("", source="report §3.3", doc="model that others are held against")
    seed: int = setting(0, source="ours", doc="of the intervals")


def checked_address(address: str) -> str:
    """The same address. ValueError unless it is http(s)://...#NAME."""
    base, _, name = address.partition("#")
    if not base.startswith(("http://", "https://")) or not name:
        raise ValueError(f"{address!r} is not ADDRESS#NAME, such as http://localhost:8000/v1#qwen")
    return address
