"""What memory allows: the bytes that one decoding step must read.

Ours. A step for few rows does so little arithmetic with each weight that reading them is all that counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from openqwen.model.config import ModelConfig


def decode_bytes(config: ModelConfig, lengths: Sequence[int], dtype: torch.dtype = torch.float32) -> int:
    """Bytes of weights and cache that a step reads for rows that hold `lengths` tokens, the new one included.

    All matrices once, of the embedding one line a row, of the cache the keys and values that a layer's window holds.
    """
    weights = config.num_parameters + (len(lengths) - config.vocab_size) * config.hidden_size
    windows = config.windows or (None,) * config.num_layers
    seen = sum(min(length, window or length) for window in windows for length in lengths)
    return (weights + 2 * seen * config.kv_heads * config.head_dim) * dtype.itemsize
