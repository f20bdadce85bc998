"""Counting at speed finds the pieces of the readable twin, however the text comes."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.tokenizer import count
from openqwen.tokenizer.count import byte_starts, count_pieces
from openqwen.tokenizer.pattern import normalise, safe_cut, split

# What the pattern tells apart: letters, contractions, digits, signs, spaces, other blanks, line ends, marks.
SIGNS = st.sampled_from(
    [*"aB1½ \t\n\r'’ſsStTrReEvVlLmMdD.!²你\u0301\u00a0\u0085\u200b\u3000é😀", "\r\n", "  "]
)
TEXT = st.lists(SIGNS, max_size=25).map("".join)


def twin(texts: list[str]) -> Counter[bytes]:
    return Counter(piece.encode() for text in texts for piece in split(normalise(text)))


@settings(max_examples=1500, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=3))
def test_pieces_begin_where_the_pattern_says(texts: list[str]) -> None:
    texts = [normalise(text) for text in texts]
    expected, at = [], 0
    for text in texts:
        for piece in split(text):
            expected.append(at)
            at += len(piece.encode())
    assert byte_starts(texts).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.one_of(TEXT, st.text(max_size=20)), max_size=4))
def test_counts_equal_the_readable_twin(texts: list[str]) -> None:
    assert count_pieces(texts) == twin(texts)


def test_every_character_is_of_the_twins_class() -> None:
    for first in range(0, 0x110000, 0x1000):
        text = normalise("".join(f"a{chr(code)}1 " for code in range(first, first + 0x1000)))
        sizes = [len(piece.encode()) for piece in split(text)]
        assert byte_starts([text]).tolist() == [0, *accumulate(sizes[:-1])]


def test_workers_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices("ab 你1\n.", k=rng.randint(0, 300))) for _ in range(200)]
    monkeypatch.setattr(count, "_CHUNK", 2_000)
    expected = twin(texts)
    assert count_pieces(texts) == count_pieces(texts[::-1]) == expected
    assert count_pieces(texts, workers=2) == expected  # threads alone
    monkeypatch.setattr(count, "_HERE", 3)
    assert count_pieces(iter(texts), workers=2) == expected  # then processes


def test_memory_is_that_of_the_distinct_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "_LATER", 30)
    line = "the cat sat on the mat; extraordinarily long words stay few\n"
    counts = count.PieceCounts()
    for _ in range(50):
        counts.add([line * 100])
    held = sum(len(keys) for keys, _ in counts._short)
    assert len(counts.short()[0]) + len(counts._long) == len(twin([line * 2]))
    assert held <= len(counts.short()[0]) + 30
    assert counts.as_dict()[b" mat"] == 5_000


@settings(max_examples=500, deadline=None)
@given(text=TEXT, more=TEXT)
def test_a_safe_cut_changes_no_piece(text: str, more: str) -> None:
    whole = text + more
    cut = safe_cut(whole)
    assert split(normalise(whole[:cut])) + split(normalise(whole[cut:])) == split(normalise(whole))


def test_safe_cuts_are_found() -> None:
    assert safe_cut("one two\nthree") == 8 and safe_cut("one two") == 3
    assert safe_cut("abc") == safe_cut("") == safe_cut("a\n\n ") == 0


@pytest.mark.shared
def test_real_text_in_many_languages(shared: Path) -> None:
    with gzip.open(shared / "data/text/multilingual.jsonl.gz") as file:
        texts = [json.loads(line)["text"][:3000] for line in file]
    assert count_pieces(texts) == twin(texts)
