"""Which conversations of self-instruct are kept: rules on the query and on what happened, each with its reason.

Report §3.4 (the samples were refined and filtered). The rules are ours; the first that is broken is the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openqwen.agent import scoring
from openqwen.agent.loop import Conversation, Turn
from openqwen.agent.queries import language
from openqwen.agent.tools import CallError, Toolbox, read_arguments
from openqwen.chat import react

_WORD = re.compile(r"[\u4e00-\u9fff]|\w+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SIGNED = re.compile(r"-?\d+(?:\.\d+)?")
_SHORT = 20  # words of a result that an answer repeats
_FORMAT = re.compile(r"(?:Thought|Action|Action Input|Observation|Final Answer|Question):")


def words(text: str) -> list[str]:
    """Words in lower case; Chinese characters one by one."""
    return _WORD.findall(text.lower())


@dataclass
class Pool:
    """Queries that are known: seeds and what was kept. heldout: queries of tests, of which no copy may be kept."""

    similarity: float
    known: list[list[str]] = field(default_factory=list)
    heldout: list[list[str]] = field(default_factory=list)
    exact: set[str] = field(default_factory=set)

    def add(self, query: str) -> None:
        self.exact.add(" ".join(words(query)))
        self.known.append(words(query))

    def problem(self, query: str) -> str | None:
        """Why a query is no new one."""
        new = words(query)
        if self._close(new, self.heldout):
            return "a test's question"
        if " ".join(new) in self.exact or self._close(new, self.known):
            return "a copy"
        return None

    def _close(self, new: Sequence[str], others: Iterable[Sequence[str]]) -> bool:
        return any(
            # Rouge-L cannot reach the limit where the lengths are too far apart; most pairs end here.
            2 * min(len(new), len(old)) >= self.similarity * (len(new) + len(old))
            and scoring.rouge_l(old, new) >= self.similarity
            for old in others
        )


def query_problem(query: str, min_length: int, max_length: int) -> str | None:
    """Why a text is no query."""
    if not min_length <= len(query) <= max_length:
        return "the query's length"
    if _FORMAT.search(query) or "```" in query:
        return "the query holds labels of the format"
    return None


def trace_problem(
    talk: Conversation, tool: str | None, recall: float = 0.5, arguments: Mapping[str, Any] | None = None
) -> str | None:
    """Why a conversation is no sample. tool: which the query was written for; None: it needs none.

    recall: share of a short result's words that the answer must hold. arguments: what was asked for, if that is known.
    """
    if any(turn.invented is not None for turn in talk.turns):
        return "the model wrote a result itself"
    calls = [turn for turn in talk.turns if turn.action is not None]
    for turn in calls:
        if (found := _call_problem(turn, talk.toolbox)) is not None:
            return found
    if talk.ended not in ("answered", "plain") or not (talk.answer or "").strip():
        return f"no answer: {talk.ended}"
    if tool is None:
        return "a tool was called without need" if calls else None
    if not any(turn.action == tool for turn in calls):
        return "the tool was not called"
    if arguments is not None and not any(_asked(turn, talk.toolbox, tool, arguments) for turn in calls):
        return "the arguments are not those of the question"
    return _leak(talk, calls) or _unfounded(talk, calls) or _ignored(talk, calls[-1], recall)


def _call_problem(turn: Turn, toolbox: Toolbox) -> str | None:
    if turn.action not in toolbox.tools:
        return "the tool does not exist"
    if turn.error is None:
        return None
    try:
        read_arguments(turn.arguments, toolbox.tools[turn.action].declaration)
    except CallError:
        return "the arguments break the schema"
    return "the call failed"


def _asked(turn: Turn, toolbox: Toolbox, tool: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a call is the one that was asked for. It has run, so it can be read."""
    return (
        turn.action == tool and read_arguments(turn.arguments, toolbox.tools[tool].declaration) == arguments
    )


def _leak(talk: Conversation, calls: Sequence[Turn]) -> str | None:
    """A result that stands in the question, or in what the model wrote before it was returned."""
    said = talk.query
    for turn in calls:
        said += "\n" + turn.text
        result = react.clean(turn.observation or "").strip()
        if result and _stands_in(result, said):
            return "the result was known before the call"
        said += "\n" + result  # what one call gave may be used in the next
    return None


def _stands_in(result: str, text: str) -> bool:
    """As a word or words of their own; Chinese has no spaces around them."""
    if language(result) == "zh":
        return result in text
    return re.search(rf"(?<!\w){re.escape(result)}(?!\w)", text, re.IGNORECASE) is not None


def _unfounded(talk: Conversation, calls: Sequence[Turn]) -> str | None:
    """A number in the answer that neither the question, the call nor a result holds."""
    seen = "\n".join([talk.query, *(f"{turn.arguments}\n{turn.observation}" for turn in calls)])
    if set(_NUMBER.findall(talk.answer or "")) - set(_NUMBER.findall(seen)):
        return "a number of the answer comes from nowhere"
    return None


def _ignored(talk: Conversation, last: Turn, recall: float) -> str | None:
    """A short result of which the answer holds too little; a long one may be summed up in other words."""
    given, said = (last.observation or "").strip(), talk.answer or ""
    if _SIGNED.fullmatch(given) and given not in _SIGNED.findall(said):
        return "the answer leaves the result out"
    result, answer = set(words(given)), set(words(said))
    if 0 < len(result) <= _SHORT and len(result & answer) < recall * len(result):
        return "the answer leaves the result out"
    return None
