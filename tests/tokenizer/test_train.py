"""The fast trainer equals its readable twin, whatever the order of the texts."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.tokenizer import bpe, load_tokenizer
from openqwen.tokenizer import train as module
from openqwen.tokenizer.count import count_pieces
from openqwen.tokenizer.ranks import read_ranks
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.tokenizer.train import byte_ranks, extended, train, without_digit_runs

TEXT = st.text(st.sampled_from(list("aab c你好\n1-")), max_size=60)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXT, max_size=6), num_tokens=st.integers(0, 50), min_count=st.integers(1, 3))
def test_equals_the_readable_twin(texts: list[str], num_tokens: int, min_count: int) -> None:
    assert train(count_pieces(texts), num_tokens, min_count=min_count) == bpe.train(
        texts, num_tokens, min_count
    )


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXT, max_size=8), seed=st.integers(0, 99))
def test_order_of_texts_changes_nothing(texts: list[str], seed: int) -> None:
    shuffled = texts.copy()
    random.Random(seed).shuffle(shuffled)
    assert train(count_pieces(texts), 40) == train(count_pieces(shuffled), 40)


def test_worked_example() -> None:
    # "aaabdaaabac", the textbook: aa, then ab or aaa... our rule: highest count, then the older tokens.
    merges = train({b"aaabdaaabac": 1}, 3, min_count=2)
    assert merges == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]


def test_runs_of_one_letter_merge_from_the_left() -> None:
    assert train({b"aaaaa": 2}, 3, min_count=1) == [(b"a", b"a"), (b"aa", b"a"), (b"aa", b"aaa")]


def test_stops_when_no_pair_is_frequent_enough() -> None:
    assert train({b"ab": 1, b"cd": 3}, 10, min_count=2) == [(b"c", b"d")]
    assert train({}, 10) == []


def test_learnt_tokens_are_what_encoding_uses() -> None:
    texts = ["the cat sat on the mat; the cat ran", "语言模型和语言和模型"]
    tok = Tokenizer(extended(byte_ranks(), train(count_pieces(texts), 40)))
    assert len(tok.encode(" the cat")) == 2
    assert len(tok.encode("语言模型")) <= 2


def test_augmenting_continues_from_the_base() -> None:
    base = extended(byte_ranks(), train(count_pieces(["the cat the cat"] * 3), 5))
    merges = train(count_pieces(["语言模型" * 4, "the cat the hat"]), 8, base)
    grown = extended(base, merges)
    assert list(grown)[: len(base)] == list(base)
    assert len(grown) == len(base) + len(merges) and merges
    old, new = Tokenizer(base), Tokenizer(grown)
    assert len(new.encode("语言模型")) < len(old.encode("语言模型"))


def test_continuing_equals_training_at_once() -> None:
    counts = count_pieces(["she sells sea shells", "by the sea shore; 语言 语言模型"] * 2)
    first = train(counts, 10)
    rest = train(counts, 10, extended(byte_ranks(), first))
    assert first + rest == train(counts, 20)


def test_digit_runs_are_dropped_before_augmenting() -> None:
    ranks = extended(byte_ranks(), [(b"1", b"2"), (b"a", b"b"), (b"12", b"3"), (b" ", b"1"), (b"ab", b"c")])
    kept = without_digit_runs(ranks)
    assert [t for t in kept if len(t) > 1] == [b"ab", b"abc"]
    assert sorted(kept.values()) == list(range(258))


@pytest.mark.shared
def test_base_of_the_report(shared: Path) -> None:
    kept = without_digit_runs(read_ranks(shared / "vocab/cl100k_base.tiktoken"))
    released = read_ranks(shared / "vocab/qwen.tiktoken")
    assert len(kept) == 99_156
    assert list(kept) == list(released)[: len(kept)]


def test_trained_files_load(tmp_path: Path, small: Tokenizer) -> None:
    small.save(tmp_path)
    assert load_tokenizer(tmp_path).ranks == small.ranks


@settings(max_examples=100, deadline=None)
@given(
    counts=st.dictionaries(st.text("abcd", min_size=2, max_size=9).map(str.encode), st.integers(1, 10**5)),
    num_tokens=st.integers(1, 40),
)
def test_what_is_left_out_for_speed_changes_nothing(counts: dict[bytes, int], num_tokens: int) -> None:
    # Asked for many tokens, training leaves no pair out of its heap; asked for few, it leaves out the rare ones.
    assert train(counts, num_tokens) == train(counts, 10**6)[:num_tokens]


def test_equals_the_readable_twin_on_real_words() -> None:
    text = (Path(bpe.__file__).read_text() + Path(train.__code__.co_filename).read_text()) * 2
    assert train(count_pieces([text]), 400) == bpe.train([text], 400)


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from(list("abc 你")), max_size=200), max_size=5),
    enough=st.sampled_from([2, 5, 64]),
    front=st.sampled_from([1, 8, 1024]),
    block=st.sampled_from([4, 64]),
)
def test_sizes_of_steps_and_blocks_change_nothing(
    texts: list[str], enough: int, front: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_ENOUGH", enough), ("_FRONT", front), ("_BLOCK", block), ("_SPARE", 1)):
            patch.setattr(module, name, value)
        assert train(count_pieces(texts), 40) == bpe.train(texts, 40)


@settings(max_examples=100, deadline=None)
@given(
    counts=st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 9), max_size=12),
    more=st.lists(st.text("abc", min_size=2, max_size=4).map(str.encode), max_size=4, unique=True),
)
def test_augmenting_equals_the_readable_twin(counts: dict[str, int], more: list[bytes]) -> None:
    # Tokens that no merge of the base leads to are met again when their halves have been learnt.
    base = {token: rank for rank, token in enumerate([*byte_ranks(), *more])}
    assert train({piece.encode(): n for piece, n in counts.items()}, 12, base) == augmented(counts, 12, base)


def augmented(counts: dict[str, int], num_tokens: int, base: dict[bytes, int]) -> list[bpe.Merge]:
    """bpe.train from a base."""
    age = dict(base)
    words = {
        piece: [piece.encode()] if piece.encode() in base else bpe.merge_parts(piece.encode(), base)
        for piece in counts
    }
    merges: list[bpe.Merge] = []
    while len(merges) < num_tokens:
        pairs = bpe.count_pairs(words, Counter(counts))
        best = min(pairs, key=lambda p: (-pairs[p], age[p[0]], age[p[1]]), default=None)
        if best is None or pairs[best] < 2:
            break
        if best[0] + best[1] not in age:
            merges.append(best)
            age[best[0] + best[1]] = len(age)
        words = {piece: bpe.merge_pair(parts, best) for piece, parts in words.items()}
    return merges


def test_counts_beyond_32_bits() -> None:
    counts = {b"ab": 2**40, b"cd": 2**40 + 1, b"ef": 3}
    assert train(counts, 3) == [(b"c", b"d"), (b"a", b"b"), (b"e", b"f")]


def test_two_splits_of_one_token_cost_one_rank() -> None:
    # "abab" is learnt in two ways at once: the board offers both pairs for the same step.
    assert module._unknown([b"abab", b"cd", b"abab", b"ef"], {}) == 2
    assert module._unknown([b"abab", b"cd"], {b"cd": 7}) == 1


@given(ids=st.lists(st.integers(0, 2**24 - 1), max_size=50), more=st.lists(st.integers(0, 300), max_size=50))
def test_equal_ids_come_together(ids: list[int], more: list[int]) -> None:
    values = np.array(ids + more, np.int32)
    order = module._order(values)
    assert sorted(order.tolist()) == list(range(len(values)))
    groups = values[order].tolist()
    assert len(module._firsts(values[order])) == len(set(groups))
    assert all(a < b for a, b in pairwise(order) if values[a] == values[b])


@given(left=st.integers(0, 2**24 - 1), right=st.integers(0, 2**24 - 1))
def test_keys_hold_pairs_and_put_new_tokens_last(left: int, right: int) -> None:
    key = module._key(np.array([left]), np.array([right]))
    assert [half.tolist() for half in module._halves(key)] == [[left], [right]]
    assert key[0] < module._key(np.array([0]), np.array([max(left, right) + 1]))[0]
