"""What an export loses, measured: bits per byte by our context extension and by what the exported file says.

Ours. Other programs compute an exported model as the plain architecture: no dynamic NTK, no LogN, no windows. Both
sides read the same blocks of text at 1, 2 and 4 times the training length, each block as long as the longest of
them and cut into pieces, so that the columns differ in context alone; intervals are bootstrapped over blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch

from openqwen.core.errors import DataError
from openqwen.core.intervals import bootstrap
from openqwen.model.config import Extension, ModelConfig
from openqwen.model.extend import token_losses
from openqwen.model.qwen import Qwen

MULTIPLES = (1, 2, 4)
MOST_TOKENS = 131_072  # 16 blocks of a model trained at 2048
FEWEST_BLOCKS = 4  # whatever their size, or the interval says nothing
_SEED = 1234  # of the bootstrap


@dataclass(frozen=True)
class Reading:
    """Bits per byte at one length. more: exported minus ours, paired over blocks, with its 95 % interval."""

    multiple: int
    length: int
    ours: float
    exported: float
    more: float
    low: float | None  # None: one block has no interval
    high: float | None


@dataclass(frozen=True)
class Measured:
    """Readings by length, and the text they come from."""

    text: str
    num_blocks: int
    num_bytes: int
    readings: tuple[Reading, ...]

    def lines(self) -> list[str]:
        """A heading and one line a length, for the terminal."""
        head = f"bits per byte of {self.text} ({self.num_bytes:,} bytes), ours and exported:"
        return [
            head,
            *(f"{_name(one)}: {one.ours:.4f}  {one.exported:.4f}  ({_more(one)})" for one in self.readings),
        ]

    def table(self) -> str:
        """The same in Markdown."""
        rows = [
            f"| {_name(one)} | {one.ours:.4f} | {one.exported:.4f} | {_more(one)} |" for one in self.readings
        ]
        return "\n".join(["| length | openqwen | exported | difference |", "|---|---|---|---|", *rows])


def _name(one: Reading) -> str:
    return f"{one.multiple}x ({one.length} tokens)"


def _more(one: Reading) -> str:
    between = "" if one.low is None else f" [{one.low:+.4f}, {one.high:+.4f}]"
    return f"{one.more:+.4f}{between}"


def most_tokens(config: ModelConfig) -> int:
    """How much of a text is read at most."""
    size = MULTIPLES[-1] * config.max_length + 1
    return size * _most_blocks(size)


def _most_blocks(size: int) -> int:
    return max(FEWEST_BLOCKS, MOST_TOKENS // size)


def measure(model: Qwen, ids: np.ndarray, text: str, count_bytes: Callable[[Sequence[int]], int]) -> Measured:
    """Reads ids (N,) with the model's own context extension and without any.

    text: where the ids come from. count_bytes: of ids. DataError if they fill no block of the training length.
    """
    trained = model.config.max_length
    fitting = [multiple for multiple in MULTIPLES if multiple * trained < len(ids)]
    if not fitting:
        raise DataError(
            f"{len(ids):,} tokens: {trained + 1:,} are needed to measure at the training length",
            where=text,
            fix=f"give more text; for all of {', '.join(f'{m}x' for m in MULTIPLES)} {4 * trained + 1:,} tokens",
        )
    size = fitting[-1] * trained + 1
    blocks = [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
    blocks = blocks[: _most_blocks(size)]
    lengths = [count_bytes(block[1:].tolist()) for block in blocks]
    readings = tuple(_read(model, blocks, lengths, multiple) for multiple in fitting)
    return Measured(text, len(blocks), sum(lengths), readings)


def _read(model: Qwen, blocks: Sequence[np.ndarray], num_bytes: Sequence[int], multiple: int) -> Reading:
    length = multiple * model.config.max_length
    ours, plain = (
        _bits(model, blocks, length, way) for way in (model.config.extension, Extension())
    )  # (blocks,)
    total, count = sum(num_bytes), len(blocks)
    # Per block as a share of the mean block, so that the mean of these is the difference over all bytes.
    differences = ((plain - ours) * count / total).tolist()
    low, high = bootstrap(differences, _SEED) if count > 1 else (None, None)
    return Reading(
        multiple, length, ours.sum() / total, plain.sum() / total, sum(differences) / count, low, high
    )


def _bits(model: Qwen, blocks: Sequence[np.ndarray], length: int, extension: Extension) -> np.ndarray:
    """(blocks,) bits that each block costs."""
    device = model.head.weight.device
    costs = [
        float(token_losses(model, torch.from_numpy(block).to(device), length, extension).sum())
        for block in blocks
    ]
    return np.array(costs) / log(2)
