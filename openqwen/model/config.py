"""What a model is (ModelConfig), how far it may look (Extension), the sweep of Table 3, and how a model comes in.

Report §2.3, Table 1 (sizes) and §2.5 (extension). The report's: untied embeddings, RMSNorm, SwiGLU with an FFN of
8/3 of the hidden size, RoPE, QKV bias, NTK + LogN + windows. From the released configuration: norm epsilon, RoPE
base, init range, the rounding of the FFN width to 128. Ours: the window sizes and num_kv_heads (for Qwen2 files).
"""

from __future__ import annotations

from math import ceil
from typing import Literal

from pydantic import model_validator

from openqwen.core.config import Config, Count, setting


def layer_windows(max_length: int, num_layers: int) -> tuple[int, ...]:
    """Our rule of layer-wise windows: short in low layers, long in high ones.

    The first eighth of the layers sees the training length, the second eighth twice, all others four times that
    length: for 32 layers trained at 2048 this is 4 x 2048, 4 x 4096, 24 x 8192. The report gives no sizes.
    """
    step = max(1, round(num_layers / 8))
    return tuple(max_length * 2 ** min(layer // step, 2) for layer in range(num_layers))


class Extension(Config):
    """Context extension as a value that travels with a call: nothing of it lives in the model's modules."""

    dynamic_ntk: bool = setting(
        False, source="report §2.5", doc="scale the RoPE base in chunks of the length"
    )
    logn: bool = setting(
        False, source="report §2.5", doc="scale queries by log of position over training length"
    )
    windows: tuple[int, ...] | None = setting(
        None, source="ours", doc="attention window of each layer in tokens; the report gives no sizes"
    )

    @model_validator(mode="after")
    def _positive(self) -> Extension:
        if self.windows is not None and min(self.windows, default=0) < 1:
            raise ValueError("windows needs positive numbers, one a layer")
        return self


class ModelConfig(Config):
    """Shape of one model. Names follow the report; `openqwen.model.hf` translates the published ones."""

    vocab_size: Count = setting(source="report §2.2", doc="rows of both embeddings", gt=0)
    hidden_size: Count = setting(source="report §2.3 Table 1", gt=0)
    num_layers: int = setting(source="report §2.3 Table 1", gt=0)
    num_heads: int = setting(source="report §2.3 Table 1", gt=0)
    num_kv_heads: int | None = setting(
        None, source="ours", doc="fewer key/value heads (Qwen2 files); None: as many as heads", gt=0
    )
    ffn_size: Count | None = setting(
        None, source="report §2.3", doc="None: 8/3 of hidden_size, rounded up to a multiple of 128", gt=0
    )
    max_length: Count = setting(
        2048, source="report §2.4", doc="training length; NTK and LogN count from it", gt=1
    )
    rope_base: float = setting(10000.0, source="released config", gt=1)
    norm_eps: float = setting(1e-6, source="released config", gt=0)
    init_std: float = setting(0.02, source="released config", gt=0)
    dropout: float = setting(
        0.0,
        source="report §2.3",
        doc="after embedding and on each residual branch, while training",
        ge=0,
        lt=1,
    )
    dynamic_ntk: bool = setting(True, source="released config", doc="on at inference, never while training")
    logn: bool = setting(True, source="released config", doc="on at inference, never while training")
    windows: tuple[int, ...] | None = setting(
        None, source="ours", doc="attention window of each layer in tokens; see layer_windows"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {self.num_heads} even heads"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}")
        if self.windows is not None and (len(self.windows) != self.num_layers or min(self.windows) < 1):
            raise ValueError(f"windows needs {self.num_layers} positive numbers, one a layer")
        return self

    @property
    def head_dim(self) -> int:
        """D, width of one head."""
        return self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def ffn(self) -> int:
        """F, width of the feed-forward layer: as given, or 8/3 C rounded up to a multiple of 128."""
        return self.ffn_size or ceil(ceil(8 * self.hidden_size / 3) / 128) * 128

    @property
    def num_parameters(self) -> int:
        """Count of all weights, embeddings included."""
        C, qkv = self.hidden_size, (self.num_heads + 2 * self.kv_heads) * self.head_dim
        block = qkv * (C + 1) + C * C + 3 * C * self.ffn + 2 * C
        return 2 * self.vocab_size * C + self.num_layers * block + C

    @property
    def extension(self) -> Extension:
        """The context extension this model is used with unless a call says otherwise."""
        return Extension(dynamic_ntk=self.dynamic_ntk, logn=self.logn, windows=self.windows)


class ImportConfig(Config):
    """How a published model becomes an artefact."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = setting(
        None, source="ours", doc="of the weights; None: as they are stored, every byte the same"
    )
    chat: bool | None = setting(
        None, source="ours", doc="replies end with <|im_end|>; None: as generation_config.json says"
    )


WeightBits = Literal["int8", "int4"]


class Quantisation(Config):
    """How the weights of a model that is only used are held (quantise.py)."""

    weights: WeightBits = setting(source="released config of the Int8 and Int4 models")
    group: Literal[32, 64, 128] = setting(
        32,
        source="ours",
        doc="neighbours of a row that share a scale in int4; the released Int4 models have 128, chosen with data",
    )
    head: bool = setting(
        False,
        source="released config of the Int4 models",
        doc="also the output matrix; the embedding never is",
    )


DecodeMode = Literal["exact", "released"]
CacheFormat = Literal["int8", "int8-released"]  # other ways to hold keys and values than as numbers


class ExtendConfig(Config):
    """The sweep of Table 3: perplexity against length, with each technique added in turn."""

    multiples: tuple[float, ...] = setting(
        (0.5, 1, 2, 4, 8), source="report §2.5 Table 3", doc="lengths, in multiples of the training length"
    )
    windows: tuple[int, ...] | None = setting(
        None, source="ours", doc="attention window of each layer; None: the rule of layer_windows"
    )
    blocks: int = setting(
        16, source="ours", doc="stretches of text of the greatest length that are read at most", gt=0
    )
    seconds: float | None = setting(
        None, source="ours", doc="begin no further block after this time; None: read all blocks", gt=0
    )
    dtype: Literal["float32", "bfloat16"] = setting("float32", source="ours")
    device: str | None = setting(None, source="ours", doc="None: the CPU")
    seed: int = setting(1234, source="ours", doc="of the bootstrap", ge=0)
    analysis: tuple[float, ...] = setting(
        (), source="ours", doc="multiples at which attention is looked into (entropy_4x.json, .svg)"
    )
    analysis_blocks: int = setting(4, source="ours", doc="blocks it is averaged over", gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> ExtendConfig:
        if (
            not self.multiples
            or list(self.multiples) != sorted(set(self.multiples))
            or self.multiples[0] <= 0
        ):
            raise ValueError("multiples must be positive and increasing")
        if 1 not in self.multiples:
            raise ValueError("multiples must hold 1, the training length, to compare with")
        if not set(self.analysis) <= set(self.multiples):
            raise ValueError("analysis must name some of multiples")
        return self
