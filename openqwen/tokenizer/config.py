"""Settings of the tokenizer and pack stages.

Report §2.2 (vocabulary) and §2.4 (documents merged into one stream of tokens).
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from openqwen.core.config import Config, Count, setting

NUM_SPECIAL = 208
MIN_VOCAB = 256 + NUM_SPECIAL


class TokenizerConfig(Config):
    """How a vocabulary is learnt. To augment a given one, as the report did, name its ranks file as the input `base`."""

    vocab_size: Count = setting(
        151_851, source="report §2.2", doc="ids in all, the 208 special tokens included", le=2**24
    )
    min_count: int = setting(2, source="ours", doc="a pair must occur this often to become a token", ge=1)
    held_out: float = setting(
        0.0, source="ours", doc="of files: share of documents measured, not learnt from", ge=0, lt=1
    )
    workers: int | None = setting(
        None, source="ours", doc="processes that count; none: one a processor", ge=1
    )

    @model_validator(mode="after")
    def _room_for_bytes(self) -> TokenizerConfig:
        if self.vocab_size < MIN_VOCAB:
            raise ValueError(
                f"vocab_size must be at least {MIN_VOCAB}: 256 bytes and {NUM_SPECIAL} special tokens"
            )
        return self


class PackConfig(Config):
    """How a corpus becomes token shards."""

    shard_tokens: Count = setting(100_000_000, source="ours", doc="tokens in one shard file", ge=1)
    batch_bytes: Count = setting(
        8_000_000, source="ours", doc="text encoded at once; also what is lost if interrupted", ge=1
    )
    encoder: Literal["gigatoken", "tiktoken"] | None = setting(
        None, source="ours", doc="engine that encodes; none: the faster one that proves equal"
    )
