"""schemathesis, an outside reader of our OpenAPI document, sends what it allows and what it forbids: never a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.test_hostile import server_document

schemathesis = pytest.importorskip("schemathesis")
ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/compare"),
]


def test_the_document_has_no_other_routes(server):
    paths = server_document(server[0])["paths"]
    assert {(method.upper(), path) for path, item in paths.items() for method in item} == set(ROUTES)


CASES = [(method, path, "positive") for method, path in ROUTES]
CASES += [
    (method, path, "negative") for method, path in ROUTES if method == "POST"
]  # others take what they get


@pytest.mark.fault("server", "requests generated from the server's own document, valid and not", "no 5xx")
@pytest.mark.parametrize("examples", [30, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_no_request_makes_the_server_fail(server, method, path, mode, examples):
    operation = schemathesis.openapi.from_dict(server_document(server[0]))[path][method]
    kind = schemathesis.GenerationMode(mode)
    count = examples if method == "POST" else examples // 5
    check = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))

    @check
    @given(st.data())
    def no_fault(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=kind))
        if isinstance(case.body, dict) and case.body.get("max_tokens") is None:
            case.body["max_tokens"] = 2  # or each reply would be as long as the context
        reply = case.call(base_url=server[0])
        assert reply.status_code < 500, reply.text
        if reply.status_code != 200:
            _is_openai_error(reply.json())

    no_fault()


def _is_openai_error(content: dict[str, Any]) -> None:
    error = content["error"]
    assert isinstance(error["message"], str) and error["message"] and error["type"]
    assert {"param", "code"} <= error.keys()
