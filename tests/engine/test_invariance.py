"""The promise of the engine: a request's tokens are those it gets alone, whatever else runs and whenever it comes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from functools import cache

import pytest

from openqwen.engine import Completion, Constraint, Engine, Sampling
from openqwen.model import Extension, ModelConfig
from openqwen.model.qwen import Qwen
from tests.engine.conftest import sharpened

SCHEDULES = {"calls": 110, "compiled": 40, "deterministic": 50, "int8 cache": 8}
WAYS: tuple[Extension | None, ...] = (
    None,  # as the checkpoint says: dynamic NTK and LogN
    Extension(windows=(9, 40)),
    Extension(),
    Extension(dynamic_ntk=True, logn=True, windows=(20, 90)),
)
SCHEMA = {
    "type": "object",
    "properties": {"名": {"enum": ["é", "終", 3]}, "n": {"type": "integer"}},
    "required": ["名", "n"],
    "additionalProperties": False,
}
CONSTRAINTS = (
    Constraint.json(SCHEMA),
    Constraint.regex("(yes|no, [a-z]{3,9})+!"),
    Constraint.choice(["Aha", "Ahoi", "终于"]),
)


@dataclasses.dataclass(frozen=True)
class Request:
    prompt: list[int]
    sampling: Sampling
    extension: Extension | None


def requests() -> list[Request]:
    """Every setting with every other now and then; beginnings in common, equal prompts (n > 1), long prompts."""
    draw = random.Random(8)
    texts = [[draw.randrange(256) for _ in range(draw.randint(1, 50))] for _ in range(36)]
    for i in range(0, 36, 3):
        texts[i] = texts[0][:40] * (1 + i % 2) + texts[i][:10]
    for i in range(5, 36, 6):  # to either side of the training length of 64
        texts[i] = (texts[i] * 80)[: draw.randint(55, 75)]
    made = []
    for i, text in enumerate(texts):
        sampling = Sampling(
            temperature=draw.choice([0.0, 0.7, 1.5]),
            top_p=draw.choice([1.0, 0.9]),
            top_k=draw.choice([None, None, 20]),
            min_p=draw.choice([0.0, 0.0, 0.1]),
            repetition_penalty=draw.choice([1.0, 1.0, 1.3]),
            presence_penalty=draw.choice([0.0, 0.0, 0.5]),
            logit_bias=draw.choice([{}, {}, {70: 3.0, 71: -9.0}]),
            logprobs=draw.choice([None, 2]),
            prompt_logprobs=1 if i % 9 == 4 else None,
            constraint=draw.choice(CONSTRAINTS) if i % 4 == 1 else None,
            stop=("e",) if i % 7 == 2 else (),
            stop_ids=None if i % 2 else (),
            max_tokens=draw.randint(0, 14),
            seed=i,
        )
        made.append(Request(text, sampling, WAYS[i % 4]))
        if i % 6 == 0:
            made.append(Request(text, sampling.fork(1), WAYS[i % 4]))
    return made


REQUESTS = requests()


@pytest.fixture(scope="module")
def small(tokenizer) -> Qwen:
    return sharpened(ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, ffn_size=64, max_length=64
    ))  # fmt: skip


@pytest.mark.fault(
    "engine", "arrivals, cancellations and cache hits in any order", "each request gets what it gets alone"
)
@pytest.mark.parametrize("arithmetic", SCHEDULES)
def test_any_schedule_gives_each_request_what_it_gets_alone(small, tokenizer, arithmetic):
    """Random arrivals, cancellations, chunk sizes, batch sizes and cache hits."""
    pytest.importorskip("llguidance")
    count = SCHEDULES[arithmetic]
    deterministic = arithmetic in ("deterministic", "int8 cache")
    ways = {
        "deterministic": deterministic,
        "compiled": arithmetic == "compiled",
        "cache": "int8" if arithmetic == "int8 cache" else None,
    }
    reference = Engine(small, tokenizer, **ways)

    @cache
    def alone(i: int) -> Completion:
        request = REQUESTS[i]
        return reference.generate([request.prompt], [request.sampling], extension=request.extension)[0]

    reused = cancelled = 0
    for seed in range(count):
        made = Engine(small, tokenizer, 1 + seed % 7, **ways)
        for i, reply in schedule(made, seed):
            expected, where = alone(i), f"schedule {seed}, request {i}"
            length = len(reply.ids)
            if reply.finish_reason == "cancelled":
                assert reply.ids == expected.ids[:length], where
                cancelled += 1
            else:
                assert same(reply) == same(expected), where
            if deterministic:  # bit for bit
                assert reply.logprobs == expected.logprobs[:length], where
                assert (reply.scores or []) == (expected.scores or [])[:length], where
                if reply.prompt_scores:
                    assert reply.prompt_scores == (expected.prompt_scores or [])[: len(reply.prompt_scores)]
            reused += reply.reused
    assert reused > count and cancelled >= count // 10


def same(reply: Completion) -> tuple:
    return reply.ids, reply.text, reply.finish_reason, reply.stop


def schedule(engine: Engine, seed: int) -> Iterator[tuple[int, Completion]]:
    """Some of the requests in a random order at random times."""
    draw = random.Random(seed)
    waiting = draw.sample(range(len(REQUESTS)), 7)
    numbers: dict[int, int] = {}
    while waiting or engine.scheduler:
        engine.scheduler.budget = draw.choice([1, 5, 17, 64, 500])
        for _ in range(draw.randint(0, 4)):
            if waiting:
                i = waiting.pop()
                request = REQUESTS[i]
                stream = draw.random() < 0.5
                number = engine.submit(
                    request.prompt, request.sampling, stream=stream, extension=request.extension
                )
                numbers[number] = i
        if numbers and draw.random() < 0.02:
            number = draw.choice(list(numbers))
            if (ended := engine.cancel(number)) is not None:
                yield numbers[number], ended
        for update in engine.step():
            if update.completion is not None:
                yield numbers[update.request], update.completion
