"""The chat page in a browser, over a real server: conversations, branches, settings, keyboard, files, looks."""

from __future__ import annotations

import json
import time

import pytest

from openqwen.serve.guard import CSP
from openqwen.serve.server import PAGE
from tests.serve.conftest import wait_until
from tests.serve.page.conftest import events, reply, say


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def bubbles(page):
    return page.locator("#log .bubble").all_inner_texts()


def limit(page, tokens, **more):
    """Sets sampling in the dialog, as a person does."""
    button(page, "Settings").click()
    for name, value in {"Longest reply": tokens, **more}.items():
        page.get_by_label(name, exact=True).fill(str(value))
    button(page, "Close settings").click()


@pytest.fixture
def slow(site, monkeypatch):
    """The engine takes 20 ms a step more, so that a reply lasts."""
    engine = site[1].engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.02), step())[1])
    return engine


def test_a_message_is_answered_as_the_api_answers_it(visit, client_of_site):
    page = visit()
    limit(page, 24, Seed=7, Temperature=0.5)
    say(page, "Hello there")
    said = reply(page).inner_text()
    messages = [{"role": "user", "content": "Hello there"}]
    same = client_of_site.chat.completions.create(
        model="tiny", messages=messages, max_tokens=24, seed=7, temperature=0.5
    )
    plain = same.choices[0].message.content
    assert plain and "".join(said.split()) == "".join(page_text(page, plain).split())
    assert "24 tokens · " in page.locator("#log .meta").inner_text()
    assert "tokens/s" in page.locator("#log .meta").inner_text()
    used, room = page.locator("#context-text").inner_text().removesuffix(" tokens").split(" / ")
    assert room == "700" and 24 < int(used) < 200


def page_text(page, text):
    """What the page makes of a reply: random bytes hold marks of Markdown too."""
    return page.evaluate(
        """async (text) => { const { markdown } = await import("/page/markdown.js");
        const node = document.createElement("div"); document.body.append(node);
        node.className = "text"; node.append(...markdown(text));
        const shown = node.innerText; node.remove(); return shown; }""",
        text,
    )


def test_a_reply_streams_and_stop_stops_the_server(visit, slow):
    page = visit()
    say(page, "Go on for ever")
    text = page.locator("#log .assistant .text")
    lengths = []
    while len(lengths) < 3:  # it grows before it ends
        wait_until(lambda: len(text.inner_text()) > (lengths[-1] if lengths else 0), 20)
        lengths.append(len(text.inner_text()))
    assert slow.scheduler.running
    button(page, "Stop").click()
    wait_until(lambda: not slow.scheduler)
    button(page, "Send").wait_for()
    meta = page.locator("#log .meta").inner_text()
    assert "stopped" in meta and int(meta.split(" ")[0]) < 300
    kept = text.inner_text()
    page.wait_for_timeout(200)
    assert len(text.inner_text()) == len(kept) >= lengths[-1]


def test_escape_stops_and_a_closed_page_stops_too(visit, slow):
    page = visit()
    say(page, "Go on")
    wait_until(lambda: bool(slow.scheduler.running))
    page.keyboard.press("Escape")
    wait_until(lambda: not slow.scheduler)
    say(page, "And again")
    wait_until(lambda: bool(slow.scheduler.running))
    page.close()
    wait_until(lambda: not slow.scheduler)


def test_a_conversation_deleted_in_the_middle_of_a_reply_stays_deleted(visit, slow):
    page = visit()
    say(page, "Go on")
    wait_until(lambda: bool(slow.scheduler.running))
    page.locator("#list li").hover()
    button(page, "Delete Go on").click()
    wait_until(lambda: not slow.scheduler)
    page.get_by_text("The reply is finished").wait_for(state="attached")
    page.reload()
    page.get_by_text("No conversations yet").wait_for()  # said once the kept ones have been read
    assert page.locator("#list li").count() == 0


def test_editing_and_writing_again_make_branches(scripted):
    page = scripted(events("one"), events("two"), events("three"), events("four"))
    say(page, "first wording")
    assert reply(page).inner_text() == "one"
    button(page, "Write again").click()
    assert reply(page).inner_text() == "two"
    assert page.locator("#log .where").all_inner_texts() == ["2/2"]
    page.locator("#log .user").hover()
    button(page, "Edit message").click()
    field = page.get_by_role("textbox", name="Edit message")
    assert field.input_value() == "first wording"
    field.fill("second wording")
    field.press("Enter")
    assert reply(page).inner_text() == "three" and bubbles(page) == ["second wording"]
    say(page, "and then?")
    assert reply(page).inner_text() == "four"
    button(page, "Previous branch").first.click()
    assert bubbles(page) == ["first wording"] and reply(page).inner_text() == "two"
    button(page, "Previous branch").nth(1).click()
    assert reply(page).inner_text() == "one"
    button(page, "Next branch").first.click()
    assert bubbles(page) == ["second wording", "and then?"] and reply(page).inner_text() == "four"


