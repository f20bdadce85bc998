"""A stop string is found however it is cut into tokens: through the engine's text and the loop that reads it."""

from __future__ import annotations

import itertools
import json

import pytest
from agent_world import add, weather
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.agent import tools
from openqwen.agent.loop import Conversation
from openqwen.agent.tools import Toolbox
from openqwen.chat import react
from openqwen.engine.text import TextStream
from openqwen.tokenizer import Tokenizer

LABELS = [": ", "Obs", "Observ", "Observation", "\nObservation", "\nObs", "s:", "巴黎", "🦜", '"', "x "]
WORDS = st.lists(st.sampled_from(LABELS), max_size=6).map("".join)


def tokens(text: str, cuts: list[int]) -> tuple[Tokenizer, list[int]]:
    """A vocabulary of all bytes and the pieces of this text, and the text as those pieces. Cuts may halve a character."""
    data = text.encode()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    ranks = {bytes([i]): i for i in range(256)}
    for piece in pieces:
        ranks.setdefault(piece, len(ranks))
    return Tokenizer(ranks), [ranks[piece] for piece in pieces]


def spoken(text: str, cuts: list[int], most: int | None = None) -> tuple[str, bool]:
    """What the engine makes of a model that writes `text` in these tokens, at most so many, and whether it stopped."""
    tokenizer, ids = tokens(text, cuts)
    stream = TextStream(tokenizer, react.STOP[:1])
    released = ""
    for number in ids[:most]:
        released += stream.push(number)
        if stream.stopped:
            break
    return released + stream.finish(), stream.stopped is not None


def accepted(text: str) -> Conversation:
    talk = Conversation("q", Toolbox([tools.from_function(add), tools.from_function(weather)]))
    talk.accept(text)
    return talk


@pytest.mark.fault("agent", "the stop string is cut into any tokens", "nothing of it is in the arguments")
@settings(deadline=None)
@given(WORDS, st.lists(st.integers(0, 500), max_size=40), st.sampled_from(["", "\n", " "]))
def test_arguments_are_whole_and_hold_nothing_of_the_stop_string(
    city: str, cuts: list[int], gap: str
) -> None:
    city = city.replace("Observation:", "Observation ")
    given_ = json.dumps({"city": city}, ensure_ascii=False)
    call = f"Thought: I look.\nAction: weather\nAction Input: {given_}{gap}"
    said, stopped = spoken(f"{call}\nObservation: made up\nThought: so\nFinal Answer: no", cuts)
    assert stopped and said == call + "\n"
    turn = accepted(said).turns[0]
    assert turn.arguments == given_ and turn.invented is None and turn.error is None
    assert turn.observation == f"sun in {city}, celsius"


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 60))
def test_a_reply_cut_short_leaves_no_half_stop_string(cuts: list[int], most: int) -> None:
    call = 'Thought: x\nAction: add\nAction Input: {"a": 1, "b": 2}'
    said, stopped = spoken(f"{call}\nObservation: 9", cuts, most)
    assert stopped or f"{call}\nObservation:".startswith(said)
    turn = accepted(said).turns[0]
    if len(said) >= len(call):
        assert (turn.arguments, turn.observation) == ('{"a": 1, "b": 2}', "3")
    else:
        assert turn.observation is None or turn.error is not None
    assert "Obs" not in turn.arguments and turn.invented is None


LINES = ["Thought:", "\n", "Action:", "Action Input:", "Observation:", "Final Answer:", "{}", " add"]


@pytest.mark.fault("agent", "a model writes any text at all", "taken, the conversation stays bounded")
@settings(deadline=None)
@given(st.text(max_size=80) | st.lists(st.sampled_from(LINES), max_size=12).map("".join))
def test_any_text_is_taken_and_the_conversation_stays_bounded(text: str) -> None:
    talk = Conversation("q", Toolbox([tools.from_function(add)]), max_steps=3)
    for _ in range(3):
        if talk.ended is None:
            talk.accept(text)
    assert talk.ended is not None and len(talk.turns) <= 3 and talk.trace()["turns"]
