"""Linear layers whose frozen matrix lies in 4 bits (NF4), 4.5 bits a weight with its scales.

Not in the report; the method and its 16 values are those of the QLoRA paper (Dettmers et al. 2023, appendix E): blocks
of 64 neighbours in a row, each divided by its largest magnitude, each quotient given the nearest of 16 quantiles of a
normal distribution. Codes are equal to those of bitsandbytes, byte for byte. Scales stay fp32: to quantise them too
would save another 0.37 bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openqwen.core.errors import UsageError

BLOCK = 64
VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (O, I) -> two codes a byte (O * I / 2,) uint8, the first in the high half, and scales (O * I / 64,) fp32.

    UsageError if the number of weights is no multiple of 64.
    """
    if weight.numel() % BLOCK:
        raise UsageError(
            f"a matrix of {list(weight.shape)} does not divide into blocks of {BLOCK} weights",
            where="lora.quantize",
            fix="leave it out: this model is small enough without",
        )
    blocks = weight.detach().float().reshape(-1, BLOCK)  # (N, 64)
    scales = blocks.abs().amax(1)  # (N,)
    table = torch.tensor(VALUES, device=weight.device)
    shares = (
        blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    )  # a block of zeros stays zero
    codes = torch.bucketize(shares, (table[1:] + table[:-1]) / 2).to(torch.uint8)
    return (codes[:, ::2] << 4 | codes[:, 1::2]).flatten(), scales


def dequantize(codes: Tensor, scales: Tensor, shape: torch.Size) -> Tensor:
    """The fp32 matrix that the codes stand for."""
    halves = _pairs(codes.device).index_select(0, codes.int())  # (O * I / 2, 2)
    return (halves.view(-1, BLOCK) * scales[:, None]).view(shape)


@cache
def _pairs(device: torch.device) -> Tensor:
    """(256, 2): both values of each byte, so that a byte is looked up once."""
    table = torch.tensor(VALUES, device=device)
    return torch.stack((table.repeat_interleave(16), table.repeat(16)), 1)


class NF4Linear(nn.Module):
    """A frozen linear layer in 4 bits. Its matrix is unpacked for each use, in the backward pass again, and not kept."""

    codes: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scales = quantize(linear.weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.shape = linear.weight.shape
        self.out_features, self.in_features = self.shape
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """The (O, I) fp32 matrix that is computed with."""
        return dequantize(self.codes, self.scales, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            y = _Product.apply(x.to(dtype), self.codes, self.scales, self.shape)
            return y if self.bias is None else y + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.shape = shape
        return F.linear(x, dequantize(codes, scales, shape).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        return grad @ dequantize(codes, scales, ctx.shape).to(grad.dtype), None, None, None
