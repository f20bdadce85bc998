"""Constrained replies against what reads them: json and jsonschema, the re module, the list of choices."""

from __future__ import annotations

import json
import random
import re
import sys
import time

import jsonschema
import pytest
import torch

from openqwen.core.errors import MissingTool, UsageError
from openqwen.engine import Constraint, Engine, Sampling
from openqwen.engine.constraint import MAX_LENGTH
from openqwen.engine.guide import Grammars
from openqwen.tokenizer import Tokenizer

pytest.importorskip("llguidance")
# Tokens that begin or end inside a character, beside whole ones.
PIECES = (b"\xe7\xbb", b"\x88\xe4\xba", "终于".encode(), b'{"', b'":', b"true", b"  ", b"ab")
BYTES = [bytes([i]) for i in range(256)]
WORDS = Tokenizer({word: i for i, word in enumerate([*BYTES, *PIECES])}, encoder="tiktoken")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "ok": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["é", "终于", 3]}, "maxItems": 2},
    },
    "required": ["name", "ok", "tags"],
    "additionalProperties": False,
}


def constrained(model, tokenizer, constraint: Constraint, count: int = 12, **changes: object):
    sampling = Sampling(**{"max_tokens": 200, "seed": 3, "constraint": constraint, **changes})
    return Engine(model, tokenizer).generate(["x"] * count, sampling)


def test_json_fulfils_its_schema(model, tokenizer):
    seen = set()
    for reply in constrained(model, tokenizer, Constraint.json(SCHEMA), count=24):
        assert reply.finish_reason == "stop" and reply.stop is None
        jsonschema.validate(json.loads(reply.text), SCHEMA)
        seen.add(reply.text)
    assert len(seen) > 12


def test_without_a_schema_it_is_any_object(model, tokenizer):
    for reply in constrained(
        model, tokenizer, Constraint.json(), max_tokens=2000, logit_bias={ord("}"): 4.0}
    ):
        assert reply.finish_reason == "stop" and isinstance(json.loads(reply.text), dict)


def test_a_pattern_matches_the_whole_reply_and_options_are_met(model, tokenizer):
    pattern = "(?:ab|终)[0-9]{2,5}(?: é+)?"
    for reply in constrained(model, tokenizer, Constraint.regex(pattern)):
        assert reply.finish_reason == "stop" and re.fullmatch(pattern, reply.text)
    options = ["a", "ab", 'quote " and \\', "line\nline", "终于", "\0", "𝄞"]
    found = {
        reply.text for reply in constrained(model, tokenizer, Constraint.choice(options), 120, temperature=5)
    }
    assert found == set(options)


def test_greedy_and_truncated_draws_obey_too(model, tokenizer):
    for changes in ({"temperature": 0}, {"top_k": 3}, {"top_p": 0.05}, {"min_p": 0.9}, {"support": True}):
        for reply in constrained(model, tokenizer, Constraint.regex("[xyz]{30}"), 3, **changes):
            assert re.fullmatch("[xyz]{30}", reply.text)
            for ids in reply.support or []:
                assert set(ids.tolist()) <= {120, 121, 122}


@pytest.mark.fault("engine", "a constrained model wants control tokens inside", "they stand at the end only")
def test_control_tokens_stand_only_at_the_end_and_only_where_it_may_be(model, tokenizer):
    """Even a model that wants nothing else; the text of a control token is text."""
    wanted = dict.fromkeys(tokenizer.special.values(), 1e4)
    for reply in constrained(model, tokenizer, Constraint.regex("ab*"), 6, logit_bias=wanted):
        assert reply.ids[0] == ord("a") and reply.ids[1] in (
            tokenizer.eos_id,
            tokenizer.im_end_id,
            tokenizer.im_start_id,
        )
        assert len(reply.ids) == 2 and reply.text == "a" and reply.stop == reply.ids[1]
    reply = constrained(model, tokenizer, Constraint.regex(r"<\|im_end\|>{3}"), 1, logit_bias=wanted)[0]
    assert reply.ids == list(b"<|im_end|>>>") and reply.text == "<|im_end|>>>"
    endless = constrained(model, tokenizer, Constraint.regex("a*"), 1, logit_bias=wanted, stop_ids=())[0]
    assert endless.text == "a" * 200 and endless.finish_reason == "length"


