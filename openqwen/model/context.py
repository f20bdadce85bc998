"""Beyond the training length: dynamic NTK by chunks, LogN attention, layer-wise windows, as values of one call.

Report §2.5. The report's: the three techniques. From the released files: the formula of the chunk factor alpha, and
that LogN scales rotated queries by position. Ours: window sizes, and that under a window of w tokens both factors
count min(length, w), because a layer that never looks further than w needs no help beyond w.

`LayerContext` is all an attention layer needs to know about positions; layers with the same window share one.
A window is handed on as a number, not as a mask, so that attention can skip what lies outside (attention.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log, log2
from typing import NamedTuple

import torch
from torch import Tensor

from openqwen.model.config import Extension, ModelConfig


class Sight(NamedTuple):
    """Which keys a layer's queries see; what is given holds at once. The queries are the last T of the S keys."""

    mask: Tensor | None  # (B or 1, 1, T, S) bool, True = may be seen
    causal: bool  # none that come after
    window: int | None  # only the last so many, the query's own included


class Branches(NamedTuple):
    """A row's trunk and the branches that follow it side by side, none of which sees another (attend_branches)."""

    trunk: int  # tokens of it, padding included
    branches: int  # how many, of the same number of tokens each
    mask: Tensor | None  # (B, trunk) bool, True = branches may see it


class Packed(NamedTuple):
    """Real tokens laid end to end (n, ...), so that only attention computes padding."""

    places: Tensor  # (n,) where they stand in the flattened rows
    rows: int
    length: int

    def spread(self, x: Tensor) -> Tensor:
        """(n, X) -> (B, T, X), zero at padding."""
        return (
            x.new_zeros(self.rows * self.length, x.shape[1])
            .index_copy(0, self.places, x)
            .unflatten(0, (self.rows, self.length))
        )

    def gather(self, x: Tensor) -> Tensor:
        """(B, T, X) -> (n, X)."""
        return x.flatten(0, 1).index_select(0, self.places)


class Asked(NamedTuple):
    """The only tokens (m, ...) that leave a layer."""

    places: Tensor  # (m,) where they stand in the flattened rows
    given: Tensor  # (m,) where among the tokens that the layer is given


@dataclass(frozen=True)
class LayerContext:
    """Positions as one layer sees them. B may be 1 where all rows agree."""

    cos: Tensor  # (B, T, 1, D/2) fp32
    sin: Tensor  # (B, T, 1, D/2) fp32
    query_scale: Tensor | None  # (B, T, 1, 1) fp32, LogN
    sight: Sight | Branches
    packed: Packed | None = None  # None: the layer is given rows with their padding
    asked: Asked | None = None  # None: what the layer is given leaves it


def ntk_alpha(length: int, max_length: int) -> int:
    """Factor of the RoPE base for a sequence: 1 up to max_length, 3 up to twice, 7 up to four times, 15, ..."""
    return max(2 ** ceil(log2(length / max_length) + 1) - 1, 1) if length else 1


def logn_factor(position: int, max_length: int) -> float:
    """Query scale at a 0-based position: log of its length to the base of the training length, at least 1."""
    return max(1.0, log(position + 1) / log(max_length))


def inverse_frequencies(dim: int, base: float, alpha: Tensor) -> Tensor:
    """alpha (...) -> (..., dim/2) fp32: RoPE frequencies of a base stretched by alpha^(dim/(dim-2))."""
    exponent = torch.arange(0, dim, 2, device=alpha.device).float() / dim  # (D/2,)
    stretched = base * alpha.double() ** (dim / (dim - 2)) if dim > 2 else base * alpha.double()
    return 1.0 / stretched.float()[..., None] ** exponent


