"""How the next token is chosen: one frozen, torch-free record per request.

Report §3.2.2 (top-p 0.9 for PPO's rollouts); everything else ours. Order of application: repetition, presence
and frequency penalties, what the constraint allows, logit bias, temperature, top-k, top-p on what top-k left, min-p.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from openqwen.core.errors import UsageError
from openqwen.engine.constraint import Constraint
from openqwen.engine.text import Cutter

MAX_STOPS = 64
MAX_STOP_LENGTH = 1000
MAX_ALTERNATIVES = 100


@dataclass(frozen=True)
class Sampling:
    """Settings of one request.

    temperature: 0 is greedy. top_p, top_k, min_p: truncation; 1.0, None and 0.0 are off.
    stop_ids: ids that end the reply; None means the tokenizer's end tokens (<|endoftext|>, <|im_end|>,
        <|im_start|>), () means none. stop: strings that end it and are cut from its text.
    cutter: a rule that ends it by what its text says, and cuts that off.
    seed: the whole reply is a function of (model, prompt, settings, seed), whatever else is running.
    logprobs: report the model's own log-probability of each token and this many alternatives (0: none).
    prompt_logprobs: the same for the prompt's tokens. support: return the ids each token was drawn from.
    repetition_penalty divides positive and multiplies negative logits of tokens already in prompt or reply;
    presence_penalty and frequency_penalty are subtracted for tokens in the reply (once; per occurrence).
    constraint: the form of the whole reply (JSON schema, regex, choice). It ends where nothing more can follow.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    max_tokens: int = 128
    stop_ids: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    cutter: Cutter | None = None
    seed: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    support: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if self.stop_ids is not None:
            object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        for ok, what in self._rules():
            if not ok:
                raise UsageError(f"sampling: {what}")

    def _rules(self) -> list[tuple[bool, str]]:
        alternatives = (None, *range(MAX_ALTERNATIVES + 1))
        return [
            (_within(self.temperature, 0, 100), f"temperature {self.temperature} is not between 0 and 100"),
            (0 < self.top_p <= 1, f"top_p {self.top_p} is not in (0, 1]"),
            (self.top_k is None or self.top_k >= 1, f"top_k {self.top_k} is not positive"),
            (0 <= self.min_p <= 1, f"min_p {self.min_p} is not in [0, 1]"),
            (self.max_tokens >= 0, f"max_tokens {self.max_tokens} is negative"),
            (-(2**63) <= self.seed < 2**63, f"seed {self.seed} does not fit in 64 bits"),
            (self.logprobs in alternatives, f"logprobs {self.logprobs} is not 0 to {MAX_ALTERNATIVES}"),
            (self.prompt_logprobs in alternatives, f"prompt_logprobs is not 0 to {MAX_ALTERNATIVES}"),
            (_within(self.repetition_penalty, 0.01, 100), "repetition_penalty is not between 0.01 and 100"),
            (_within(self.presence_penalty, -100, 100), "presence_penalty is not between -100 and 100"),
            (_within(self.frequency_penalty, -100, 100), "frequency_penalty is not between -100 and 100"),
            (all(math.isfinite(b) for b in self.logit_bias.values()), "a logit_bias is not finite"),
            (len(self.stop) <= MAX_STOPS, f"{len(self.stop)} stop strings are more than {MAX_STOPS}"),
            (all(0 < len(s) <= MAX_STOP_LENGTH for s in self.stop), "a stop string is empty or too long"),
        ]

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def fork(self, index: int) -> Sampling:
        """The settings of the index-th of several replies: `fork(0)` is itself, others have other seeds."""
        return self if index == 0 else replace(self, seed=_mix(self.seed, index))


def _within(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


def _mix(seed: int, index: int) -> int:
    """A 63-bit seed from a seed and an index (one round of splitmix64)."""
    mask = 2**64 - 1
    z = (seed + 0x9E3779B97F4A7C15 * (index + 1)) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1
