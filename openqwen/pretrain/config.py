"""Settings of pretraining. No torch.

Report §2.3, §2.4 and Table 1 (the 7B column is the default): context 2048, batches of 4M tokens, 2.4T tokens, peak 3e-4,
cosine to 10 %, BFloat16. Warm-up, decay and clipping are the tech memo's. Intervals and samples are ours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from openqwen.core.config import Config, Count, setting
from openqwen.model.config import ModelConfig
from openqwen.train.config import LoraConfig, TrainingConfig


class ShapeConfig(Config):
    """The model to begin with. Its vocabulary comes from the tokenizer, its length from the context."""

    hidden_size: Count = setting(4096, source="report §2.3 Table 1", gt=0)
    num_layers: int = setting(32, source="report §2.3 Table 1", gt=0)
    num_heads: int = setting(32, source="report §2.3 Table 1", gt=0)
    ffn_size: Count | None = setting(
        None, source="report §2.3", doc="none: 8/3 of hidden_size, rounded up to a multiple of 128", gt=0
    )
    dropout: float = setting(0.0, source="released config", ge=0, lt=1)
    rope_base: float = setting(10000.0, source="released config", gt=1)
    vocab_multiple: int = setting(
        1, source="ours", doc="rows of the embeddings are rounded up to a multiple (released: 128)", gt=0
    )

    init_std: float = setting(0.02, source="released config", doc="of all matrices", gt=0)
    head_init: Literal["normal", "embedding"] = setting(
        "normal",
        source="released config",
        doc="embedding (ours): the untied head begins as a copy of the embedding, so copying is learnt from less text",
    )

    @model_validator(mode="after")
    def _even_heads(self) -> ShapeConfig:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {self.num_heads} even heads (num_heads)"
            )
        return self

    def for_vocabulary(self, vocab_size: int, max_length: int) -> ModelConfig:
        """The full description of the model for a vocabulary and a training length."""
        rows = -(-vocab_size // self.vocab_multiple) * self.vocab_multiple
        shape = self.model_dump(exclude={"vocab_multiple", "head_init"})
        return ModelConfig(vocab_size=rows, max_length=max_length, **shape)


class PretrainConfig(TrainingConfig):
    """One pretraining run."""

    model: ShapeConfig = setting(ShapeConfig(), source="report §2.3 Table 1")
    lora: LoraConfig | None = setting(
        None,
        source="report §2.4",
        doc="none: all weights are trained; any lora.* setting trains adapters on the model to go on from",
    )
    context: Count = setting(2048, source="report §2.4", doc="tokens a sequence", gt=1)
    batch_tokens: Count = setting(
        2048 * 2048, source="report Table 1", doc="tokens a step (4M; tech memo: 2048 x 2048)", gt=0
    )
    steps: Count = setting(572_205, source="report Table 1", doc="2.4T tokens", gt=0)
    micro_batch: int = setting(
        8, source="ours", doc="sequences at a time, for memory; no influence on the result", gt=0
    )
    seed: int = setting(1234, source="ours", doc="weights, data order, dropout", ge=0)
    eval_interval: Count = setting(1000, source="ours", doc="steps between validations", gt=0)
    eval_tokens: Count = setting(1_000_000, source="ours", doc="held-out tokens read at most", gt=0)
    checkpoint_interval: Count = setting(1000, source="ours", doc="steps between checkpoints", gt=0)
    prompts: tuple[str, ...] = setting(
        ("The capital of France is", "def fibonacci(n):", "中国的首都是"),
        source="ours",
        doc="continued greedily before, after and in between",
    )
    sample_interval: Count | None = setting(
        None, source="ours", doc="steps between samples; none: before and after only", gt=0
    )
    sample_tokens: int = setting(48, source="ours", doc="length of a sample", gt=0)
    ngram_order: int | None = setting(
        5, source="ours", doc="order of the n-gram model it is compared with; none: not compared", gt=1, le=7
    )
    ngram_tokens: Count = setting(
        20_000_000, source="ours", doc="training tokens the n-gram model reads", gt=0
    )

    @field_validator("prompts")
    @classmethod
    def _not_empty(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if "" in prompts:
            raise ValueError("an empty prompt: there is nothing to continue")
        return prompts

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if self.batch_tokens % self.context:
            below = self.batch_size * self.context
            near = f"{below} or {below + self.context}" if below else f"{self.context}"
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of context {self.context}, as {near} would be"
            )
        self.check_parts(self.batch_size, "sequences a step (batch_tokens over context)")
        self.check_adapters(self.lora)
        self.check_steps(self.steps)
        return self

    @property
    def batch_size(self) -> int:
        """Sequences a step."""
        return self.batch_tokens // self.context
