"""How the KV cache holds a key or a value: as a number of some dtype, in 8 bits of our kind, or in 8 bits as released.

Not in the report; `use_cache_quantization` of the released code is the 8-bit cache that it documents. What an entry
becomes is one row of bytes, codes first and then what they are scaled with, so that the cache moves it as it is.

    int8            each token and head by itself: x = low + scale * code, codes rounded, low and scale in fp16. What
                    is kept of a token does not depend on the call it came with. 68 bytes of a head of 64, 132 of 128.
    int8-released   each head over all tokens of a call: x = scale * (code - zero), codes cut off instead of rounded,
                    scale and zero in fp32. The same prompt in other pieces is kept otherwise: for comparisons.

Measured by benchmarks/quantise.py: the released one moves the model's predictions five times as far as ours.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from openqwen.model.config import CacheFormat

TOP = 255  # the greatest code
FP16 = torch.finfo(torch.float16)


class Format(Protocol):
    """What the cache asks of a way to hold entries. Everything is along the last dimension; D is the head's."""

    dtype: torch.dtype

    def width(self, head_dim: int) -> int:
        """W, how many elements of `dtype` one entry takes."""

    def encode(self, x: Tensor) -> Tensor:
        """The keys or values (B, T, K, D) of one call -> (B, T, K, W)."""

    def decode(self, entries: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
        """(..., W) -> (..., D) in a floating dtype."""


def cache_format(name: CacheFormat | None, dtype: torch.dtype) -> Format:
    """The format of a name; None: numbers of `dtype`."""
    if name is None:
        return Plain(dtype)
    return Int8() if name == "int8" else ReleasedInt8()


class Plain:
    """Numbers of one floating dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def width(self, head_dim: int) -> int:
        return head_dim

    def encode(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    def decode(self, entries: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
        return entries.to(dtype)


class Int8:
    """Ours: the range of each entry in 256 even steps. What lies beyond fp16's range becomes its end."""

    dtype = torch.uint8

    def width(self, head_dim: int) -> int:
        return head_dim + 2 * FP16.bits // 8

    def encode(self, x: Tensor) -> Tensor:
        codes, low, scale = quantise(x)
        return torch.cat((codes, torch.cat((low, scale), -1).view(torch.uint8)), -1)

    def decode(self, entries: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
        low, scale = entries[..., head_dim:].view(torch.float16).float().split(1, -1)  # (..., 1) each
        return torch.addcmul(low, entries[..., :head_dim].float(), scale).to(dtype)


def quantise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (..., D) -> codes (..., D) uint8, low and scale (..., 1) fp16: x is about low + scale * code."""
    y = x.float().clamp(-FP16.max, FP16.max)
    low, high = y.aminmax(dim=-1, keepdim=True)
    low, scale = low.half(), ((high - low.half().float()) / TOP).half()
    steps = (y - low.float()) / scale.float().clamp(min=FP16.smallest_normal * FP16.eps)
    return steps.round_().clamp_(0, TOP).to(torch.uint8), low, scale


class ReleasedInt8:
    """As released: scale and zero once for each row and head of a call, padding included, kept with each token."""

    dtype = torch.uint8

    def width(self, head_dim: int) -> int:
        return _in_fours(head_dim) + 2 * 4

    def encode(self, x: Tensor) -> Tensor:
        codes, scale, zero = quantise_as_released(x.transpose(1, 2))  # (B, K, T, D), (B, K, 1, 1) twice
        B, K, T, D = codes.shape
        scales = (
            torch.cat((scale, zero), -1).expand(B, K, T, 2).contiguous().view(torch.uint8)
        )  # (B, K, T, 8)
        gap = codes.new_zeros(B, K, T, _in_fours(D) - D)  # numbers of four bytes begin at multiples of four
        return torch.cat((codes, gap, scales), -1).transpose(1, 2)

    def decode(self, entries: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
        scale, zero = entries[..., _in_fours(head_dim) :].view(torch.float32).split(1, -1)  # (..., 1) each
        return (scale * (entries[..., :head_dim].float() - zero)).to(dtype)


def quantise_as_released(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, K, T, D) of one call -> codes (B, K, T, D) uint8, scale and zero (B, K, 1, 1) fp32."""
    y = x.float()
    low, high = y.amin((2, 3), keepdim=True), y.amax((2, 3), keepdim=True)
    scale = (high - low) / TOP
    zero = -low / scale
    return (y / scale + zero).clamp(0, TOP).to(torch.uint8), scale, zero  # to uint8 cuts off


def _in_fours(count: int) -> int:
    return count + -count % 4
