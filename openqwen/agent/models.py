"""Models that continue a ReAct reply: ours through the engine, and chat models behind an OpenAI-compatible address.

Report §3.4. Ours: how a reply that has begun is put before a model that we reach by messages only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openqwen.agent.loop import Refusal
from openqwen.annotate.models import Answerer, Local, Remote
from openqwen.chat import chatml, react
from openqwen.chat.react import Message
from openqwen.core.errors import OpenQwenError
from openqwen.engine.sampling import Sampling

_OPEN = "Thought:"


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

    def stream(self, messages: list[Message], reply: str) -> Iterator[str]:
        """The pieces of what follows one reply, as they are generated."""
        for update in self.engine.stream(self._ids(messages, reply), self.sampling, remember=True):
            yield update.text

    def _ids(self, messages: list[Message], reply: str) -> list[int]:
        if not reply:
            return chatml.render_prompt(messages, self.tokenizer)
        opened = [*messages, {"role": "assistant", "content": reply}]
        return chatml.render(opened, self.tokenizer, continue_last=True)[0]


class RemoteModel:
    """A chat model behind an address. A reply that has begun is shown to it below the question, as ReAct was first done.

    Chat completions have no common way to continue a message of the assistant, and this asks the server for nothing.
    """

    def __init__(self, remote: Remote, max_tokens: int = 512) -> None:
        self.remote, self.max_tokens = remote, max_tokens

    def complete(self, requests: Sequence[tuple[list[Message], str]]) -> list[str | Refusal]:
        with ThreadPoolExecutor(self.remote.config.parallel) as pool:
            return list(pool.map(lambda request: self._one(*request), requests))

    def stream(self, messages: list[Message], reply: str) -> Iterator[str]:
        """What follows one reply, in one piece. OpenQwenError where the server refuses it."""
        text = self._one(messages, reply)
        if isinstance(text, Refusal):
            raise OpenQwenError(text.reason, where=self.remote.base)
        yield text

    def _one(self, messages: list[Message], reply: str) -> str | Refusal:
        if reply:
            last = messages[-1]
            messages = [*messages[:-1], {**last, "content": f"{last['content']}\n{reply}"}]
        request = {
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "stop": [react.STOP[0]],
        }
        answer = self.remote.complete(request)
        if answer.problem is not None:
            return Refusal(answer.problem)
        # `reply` ends in an open "Thought:"; a model that sees it as text may write its own.
        return answer.text.removeprefix(_OPEN) if reply else answer.text


def speaker(answerer: Answerer, max_tokens: int) -> EngineModel | RemoteModel:
    """A model that can be asked, as one that continues ReAct replies."""
    if isinstance(answerer, Remote):
        return RemoteModel(answerer, max_tokens)
    assert isinstance(answerer, Local)
    return EngineModel(answerer.engine, answerer.tokenizer, max_tokens)
