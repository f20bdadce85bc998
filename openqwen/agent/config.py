"""Settings of the tool-use evaluations and of self-instruct. Torch-free.

Report §3.4 (ReAct over unseen tools, greedy; about 2000 conversations by self-instruct); the limits are ours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from openqwen.annotate.config import AskingConfig, RemoteConfig, checked_address
from openqwen.core.config import Config, Count, setting
from openqwen.sandbox.config import Limits


class JudgeConfig(Config):
    """A vision model that scores pictures, besides the rules."""

    address: str | None = setting(
        None,
        source="report §3.4",
        doc="an OpenAI-compatible vision model, ADDRESS#NAME; none: rules alone (the report asks Qwen-VL)",
    )
    remote: RemoteConfig = setting(RemoteConfig(), source="ours")
    max_tokens: int = setting(1000, source="ours", gt=0, doc="longest verdict")

    @field_validator("address")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        return None if address is None else checked_address(address)


class SetsConfig(Config):
    """The published sets in --data: which ones, and how far a conversation about one of their questions may go."""

    names: tuple[Literal["bfcl", "dabench", "matplotbench", "toolqa"], ...] = setting(
        ("bfcl", "dabench", "matplotbench", "toolqa"),
        source="ours",
        doc="sets to run, of those that are there",
    )
    max_steps: int = setting(5, source="ours", gt=0, doc="cells a conversation may run")
    max_repeats: int = setting(2, source="ours", gt=0, doc="times one cell may be run")
    max_tokens: Count = setting(512, source="ours", gt=0, doc="tokens the model may write in one step")
    max_observation: Count = setting(
        2000, source="ours", gt=0, doc="characters of a cell's output shown to it"
    )
    batch_size: int = setting(8, source="ours", gt=0, doc="conversations with an interpreter at once")
    instruction: Literal["simple", "expert"] = setting(
        "simple", source="ours", doc="MatPlotBench's wording; its paper scores the simple one"
    )
    interpreter: Limits = setting(Limits(seconds=60.0), source="ours")
    judge: JudgeConfig = setting(JudgeConfig(), source="ours")


class AgentEvalConfig(AskingConfig):
    """How many questions, and how far one conversation may go."""

    seed: int = setting(1, source="ours", doc="choice of items and bootstrap intervals")
    limit: Count | None = setting(
        None, source="ours", gt=0, doc="at most this many questions of each set or part; None: all"
    )
    max_steps: int = setting(4, source="ours", gt=0, doc="calls a conversation may make")
    max_tokens: Count = setting(96, source="ours", gt=0, doc="tokens the model may write in one step")
    max_observation: Count = setting(
        1000, source="ours", gt=0, doc="characters of a tool's result shown to it"
    )
    max_repeats: int = setting(
        2, source="ours", gt=0, doc="times one call may be made before it counts as a loop"
    )
    tool_seconds: float = setting(5.0, source="ours", gt=0, doc="time limit of one call of a tool")
    arithmetic: int = setting(
        40, source="ours", ge=0, doc="questions for the calculator asked with the interpreter and without"
    )
    interpreter: Limits = setting(Limits(), source="ours")
    batch_size: int = setting(64, source="ours", gt=0, doc="conversations generated together")
    sets: SetsConfig = setting(SetsConfig(), source="ours")


class SelfInstructConfig(AskingConfig):
    """New tool conversations made by the model itself from seeds."""

    rounds: int = setting(8, source="ours", ge=1, doc="each draws its examples from what was kept before it")
    queries: int = setting(64, source="ours", ge=1, doc="queries a round")
    target: Count | None = setting(
        2000, source="report §3.4", doc="end once so many conversations are kept; none: all rounds", ge=1
    )
    author: Literal["model", "rules"] = setting(
        "model",
        source="report §3.4",
        doc="who writes queries; rules: a seed's query with another seed's arguments",
    )
    examples: int = setting(4, source="ours", ge=1, doc="queries shown to the author")
    negatives: float = setting(0.2, source="ours", ge=0, le=1, doc="share of queries that need no tool")
    offered: int = setting(3, source="ours", ge=1, doc="with sources: tools offered at most")
    sources: tuple[str, ...] = setting(
        (), source="ours", doc="tools that really run, as openqwen agent --tools; none: the seeds' results"
    )
    temperature: float = setting(1.0, source="ours", ge=0, doc="of the author; conversations are greedy")
    top_p: float = setting(0.9, source="ours", gt=0, le=1)
    query_tokens: int = setting(64, source="ours", ge=1, doc="longest query")
    max_steps: int = setting(4, source="ours", gt=0, doc="calls a conversation may make")
    max_tokens: int = setting(256, source="ours", gt=0, doc="tokens the model may write in one step")
    max_observation: int = setting(1000, source="ours", gt=0, doc="characters of a result shown to the model")
    max_repeats: int = setting(2, source="ours", gt=0, doc="times one call may be made")
    tool_seconds: float = setting(5.0, source="ours", gt=0, doc="time limit of one call of a tool")
    similarity: float = setting(
        0.7, source="ours", gt=0, le=1, doc="Rouge-L to a query of the pool from which a query is a copy"
    )
    answer_recall: float = setting(
        0.5, source="ours", ge=0, le=1, doc="share of a short result's words that the answer must hold"
    )
    min_query: int = setting(4, source="ours", ge=1, doc="characters of the shortest query")
    max_query: int = setting(400, source="ours", ge=1, doc="characters of the longest query")


class AgentBenchConfig(AskingConfig):
    """The benchmarks in which a model writes Python: Tables 7, 8 and 9."""

    limit: Count | None = setting(None, source="ours", gt=0, doc="at most this many of each kind; None: all")
    max_steps: int = setting(3, source="ours", gt=0, doc="cells a conversation may run")
    max_repeats: int = setting(2, source="ours", gt=0, doc="times one cell may be run")
    max_tokens: int = setting(512, source="ours", gt=0, doc="tokens the model may write in one step")
    max_observation: int = setting(2000, source="ours", gt=0, doc="characters of a cell's output shown to it")
    interpreter: Limits = setting(Limits(seconds=30.0), source="ours")
    judge: JudgeConfig = setting(JudgeConfig(), source="ours")


class TalkConfig(Config):
    """How far an agent that people talk to may go with one question."""

    max_steps: int = setting(8, source="ours", gt=0, doc="calls an answer may make")
    max_repeats: int = setting(2, source="ours", gt=0, doc="times one call may be made")
    max_observation: Count = setting(
        2000, source="ours", gt=0, doc="characters of a tool's result that the model sees"
    )
    tool_seconds: float = setting(30.0, source="ours", gt=0, doc="time limit of one call of a tool")
    interpreter: Limits = setting(Limits(seconds=30.0, pictures=4, picture_bytes=1 << 20), source="ours")
