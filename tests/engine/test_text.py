"""Stop strings and characters, however they are cut into tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.engine.text import TextStream, first_stop, held_back
from openqwen.tokenizer import Tokenizer

BYTES = Tokenizer({bytes([i]): i for i in range(256)}, encoder="tiktoken")


@given(
    text=st.text(alphabet="ab终é\n", max_size=30),
    stop=st.lists(st.text("ab终\n", min_size=1, max_size=4), max_size=3),
)
def test_deltas_join_to_the_text_before_the_first_stop(text, stop):
    stream = TextStream(BYTES, stop)
    joined = ""
    for token in text.encode():
        joined += stream.push(token)
        assert "�" not in joined
        if stream.stopped is not None:
            break
    joined += stream.finish()
    assert joined == stream.text
    ends = [text.find(s) + len(s) for s in stop if s in text]
    if ends:
        # The stop string that is complete first ends the text.
        seen = text[: min(ends)]
        found = first_stop(seen, stop)
        assert found is not None and joined == seen[: found[0]] and stream.stopped == found[1]
    else:
        assert joined == text and stream.stopped is None


def test_held_back():
    assert held_back("abc Obs", ["Observation:"]) == 3
    assert held_back("abc", ["bcd", "cde"]) == 2
    assert held_back("aaa", ["aaab"]) == 3
    assert held_back("abc", ["abc"]) == 0  # a whole stop string is found, not held back
    assert first_stop("xxabab", ["ba", "ab", "aba"]) == (2, "aba")


@pytest.mark.fault("engine", "a reply ends within a character", "replaced, not lost")
def test_half_a_character_at_the_end_is_replaced():
    stream = TextStream(BYTES)
    assert [stream.push(t) for t in "é".encode()[:1]] == [""]
    assert stream.finish() == "�"


def test_control_tokens_have_no_text():
    stream = TextStream(BYTES, ["<|im_end|>"])
    assert stream.push(BYTES.special["<|extra_7|>"]) == "" and stream.push(65) == "A"
    assert stream.stopped is None
