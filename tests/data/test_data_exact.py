"""Exact deduplication and the normal form under it: what changes nothing, what must stay different."""

from __future__ import annotations

import html
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.data import exact, text
from openqwen.data.documents import Document
from openqwen.data.text import normal_form, normal_forms, token_stream, tokens

PIECES = [
    "Don't",
    "well-known",
    "3.14",
    "e.g.",
    "AT&T",
    "naïve",
    "x1",
    "你好",
    "日本",
    "안녕",
    "été",
    "Straße",
    "42",
    "α",
]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map(" ".join)


def wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


CHANGES = {
    "upper": str.upper,
    "spaces": lambda t: t.replace(" ", " \u00a0\n\t\u3000"),
    "punctuation added": lambda t: "“" + t.replace(" ", ", ") + "”!?",
    "quotes": lambda t: t.replace("'", "’"),
    "punctuation lost": lambda t: re.sub(r"(?<!\d)[-'.&](?!\d)", "", t),
    "punctuation to spaces": lambda t: re.sub(r"[-'.&]", " ", t),
    "wide": wide,
    "decomposed": lambda t: unicodedata.normalize("NFD", t),
    "entities": lambda t: html.escape(html.escape(t)).replace("o", "&#111;"),
    "zero width": lambda t: "\ufeff" + "\u200b".join(t),
    "wrapped": lambda t: t.replace(" ", "\r\n"),
    "quoted": lambda t: t.replace(" ", "\n> > "),
}


@pytest.mark.parametrize("name", CHANGES)
@settings(deadline=None)  # the first to read a text builds the tables of characters
@given(written=TEXTS)
def test_what_is_no_content_changes_no_key(name: str, written: str) -> None:
    assert exact.key(CHANGES[name](written)) == exact.key(written)


def test_content_changes_the_key() -> None:
    texts = ["a b c", "a b d", "a c b", "version 1.1.0", "version 11.0", "1 2 3", "12 3", "x < y", "x > y", "", "。", "!",
             "你好", "您好", "ⅣV", "tea", "té"]  # fmt: skip
    assert len(set(exact.keys(texts))) == len(texts)
    assert exact.key("chapter 3b") == exact.key("Chapter-3 b")


@settings(deadline=None)
@given(st.lists(st.text(max_size=30) | TEXTS, max_size=12))
def test_many_at_once_are_as_one_by_one(texts: list[str]) -> None:
    """Numbers at the border of two texts included, and the form is that of the tokens."""
    assert normal_forms(texts) == [normal_form(t).encode() for t in texts]
    for form, written in zip(normal_forms(texts), texts):
        assert form.decode().replace(" ", "") == "".join(tokens(written))


def test_kept_is_what_was_written_and_equal_ids_do_not_confuse() -> None:
    documents = [
        Document("a", "Hello, world!", "web"),
        Document("a", "hello WORLD", "web"),
        Document("b", "Hello", "web"),
    ]
    kept, dropped = exact.deduplicate(documents)
    assert [d.text for d in kept] == ["Hello, world!", "Hello"]
    assert [(d.document.text, d.kept) for d in dropped] == [("hello WORLD", "a")]


DULL = {"Lo", "Cn", "Co", "Cs"}  # ideographs and the like: every sixteenth will do


def test_every_code_point_is_read_as_in_its_string() -> None:
    """The tables of single code points agree with unicodedata on whole strings, beside letters and marks."""
    by_hash: dict[int, str] = {}
    for first in [*range(0, 0x30000, 4096), 0xE0000]:
        points = [
            p for p in range(first, first + 4096) if p % 16 == 0 or unicodedata.category(chr(p)) not in DULL
        ]
        texts = [f"a{chr(p)}b e{chr(p)}\u0301 {chr(p)}" for p in points]
        strings = [tokens(t) for t in texts]
        read = token_stream(texts)
        assert read.lengths.tolist() == list(map(len, strings))
        pairs = zip(read.hashes.tolist(), (token for own in strings for token in own))
        assert all(by_hash.setdefault(hashed, token) == token for hashed, token in pairs)
    assert len(by_hash) == len(set(by_hash.values()))


ENTITIES = [
    "&amp;",
    "&amp;amp;",
    "&lt;b&gt;",
    "&lt",
    "&notit;",
    "&#97;",
    "&#x4e00",
    "&#;",
    "&&",
    "&self",
    "&nbsp;",
    "&copy",
    "x",
]


@given(st.lists(st.sampled_from(ENTITIES), max_size=8).map("".join))
def test_entities_are_those_of_the_standard_library(written: str) -> None:
    wanted = written
    for _ in range(3):
        wanted = html.unescape(wanted)
    assert text._unescape(written) == wanted


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(1, 9))
def test_runs_have_the_hash_of_their_span(values: list[int], n: int) -> None:
    hashes = np.array(values, np.uint64)
    starts = np.arange(max(0, len(values) - n + 1))
    assert (text.run_hashes(hashes, n) == text.Spans(hashes).hashes(starts, starts + n)).all()
