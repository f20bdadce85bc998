"""Keys and values of running sequences: one row a sequence, rows of different lengths, any number of new tokens.

Report §2.5 says what must be right beyond the training length; the layout is ours. Who uses it:

    cache = KVCache(model.config, num_rows=64, dtype=torch.float32)
    rows = [0, 1, 2]                                             # any free rows; one a sequence
    cache.open(0, Extension(dynamic_ntk=True))                   # only if not as the config says
    h = model.hidden(ids, mask, cache=cache.select(rows))        # (3, T, C): appends T tokens to each row
    h = model.hidden(next_ids, cache=cache.select(rows))         # (3, 1, C): one more each, no reallocation
    cache.free(1)                                                # evict; the row is ready for another sequence
    cache.move(2, 1)                                             # keep the running rows together at the front

`mask` (B, T) marks the real tokens among the new ones, padding on either side; only real tokens are kept, and a
token's position is its index among the real tokens of its row. Attention is causal, also among the new tokens.
Rows side by side in order (r, r+1, ..., r+n-1) are used in place; any other selection copies keys and values at every
call, so keep the running rows together. `cache=cache` means all rows. Room grows by doubling when a row needs it.

A layer with a window of w tokens keeps the last w keys of a row and no others: position p lies in slot p modulo w.
Keys carry their rotation, so their order among each other does not matter to attention.

Crossing a chunk of dynamic NTK (max_length, 2x, 4x, ...) while decoding, `mode` decides:
  "exact"     the row is computed anew with the new RoPE base, so each call equals a full prefill of the row;
              happens once a doubling, so about one extra prefill in all.
  "released"  the base of the first call stays, as the released code does.
Whoever feeds a prompt in pieces names its length to `open`; its base is then right from the first piece on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openqwen.model.cache_format import cache_format
from openqwen.model.config import CacheFormat, DecodeMode, Extension, ModelConfig
from openqwen.model.context import (
    LayerContext,
    Sight,
    binding_windows,
    crosses_chunk,
    is_right_padded,
    layer_contexts,
    sight_in_order,
    visible,
)
from openqwen.model.pages import on_large_pages


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
        keep_all: bool = False,
        held: CacheFormat | None = None,
    ) -> None:
        """extension: of rows that `open` gives none; None means what the config says.

        capacity: tokens a row; grows by doubling when exceeded. keep_all: also keys that no window sees any more, so
        that attention always finds a row's keys in the order of their positions (bitwise equality needs that).
        held: how keys and values lie in their slots (cache_format.py); None: as numbers of `dtype`.
        """
        self.config, self.num_rows, self.mode, self.keep_all = config, num_rows, mode, keep_all
        self.extension = config.extension if extension is None else extension
        self.device, self.dtype, self.format = torch.device(device), dtype, cache_format(held, dtype)
        # Heads outside: attention reads in order. Zeros, because a masked slot still takes part in 0 * value; the
        # system hands out the pages on first use.
        shapes = [
            (
                num_rows,
                config.kv_heads,
                min(capacity, window or capacity),
                self.format.width(config.head_dim),
            )
            for window in self.rings(self.extension)
        ]
        self.keys, self.values = (
            [on_large_pages(torch.zeros(shape, dtype=self.format.dtype, device=device)) for shape in shapes]
            for _ in range(2)
        )
        self.ids = torch.zeros(num_rows, capacity, dtype=torch.int64)  # what exact mode computes anew from
        self.lengths = [0] * num_rows
        self.written = [0] * num_rows  # the greatest length whose keys have been in the slots
        self.expected = [0] * num_rows  # the prompt's length, where it was told
        self.rope_lengths = [0] * num_rows  # the length each row's RoPE base was chosen for
        self.extensions = [self.extension] * num_rows

    def open(self, row: int, extension: Extension | None = None, expected: int = 0) -> None:
        """Readies an empty row for a sequence with an extension of its own and a prompt of `expected` tokens."""
        assert self.lengths[row] == 0, "the row holds a sequence"
        windows = (extension or self.extension).windows
        assert windows is None or len(windows) == self.config.num_layers, "one window a layer"
        self.extensions[row] = extension or self.extension
        self.expected[row] = expected

    def select(self, rows: Sequence[int]) -> CacheRows:
        """The rows that a call's batch stands for, in the batch's order."""
        return CacheRows(self, rows)

    def free(self, row: int) -> None:
        """Forgets a sequence."""
        self.lengths[row] = self.written[row] = self.expected[row] = self.rope_lengths[row] = 0
        self.extensions[row] = self.extension

    def truncate(self, row: int, length: int) -> None:
        """Keeps a row's first `length` tokens, not fewer than `shortest` unless none at all."""
        assert length == 0 or self.shortest(row) <= length <= self.lengths[row]
        self.lengths[row] = length
        if length == 0:
            self.free(row)

    def shortest(self, row: int) -> int:
        """The least length a row can be cut to: where a window has let keys go, one token can be taken back, once."""
        length, written = self.lengths[row], self.written[row]
        windows = [window for window in self.rings(self.extensions[row]) if window is not None]
        return min(length, written - 1) if written > min(windows, default=written) else 0

    def copy(self, source: int, target: int) -> None:
        """Makes `target` the same sequence as `source` (several samples of one prompt)."""
        length = self.lengths[source]
        for store in (*self.keys, *self.values):
            store[target, :, :length] = store[source, :, :length]
        self.ids[target, :length] = self.ids[source, :length]
        for record in (self.lengths, self.written, self.expected, self.rope_lengths):
            record[target] = record[source]
        self.extensions[target] = self.extensions[source]

    def move(self, source: int, target: int) -> None:
        """Copies a row and frees the old one."""
        if source != target:
            self.copy(source, target)
            self.free(source)

    def rings(self, extension: Extension) -> Sequence[int | None]:
        """How many keys of a row each layer keeps at most; None: all."""
        return (
            [None] * self.config.num_layers
            if self.keep_all or extension.windows is None
            else extension.windows
        )

    def make_room(self, extension: Extension, longest: int) -> None:
        """Doubles the room, layer by layer, until a row of `longest` tokens fits."""
        for layer, ring in enumerate(self.rings(extension)):
            room, needed = self.keys[layer].shape[2], min(longest, ring or longest)
            if room < needed:
                room = min(_doubled(room, needed), ring or _doubled(room, needed))
                for stores in (self.keys, self.values):
                    old = stores[layer]
                    stores[layer] = on_large_pages(old.new_zeros(*old.shape[:2], room, old.shape[3]))
                    stores[layer][:, :, : old.shape[2]] = old
        if self.ids.shape[1] < longest:
            ids = self.ids.new_zeros(self.num_rows, _doubled(self.ids.shape[1], longest))
            ids[:, : self.ids.shape[1]] = self.ids
            self.ids = ids

    @property
    def num_bytes(self) -> int:
        """Bytes set aside for keys and values."""
        return sum(store.numel() * store.element_size() for store in (*self.keys, *self.values))


