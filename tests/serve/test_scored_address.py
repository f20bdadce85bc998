"""A base model behind our own server, asked for benchmarks: the scores and continuations of the model itself."""

from __future__ import annotations

from typing import Any

import pytest

from openqwen.annotate.config import RemoteConfig
from openqwen.annotate.models import Remote
from openqwen.engine import Engine, Sampling
from openqwen.evals.remote import BYTES, remote_subject
from openqwen.tokenizer import Tokenizer

TEXTS = [("1 and 2 and", " 3"), ("1 and 2 and", " four"), ("你好，", "世界"), ("a", "bc"), ("Ω", " \n")]


def test_an_address_scores_and_continues_as_the_model_does(
    server: tuple[str, Any], twin: Engine, tokenizer: Tokenizer
) -> None:
    encode = BYTES.encode
    subject = remote_subject(Remote(f"{server[0]}/v1#tiny", RemoteConfig()), 4000, kind="base")
    found = subject.engine.loglikelihood([(encode(a), encode(b)) for a, b in TEXTS])
    (reply,) = subject.engine.generate([encode("1 and 2 and")], Sampling(temperature=0, max_tokens=7))
    expected = twin.loglikelihood([(tokenizer.encode(a), tokenizer.encode(b)) for a, b in TEXTS])
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    (own,) = twin.generate([tokenizer.encode("1 and 2 and")], Sampling(temperature=0, max_tokens=7))
    assert (reply.text, reply.finish_reason) == (own.text, "length")