@pytest.mark.parametrize("seed", range(12))
def test_tokens_of_any_bytes_stand_where_their_bytes_may(seed):
    """A walk at random through a vocabulary of halves of characters always ends in whole ones that fit."""
    draw = random.Random(seed)
    guide = Grammars(WORDS).start(Constraint.json(SCHEMA), {WORDS.im_end_id})
    ids: list[int] = []
    ended = False
    while not ended:
        allowed = guide.mask().nonzero()[:, 0].tolist()
        assert allowed and not set(allowed) & set(WORDS.special.values())
        ids.append(draw.choice(allowed))
        ended = guide.take(ids[-1])
    jsonschema.validate(json.loads(WORDS.decode(ids, errors="strict")), SCHEMA)


def test_a_mask_allows_exactly_what_the_pattern_can_go_on_with():
    guide = Grammars(WORDS).start(Constraint.regex("终(于|了)?"), {WORDS.im_end_id})
    text = b""
    whole = ("终".encode(), "终于".encode(), "终了".encode())
    for token in (WORDS.ranks[b"\xe7\xbb"], WORDS.ranks[b"\x88\xe4\xba"]):
        expected = [
            any(w.startswith(text + WORDS.token_bytes(i)) for w in whole) for i in range(WORDS.vocab_size)
        ]
        expected[WORDS.im_end_id] = text in whole
        assert guide.mask().tolist() == expected
        assert not guide.take(token)
        text += WORDS.token_bytes(token)


UNUSABLE = [
    ("regex", "(a"),
    ("regex", "(?=a)b"),
    ("regex", r"(a)\1"),
    ("regex", "(" * 5000 + "a" + ")" * 5000),
    ("regex", "a" * (MAX_LENGTH + 1)),
    ("json", {"enum": []}),
    ("json", False),
    ("json", {"allOf": [{"type": "string"}, {"type": "integer"}]}),
    ("json", {"type": "integer", "minimum": 5, "maximum": 3}),
    ("json", {"type": "strin"}),
    ("json", {"$ref": "#"}),
    ("json", {"$ref": "http://127.0.0.1:1/x"}),
    ("json", {"not": {"type": "string"}}),
    ("json", {"const": float}),
    ("json", {"enum": ["\ud800"]}),
    ("choice", []),
    ("choice", [""]),
    ("choice", "yes"),
]


@pytest.mark.parametrize(("kind", "given_"), UNUSABLE, ids=lambda x: str(x)[:25])
def test_what_cannot_be_used_is_said_at_once_and_the_engine_goes_on(model, tokenizer, kind, given_):
    engine, begun = Engine(model, tokenizer), time.process_time()
    with pytest.raises(UsageError):
        engine.submit("x", Sampling(constraint=getattr(Constraint, kind)(given_)))
    assert time.process_time() - begun < 2 and not engine.scheduler and not engine._requests


@pytest.mark.fault("engine", "a JSON schema is nested without end", "refused")
def test_a_schema_nested_without_end_is_refused(model, tokenizer):
    schema: dict = {"type": "integer"}
    for _ in range(900):
        schema = {"type": "array", "items": schema}
    with pytest.raises(UsageError):
        Engine(model, tokenizer).submit("x", Sampling(constraint=Constraint.json(schema)))


BOMBS = [
    "(a{1,1000}){1,1000}",
    "(x+x+)+y",
    "(a|a|aa)*b",
    "((a{1,99}){1,99}){1,99}",
    ".*a.{25}",
    "|".join("a" * i for i in range(400)),
]


