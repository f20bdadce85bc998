"""Rows of token ids of different lengths as one right-padded batch, and reading a value at each row's end.

Ours. Reading at the last real token, never at padding, is what the report's "specific end token" (§3.2.1) needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def right_pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Ids (B, T) int64 with 0 as padding, and mask (B, T) bool, True on real tokens. No row may be empty."""
    lengths = torch.tensor([len(row) for row in rows])  # (B,)
    assert lengths.min() > 0, "an empty row has no end"
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]  # (B, T)
    ids = torch.zeros(mask.shape, dtype=torch.int64)  # (B, T)
    ids[mask] = torch.tensor([token for row in rows for token in row])
    return ids.to(device), mask.to(device)


def at_end(values: Tensor, mask: Tensor) -> Tensor:
    """values (B, T) at the last real token of each right-padded row: (B,)."""
    return values.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
