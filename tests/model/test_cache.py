"""The slot cache: whatever is appended to whichever rows, the result is that of a full forward of each row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.model import Extension, KVCache

NTK = Extension(dynamic_ntk=True, logn=True)
ALL = Extension(dynamic_ntk=True, logn=True, windows=(8, 12, 24))


def close(ours: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(ours, wanted, atol=2e-3, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_any_schedule_equals_full_prefills(small, data):
    """Rows admitted, extended by any number of tokens on any side, evicted, copied: always as if computed whole."""
    extension = data.draw(st.sampled_from([Extension(), NTK, ALL, Extension(windows=(3, 5, 9))]))
    cache = KVCache(small.config, 4, 2, extension=extension, mode="exact")
    held: dict[int, list[int]] = {row: [] for row in range(4)}
    for _ in range(data.draw(st.integers(1, 7))):
        rows = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        for row in rows:
            if data.draw(st.integers(0, 5)) == 0:
                cache.free(row)
                held[row] = []
        width = data.draw(st.sampled_from([1, 1, 2, 5, 19]))
        counts = [data.draw(st.integers(1, width)) for _ in rows]
        left = data.draw(st.booleans())
        ids = torch.randint(
            0, 61, (len(rows), width), generator=torch.Generator().manual_seed(width + sum(rows))
        )
        index = torch.arange(width)[None]
        count = torch.tensor(counts)[:, None]
        mask = index >= width - count if left else index < count
        given_mask = None if min(counts) == width else mask
        logits = small(ids, mask=given_mask, cache=cache.select(rows))
        for b, row in enumerate(rows):
            held[row] += ids[b, mask[b]].tolist()
            whole = small(torch.tensor([held[row]]), extension=extension)[0]
            close(logits[b, mask[b]], whole[-counts[b] :])
            assert cache.lengths[row] == len(held[row])


@pytest.mark.parametrize("extension", [NTK, ALL], ids=["ntk+logn", "all"])
@torch.inference_mode()
def test_exact_mode_equals_a_prefill_at_every_step(small, extension):
    ids = torch.randint(0, 61, (3, 80), generator=torch.Generator().manual_seed(0))
    starts = [12, 25, 60]  # they cross 16, 32 and 64 at different steps
    cache = KVCache(small.config, 3, 4, extension=extension, mode="exact")
    for row, n in enumerate(starts):
        small(ids[row : row + 1, :n], cache=cache.select([row]))
    for step in range(12):
        fed = torch.stack([ids[row, n + step : n + step + 1] for row, n in enumerate(starts)])
        logits = small(fed, cache=cache)
        for row, n in enumerate(starts):
            close(logits[row, 0], small(ids[row : row + 1, : n + step + 1], extension=extension)[0, -1])


@torch.inference_mode()
def test_the_two_modes_differ_only_after_a_boundary(small):
    ids = torch.randint(0, 61, (1, 20), generator=torch.Generator().manual_seed(0))
    outputs = {}
    for mode in ("exact", "released"):
        cache = KVCache(small.config, 1, extension=NTK, mode=mode)
        small(ids[:, :10], cache=cache)
        outputs[mode] = torch.cat([small(ids[:, t : t + 1], cache=cache) for t in range(10, 20)], 1)[0]
    difference = (outputs["exact"] - outputs["released"]).abs().amax(-1)
    assert (difference[:6] == 0).all() and (difference[6:] > 1e-3).all()


@torch.inference_mode()
def test_interleaved_sequences_do_not_touch_each_other(small):
    """The released module keeps the factor of whoever came last; here a long and a short one alternate."""
    ids = torch.randint(0, 61, (2, 50), generator=torch.Generator().manual_seed(2))
    alone = []
    for row, n in enumerate((40, 8)):
        cache = KVCache(small.config, 1, extension=NTK, mode="released")
        small(ids[row : row + 1, :n], cache=cache)
        alone.append([small(ids[row : row + 1, n + t : n + t + 1], cache=cache) for t in range(5)])
    cache = KVCache(small.config, 2, extension=NTK, mode="released")
    for row, n in enumerate((40, 8)):
        small(ids[row : row + 1, :n], cache=cache.select([row]))
    for t in range(5):
        for row, n in enumerate((40, 8)):
            close(small(ids[row : row + 1, n + t : n + t + 1], cache=cache.select([row])), alone[row][t])


@torch.inference_mode()
def test_copy_move_truncate(small):
    ids = torch.randint(0, 61, (1, 30), generator=torch.Generator().manual_seed(4))
    cache = KVCache(small.config, 3, 4, extension=NTK)
    small(ids[:, :20], cache=cache.select([2]))
    cache.copy(2, 0)
    cache.move(2, 1)
    assert cache.lengths == [20, 20, 0]
    cache.truncate(1, 12)
    wanted = small(ids, extension=NTK)[0]
    close(small(ids[:, 20:], cache=cache.select([0]))[0], wanted[20:])
    close(small(ids[:, 12:], cache=cache.select([1]))[0], wanted[12:])


@torch.inference_mode()
def test_rows_side_by_side_are_not_copied(small):
    cache = KVCache(small.config, 4, 8)
    view = cache.select([1, 2])
    view.begin(torch.zeros(2, 3, dtype=torch.int64), None)
    keys, _ = view.append(0, torch.ones(2, 3, 5, 8), torch.ones(2, 3, 5, 8))
    assert keys.data_ptr() == cache.keys[0][1].data_ptr()


def test_decoding_allocates_nothing_for_the_cache(small):
    cache = KVCache(small.config, 2, 32)
    before = [store.data_ptr() for store in (*cache.keys, *cache.values)]
    with torch.inference_mode():
        for _ in range(20):
            small(torch.zeros(2, 1, dtype=torch.int64), cache=cache)
    assert before == [store.data_ptr() for store in (*cache.keys, *cache.values)]
