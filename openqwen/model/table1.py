"""Table 1 as data: the sizes of the report, and small ones of ours under the line.

Report §2.3, Table 1. The report's: hidden size, heads, layers, learning rate, batch, training tokens. From the
released configuration: rows of the vocabulary, FFN widths (the rule of `ModelConfig.ffn` gives them all). The training
length is the report's 2048 (§2.4); the released 1.8B and 7B were trained on to 8192 afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from openqwen.core.errors import UsageError, did_you_mean
from openqwen.model.config import ModelConfig


@dataclass(frozen=True)
class Size:
    """One row: a model and how it was pretrained."""

    name: str
    hidden_size: int
    num_heads: int
    num_layers: int
    peak_lr: float
    batch_tokens: int
    train_tokens: int
    vocab_size: int
    max_length: int
    origin: str  # "report" or "ours"

    @property
    def config(self) -> ModelConfig:
        """The row as a model configuration."""
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            max_length=self.max_length,
        )


M, G, T = 10**6, 10**9, 10**12
TABLE1 = {
    row.name: row
    for row in (
        #    name        hidden heads layers  peak lr    batch   tokens     vocab   length
        Size("qwen-1.8b", 2048, 16, 24, 3.0e-4, 4 * M, 22 * T // 10, 151_936, 2048, "report"),
        Size("qwen-7b", 4096, 32, 32, 3.0e-4, 4 * M, 24 * T // 10, 151_936, 2048, "report"),
        Size("qwen-14b", 5120, 40, 40, 3.0e-4, 4 * M, 30 * T // 10, 152_064, 2048, "report"),
        # ours, from two cores to one GPU
        Size("tiny", 192, 4, 4, 3.0e-3, 4096, 1_500_000, 4096, 256, "ours"),
        Size("small", 512, 8, 8, 1.5e-3, 65_536, 100 * M, 16_384, 512, "ours"),
        Size("one-gpu", 1024, 16, 16, 6.0e-4, 524_288, 5 * G, 32_768, 2048, "ours"),
    )
}


def size(name: str) -> Size:
    """A row by name; UsageError naming the nearest one."""
    if name not in TABLE1:
        raise UsageError(
            f"no model size '{name}'.{did_you_mean(name, TABLE1)}", fix=f"use one of: {', '.join(TABLE1)}"
        )
    return TABLE1[name]
