"""The ReAct loop: the model writes a call, the tool answers, until there is a final answer or a limit is reached.

Report §3.4. Ours: many conversations advance together in one batch, every step is bounded and kept in the trace,
and an observation that the model wrote itself is cut off, never believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from openqwen.agent.tools import Toolbox
from openqwen.chat import react
from openqwen.chat.react import Message


@dataclass(frozen=True)
class Refusal:
    """Why a model does not go on with one conversation, most often its length; the others go on."""

    reason: str


class Model(Protocol):
    """Whatever continues replies: for each (messages, beginning of the reply) what follows, or why nothing does."""

    def complete(self, requests: Sequence[tuple[list[Message], str]]) -> Sequence[str | Refusal]: ...


@dataclass(frozen=True)
class Turn:
    """One step: what the model wrote and what came of it."""

    text: str
    action: str | None = None
    arguments: str = ""
    observation: str | None = None
    error: str | None = None  # why the call failed, as the model was told
    invented: str | None = None  # an observation the model wrote itself


@dataclass
class Conversation:
    """The state of one query.

    `ended`: answered, plain, invented, unfinished, steps, loop, length, refused; None while it runs.
    """

    query: str
    toolbox: Toolbox
    max_steps: int = 4
    max_repeats: int = 2
    history: list[Message] = field(default_factory=list)  # earlier questions and whole replies
    turns: list[Turn] = field(default_factory=list)
    reply: str = ""  # the assistant's turn so far, open where the model is to go on
    answer: str | None = None
    ended: str | None = None

    @property
    def messages(self) -> list[Message]:
        asked = [*self.history, {"role": "user", "content": self.query}]
        return react.place_tools(asked, self.toolbox.declarations)

    def certain(self, text: str) -> str:
        """What of a step that is being written after `reply` will stay in it, whatever follows."""
        return react.certain_step(self._opened + text).removeprefix(self._opened)

    def counted(self, text: str) -> str:
        """What of a step that was written after `reply` becomes part of it."""
        return react.parse_step(self._opened + text).text.removeprefix(self._opened)

    @property
    def _opened(self) -> str:
        return "Thought:" if self.turns else ""

    def accept(self, text: str) -> None:
        """Takes what the model wrote after `reply` and runs the call in it, if there is one."""
        step = react.parse_step(self._opened + text)
        written = self.reply + step.text.removeprefix(self._opened)
        if step.final is not None:
            self._end("answered", step.final, Turn(step.text), written)
        elif step.action is not None:
            self._call(step, written)
        elif step.invented is not None:
            self._end("invented", None, Turn(step.text, invented=step.invented), written)
        elif step.text.startswith("Thought:") or "\nAction:" in step.text:
            self._end("unfinished", None, Turn(step.text), written)
        else:
            self._end("plain", step.text, Turn(step.text), written)

    def cut(self, text: str) -> None:
        """Ends the conversation because the model may write no more; half a call is not run."""
        text = self.counted(text)
        self._end("length", None, Turn(text), self.reply + text)

    def refuse(self, reason: str) -> None:
        """Ends the conversation because the model does not take it; the trace says why."""
        self._end("refused", None, Turn("", error=reason), self.reply)

    def _call(self, step: react.Step, written: str) -> None:
        call = (step.action, step.arguments)
        repeats = sum((turn.action, turn.arguments) == call for turn in self.turns)
        if repeats >= self.max_repeats:
            self._end("loop", None, Turn(step.text, *call, invented=step.invented), written)
            return
        observation, error = self.toolbox.call(step.action or "", step.arguments)
        self.turns.append(Turn(step.text, *call, observation, error, step.invented))
        self.reply = react.continue_reply(written, observation)
        if len(self.turns) >= self.max_steps:
            self.ended = "steps"

    def _end(self, how: str, answer: str | None, turn: Turn, written: str) -> None:
        self.ended, self.answer, self.reply = how, answer, written
        self.turns.append(turn)

    def trace(self) -> dict[str, Any]:
        """Everything that happened, as JSON."""
        turns = [{k: v for k, v in asdict(turn).items() if v is not None} for turn in self.turns]
        return {
            "query": self.query,
            "turns": turns,
            "answer": self.answer,
            "ended": self.ended,
            "reply": self.reply,
        }


def run(model: Model, conversations: Sequence[Conversation]) -> None:
    """Advances all conversations to their end, those that still run together."""
    while running := [c for c in conversations if c.ended is None]:
        texts = model.complete([(c.messages, c.reply) for c in running])
        for conversation, text in zip(running, texts, strict=True):
            if isinstance(text, Refusal):
                conversation.refuse(text.reason)
            else:
                conversation.accept(text)
