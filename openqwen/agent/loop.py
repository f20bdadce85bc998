"""The ReAct loop: the model writes a call, the tool answers, until there is a final answer or a limit is reached.

Report §3.4. Ours: many conversations advance together in one batch, every step is bounded and kept in the trace,
and an observation that the model wrote itself is cut off, never believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from openqwen.agent.tools import Toolbox
from openqwen.chat import chatml, react
from openqwen.chat.react import Message
from openqwen.engine.sampling import Sampling


class Model(Protocol):
    """Whatever continues replies: for each (messages, beginning of the reply) the text that follows."""

    def complete(self, requests: Sequence[tuple[list[Message], str]]) -> list[str]: ...


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
    """The state of one query. `ended`: answered, plain, invented, unfinished, steps, loop; None while it runs."""

    query: str
    toolbox: Toolbox
    max_steps: int = 4
    max_repeats: int = 2
    turns: list[Turn] = field(default_factory=list)
    reply: str = ""  # the assistant's turn so far, open where the model is to go on
    answer: str | None = None
    ended: str | None = None

    @property
    def messages(self) -> list[Message]:
        return [{"role": "user", "content": react.build_prompt(self.query, self.toolbox.declarations)}]

    def accept(self, text: str) -> None:
        """Takes what the model wrote after `reply` and runs the call in it, if there is one."""
        opened = "Thought:" if self.turns else ""
        step = react.parse_step(opened + text)
        written = self.reply + step.text.removeprefix(opened)
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
            conversation.accept(text)


class EngineModel:
    """A model of ours. The reply so far is encoded whole, as it was in training; tool text holds no control tokens."""

    def __init__(self, engine: Any, tokenizer: Any, max_tokens: int = 96) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.sampling = Sampling(
            temperature=0.0,
            max_tokens=max_tokens,
            stop=react.STOP[:1],
            stop_ids=tuple(chatml.stop_ids(tokenizer)),
        )

    def complete(self, requests: Sequence[tuple[list[Message], str]]) -> list[str]:
        prompts = [self._ids(messages, reply) for messages, reply in requests]
        return [done.text for done in self.engine.generate(prompts, self.sampling)]

    def _ids(self, messages: list[Message], reply: str) -> list[int]:
        if not reply:
            return chatml.render_prompt(messages, self.tokenizer)
        opened = [*messages, {"role": "assistant", "content": reply}]
        return chatml.render(opened, self.tokenizer, continue_last=True)[0]


class ClientModel:
    """A chat model behind an OpenAI-compatible address (an `openai.OpenAI` client).

    A begun reply is sent as an open assistant message; `continue_final_message` is what vLLM and our server call it.
    """

    def __init__(self, client: Any, model: str, max_tokens: int = 512) -> None:
        self.client, self.model, self.max_tokens = client, model, max_tokens

    def complete(self, requests: Sequence[tuple[list[Message], str]]) -> list[str]:
        return [self._one(messages, reply) for messages, reply in requests]

    def _one(self, messages: list[Message], reply: str) -> str:
        opened: dict[str, Any] = {}
        if reply:
            messages = [*messages, {"role": "assistant", "content": reply}]
            opened = {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}}
        done = self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            temperature=0,
            max_tokens=self.max_tokens,
            stop=list(react.STOP),
            **opened,
        )
        return done.choices[0].message.content or ""
