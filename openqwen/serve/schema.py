"""What clients may send, as OpenAI's API has it: types and bounds of every field.

Ours. Unknown fields are ignored, as clients send many; known fields with values we cannot honour are refused.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from openqwen.code_qwen.stop import Rule
from openqwen.engine.constraint import Constraint
from openqwen.engine.sampling import MAX_STOP_LENGTH, MAX_STOPS, Sampling
from openqwen.model.config import Extension
from openqwen.serve.agents import Agentic
from openqwen.serve.body import Body
from openqwen.serve.form import Formed
from openqwen.serve.messages import ToolMessage
from openqwen.serve.tools import Tooled

MAX_N = 16
MAX_TOKENS = 2**20
MAX_TOP = 20
MAX_PROMPTS = 1024  # replies a request
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Id = Annotated[int, Field(ge=0, le=2**31)]
# A list of another kind is left at its first item: errors about millions of items cost seconds.
Ids = Annotated[list[Id], Field(fail_fast=True, max_length=MAX_TOKENS)]


class StreamOptions(Body):
    include_usage: bool = False


class ExtensionRequest(Body):
    """How this reply's context reaches beyond the training length (report §2.5); what is left out: as the checkpoint.

    A field of ours that OpenAI's API does not have.
    """

    model_config = ConfigDict(extra="forbid")  # a name misspelt would go unnoticed

    dynamic_ntk: bool | None = None
    logn: bool | None = None

    def over(self, own: Extension) -> Extension:
        """The checkpoint's extension with what is given here."""
        return own.model_copy(update=self.model_dump(exclude_none=True))


class Common(Formed):
    """What both endpoints share."""

    model: str | None = Field(None, max_length=1000)
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=1024)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = Field(None, ge=1, le=MAX_N)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    extension: ExtensionRequest | None = None

    @model_validator(mode="after")
    def _bias_names_ids(self) -> Common:
        if any(not key.isascii() or not key.isdigit() or len(key) > 10 for key in self.logit_bias or {}):
            raise ValueError("the keys of logit_bias are token ids")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(
        self,
        max_tokens: int,
        logprobs: int | None,
        constraint: Constraint | None,
        prompt_logprobs: int | None = None,
    ) -> Sampling:
        """The engine's settings; without a seed each request draws its own."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k if self.top_k and self.top_k > 0 else None,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "stop": self.stop,
        }
        return Sampling(
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            constraint=constraint,
            seed=secrets.randbits(62) if self.seed is None else self.seed,
            logit_bias={int(key): value for key, value in (self.logit_bias or {}).items()},
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )


class ChatRequest(Common, Tooled, Agentic):
    """POST /v1/chat/completions"""

    messages: list[ToolMessage] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Common):
    """POST /v1/completions"""

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True, max_length=MAX_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(fail_fast=True, max_length=MAX_PROMPTS)]
    )
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    best_of: int | None = Field(None, ge=1, le=1)
    # Ours: a completion of code ends where the line, block, function or file ends (code_qwen/stop.py).
    stop_rule: Rule | None = None
    language: str | None = Field(None, max_length=40)
    suffix: Literal[""] | None = None

    def prompts(self) -> list[str | list[int]]:
        """One entry a prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[i for i in self.prompt if isinstance(i, int)]]
        return [p for p in self.prompt if not isinstance(p, int)]


class TokenizeRequest(Tooled, Agentic):
    """POST /tokenize: a text, or a conversation rendered as the model sees it."""

    model: str | None = Field(None, max_length=1000)
    prompt: str | None = None
    messages: list[ToolMessage] | None = Field(None, min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(Body):
    """POST /detokenize"""

    model: str | None = Field(None, max_length=1000)
    tokens: Ids
