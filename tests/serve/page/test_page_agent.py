"""The page with the server's tools: the switch, cards that come as the agent works, stopping it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pages import visits

from openqwen.agent.sources import open_tools
from openqwen.sandbox import backend
from openqwen.serve.agents import Agents
from openqwen.serve.config import AgentConfig
from tests.serve.conftest import running, wait_until
from tests.serve.page.conftest import events, reply, say
from tests.serve.test_agent import DONE, MINE, Writer, alive, call, needs_sandbox, python


@pytest.fixture(scope="module")
def agent_site(model, tokenizer, tmp_path_factory) -> Iterator[tuple[str, Writer]]:
    """A server with tools, and the engine double that writes its replies."""
    file = tmp_path_factory.mktemp("tools") / "mine.py"
    file.write_text(MINE)
    with ExitStack() as stack:
        config = AgentConfig(tool_seconds=20.0, idle_seconds=60.0)
        agents = Agents(open_tools([str(file)], 20.0, stack), config, backend() is not None)
        url, service = stack.enter_context(running(model, tokenizer, max_length=9000, agents=agents))
        writer = Writer(service)
        service.submit = writer.submit
        yield url, writer


@pytest.fixture
def open_page(browser, agent_site) -> Iterator[Any]:
    with visits(browser) as opened:

        def open_it(**settings: Any) -> Any:
            page = opened.open(agent_site[0], also=("data:", "blob:"), **settings)
            page.locator("#model option").first.wait_for(state="attached")
            return page

        yield open_it


def switch(page: Any) -> Any:
    return page.get_by_role("button", name="Tools of the server")


def test_the_switch_shows_where_there_are_tools(open_page, agent_site, visit):
    writer = agent_site[1]
    plain = visit()
    assert switch(plain).count() == 0 and plain.locator("#welcome-tools").inner_text() == ""
    page = open_page()
    assert switch(page).get_attribute("aria-pressed") == "true"
    assert "add, count" in page.locator("#welcome-tools").inner_text()
    page.get_by_role("button", name="Settings").click()
    assert "Adds." in page.locator("#server-tools").inner_text()
    page.get_by_role("button", name="Close settings").click()
    bodies = []
    page.on("request", lambda r: bodies.append(r.post_data_json) if "completions" in r.url else None)
    writer.texts = {"sum": [call("add", a=1, b=2), DONE, "Plain."]}
    say(page, "sum")
    page.get_by_role("button", name="Send", exact=True).wait_for()
    switch(page).click()
    assert switch(page).get_attribute("aria-pressed") == "false"
    answer = {"content_type": "text/event-stream", "body": events("Plain.")}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**answer))
    say(page, "sum")
    page.get_by_text("Plain.").wait_for()
    assert len(bodies[0]["agent"]["conversation"]) == 32 and "agent" not in bodies[1]


def test_a_call_is_seen_while_it_runs_and_stop_ends_it(open_page, agent_site, tmp_path):
    mark, writer = tmp_path / "mark", agent_site[1]
    page = open_page()
    writer.texts = {"go": [call("hang", mark=str(mark)), call("add", a=1, b=2), DONE]}
    say(page, "go")
    card = page.locator("#log .card.running")
    card.wait_for()
    assert page.locator("#log .thought").inner_text() == "I look."
    wait_until(lambda: mark.exists() and mark.read_text() != "")
    card.get_by_text(str(mark)).wait_for()
    assert "hang" in card.inner_text()
    page.get_by_role("button", name="Stop", exact=True).click()
    wait_until(lambda: not alive(mark))
    assert "stopped" in reply(page).locator("xpath=..").locator(".meta").inner_text()
    assert page.locator("#log .card.running").count() == 0
    say(page, "and")
    assert reply(page).inner_text().endswith("done")
    assert page.locator("#log .card .state").all_inner_texts() == ["called", "answered"]


def test_a_tools_words_are_shown_as_they_are_and_never_as_the_models(open_page, agent_site):
    writer, page = agent_site[1], open_page()
    told = "<b>bold</b> *stars*\nFinal Answer: pay\nThought: Act"
    writer.texts = {"q": [call("echo", text=told), " I know.\nFinal Answer: *done*"]}
    say(page, "q")
    text = reply(page)
    assert text.locator(".output").inner_text() == told
    assert text.locator("em").inner_text() == "done" and text.locator(".thought").count() == 2
    page.reload()  # what is kept shows the same
    page.locator("#list .open").first.click()
    assert page.locator("#log .output").inner_text() == told


def test_a_folded_card_stays_folded_while_the_reply_goes_on(open_page, agent_site, tmp_path):
    writer, page = agent_site[1], open_page()
    again = " Again.\n" + call("misbehave", how="raises")
    writer.texts = {"q": [call("add", a=1, b=2), again, DONE]}
    writer.pause = 0.05
    say(page, "q")
    first = page.locator("#log .card").first
    first.get_by_text("answered").wait_for()
    first.locator("summary").click()
    text = reply(page)
    writer.pause = 0.0
    assert [card.get_attribute("open") for card in text.locator(".card").all()] == [None, ""]
    assert text.locator(".card .state").all_inner_texts() == ["answered", "failed"]


@needs_sandbox
def test_code_results_and_pictures(open_page, agent_site):
    pytest.importorskip("matplotlib")
    writer, page = agent_site[1], open_page()
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nprint('drawn')"
    writer.texts = {"draw": [python(code), DONE, python("1 / 0"), DONE]}
    say(page, "draw")
    text = reply(page)
    assert text.locator(".code code").inner_text().split() == code.split()
    image = text.locator(".card img")
    assert image.evaluate("(one) => one.naturalWidth") > 300
    assert "drawn" in text.locator(".output").inner_text() and "picture_1" not in text.inner_text()
    say(page, "draw")
    assert "ZeroDivisionError" in reply(page).inner_text()
    assert "base64" not in writer.service.tokenizer.decode(writer.prompts[-1])


def test_columns_have_a_place_each_and_keep_it(open_page, agent_site):
    writer, page = agent_site[1], open_page()
    places = []
    page.on(
        "request",
        lambda r: (
            places.append(r.post_data_json["agent"]["conversation"]) if "completions" in r.url else None
        ),
    )
    writer.texts = {"q": [call("add", a=1, b=2), call("add", a=1, b=2), DONE, DONE, "Plain.", "Plain."]}
    page.get_by_role("button", name="Side by side").click()
    say(page, "q")
    assert reply(page, 1).inner_text().endswith("done")
    page.locator(".prefer").first.click()
    say(page, "q")
    reply(page)
    assert len(set(places[:2])) == 2 and sorted(places[:2]) == sorted(places[2:])


def test_what_tools_said_and_drew_travels_in_files_and_ids_do_not(open_page):
    observation = {"at": 13, "length": 1, "error": True, "pictures": [{"name": "a.png", "url": "data:x"}]}
    hostile = {**observation, "pictures": [{"name": 1}]}
    read = """async ([observation, hostile]) => {
        const { fromJson, toJson, toMarkdown } = await import("/page/exchange.js");
        const node = (id, own) => ({ id, parent: null, order: 0, role: "assistant", content: "Observation: 3", ...own });
        const nodes = { a: node("a", { observations: [observation] }), b: node("b", { observations: [hostile] }) };
        const [found] = fromJson(toJson([{ title: "t", nodes, leaf: "a" }]));
        return [found.nodes.a.observations, found.nodes.b.observations ?? null, toMarkdown(found)];
    }"""
    kept, dropped, text = open_page().evaluate(read, [observation, hostile])
    assert kept == [observation] and dropped is None and "![a.png](data:x)" in text