def _doubled(room: int, needed: int) -> int:
    while room < needed:
        room *= 2
    return room


@dataclass(frozen=True)
class Part:
    """Places of a batch that can be computed together. again: from their first token, with a new RoPE base."""

    places: list[int]
    again: bool


@dataclass
class Plan:
    """Where the tokens of one call go."""

    positions: Tensor  # (B, T) in their rows
    mask: Tensor | None  # (B, T) the real ones
    starts: list[int]  # tokens each row held before
    totals: list[int]  # and holds afterwards
    reach: int  # the greatest length that windows and factors count with
    windows: list[int | None]  # of each layer, None where it does not bind
    targets: dict[tuple[int | None, int, int], tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        return max(1, *self.totals)

    @property
    def fresh(self) -> bool:
        """No row held anything: the new tokens are all there is to see."""
        return not any(self.starts)

    @property
    def single(self) -> bool:
        """One token a row, the usual step of decoding."""
        return self.mask is None and self.positions.shape[1] == 1

    @property
    def even(self) -> bool:
        """All rows are of one length and none is padded."""
        return self.mask is None and min(self.starts) == max(self.starts)

    def past(self, window: int) -> int:
        """How many earlier keys stand before the new ones in a layer with a ring of `window` keys."""
        return min(window - 1, max(self.starts))


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
        """Tokens held by each row of the batch."""
        return [self.cache.lengths[row] for row in self.rows]

    @property
    def extension(self) -> Extension:
        """The rows' common extension."""
        return self.cache.extensions[self.rows[0]]

    @property
    def rope_lengths(self) -> list[int]:
        """The length each row's RoPE base is chosen for (known after `begin`)."""
        return [self.cache.rope_lengths[row] for row in self.rows]

    def part(self, places: Sequence[int]) -> CacheRows:
        """The same rows, only those at some places of the batch."""
        return CacheRows(self.cache, [self.rows[b] for b in places])

    def parts(self, ids: Tensor, mask: Tensor | None) -> list[Part]:
        """The batch by extension; in exact mode rows that enter a new chunk of dynamic NTK stand alone."""
        cache = self.cache
        counts = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
        together: dict[Extension, list[int]] = {}
        again = []
        for place, (row, new) in enumerate(zip(self.rows, counts)):
            extension, length = cache.extensions[row], max(cache.expected[row], cache.lengths[row] + new)
            crosses = crosses_chunk(cache.config, extension, cache.rope_lengths[row], length)
            if crosses and cache.mode == "exact":
                again.append(Part([place], again=True))
            else:
                together.setdefault(extension, []).append(place)
        return [Part(places, again=False) for places in together.values()] + again

    def take(self) -> Tensor:
        """Empties the only row of the batch for being computed anew and returns its token ids (N,)."""
        (row,) = self.rows
        ids = self.cache.ids[row, : self.cache.lengths[row]].clone()
        self.cache.lengths[row] = self.cache.written[row] = self.cache.rope_lengths[row] = 0
        return ids

    def begin(self, ids: Tensor, mask: Tensor | None) -> Plan:
        """Makes room and remembers the tokens. ids, mask (B, T), of rows with one extension."""
        cache, T = self.cache, ids.shape[1]
        starts = self.lengths
        start = torch.tensor(starts, device=ids.device)[:, None]  # (B, 1)
        if mask is None:
            positions = start + torch.arange(T, device=ids.device)  # (B, T)
            totals = [n + T for n in starts]
        else:
            positions = (start + mask.cumsum(1) - 1).clamp(min=0)  # (B, T)
            totals = [old + new for old, new in zip(starts, mask.sum(1).tolist())]
        for row, total in zip(self.rows, totals):
            if cache.rope_lengths[row] == 0 or cache.mode == "exact":
                cache.rope_lengths[row] = max(cache.expected[row], total)
            # In exact mode a change of chunk has been dealt with before: the base is the same for both lengths.
        reach = max(*totals, *self.rope_lengths)
        windows = binding_windows(self.extension, cache.config.num_layers, reach)
        self.plan = Plan(positions, mask, starts, totals, reach, windows)
        cache.make_room(self.extension, self.plan.longest)
        taken, lines = self._targets(None, cache.ids.shape[1], 1)
        flat = ids.flatten() if taken is None else ids.flatten()[taken]
        cache.ids.view(-1)[lines.to(cache.ids.device)] = flat.to(cache.ids.device)
        return self.plan

    def contexts(self, ids: Tensor, mask: Tensor | None) -> list[LayerContext]:
        """`begin`, and what each layer must know about the positions."""
        plan = self.begin(ids, mask)
        lengths = torch.tensor(self.rope_lengths, device=ids.device)[:, None]  # (B, 1)
        return layer_contexts(
            self.cache.config, self.extension, plan.positions, lengths, plan.reach, self.sight
        )

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values (B, T, K, D) of a layer; returns those `sight` tells of, (B, K, S, D) each."""
        plan, cache = self.plan, self.cache
        ring = None if cache.keep_all else plan.windows[layer]
        seen = []
        for store, new in ((cache.keys[layer], key), (cache.values[layer], value)):
            entries = cache.format.encode(new)  # (B, T, K, W)
            if plan.fresh:
                found = entries.transpose(1, 2)  # (B, K, T, W)
                self._store(store, entries, ring)
            elif ring is None or plan.single:
                self._store(store, entries, ring)
                found = self._stored(store, ring)
            else:  # read before the new tokens take the slots
                found = torch.cat((self._past(store, ring), entries.transpose(1, 2)), 2)  # (B, K, P + T, W)
                self._store(store, entries, ring)
            # What the slots will hand back, also of the new ones: a query sees the same key in any company.
            seen.append(cache.format.decode(found, cache.config.head_dim, new.dtype))
        return seen[0], seen[1]

    def sight(self, window: int | None) -> Sight:
        """What the queries of a layer see of the keys that `append` returns."""
        plan = self.plan
        ring = None if self.cache.keep_all else window
        if plan.fresh:
            level = plan.mask is None or is_right_padded(plan.mask)
            return sight_in_order(None if level or plan.mask is None else plan.mask[:, None])(window)
        if ring is not None and not plan.single:
            return self._sight_of_past(ring)
        if ring is not None:
            count = min(plan.longest, ring)
            held = [min(total, ring) for total in plan.totals]
            if min(held) == count:
                return Sight(None, False, None)
            most = torch.tensor(held, device=plan.positions.device)[:, None, None, None]  # (B, 1, 1, 1)
            return Sight(torch.arange(count, device=most.device) < most, False, None)
        if plan.even:
            return Sight(None, True, window)
        keys = torch.arange(plan.longest, device=plan.positions.device)[None]  # (1, S)
        return Sight(visible(plan.positions, keys, window)[:, None], False, None)

    def _sight_of_past(self, ring: int) -> Sight:
        plan = self.plan
        if plan.even:
            return Sight(None, True, ring)
        (_, T), device = plan.positions.shape, plan.positions.device
        past = plan.past(ring)
        earlier = torch.tensor(plan.starts, device=device)[:, None] + torch.arange(-past, 0, device=device)
        real = torch.ones_like(plan.positions, dtype=torch.bool) if plan.mask is None else plan.mask
        order = torch.arange(T, device=device)[None]  # (1, T)
        among = visible(order, order, None) & real[:, None] & visible(plan.positions, plan.positions, ring)
        among = among | torch.eye(T, dtype=torch.bool, device=device)  # padding sees itself: no empty softmax
        before = visible(plan.positions, earlier, ring) & (earlier >= 0)[:, None]  # (B, T, P)
        return Sight(torch.cat((before, among), 2)[:, None], False, None)

    def _targets(self, ring: int | None, room: int, heads: int) -> tuple[Tensor | None, Tensor]:
        """Which of the B*T new tokens are kept (None: all), and their lines (N * heads,) in (rows * heads * room)."""
        plan = self.plan
        if (ring, room, heads) not in plan.targets:
            kept, device = plan.mask, plan.positions.device
            if (
                ring is not None and plan.positions.shape[1] > 1
            ):  # the last of each row only: a slot is written once
                late = plan.positions >= torch.tensor(plan.totals, device=device)[:, None] - ring  # (B, T)
                kept = late if kept is None else kept & late
            slots = plan.positions if ring is None else plan.positions % ring  # (B, T)
            head = self.index[:, None] * heads + torch.arange(heads, device=device)  # (B, heads) of all heads
            lines = (head[:, None] * room + slots[:, :, None]).flatten(0, 1)  # (B*T, heads)
            taken = None if kept is None else kept.flatten().nonzero().squeeze(1)  # (N,)
            plan.targets[ring, room, heads] = taken, (lines if taken is None else lines[taken]).flatten()
        return plan.targets[ring, room, heads]

    def _store(self, store: Tensor, new: Tensor, ring: int | None) -> None:
        """Writes new (B, T, K, W) into store (rows, K, room, W)."""
        K, room, W = store.shape[1:]
        taken, lines = self._targets(ring, room, K)  # (N*K,)
        flat = new.flatten(0, 1)  # (B*T, K, W)
        if taken is not None:
            flat = flat[taken]
        store.view(-1, W).index_copy_(0, lines, flat.flatten(0, 1))

    def _stored(self, store: Tensor, ring: int | None) -> Tensor:
        """The rows' part of a store, (B, K, S, W)."""
        count = min(self.plan.longest, ring or self.plan.longest)
        if self.in_place:
            return store[self.block, :, :count]
        return store[:, :, :count].index_select(0, self.index)

    def _past(self, store: Tensor, ring: int) -> Tensor:
        """The last keys or values before this call in the order of their positions, (B, K, P, W)."""
        starts = torch.tensor(self.plan.starts, device=store.device)[:, None]  # (B, 1)
        slots = (starts + torch.arange(-self.plan.past(ring), 0, device=store.device)) % ring  # (B, P)
        slots = slots.clamp(max=store.shape[2] - 1)  # what stands before a row's beginning is masked
        return store[self.index[:, None], :, slots].transpose(1, 2)

    def commit(self) -> None:
        """The call is over: the new tokens count."""
        for row, total in zip(self.rows, self.plan.totals):
            self.cache.lengths[row] = total
            self.cache.written[row] = max(self.cache.written[row], total)
