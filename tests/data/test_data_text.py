"""The normal form and the hashes everything else stands on."""

from __future__ import annotations

import html

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.data import exact
from openqwen.data.documents import Document
from openqwen.data.text import batches, crowded, grams, mix, normal_form, token_stream, tokens

WORDS = st.lists(
    st.sampled_from(["alpha", "Beta", "42", "你", "好", "x1", "été", "日本", "ß"]), min_size=1, max_size=30
)


def test_tokens_by_script() -> None:
    assert tokens("Ｈello,  WORLD! 你好 a-b x+1") == ["hello", "world", "你", "好", "a", "b", "x", "+", "1"]
    assert tokens("soft\u00adhyphen zero\u200bwidth") == ["softhyphen", "zerowidth"]
    assert tokens("안녕 세계 ภาษา") == ["안녕", "세계", *"ภาษา"]
    assert tokens("AT&amp;amp;T &lt;b&gt;") == ["at", "t", "<", "b", ">"]
    assert tokens("!?… 。") == []
    assert tokens("so\n> it\n &gt;> is, x > y") == ["so", "it", "is", "x", ">", "y"]


@settings(deadline=None)  # the first to read a text builds the tables of characters
@given(WORDS, st.data())
def test_normal_form_ignores_what_is_no_content(words: list[str], data: st.DataObject) -> None:
    """Case, punctuation, line wraps, full-width forms and entities change nothing."""
    gaps = [
        data.draw(st.sampled_from([" ", "\n", ", ", "。", " - ", "\t\n ", "\u3000", "!\u200b "]))
        for _ in words
    ]
    changed = "".join(w.upper() + g if w != "ß" else w + g for w, g in zip(words, gaps))
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and c.isalnum() else c for c in changed)
    wanted = normal_form(" ".join(words))
    assert normal_form(changed) == wanted
    assert normal_form(wide) == wanted
    assert normal_form(html.escape(wide)) == wanted


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=12))
def test_hashed_tokens_are_the_tokens(texts: list[str]) -> None:
    """The vectorised stream agrees with the strings: same numbers, equal exactly where the strings are equal."""
    stream = token_stream(texts)
    strings = [t for text in texts for t in tokens(text)]
    assert stream.lengths.tolist() == [len(tokens(text)) for text in texts]
    by_hash: dict[int, str] = {}
    for hashed, string in zip(stream.hashes.tolist(), strings, strict=True):
        assert by_hash.setdefault(hashed, string) == string
    assert len(by_hash) == len(set(strings))


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), st.integers(1, 7))
def test_grams_stay_inside_documents(documents: list[list[str]], n: int) -> None:
    texts = [" ".join(words) for words in documents]
    stream = token_stream(texts)
    found = grams(stream, n)
    expected = [[tuple(t[i : i + n]) for i in range(len(t) - n + 1)] for t in map(tokens, texts)]
    assert np.diff(found.bounds).tolist() == [len(e) for e in expected]
    flat = [g for e in expected for g in e]
    assert len(set(found.hashes.tolist())) == len(set(flat))
    assert len(set(zip(found.hashes.tolist(), flat))) == len(set(flat))


def test_hashes_do_not_change() -> None:
    """Pinned: a changed hash would silently change which documents a corpus keeps."""
    stream = token_stream(["hello 你好"])
    assert [hex(int(h)) for h in stream.hashes] == [
        "0x12becacf1cb30aa3",
        "0xcd16d4b800177899",
        "0x28eeb2957274207e",
    ]


@given(st.lists(st.text(max_size=2000), max_size=20))
def test_batches_cover_everything_once(texts: list[str]) -> None:
    covered = [i for a, b in batches(texts, 1000) for i in range(a, b)]
    assert covered == list(range(len(texts)))


def test_exact_keeps_the_first_and_says_which() -> None:
    documents = [
        Document("a", "Hello, world!", "web"),
        Document("b", "hello WORLD", "web"),
        Document("c", "你好，世界", "web"),
        Document("d", "你好世界。", "web"),
        Document("e", "!!!", "web"),
        Document("f", "???", "web"),
    ]
    kept, dropped = exact.deduplicate(documents)
    assert [d.id for d in kept] == ["a", "c", "e", "f"]  # two texts of punctuation only are not the same text
    assert [(d.document.id, d.kept) for d in dropped] == [("b", "a"), ("d", "c")]
    assert kept[0].text == "Hello, world!"  # what is compared is not what is kept


@pytest.mark.fault("data", "lone surrogates and any code points in documents", "hashed like any text")
@settings(max_examples=20)
@given(st.text(max_size=300))
def test_surrogates_and_any_text_are_harmless(text: str) -> None:
    assert isinstance(exact.key(text + "\ud800"), bytes)


@given(st.lists(st.integers(0, 30), max_size=60))
def test_no_repeated_key_is_missed(numbers: list[int]) -> None:
    keys = mix(np.array(numbers, np.uint64))
    places = crowded(keys).tolist()
    assert places == sorted(set(places))
    assert {i for i, number in enumerate(numbers) if numbers.count(number) > 1} <= set(places)


def test_most_single_keys_are_passed_over() -> None:
    assert len(crowded(mix(np.arange(10_000, dtype=np.uint64)))) < 3_000