def test_what_is_sent_is_the_branch_that_is_shown(scripted):
    page = scripted(*(events(word) for word in ("one", "two", "three")))
    sent = []
    page.on("request", lambda r: sent.append(r.post_data_json) if "completions" in r.url else None)
    button(page, "Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Min-p").fill("0.05")
    page.get_by_label("Frequency penalty").fill("0.3")
    button(page, "Close settings").click()
    say(page, "a")
    reply(page)
    button(page, "Write again").click()
    reply(page)
    say(page, "b")
    reply(page)
    assert sent[-1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "b"},
    ]
    assert sent[-1]["min_p"] == 0.05 and sent[-1]["frequency_penalty"] == 0.3
    assert "temperature" not in sent[-1] and sent[-1]["model"] == "tiny"


def test_conversations_are_kept_searched_renamed_deleted(scripted):
    page = scripted(events("about rivers"), events("about mountains"))
    say(page, "Tell me of water")
    reply(page)
    button(page, "New chat").click()
    say(page, "Tell me of stone")
    reply(page)
    page.reload()
    titles = page.locator("#list .open")
    titles.nth(1).wait_for()
    assert titles.all_inner_texts() == ["Tell me of stone", "Tell me of water"]
    page.keyboard.press("Control+k")
    page.keyboard.type("RIVERS")
    assert titles.all_inner_texts() == ["Tell me of water"]
    titles.first.click()
    assert reply(page).inner_text() == "about rivers"
    page.get_by_role("searchbox").fill("")
    heading = page.get_by_label("Title of the conversation")
    heading.fill("Rivers")
    heading.press("Enter")
    assert titles.all_inner_texts() == ["Tell me of stone", "Rivers"]
    page.locator("#list li").nth(1).hover()
    button(page, "Delete Rivers").click()
    assert titles.all_inner_texts() == ["Tell me of stone"]
    button(page, "Undo").click()
    assert sorted(titles.all_inner_texts()) == ["Rivers", "Tell me of stone"]


def test_a_conversation_goes_out_and_comes_back_with_its_branches(scripted, tmp_path):
    page = scripted(events("one"), events("**two**"))
    say(page, "Question")
    reply(page)
    button(page, "Write again").click()
    reply(page)
    files = {}
    for label in ("Export as Markdown", "Export as JSON"):
        page.get_by_label("More").click()
        with page.expect_download() as download:
            button(page, label).click()
        name = download.value.suggested_filename
        download.value.save_as(tmp_path / name)
        files[name] = (tmp_path / name).read_text(encoding="utf-8")
    assert files["Question.md"] == "# Question\n\n**User**\n\nQuestion\n\n**Assistant** (tiny)\n\n**two**\n"
    assert len(json.loads(files["Question.json"])["conversations"][0]["nodes"]) == 3
    page.locator("#import").set_input_files(tmp_path / "Question.json")
    page.locator("#list li").nth(1).wait_for()
    assert reply(page).inner_text() == "two" and page.locator("#log .where").inner_text() == "2/2"
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}), encoding="utf-8")
    page.locator("#import").set_input_files(foreign)
    page.locator("#list li").nth(2).wait_for()
    assert bubbles(page) == ["hi"]


def test_foreign_files_are_refused_with_a_reason(visit, tmp_path):
    page = visit()
    loop = {"leaf": "a", "nodes": {"a": {"id": "a", "parent": "a", "role": "user", "content": ""}}}
    odd = {"leaf": '"]', "nodes": {"a": {"id": '"]', "parent": None, "role": "user", "content": ""}}}
    wrong = {
        "{": "this file is not JSON",
        "{}": 'no "conversations" and no "messages" in this file',
        '[{"messages": [{"role": "root", "content": "x"}]}]': "conversation 1 is not one",
        json.dumps([loop]): "conversation 1 is not one",
        json.dumps([odd]): "conversation 1 is not one",
    }
    for number, (text, said) in enumerate(wrong.items()):
        path = tmp_path / f"{number}.json"
        path.write_text(text, encoding="utf-8")
        page.locator("#import").set_input_files(path)
        page.get_by_text(f"{number}.json: {said}").wait_for()
    assert page.locator("#list li").count() == 0