@pytest.mark.fault("engine", "a regular expression explodes", "bounded time; other requests go on")
@pytest.mark.parametrize("pattern", BOMBS, ids=lambda x: x[:20])
def test_a_pattern_that_explodes_is_cut_off_in_bounded_time(model, tokenizer, pattern):
    """Either it can be used, or the request alone ends with an error; other requests go on."""
    engine, begun = Engine(model, tokenizer), time.process_time()
    sampling = Sampling(constraint=Constraint.regex(pattern), max_tokens=40, stop_ids=())
    bomb = engine.submit("x", sampling)
    other = engine.submit("x", Sampling(temperature=0, max_tokens=10, stop_ids=()))
    done = {}
    while engine.scheduler:
        done.update({u.request: u.completion for u in engine.step() if u.completion})
    assert len(done[other].ids) == 10
    assert done[bomb].finish_reason in ("stop", "length") or isinstance(done[bomb].error, UsageError)
    assert time.process_time() - begun < 5


@pytest.mark.fault(
    "engine", "a constraint grows too complex while it decodes", "that request alone ends, with the reason"
)
def test_one_that_grows_too_complex_ends_alone_with_the_reason(model, tokenizer, monkeypatch):
    monkeypatch.setattr("openqwen.engine.guide.LIMITS", {"max_lexer_states": 20, "step_lexer_fuel": 2000})
    engine = Engine(model, tokenizer)
    sampling = Sampling(constraint=Constraint.regex("([ab]*a[ab]{12}c|[ab]{30})"), max_tokens=60)
    request = engine.submit("x", sampling)
    other = engine.submit("x", Sampling(temperature=0, max_tokens=40, stop_ids=()))
    done = {}
    while engine.scheduler:
        done.update({u.request: u.completion for u in engine.step() if u.completion})
    assert done[request].finish_reason == "error" and "complex" in str(done[request].error)
    assert re.fullmatch("[ab]+", done[request].text) and len(done[other].ids) == 40
    with pytest.raises(UsageError, match="complex"):
        engine.generate(["x"], sampling)
    with pytest.raises(UsageError, match="complex"):
        list(engine.stream("x", sampling))


def test_what_others_used_up_of_a_limit_is_not_counted_against_a_reply(monkeypatch):
    """All replies of a constraint share what the library has worked out about it, 20,000 states as shipped."""
    monkeypatch.setattr("openqwen.engine.guide.LIMITS", {"max_lexer_states": 300})
    grammars, pattern = Grammars(WORDS), Constraint.regex("[ab]*a[ab]{12}c")
    for run in range(30):
        guide, draw = grammars.start(pattern, ()), random.Random(run)
        for _ in range(60):
            assert guide.failure() is None, run
            guide.take(WORDS.ranks[draw.choice([b"a", b"b"])])


def test_constraints_are_compiled_once_and_replies_do_not_share_their_place(model, tokenizer):
    engine = Engine(model, tokenizer)
    constraint = Constraint.regex("[ab]{5}c")
    assert engine.grammars.compile(constraint) is engine.grammars.compile(Constraint.regex("[ab]{5}c"))
    together = engine.generate(["x"] * 5, Sampling(constraint=constraint, seed=1))
    assert all(re.fullmatch("[ab]{5}c", reply.text) for reply in together)


def test_without_the_library_the_line_to_type_is_said(model, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingTool, match="constrain"):
        Engine(model, tokenizer).submit("x", Sampling(constraint=Constraint.json()))


def test_the_models_own_scores_stay_the_models(model, tokenizer):
    """Only the draw is constrained: logprobs are of the whole vocabulary."""
    reply = constrained(model, tokenizer, Constraint.regex("[xyz]{5}"), 1, logprobs=3)[0]
    with torch.no_grad():
        logp = torch.log_softmax(model(torch.tensor([reply.prompt_ids + reply.ids]))[0], -1)
    for i, score in enumerate(reply.scores):
        row = logp[len(reply.prompt_ids) - 1 + i, : tokenizer.vocab_size]
        assert score.logprob == pytest.approx(float(row[reply.ids[i]]), abs=1e-4)
        assert score.top[0][0] == int(row.argmax())
