"""Models behind an OpenAI-compatible address, under the same benchmarks as ours.

Ours. Nothing is known of their tokens, so examples are dropped by the length of the text in bytes. A chat model is asked by
messages; options cannot be compared by its log-probabilities, which chat benchmarks do not ask for. A base model is asked
by texts, and scores them where the address has echo and logprobs: an option's is what it adds to the text before it. A
question that the address refuses is an empty reply with the reason beside it; a request that fails ends the evaluation,
which goes on with its journal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from openqwen.chat import chatml
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.engine.sampling import Sampling
from openqwen.evals.harness import Subject
from openqwen.evals.task import Kind
from openqwen.tokenizer import Tokenizer

BYTES = Tokenizer({bytes([i]): i for i in range(256)})  # a text of any language as ids, and back


class Address(Protocol):
    """What reaches the model: annotate.models.Remote is one."""

    @property
    def identity(self) -> dict[str, str]: ...

    def complete(self, request: dict[str, Any]) -> Any:
        """An answer with `text`, `finished` and `problem` to a request of the chat API."""

    def continued(self, request: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """The first choice for a request of the completions API, or why it was refused."""


@dataclass(frozen=True)
class Reply:
    """A completion as the runner reads it."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class Asked(ABC):
    """A model behind an address, where an engine stands; `parallel` requests at once."""

    address: Address
    parallel: int

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Reply]:
        """One reply to each prompt; it is always the greedy one."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(partial(self._one, sampling), prompts))

    @abstractmethod
    def _one(self, sampling: Sampling, prompt: Sequence[int]) -> Reply: ...


class Chat(Asked):
    """A chat model; prompts are conversations."""

    def _one(self, sampling: Sampling, prompt: Sequence[int]) -> Reply:
        if prompt[0] != BYTES.im_start_id:  # the runner cut its beginning off
            return Reply("", "the question is longer than the address takes")
        messages = [m for m in chatml.parse(prompt, BYTES) if m["role"] != "assistant" or m["content"]]
        answer = self.address.complete({"messages": messages, **_greedy(sampling)})
        if answer.problem is not None:
            return Reply("", answer.problem)
        return _ended(answer.text, answer.finished, sampling)

    def loglikelihood(self, pairs: Sequence[Any]) -> list[Any]:
        raise UsageError(
            "a chat address does not score given texts",
            fix="use protocol report, or give the model as a base model (--model)",
        )


class Base(Asked):
    """A base model; prompts are texts to continue."""

    def _one(self, sampling: Sampling, prompt: Sequence[int]) -> Reply:
        choice, problem = self.address.continued({"prompt": BYTES.decode(prompt), **_greedy(sampling)})
        if problem is not None:
            return Reply("", problem)
        return _ended(str(choice.get("text") or ""), choice.get("finish_reason") == "stop", sampling)

    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Of each pair what its second text adds to the log-probability of its first, and whether it is the greedy one.

        OpenQwenError where the address does not score given texts.
        """
        befores = [BYTES.decode(before) for before, _ in pairs]
        wholes = [BYTES.decode([*before, *rest]) for before, rest in pairs]
        texts = list(dict.fromkeys([*befores, *wholes]))
        with ThreadPoolExecutor(self.parallel) as pool:
            scored = dict(zip(texts, pool.map(self._scored, texts), strict=True))
        found = []
        for before, whole in zip(befores, wholes, strict=True):
            known, own = len(scored[before]), scored[whole]
            total = sum(value for value, _ in own) - sum(value for value, _ in scored[before])
            found.append((total, all(best for _, best in own[known:])))
        return found

    def _scored(self, text: str) -> list[tuple[float, bool]]:
        """Of each token after the first its log-probability, and whether none is likelier."""
        request = {"prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        choice, problem = self.address.continued(request)
        told = choice.get("logprobs") or {}
        values, tops = told.get("token_logprobs") or [], told.get("top_logprobs") or []
        if problem is not None or len(values) < 2 or len(values) != len(tops):
            raise OpenQwenError(
                f"no log-probabilities of a given text: {problem or 'the reply has none'}",
                fix="give an address whose completions have echo and logprobs, or one as a chat model (--chat)",
            )
        # The last is the one new token that was asked for, because some servers take no 0.
        pairs = list(zip(values, tops, strict=True))[1:-1]
        return [(value, value >= max(top.values(), default=value)) for value, top in pairs]


def _greedy(sampling: Sampling) -> dict[str, Any]:
    stop = {"stop": list(sampling.stop[:4])} if sampling.stop else {}  # the API takes no more
    return {"temperature": 0, "max_tokens": sampling.max_tokens, **stop}


def _ended(text: str, finished: bool, sampling: Sampling) -> Reply:
    """A reply up to the first of all stops."""
    whole = text
    for stop in sampling.stop:
        text = text.split(stop, 1)[0]
    return Reply(text, "stop" if finished or text != whole else "length")


def remote_subject(address: Address, max_bytes: int, parallel: int = 4, kind: Kind = "chat") -> Subject:
    """The address as a model under test; its identity stands for the weights, which nobody can see.

    max_bytes: of the longest prompt in UTF-8. parallel: requests at once.
    """
    said = address.identity
    weights = " at ".join(said[key] for key in ("model", "address") if key in said)
    engine = Chat(address, parallel) if kind == "chat" else Base(address, parallel)
    scores = kind == "base"
    return Subject(said["model"], kind, engine, BYTES, weights, max_bytes, scores=scores, counts_tokens=False)
