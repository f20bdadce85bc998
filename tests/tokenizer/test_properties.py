"""What must hold for every text."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openqwen.tokenizer import StreamDecoder, Tokenizer, bpe
from openqwen.tokenizer.encoders import TiktokenEncoder
from openqwen.tokenizer.pattern import normalise, split
from openqwen.tokenizer.tokenizer import special_names

QUICK = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SPECIAL = st.sampled_from(special_names())
BROKEN_PARTS = [
    "<|",
    "|>",
    "<|im_",
    "end|>",
    "im_start",
    "<",
    "|",
    "\n",
    "user\n",
    "\x00",
    "\ud800",
    "\udc00",
]
BROKEN = st.sampled_from(BROKEN_PARTS)
HOSTILE = st.lists(st.one_of(SPECIAL, BROKEN, st.text(max_size=6)), max_size=12).map("".join)


@pytest.mark.fault("tokenizer", "any text at all", "decodes to its normal form")
@QUICK
@given(text=st.text())
def test_round_trip_gives_the_normalised_text(small: Tokenizer, text: str) -> None:
    ids = small.encode(text)
    assert small.decode(ids) == normalise(text)
    assert ids == bpe.encode(text, small.ranks)


@settings(QUICK, max_examples=500)
@given(text=HOSTILE)
def test_text_never_becomes_a_control_id(small: Tokenizer, text: str) -> None:
    control = set(small.special.values())
    assert not control & set(small.encode(text))
    assert not control & set(small.encode_batch([text])[0])
    assert small.decode(small.encode(text)) == normalise(text)


@pytest.mark.fault("tokenizer", "100,000 texts made of pieces of control tokens", "no control id from any")
def test_no_control_id_in_a_hundred_thousand_hostile_texts(small: Tokenizer) -> None:
    rng = random.Random(2023)
    parts = [*special_names(), *BROKEN_PARTS, "x", " ", "你好", "１", "\u0301"]
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 6))) for _ in range(100_000)]
    control = frozenset(small.special.values())
    assert all(control.isdisjoint(ids) for ids in small.encode_batch(texts))


@QUICK
@given(text=HOSTILE, allowed=st.sets(SPECIAL, max_size=3))
def test_only_the_named_tokens_become_control_ids(small: Tokenizer, text: str, allowed: set[str]) -> None:
    ids = small.encode(text, allowed_special=allowed)
    named = {small.special[name] for name in allowed}
    assert set(ids) & set(small.special.values()) <= named
    assert sum(i in named for i in ids) == sum(text.count(name) for name in allowed)
    assert small.decode(ids) == normalise(text) or "\ud800" in text or "\udc00" in text


@QUICK
@given(data=st.data())
def test_stream_equals_decode_for_any_ids(small: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, small.vocab_size - 1), max_size=30))
    stream = StreamDecoder(small)
    assert "".join([stream.push(i) for i in ids] + [stream.finish()]) == small.decode(ids)
    assert stream.push(small.encode("a")[0]) == "a"  # usable again after finish()


@pytest.mark.fault("tokenizer", "streamed ids cut characters into bytes", "no broken character is shown")
@QUICK
@given(text=st.text(st.characters(codec="utf-8"), max_size=20))
def test_stream_shows_no_broken_character_of_valid_text(small: Tokenizer, text: str) -> None:
    stream = StreamDecoder(small)
    shown = ""
    for byte in text.encode():  # one id a byte: the worst split there is
        shown += stream.push(small.ranks[bytes([byte])])
        assert text.startswith(shown)
    assert shown == text and stream.finish() == ""


@QUICK
@given(
    text=st.text(st.sampled_from(list("aB1 \t\n\r'’ſsS.!你\u0301\u00a0\u0085\u200b\u3000é😀")), max_size=40)
)
def test_pieces_join_to_the_text_and_engines_agree(small: Tokenizer, text: str) -> None:
    assert "".join(split(text)) == text
    text = normalise(text)
    assert TiktokenEncoder(small.ranks).encode(text) == small.encode(text)
