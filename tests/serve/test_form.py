"""Replies of a given form, through the official client; what goes wrong with one reaches its own client only."""

from __future__ import annotations

import concurrent.futures
import json
import re
import sys
import threading
from typing import Literal

import httpx
import jsonschema
import openai
import pydantic
import pytest

from openqwen.chat import chatml
from openqwen.engine import Constraint, Sampling
from openqwen.serve.server import MAX_COMPILING
from tests.serve.conftest import wait_until

pytest.importorskip("llguidance")
HELLO = [{"role": "user", "content": "Say something."}]
CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "tags": {"type": "array", "items": {"enum": ["é", "终于", 3]}, "maxItems": 2},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": SCHEMA}}
ENDING = {str(ord("}")): 4.0}  # a model of random weights would hardly ever end an object


def ask(client: openai.OpenAI, **changes: object):
    return client.chat.completions.create(
        **{"model": "tiny", "messages": HELLO, "max_tokens": 300, "seed": 3, **changes}
    )


def test_a_reply_fulfils_its_schema_and_is_the_engines(client, twin, tokenizer):
    reply = ask(client, response_format=FORMAT, n=3)
    prompt = chatml.render_prompt(HELLO, tokenizer)
    sampling = Sampling(seed=3, max_tokens=300, constraint=Constraint.json(SCHEMA))
    expected = twin.generate([prompt] * 3, sampling)
    for choice, own in zip(reply.choices, expected, strict=True):
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
        assert choice.finish_reason == "stop" and choice.message.content == own.text


def test_streamed_json_and_the_clients_own_parser(client):
    chunks = list(ask(client, response_format=FORMAT, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert chunks[-1].choices[0].finish_reason == "stop"

    class Answer(pydantic.BaseModel):
        colour: Literal["red", "green"]
        sure: bool

    parsed = client.chat.completions.parse(
        model="tiny", messages=HELLO, max_tokens=300, response_format=Answer
    )
    assert isinstance(parsed.choices[0].message.parsed, Answer)


def test_any_object_and_one_of_a_schema_beside_it(client):
    free = ask(client, response_format={"type": "json_object"}, max_tokens=600, logit_bias=ENDING)
    assert isinstance(json.loads(free.choices[0].message.content), dict)
    held = ask(client, response_format={"type": "json_object", "schema": SCHEMA})
    jsonschema.validate(json.loads(held.choices[0].message.content), SCHEMA)
    plain = ask(client, response_format={"type": "text"}, max_tokens=20)
    assert plain.choices[0].message.content == ask(client, max_tokens=20).choices[0].message.content


EXTRAS = [
    ({"structured_outputs": {"regex": "(ab){2,3}终"}}, "(ab){2,3}终"),
    ({"structured_outputs": {"choice": ["yes", "no 1"]}}, "yes|no 1"),
    ({"structured_outputs": {"json": {"enum": ["x", 7]}}}, '"x"|7'),
    ({"structured_outputs": {"json": '{"enum": ["x", 7]}'}}, '"x"|7'),
    ({"guided_regex": "[0-9]{4}"}, "[0-9]{4}"),
    ({"guided_choice": ["<|im_end|>"]}, re.escape("<|im_end|>")),
    ({"guided_json": {"type": "boolean"}}, "true|false"),
]


@pytest.mark.parametrize(("extra", "pattern"), EXTRAS)
def test_the_names_that_other_servers_gave_patterns_and_choices(client, extra, pattern):
    assert re.fullmatch(pattern, ask(client, extra_body=extra).choices[0].message.content)
    reply = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=60, extra_body=extra)
    assert all(re.fullmatch(pattern, choice.text) for choice in reply.choices)


def test_deltas_never_end_inside_a_character(client):
    """A byte a token: every character of the reply comes in several."""
    wanted = "终于é𝄞 ok 👩‍🚀"
    deltas = [
        chunk.choices[0].delta.content or ""
        for chunk in ask(client, extra_body={"guided_choice": [wanted]}, stream=True)
    ]
    assert "".join(deltas) == wanted and all(d in wanted and "\ufffd" not in d for d in deltas)
    cut = list(ask(client, extra_body={"guided_choice": [wanted]}, stream=True, max_tokens=4))
    assert [c.choices[0].delta.content for c in cut if c.choices[0].delta.content] == ["终", "\ufffd"]


BAD = [
    {"response_format": {"type": "xml"}},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}}},
    {"response_format": {"type": "json_object", "json_schema": {"name": "x", "schema": {}}}},
    {"response_format": {"type": "text", "schema": {}}},
    {"response_format": {"type": "json_object", "schema": {"$ref": "http://127.0.0.1:1/x"}}},
    {"response_format": {"type": "json_object", "schema": {"enum": []}}},
    {"guided_regex": "(a"},
    {"guided_regex": "(?=a)b"},
    {"guided_regex": "a" * 100_001},
    {"guided_choice": []},
    {"guided_choice": [""]},
    {"guided_json": "{"},
    {"guided_json": "[]"},
    {"guided_regex": "a", "guided_choice": ["a"]},
    {"guided_regex": "a", "response_format": {"type": "json_object"}},
    {"structured_outputs": {"grammar": "root ::= 'a'"}},
    {"guided_grammar": "root ::= 'a'"},
    {"grammar": "root ::= 'a'"},
    {"ebnf": "root ::= 'a'"},
    {"regex": "a"},
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: str(body)[:60])
def test_a_form_that_cannot_be_is_a_bad_request(server, body):
    for stream in (False, True):
        reply = httpx.post(server[0] + CHAT, json={"messages": HELLO, "stream": stream, **body})
        error = reply.json()["error"]
        assert reply.status_code == 400 and error["message"] and error["type"] == "invalid_request_error"


