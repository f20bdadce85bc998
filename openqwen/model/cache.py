"""Keys and values of running sequences: one row a sequence, rows of different lengths, any number of new tokens.

Report §2.5 says what must be right beyond the training length; the layout is ours. Who uses it:

    cache = KVCache(model.config, num_rows=64, dtype=torch.float32)
    rows = [0, 1, 2]                                             # any free rows; one a sequence
    h = model.hidden(ids, mask, cache=cache.select(rows))        # (3, T, C): appends T tokens to each row
    h = model.hidden(next_ids, cache=cache.select(rows))         # (3, 1, C): one more each, no reallocation
    cache.free(1)                                                # evict; the row is ready for another sequence
    cache.move(2, 1)                                             # keep the running rows together at the front

`mask` (B, T) marks the real tokens among the new ones, padding on either side; only real tokens are kept, and a
token's position is its index among the real tokens of its row. Attention is causal, also among the new tokens.
Rows side by side in order (r, r+1, ..., r+n-1) are used in place; any other selection copies keys and values at every
call, so keep the running rows together. `cache=cache` means all rows. Room grows by doubling when a row needs it.

Crossing a chunk of dynamic NTK (max_length, 2x, 4x, ...) while decoding, `mode` decides:
  "exact"     the row is computed anew with the new RoPE base, so each call equals a full prefill of the row;
              happens once a doubling, so about one extra prefill in all.
  "released"  the base of the first call stays, as the released code does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openqwen.model.config import DecodeMode, Extension, ModelConfig
from openqwen.model.context import crosses_chunk


class KVCache:
    """Slots for `num_rows` sequences in each layer. `lengths[row]` tokens are held by a row, 0 when free."""

    def __init__(
        self,
        config: ModelConfig,
        num_rows: int,
        capacity: int = 256,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        extension: Extension | None = None,
        mode: DecodeMode = "exact",
    ) -> None:
        """extension: None means what the config says. capacity: tokens a row; grows by doubling when exceeded."""
        self.config, self.num_rows, self.capacity, self.mode = config, num_rows, capacity, mode
        self.extension = config.extension if extension is None else extension
        self.device = torch.device(device)
        shape = (
            num_rows,
            config.kv_heads,
            capacity,
            config.head_dim,
        )  # heads outside: attention reads in order
        # Zeros, because a masked slot still takes part in 0 * value; the system hands out the pages on first use.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.ids = torch.zeros(num_rows, capacity, dtype=torch.int64)  # what exact mode computes anew from
        self.lengths = [0] * num_rows
        self.rope_lengths = [0] * num_rows  # the length each row's RoPE base was chosen for

    def select(self, rows: Sequence[int]) -> CacheRows:
        """The rows that a call's batch stands for, in the batch's order."""
        return CacheRows(self, rows)

    def free(self, row: int) -> None:
        """Forgets a sequence."""
        self.lengths[row] = self.rope_lengths[row] = 0

    def truncate(self, row: int, length: int) -> None:
        """Keeps a row's first `length` tokens (to take back tokens or to reuse a common beginning)."""
        assert 0 <= length <= self.lengths[row]
        self.lengths[row] = length
        if length == 0:
            self.rope_lengths[row] = 0

    def copy(self, source: int, target: int) -> None:
        """Makes `target` the same sequence as `source` (several samples of one prompt)."""
        length = self.lengths[source]
        for store in (*self.keys, *self.values):
            store[target, :, :length] = store[source, :, :length]
        self.ids[target, :length] = self.ids[source, :length]
        self.lengths[target], self.rope_lengths[target] = length, self.rope_lengths[source]

    def move(self, source: int, target: int) -> None:
        """Copies a row and frees the old one."""
        if source != target:
            self.copy(source, target)
            self.free(source)

    def grow(self, needed: int) -> None:
        """Doubles the room until a row holds `needed` tokens."""
        while self.capacity < needed:
            self.capacity *= 2
        for stores in (self.keys, self.values):
            for i, old in enumerate(stores):
                stores[i] = old.new_zeros(*old.shape[:2], self.capacity, old.shape[3])
                stores[i][:, :, : old.shape[2]] = old
        ids = self.ids.new_zeros(self.num_rows, self.capacity)
        ids[:, : self.ids.shape[1]] = self.ids
        self.ids = ids

    @property
    def num_bytes(self) -> int:
        """Bytes set aside for keys and values."""
        return sum(store.numel() * store.element_size() for store in (*self.keys, *self.values))