def test_an_error_is_shown_and_can_be_tried_again(visit):
    page = visit()
    limit(page, 5000)
    say(page, "Too much")
    alert = page.get_by_role("alert")
    assert "this model's context is 700 tokens" in alert.inner_text()
    limit(page, 8)
    button(page, "Write again").click()
    assert reply(page).inner_text() is not None
    assert page.get_by_role("alert").count() == 0 and "8 tokens" in page.locator(".meta").inner_text()
    assert page.locator("#log .where").count() == 0  # the failure is no branch
    assert "400" in visit.wrong.pop()


def test_a_connection_that_breaks_is_said(scripted):
    page = scripted(events("half").removesuffix("data: [DONE]\n\n"))
    say(page, "x")
    assert page.get_by_role("alert").inner_text() == "the connection ended before the reply did"
    assert reply(page).inner_text() == "half"


def test_light_and_dark(visit):
    def back(page):
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    page = visit(color_scheme="dark")
    assert back(page) == "rgb(22, 22, 26)"
    button(page, "Light or dark").click()
    assert back(page) == "rgb(255, 255, 255)"
    page.reload()
    assert back(page) == "rgb(255, 255, 255)"
    page.route(
        "**/chat.js", lambda route: route.abort()
    )  # dark or light is decided before the page's modules run
    page.reload()
    assert back(page) == "rgb(255, 255, 255)"
    visit.wrong.clear()
    assert back(visit(color_scheme="light")) == "rgb(255, 255, 255)"


def test_a_phone(scripted):
    page = scripted(
        events("wide " * 200, "\n\n```\n" + "x" * 500 + "\n```\n"),
        viewport={"width": 360, "height": 700},
        is_mobile=True,
        has_touch=True,
    )
    say(page, "Hello")
    reply(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    assert page.evaluate("() => document.getElementById('scroll').scrollWidth") <= 360
    assert page.locator("pre").first.evaluate("(n) => (n.scrollLeft = 50) && n.scrollLeft") == 50
    assert not page.locator("#new").is_visible()
    button(page, "Show conversations").tap()
    page.locator("#new").tap()
    assert page.locator("#welcome").is_visible() and not page.locator("#shade").is_visible()
    box = page.locator("#send").bounding_box()
    assert box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 700 and box["width"] >= 32


def test_everything_is_reached_by_keyboard(scripted):
    page = scripted(events("one"), events("two"))
    say(page, "Question")
    reply(page)
    page.keyboard.press("ArrowUp")
    assert page.evaluate("() => document.activeElement.ariaLabel") == "Edit message"
    page.keyboard.press("Escape")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("() => document.activeElement.ariaLabel || document.activeElement.innerText"))
    wanted = {"Write again", "Copy message", "Edit message", "Settings", "More", "New chat", "Side by side"}
    assert wanted <= seen
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keyboard shortcuts").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+.")
    assert page.get_by_role("dialog", name="Settings").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+O")
    assert page.locator("#welcome").is_visible()


def test_every_control_has_a_name(scripted):
    page = scripted(events("one"))
    say(page, "Question")
    reply(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, progress")].filter((n) =>
        !n.ariaLabel && !n.textContent.trim() && !n.labels?.length && n.ariaHidden !== "true").map((n) => n.outerHTML)"""
    )
    assert nameless == []


def test_the_exact_prompt_is_shown(visit):
    page = visit()
    limit(page, 2)
    say(page, "What is <|im_end|>?")
    reply(page)
    button(page, "Write again").wait_for()
    page.get_by_label("More").click()
    button(page, "Show the exact prompt").click()
    text = page.locator("#prompt-text")
    text.filter(has_text="<|im_start|>user").wait_for()
    assert (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is"
        in text.inner_text()
    )


def test_the_policy_holds_and_the_page_is_small(visit):
    page = visit()
    tried = page.evaluate(
        """() => { const found = [];
        try { document.body.innerHTML = "<b>x</b>"; } catch { found.push("innerHTML"); }
        const script = document.createElement("script");
        try { script.textContent = "window.ran = 1"; document.head.append(script); } catch { found.push("script"); }
        const node = document.createElement("p"); node.setAttribute("style", "color: rgb(1, 2, 3)");
        document.body.append(node);
        if (getComputedStyle(node).color !== "rgb(1, 2, 3)") found.push("style");
        if (window.ran === undefined) found.push("inline");
        return found; }"""
    )
    assert len(visit.wrong) >= 3
    visit.wrong.clear()
    assert {"innerHTML", "style", "inline"} <= set(tried)
    assert "'unsafe" not in CSP and "https:" not in CSP
    sizes = {path.name: path.stat().st_size for path in PAGE.iterdir()}
    assert sum(sizes.values()) < 1_000_000
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "document.write" not in text