def test_a_form_that_grows_too_complex_ends_its_own_request_with_the_reason(start, monkeypatch):
    monkeypatch.setattr("openqwen.engine.guide.LIMITS", {"max_lexer_states": 40})
    extra = {"guided_regex": "[ab]*a[ab]{12}c", "temperature": 2, "logit_bias": {"99": -100}}
    with start() as (url, service):
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            other = pool.submit(lambda: ask(client, max_tokens=200))
            with pytest.raises(openai.BadRequestError, match="too complex"):
                ask(client, extra_body=extra, n=2)
            stream = ask(client, extra_body=extra, stream=True)
            seen: list[str] = []
            with pytest.raises(openai.APIError, match="too complex"):
                seen += [chunk.choices[0].delta.content for chunk in stream]
            assert other.result().usage.completion_tokens == 200
        raw = httpx.post(url + CHAT, json={"messages": HELLO, "stream": True, "seed": 3, **extra}).text
        *parts, last, end = raw.split("\n\n")
        assert len(parts) > 3 and all('"finish_reason":null' in part for part in parts) and end == ""
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "invalid_request_error"
        wait_until(lambda: service.worker._pending == 0)
        assert len(service.engine.scheduler) == 0


def test_neither_loop_nor_engine_waits_for_a_constraint_that_compiles(start, monkeypatch):
    with start() as (url, service):
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        grammars, go = service.engine.grammars, threading.Event()
        compile_ = grammars._matcher
        monkeypatch.setattr(grammars, "_matcher", lambda constraint: (go.wait(20), compile_(constraint))[1])
        with concurrent.futures.ThreadPoolExecutor(MAX_COMPILING) as pool:
            slow = [
                pool.submit(lambda i=i: ask(client, extra_body={"guided_choice": [f"slow {i}"]}))
                for i in range(MAX_COMPILING)
            ]
            wait_until(lambda: service._compiling == MAX_COMPILING)
            chunks = list(ask(client, stream=True, max_tokens=30, messages=HELLO))
            assert chunks[-1].choices[0].finish_reason == "length"
            with pytest.raises(openai.RateLimitError) as refused:
                ask(client, extra_body={"guided_choice": ["one too many"]})
            assert refused.value.response.headers["retry-after"]
            assert not any(reply.done() for reply in slow)
            go.set()
            texts = [reply.result().choices[0].message.content for reply in slow]
        assert texts == [f"slow {i}" for i in range(MAX_COMPILING)]
        assert service._compiling == 0


def test_without_the_library_the_client_is_told(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with start() as (url, _):
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match=r"llguidance.*constrain") as error:
            ask(client, response_format=FORMAT)
        assert error.value.code == "missing_tool"
        assert ask(client, max_tokens=3).usage.completion_tokens == 3