class CacheRows:
    """Some rows of a cache during one call: where the new tokens go and what they see."""

    def __init__(self, cache: KVCache, rows: Sequence[int]) -> None:
        self.cache, self.rows = cache, list(rows)
        assert len(set(self.rows)) == len(self.rows), "a row may stand only once in a batch"
        first = self.rows[0] if self.rows else 0
        self.block = slice(first, first + len(self.rows))  # rows side by side are read where they lie
        self.in_place = self.rows == list(range(self.block.start, self.block.stop))
        self.index = torch.tensor(self.rows, device=cache.device)  # (B,)

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each row of the batch before this call."""
        return [self.cache.lengths[row] for row in self.rows]

    @property
    def rope_lengths(self) -> list[int]:
        """The length each row's RoPE base is chosen for (known after `begin`)."""
        return [self.cache.rope_lengths[row] for row in self.rows]

    def part(self, places: Sequence[int]) -> CacheRows:
        """The same rows, only those at some places of the batch."""
        return CacheRows(self.cache, [self.rows[b] for b in places])

    def crossing(self, ids: Tensor, mask: Tensor | None) -> list[int]:
        """Places in the batch whose row enters a new chunk of dynamic NTK with these tokens, in exact mode."""
        cache = self.cache
        if cache.mode == "released" or not cache.extension.dynamic_ntk or max(self.lengths) == 0:
            return []
        counts = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
        return [
            b
            for b, (row, new) in enumerate(zip(self.rows, counts))
            if crosses_chunk(cache.config, cache.extension, cache.rope_lengths[row], cache.lengths[row] + new)
        ]

    def take(self, place: int) -> Tensor:
        """Frees the row at a place of the batch and returns its token ids (N,)."""
        row = self.rows[place]
        ids = self.cache.ids[row, : self.cache.lengths[row]].clone()
        self.cache.free(row)
        return ids

    def begin(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Makes room and remembers the tokens. ids, mask (B, T) -> positions (B, T) of the tokens in their rows."""
        cache, (B, T) = self.cache, ids.shape
        start = torch.tensor(self.lengths, device=ids.device)  # (B,)
        if mask is None:
            positions = start[:, None] + torch.arange(T, device=ids.device)  # (B, T)
            self.counts = [T] * B
            self.taken = None
        else:
            positions = (start[:, None] + mask.cumsum(1) - 1).clamp(min=0)  # (B, T)
            self.counts = mask.sum(1).tolist()
            self.taken = mask.flatten().nonzero().squeeze(1)  # (N,) which of the B*T new tokens are real
        self.total = [old + new for old, new in zip(self.lengths, self.counts)]
        self.visible = max(1, *self.total) if self.total else 1
        if self.visible > cache.capacity:
            cache.grow(self.visible)
        places = (self.index[:, None] * cache.capacity + positions).flatten()  # (B*T,)
        new_ids = ids.flatten()  # (B*T,)
        if self.taken is not None:
            places, new_ids = places[self.taken], new_ids[self.taken]
        cache.ids.view(-1)[places.to(cache.ids.device)] = new_ids.to(cache.ids.device)
        # The same places with the head between row and position.
        owner, position = places // cache.capacity, places % cache.capacity  # (N,) each
        head = torch.arange(cache.config.kv_heads, device=ids.device)
        self.slots = (
            (owner[:, None] * len(head) + head) * cache.capacity + position[:, None]
        ).flatten()  # (N*K,)
        for row, total in zip(self.rows, self.total):
            if cache.lengths[row] == 0 or cache.mode == "exact":
                cache.rope_lengths[row] = total
            # In exact mode a change of chunk has been dealt with before: the base is the same for both lengths.
        return positions

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values (B, T, K, D) of a layer; returns all visible ones, (B, K, S, D) each."""
        return self._store(self.cache.keys[layer], key), self._store(self.cache.values[layer], value)

    def _store(self, store: Tensor, new: Tensor) -> Tensor:
        flat = new.flatten(0, 1)  # (B*T, K, D)
        if self.taken is not None:
            flat = flat[self.taken]
        store.view(-1, store.shape[3]).index_copy_(0, self.slots, flat.flatten(0, 1).to(store.dtype))
        if self.in_place:
            return store[self.block, :, : self.visible]
        return store[:, :, : self.visible].index_select(0, self.index)

    def commit(self) -> None:
        """The call is over: the new tokens count."""
        for row, total in zip(self.rows, self.total):
            self.cache.lengths[row] = total
