"""The slot cache: whatever is appended to whichever rows, the result is that of a full forward of each row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.model import Extension, KVCache

NTK = Extension(dynamic_ntk=True, logn=True)
ALL = Extension(dynamic_ntk=True, logn=True, windows=(8, 12, 24))
SHORT = Extension(windows=(3, 5, 9))
WAYS = [Extension(), NTK, ALL, SHORT]


def close(ours: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(ours, wanted, atol=2e-3, rtol=1e-4)


@pytest.mark.fault("engine", "rows are fed, cut and copied in any order", "as if computed whole")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_any_schedule_equals_full_prefills(small, data):
    """Rows admitted with any extension, fed any number of tokens on any side, cut, copied: as if computed whole."""
    ways = data.draw(st.lists(st.sampled_from(WAYS), min_size=1, max_size=4))
    cache = KVCache(small.config, 4, 2, extension=ways[0], mode="exact", keep_all=data.draw(st.booleans()))
    held: dict[int, list[int]] = {row: [] for row in range(4)}
    for _ in range(data.draw(st.integers(1, 7))):
        rows = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        for row in rows:
            cut = data.draw(st.integers(0, 8))
            if cut == 0:
                cache.free(row)
                held[row] = []
            elif cut == 1 and cache.shortest(row) < len(held[row]):
                held[row] = held[row][: data.draw(st.integers(max(1, cache.shortest(row)), len(held[row])))]
                cache.truncate(row, len(held[row]))
            elif cut == 2:
                source = data.draw(st.integers(0, 3))
                cache.copy(source, row)
                held[row] = list(held[source])
            if not held[row]:
                cache.open(row, data.draw(st.sampled_from(ways)))
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
            whole = small(torch.tensor([held[row]]), extension=cache.extensions[row])[0]
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


@pytest.mark.fault("engine", "a long and a short sequence alternate", "neither changes the other")
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
    for width in (3, 1):
        view.begin(torch.zeros(2, width, dtype=torch.int64), None)
        keys, _ = view.append(0, torch.ones(2, width, 5, 8), torch.ones(2, width, 5, 8))
        view.commit()
    assert keys.data_ptr() == cache.keys[0][1].data_ptr()


def test_decoding_allocates_nothing_for_the_cache(small):
    cache = KVCache(small.config, 2, 32)
    before = [store.data_ptr() for store in (*cache.keys, *cache.values)]
    with torch.inference_mode():
        for _ in range(20):
            small(torch.zeros(2, 1, dtype=torch.int64), cache=cache)
    assert before == [store.data_ptr() for store in (*cache.keys, *cache.values)]


@torch.inference_mode()
def test_a_window_keeps_its_own_keys_only(small):
    """Room and what is handed to attention stay at the window, whatever the row's length."""
    ids = torch.randint(0, 61, (1, 200), generator=torch.Generator().manual_seed(6))
    full, windowed = KVCache(small.config, 1, 4, extension=NTK), KVCache(small.config, 1, 4, extension=ALL)
    for cache in (full, windowed):
        for start in range(0, 200, 50):
            small(ids[:, start : start + 50], cache=cache)
    assert [store.shape[2] for store in windowed.keys] == [8, 12, 24]
    assert windowed.num_bytes / full.num_bytes == (8 + 12 + 24) / (3 * full.keys[0].shape[2])
    rows = windowed.select([0])
    rows.begin(ids[:, :1], None)
    new = torch.ones(1, 1, 5, 8)
    assert [rows.append(layer, new, new)[0].shape[2] for layer in range(3)] == [8, 12, 24]


@torch.inference_mode()
def test_where_keys_were_let_go_one_token_can_be_taken_back(small):
    ids = torch.randint(0, 61, (1, 40), generator=torch.Generator().manual_seed(7))
    cache = KVCache(small.config, 2, extension=SHORT)
    small(ids[:, :3], cache=cache.select([0]))
    assert cache.shortest(0) == 0
    small(ids[:, 3:20], cache=cache.select([0]))
    assert cache.shortest(0) == 19
    with pytest.raises(AssertionError):
        cache.truncate(0, 18)
    cache.truncate(0, 19)
    assert cache.shortest(0) == 19  # the slot of position 19 still stands where position 10 was
    logits = small(ids[:, 19:30], cache=cache.select([0]))[0]
    close(logits, small(ids[:, :30], extension=SHORT)[0, 19:])


@torch.inference_mode()
def test_a_call_that_brings_a_row_nothing_changes_nothing(small):
    """Also how far it may be cut: the slot that a token taken back has used stays used."""
    ids = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(7))
    cache = KVCache(small.config, 2, extension=SHORT)
    small(ids, cache=cache)
    cache.truncate(0, 19)
    small(ids[:, :2], torch.tensor([[False, False], [True, True]]), cache=cache)
    assert cache.lengths == [19, 22] and cache.shortest(0) == 19
    close(small(ids[:1, 19:], cache=cache.select([0]))[0], small(ids[:1], extension=SHORT)[0, 19:])


@pytest.mark.parametrize("extension", [NTK, ALL], ids=["ntk+logn", "all"])
@torch.inference_mode()
def test_a_cache_of_another_dtype_sees_its_keys_the_same_in_any_pieces(small, extension):
    ids = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(3))
    outputs = []
    for pieces in ([40], [7, 1, 1, 20, 11]):
        cache = KVCache(small.config, 2, dtype=torch.bfloat16, extension=extension)
        for row in range(2):
            cache.open(row, extension, expected=40)
        outputs.append(torch.cat([small(part, cache=cache) for part in ids.split(pieces, 1)], 1))
        assert outputs[-1].dtype == torch.float32
    close(outputs[1], outputs[0])
    wanted = small(ids, extension=extension)
    difference = (outputs[0] - wanted).abs().amax()
    assert 0 < difference < 0.05 * wanted.abs().amax()


@pytest.mark.parametrize("extension", [NTK, ALL], ids=["ntk+logn", "all"])
@torch.inference_mode()
def test_a_prompt_in_pieces_with_its_length_told_is_computed_once(small, extension):
    ids = torch.randint(0, 61, (1, 70), generator=torch.Generator().manual_seed(8))
    cache = KVCache(small.config, 1, extension=extension)
    cache.open(0, extension, expected=60)
    pieces = [small(ids[:, low : low + 10], cache=cache) for low in range(0, 60, 10)]
    whole = small(ids[:, :60], extension=extension)
    close(torch.cat(pieces, 1), whole)  # also the pieces before the last: their RoPE base is the prompt's
    close(small(ids[:, 60:], cache=cache)[0], small(ids, extension=extension)[0, 60:])


@torch.inference_mode()
def test_released_mode_in_pieces_equals_released_mode_in_one(small):
    ids = torch.randint(0, 61, (1, 50), generator=torch.Generator().manual_seed(9))
    logits = []
    for pieces in ([40], [7, 20, 13]):
        cache, start = KVCache(small.config, 1, extension=NTK, mode="released"), 0
        cache.open(0, NTK, expected=40)
        for piece in pieces:
            out = small(ids[:, start : start + piece], cache=cache)
            start += piece
        steps = [small(ids[:, t : t + 1], cache=cache) for t in range(40, 50)]
        logits.append(torch.cat((out[:, -1:], *steps), 1))
    close(*logits)
