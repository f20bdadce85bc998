"""One request while it runs, what it reports after each step, and what it hands back.

Ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from openqwen.core.errors import UsageError
from openqwen.engine.guide import Guide
from openqwen.engine.sampling import Sampling
from openqwen.engine.text import TextStream
from openqwen.model.config import Extension

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class TokenScore:
    """The model's own log-probability of a token (temperature 1, nothing truncated) and the best alternatives."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Completion:
    """A reply. ids: every token drawn, with the stop id that ended it; text: without it and without stop strings.

    logprobs: log-probability of each id under the truncated distribution it was drawn from (0 when greedy).
    scores, prompt_scores: what Sampling.logprobs and prompt_logprobs asked for; the prompt's first token has none.
    support: for each id the ids that could have been drawn, when asked for. stop: the id or string that ended it;
    None with finish_reason "stop": the constraint was fulfilled and nothing could follow.
    """

    ids: list[int]
    text: str
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_ids: list[int]
    scores: list[TokenScore] | None = None
    prompt_scores: list[TokenScore | None] | None = None
    support: list[Tensor] | None = None
    stop: int | str | None = None
    reused: int = 0  # prompt tokens whose keys and values were already there
    error: UsageError | None = None  # why it could not go on; finish_reason is "error"


@dataclass(frozen=True)
class Update:
    """What one step did for one request: at most one new token, the text it made certain, the end if it came."""

    request: int
    ids: tuple[int, ...] = ()
    text: str = ""
    scores: tuple[TokenScore, ...] = ()
    completion: Completion | None = None


@dataclass(eq=False)
class Sequence:
    """A request inside the engine. `fed` tokens of `prompt + ids` are in the cache."""

    request: int
    prompt: list[int]
    sampling: Sampling
    stop_ids: frozenset[int]
    text: TextStream | None
    extension: Extension
    guide: Guide | None = None
    fed: int = 0
    reused: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    prompt_scores: list[TokenScore | None] = field(default_factory=list)
    support: list[Tensor] = field(default_factory=list)
    seen: Tensor | None = None  # (V,) bool: tokens of prompt and reply; only with penalties
    counts: Tensor | None = None  # (V,) float32: occurrences in the reply
    finish_reason: FinishReason | None = None
    stop: int | str | None = None
    error: UsageError | None = None

    @property
    def missing(self) -> int:
        """Prompt tokens not yet in the cache."""
        return len(self.prompt) - self.fed

    def append(self, token: int, logprob: float) -> str:
        """Takes the next token; sets finish_reason if it ends the reply. Returns the text it made certain."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if self.seen is not None and self.counts is not None:
            self.seen[token] = True
            self.counts[token] += 1
        delta = ""
        if token in self.stop_ids:
            self.finish_reason, self.stop = "stop", token
        elif self.text is not None:
            delta = self.text.push(token)
            if self.text.stopped is not None:
                self.finish_reason, self.stop = "stop", self.text.stopped
        if self.finish_reason is None and self.guide is not None and self.guide.take(token):
            self.finish_reason = "stop"
        if self.finish_reason is None and len(self.ids) >= self.sampling.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason is not None and self.text is not None:
            delta += self.text.finish()
            if self.text.stopped is not None and self.stop is None:
                self.finish_reason, self.stop = "stop", self.text.stopped
        return delta
