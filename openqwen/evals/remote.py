"""A chat model behind an OpenAI-compatible address, under the same benchmarks as ours.

Ours. The address is asked by messages, so nothing is known of its tokens: examples are dropped by the length of the text,
and options cannot be compared by log-probability, which chat benchmarks do not ask for. A request that the address
refuses is an empty reply with the reason beside it; one that fails ends the evaluation, which goes on with its journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from openqwen.chat import chatml
from openqwen.core.errors import UsageError
from openqwen.engine.sampling import Sampling
from openqwen.evals.harness import Subject
from openqwen.tokenizer import Tokenizer

BYTES = Tokenizer({bytes([i]): i for i in range(256)})  # a text of any language as ids, and back


class Address(Protocol):
    """What reaches the model: annotate.models.Remote is one."""

    @property
    def identity(self) -> dict[str, str]: ...

    def complete(self, request: dict[str, Any]) -> Any:
        """An answer with `text`, `finished` and `problem` to a request of the chat API."""


@dataclass(frozen=True)
class Reply:
    """A completion as the runner reads it."""

    text: str
    finish_reason: str


class Remote:
    """Stands where an engine stands; `parallel` requests at once."""

    def __init__(self, address: Address, parallel: int) -> None:
        self.address, self.parallel = address, parallel

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Reply]:
        """One reply to each conversation; it is always the greedy one."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(partial(self._one, sampling), prompts))

    def _one(self, sampling: Sampling, prompt: Sequence[int]) -> Reply:
        if prompt[0] != BYTES.im_start_id:  # the runner cut its beginning off
            return Reply("", "the question is longer than the address takes")
        messages = [m for m in chatml.parse(prompt, BYTES) if m["role"] != "assistant" or m["content"]]
        request = {"messages": messages, "temperature": 0, "max_tokens": sampling.max_tokens}
        if sampling.stop:
            request["stop"] = list(sampling.stop[:4])  # the API takes no more
        answer = self.address.complete(request)
        if answer.problem is not None:
            return Reply("", answer.problem)
        text = answer.text
        for stop in sampling.stop:
            text = text.split(stop, 1)[0]
        return Reply(text, "stop" if answer.finished or text != answer.text else "length")

    def loglikelihood(self, pairs: Sequence[Any]) -> list[Any]:
        raise UsageError(
            "a chat address does not score given texts",
            fix="use protocol report, or lm-evaluation-harness on a completions address",
        )


def remote_subject(address: Address, max_bytes: int, parallel: int = 4) -> Subject:
    """The address as a chat model under test; its identity stands for the weights, which nobody can see.

    max_bytes: of the longest prompt in UTF-8. parallel: requests at once.
    """
    said = address.identity
    weights = " at ".join(said[key] for key in ("model", "address") if key in said)
    engine = Remote(address, parallel)
    return Subject(said["model"], "chat", engine, BYTES, weights, max_bytes, scores=False)
