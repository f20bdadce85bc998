"""Rows of the KV cache as the engine uses them: exchange, and reuse of beginnings already computed.

Ours. Rows of finished sequences keep their keys and values until the room is needed; a new prompt that begins
with the same tokens starts from a copy. Bound to the model's weights: `forget` when these change.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch

from openqwen.model.cache import KVCache
from openqwen.model.config import Extension
from openqwen.model.context import crosses_chunk


class Slots:
    """`max_batch` rows and one spare to exchange through. Rows at and above the number running are memory."""

    def __init__(self, cache: KVCache, remember: bool) -> None:
        assert cache.num_rows >= 2
        self.cache, self.remember = cache, remember
        self.spare = cache.num_rows - 1
        self._used = [0] * cache.num_rows  # when a row was last written or read, for eviction
        self._clock = 0

    def swap(self, a: int, b: int) -> None:
        """Exchanges the contents of two rows."""
        cache = self.cache
        for source, target in ((a, self.spare), (b, a), (self.spare, b)):
            cache.copy(source, target)
        cache.free(self.spare)
        self._used[a], self._used[b] = self._used[b], self._used[a]

    def claim(self, prompt: Seq[int], extension: Extension, row: int, reuse: bool = True) -> int:
        """Prepares `row`, the first free one, for a prompt; returns how many of its tokens are already there."""
        cache, self._clock = self.cache, self._clock + 1
        source, common = self.match(prompt, extension) if self.remember and reuse else (row, 0)
        if source > row and common == cache.lengths[source]:  # all of a remembered row: take it as it is
            self.swap(source, row)
        elif source != row or common < cache.lengths[row]:
            self._evacuate(row, keep=source)
            if common and source != row:
                cache.copy(source, row)
        if common:
            cache.truncate(row, common)
            cache.expected[row] = len(prompt)
        else:
            cache.free(row)
            cache.open(row, extension, expected=len(prompt))
        self._used[row] = self._clock
        return common

    def _evacuate(self, row: int, keep: int) -> None:
        """Before a row is overwritten: its memory replaces the oldest above it, if older, but never row `keep`."""
        if not self.remember or not self.cache.lengths[row]:
            return
        above = [r for r in range(row + 1, self.spare) if r != keep]
        oldest = min(above, key=lambda r: self._used[r] if self.cache.lengths[r] else -1, default=row)
        if not self.cache.lengths[oldest] or self._used[oldest] < self._used[row]:
            self.cache.copy(row, oldest)
            self._used[oldest] = self._used[row]

    def match(self, prompt: Seq[int], extension: Extension) -> tuple[int, int]:
        """The row with the longest common beginning, and its length; at least one token is left to compute."""
        cache = self.cache
        length = min(len(prompt) - 1, max(cache.lengths))
        if length < 1:
            return 0, 0
        same = cache.ids[:, :length] == torch.tensor(prompt[:length])  # (rows, length)
        equal = same.int().cumprod(1).sum(1).tolist()  # (rows,)
        useful = [self._useful(row, n, len(prompt), extension) for row, n in enumerate(equal)]
        row = useful.index(max(useful))
        return row, useful[row]

    def _useful(self, row: int, equal: int, length: int, extension: Extension) -> int:
        """How many of a row's `equal` first tokens a prompt of `length` can go on from.

        0 if the row was computed another way, or with another RoPE base, or if a window has let some of their keys go.
        """
        cache = self.cache
        common = min(equal, cache.lengths[row])
        if not common or cache.extensions[row] != extension or common < cache.shortest(row):
            return 0
        crosses = crosses_chunk(cache.config, extension, cache.rope_lengths[row], length)
        return 0 if crosses else common

    def shares(self, extension: Extension, length: int, other: int) -> bool:
        """Whether a prompt of `length` can begin from a cut of a row that holds a whole prompt of `other` tokens."""
        windows = [window for window in self.cache.rings(extension) if window is not None]
        if other > min(windows, default=other):
            return False
        return not crosses_chunk(self.cache.config, extension, other, length)

    def forget(self, running: int = 0) -> None:
        """Frees every row that no running sequence holds."""
        for row in range(running, self.cache.num_rows):
            self.cache.free(row)