@lru_cache(maxsize=64)
def rotary_table(
    length: int, dim: int, base: float, alpha: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin of positions 0..length-1, each (1, length, 1, dim/2) fp32. A memo of constants, nothing more."""
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        frequencies = inverse_frequencies(dim, base, torch.tensor(alpha, device=device))  # (D/2,)
        angles = torch.arange(length, device=device).float()[:, None] * frequencies  # (T, D/2)
        return angles.cos()[None, :, None], angles.sin()[None, :, None]


def rotary_at(
    config: ModelConfig, extension: Extension, positions: Tensor, lengths: Tensor, window: int | None
) -> tuple[Tensor, Tensor]:
    """cos, sin (B, T, 1, D/2) for positions (B, T) in sequences of `lengths` (B, 1) or (B, T)."""
    alpha = torch.ones(1, 1, device=positions.device, dtype=torch.float64)
    if extension.dynamic_ntk:
        reach = lengths.clamp(min=1, max=window).double() / config.max_length
        alpha = (2 ** torch.ceil(torch.log2(reach) + 1) - 1).clamp(min=1)  # (B, 1) or (B, T)
    frequencies = inverse_frequencies(config.head_dim, config.rope_base, alpha)  # (B, 1 or T, D/2)
    angles = positions[..., None].float() * frequencies  # (B, T, D/2)
    return angles.cos()[:, :, None], angles.sin()[:, :, None]


def logn_at(config: ModelConfig, positions: Tensor, window: int | None) -> Tensor:
    """LogN factors (B, T, 1, 1) fp32 of positions (B, T)."""
    count = (positions + 1).clamp(min=1, max=window)
    scale = (count.double().log() / log(config.max_length)).clamp(min=1.0).float()
    return scale[:, :, None, None]


def segment_positions(segments: Tensor) -> tuple[Tensor, Tensor]:
    """segments (B, T), equal ids side by side -> positions within the segment and its length, both (B, T)."""
    B, T = segments.shape
    index = torch.arange(T, device=segments.device).expand(B, T)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = torch.where(begins, index, 0).cummax(1).values  # (B, T) where each token's segment begins
    number = begins.cumsum(1) - 1  # (B, T) 0, 0, 1, 1, 1, ...
    counts = torch.zeros_like(segments).scatter_add_(1, number, torch.ones_like(segments))
    return index - start, counts.gather(1, number)


def is_right_padded(mask: Tensor) -> bool:
    """Whether every row's real tokens stand at its beginning, so that causality alone hides the padding."""
    return bool((mask[:, :-1] >= mask[:, 1:]).all())


def plain_context(
    config: ModelConfig, extension: Extension, length: int, device: torch.device
) -> list[LayerContext]:
    """Contexts of all layers for a batch of full rows: the fast path, without any mask."""
    made: dict[int | None, LayerContext] = {}
    windows = binding_windows(extension, config.num_layers, length)
    for window in dict.fromkeys(windows):
        reach = min(length, window or length)
        alpha = ntk_alpha(reach, config.max_length) if extension.dynamic_ntk else 1
        cos, sin = rotary_table(length, config.head_dim, config.rope_base, alpha, device)
        scale = None
        if extension.logn and reach > config.max_length:
            scale = logn_at(config, torch.arange(length, device=device)[None], window)
        made[window] = LayerContext(cos, sin, scale, Sight(None, True, window))
    return [made[window] for window in windows]


def layer_contexts(
    config: ModelConfig,
    extension: Extension,
    positions: Tensor,
    lengths: Tensor,
    longest: int,
    sight: Callable[[int | None], Sight | Branches],
) -> list[LayerContext]:
    """Contexts of all layers in general.

    positions (B, T): places within a row; lengths (B, 1) or (B, T): what alpha counts; longest: the longest row
    there is after the call; sight: what a layer with a given window (None: it does not bind) sees.
    """
    made: dict[int | None, LayerContext] = {}
    windows = binding_windows(extension, config.num_layers, longest)
    for window in dict.fromkeys(windows):
        if (
            longest <= config.max_length
        ):  # no base is stretched: the table is read, not made anew in each step
            table = rotary_table(config.max_length, config.head_dim, config.rope_base, 1, positions.device)
            cos, sin = (part[0, positions] for part in table)
        else:
            cos, sin = rotary_at(config, extension, positions, lengths, window)
        scale = None
        if extension.logn and min(longest, window or longest) > config.max_length:
            scale = logn_at(config, positions, window)
        made[window] = LayerContext(cos, sin, scale, sight(window))
    return [made[window] for window in windows]


def sight_in_order(seen: Tensor | None) -> Callable[[int | None], Sight]:
    """For keys that stand in the queries' own order. seen (B, 1 or T, T) bool: what a query may see besides order.

    A row's real tokens stand side by side, so a window counts places. Padding sees itself: no softmax is empty.
    """
    if seen is None:
        return lambda window: Sight(None, True, window)
    T = seen.shape[-1]
    order = torch.arange(T, device=seen.device)[None]  # (1, T)
    seen = seen & visible(order, order, None) | torch.eye(
        T, dtype=torch.bool, device=seen.device
    )  # (B, T, T)
    return lambda window: Sight(seen[:, None], True, window)  # triangular already; said again, it saves work


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """queries (B, T), keys (B, S): places -> (B, T, S) True where a key is not ahead and within the window."""
    distance = queries[:, :, None] - keys[:, None, :]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def binding_windows(extension: Extension, num_layers: int, longest: int) -> list[int | None]:
    """The window of each layer, None where the longest sequence fits into it."""
    if extension.windows is None:
        return [None] * num_layers
    return [window if window < longest else None for window in extension.windows]


def crosses_chunk(config: ModelConfig, extension: Extension, before: int, after: int) -> bool:
    """Whether going from `before` to `after` tokens changes the RoPE base of any layer."""
    if not extension.dynamic_ntk or before == 0 or max(before, after) <= config.max_length:
        return False
    windows = extension.windows or (max(before, after),)
    return any(
        ntk_alpha(min(before, window), config.max_length) != ntk_alpha(min(after, window), config.max_length)
        for window in set(windows)
    )
