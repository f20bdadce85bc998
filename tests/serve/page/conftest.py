"""A headless Chromium on the chat page of a server with two models, a reward model and a file of preferences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from pages import chromium, visits

from openqwen.engine import Engine
from openqwen.model.heads import ScalarModel
from openqwen.serve.compare import Preferences, Reward
from tests.serve.conftest import endless, running, tiny_model


@pytest.fixture(scope="module")  # not longer: while it lasts, this thread has a running event loop
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preferences")


@pytest.fixture(scope="session")
def site(model, tokenizer, preferences) -> Iterator[tuple[str, Any]]:
    """The address of the server and its service."""
    different = tiny_model()
    with torch.no_grad():
        different.embed.weight.copy_(different.embed.weight.flip(0))
    other = endless(Engine(different, tokenizer, 8, max_length=700))
    scorer = Reward(ScalarModel.from_qwen(model, seed=1), tokenizer)
    kept = Preferences(preferences)
    with running(model, tokenizer, also={"other": other}, reward=scorer, preferences=kept) as found:
        yield found


@pytest.fixture
def client_of_site(site) -> openai.OpenAI:
    return openai.OpenAI(base_url=site[0] + "/v1", api_key="none", max_retries=0)


@pytest.fixture
def visit(browser, site) -> Iterator[Callable[..., Any]]:
    """Opens the page in a fresh profile; at the end there must be no console error and no request elsewhere.

    A test that means one to happen takes it out of `visit.wrong`.
    """
    with visits(browser) as opened:

        def open_page(address: str = site[0], *, locked: bool = False, **settings: Any) -> Any:
            clipboard = ("clipboard-read", "clipboard-write")
            page = opened.open(address, also=("data:", "blob:"), permissions=clipboard, **settings)
            page.locator(".toast" if locked else "#model option").first.wait_for(state="attached")
            return page

        open_page.wrong = opened.wrong  # type: ignore[attr-defined]
        yield open_page


def events(*texts: str, **last: Any) -> str:
    """A streamed reply of these pieces, as the server writes it."""
    deltas: list[dict[str, Any]] = [{"content": text} for text in texts]
    return stream(*deltas, **last)


def stream(*deltas: dict[str, Any], finish: str = "stop") -> str:
    """A streamed reply of these deltas."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


@pytest.fixture
def scripted(visit) -> Callable[..., Any]:
    """The page with a model that says what the test says: bodies of event streams, one a request."""

    def open_page(*replies: str, **settings: Any) -> Any:
        page = visit(**settings)
        left = list(replies)
        page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(content_type="text/event-stream", body=left.pop(0)),
        )
        page.route("**/score", lambda route: route.fulfill(json={"scores": [0.5]}))
        return page

    return open_page


def say(page: Any, text: str) -> None:
    """Types a message and sends it."""
    box = page.get_by_role("textbox", name="Message", exact=True)
    box.fill(text)
    box.press("Enter")


def reply(page: Any, i: int = -1) -> Any:
    """The i-th reply's text, once it is whole."""
    page.get_by_role("button", name="Send", exact=True).wait_for()
    return page.locator("#log :is(.assistant, .column) > .text").nth(i)
