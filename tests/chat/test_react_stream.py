"""A reply read in pieces: equal however it is cut, nothing lost, nothing made up, and as `parse_step` reads it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.chat import react
from openqwen.chat.react_stream import ReplyStream
from tests.chat.test_react import LABELS, reactish

WORDS = [f" w{i} " for i in range(6)]
labelled = st.lists(
    st.sampled_from([*LABELS[:5], *(f"\n{name}" for name in LABELS[:5]), "\n", *WORDS]), max_size=20
)


def read(texts: list[str], **settings: object) -> list[list[str]]:
    """[kind, text] of each stretch of one kind."""
    stream = ReplyStream(**settings)  # type: ignore[arg-type]
    pieces = [piece for text in texts for piece in stream.push(text)] + stream.finish()
    joined: list[list[str]] = []
    for piece in pieces:
        if joined and joined[-1][0] == piece.kind != "name":
            joined[-1][1] += piece.text
        else:
            joined.append([piece.kind, piece.text])
    return joined


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello,\n\nyou. ", [["content", "Hello,\n\nyou. "]]),
        (
            "Thought: I look.\nAction: f\nAction Input: {}\nObservation: 3",
            [["content", "I look."], ["name", "f"], ["arguments", "{}"]],
        ),
        ("Action: f\nAction Input: x\ny \nObserv", [["name", "f"], ["arguments", "x\ny"]]),
        (
            "Thought: a\nAction: f\nAction Input: 1\nAction: g\nAction Input: 2\nThought: b\nFinal Answer: c",
            [["content", "a"], ["name", "f"], ["arguments", "1"], ["name", "g"], ["arguments", "2"]],
        ),
        (
            "Thought: I know.\nFinal Answer: It is\nAction: none. ",
            [["thought", "I know."], ["content", "It is\nAction: none."]],
        ),
        ("Sure.\nThought: a\nAction: f\nAction Input:", [["content", "Sure.\na"], ["name", "f"]]),
        ("Thought: only this\n", [["content", "only this"]]),
        ("Thought: a\nAction: f", [["content", "a\nAction: f"]]),
        ("Action: \nAction Input: 1", [["content", "Action: \nAction Input: 1"]]),
        ("Thought: a\nAction: b\nFinal Answer: c", [["thought", "a\nAction: b"], ["content", "c"]]),
        ("In a line Action: f\nAction Inputs", [["content", "In a line Action: f\nAction Inputs"]]),
        ("Observation: mine", []),
    ],
)
def test_replies(text, pieces):
    assert read([text]) == pieces == read(list(text))


def test_a_continued_reply_and_a_limited_number_of_calls():
    two = " a\nAction: f\nAction Input: 1\nAction: g\nAction Input: 2"
    assert read([two], opened=True, most=1) == [["content", "a"], ["name", "f"], ["arguments", "1"]]
    assert read([two], opened=True, most=0) == [["content", "a"]]
    assert read(["Action: f\nAction Input: 1"], most=0) == []
    # Directly behind the open "Thought:" no line begins.
    assert read(["Action: f\nAction Input: 1"], opened=True) == [["content", "Action: f\nAction Input: 1"]]


settings = st.fixed_dictionaries({"opened": st.booleans(), "most": st.sampled_from([None, 0, 1])})


@given(st.one_of(reactish, labelled.map("".join)), st.lists(st.integers(0, 300)), settings)
def test_the_cuts_do_not_matter(text, cuts, given):
    at = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    whole = read([text], **given)
    assert read([text[a:b] for a, b in pairwise(at)], **given) == whole == read(list(text), **given)


@given(st.one_of(reactish, labelled.map("".join)))
def test_nothing_is_made_up_and_text_without_labels_stays_as_it_is(text):
    pieces = read([text])
    place = 0
    for _, part in pieces:  # each part stands in the text, in order, word for word but for labels left out
        for word in part.split():
            place = text.find(word, place)
            assert place >= 0
            place += len(word)
    if not react.LABEL.search(text):
        assert "".join(part for _, part in pieces) == text


@given(labelled)
def test_nothing_is_lost_before_the_reply_ends(parts):
    text = "".join(f"{part}{i}" if "w" in part else part for i, part in enumerate(parts))
    pieces = read([text])
    words, kept = re.findall(r"w\d+ \d+", text), re.findall(r"w\d+ \d+", "|".join(p for _, p in pieces))
    assert kept == words[: len(kept)]
    if not re.search(r"(?m)^Observation:", text) and not any(kind == "name" for kind, _ in pieces):
        assert kept == words


@given(st.one_of(reactish, labelled.map("".join)))
def test_the_first_call_and_the_answer_are_those_of_parse_step(text):
    step, pieces = react.parse_step(text), read([text])
    kinds = [kind for kind, _ in pieces]
    if step.action is not None:
        assert ["name", step.action] == pieces[kinds.index("name")]
        given = pieces[kinds.index("name") + 1 :][:1]
        assert (given[0][1] if given and given[0][0] == "arguments" else "") == step.arguments
    labels = react.LABEL.findall(text)
    if step.final is not None and labels.index("Final Answer") == len(labels) - 1 and "Action" not in labels:
        assert "".join(part for kind, part in pieces if kind == "content").endswith(step.final)
