"""The fast trainer equals its readable twin, whatever the order of the texts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.tokenizer import bpe, load_tokenizer
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
