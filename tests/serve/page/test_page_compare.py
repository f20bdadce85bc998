"""What only our page shows: tokens with their probabilities, replies side by side with rewards, stored preferences."""

from __future__ import annotations

import json
import math
import re

import pytest

from openqwen.reward.data import read_pairs
from openqwen.serve.compare import FILE
from tests.serve.page.conftest import events, reply, say
from tests.serve.page.test_page_chat import button, limit


def records(preferences):
    path = preferences / FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_inspector_shows_the_probabilities_of_the_api(visit, client_of_site):
    page = visit()
    limit(page, 12, Seed=3)
    say(page, "Hello there")
    reply(page)
    button(page, "Inspect tokens").click()
    spans = page.locator("#log .token")
    assert spans.count() == 12
    messages = [{"role": "user", "content": "Hello there"}]
    same = client_of_site.chat.completions.create(
        model="tiny", messages=messages, max_tokens=12, seed=3, logprobs=True, top_logprobs=6
    )
    expected = same.choices[0].logprobs.content
    for i, token in enumerate(expected):
        spans.nth(i).hover()
        card = page.locator("#token-card")
        chosen = card.locator(".chosen .share").inner_text()
        assert float(chosen.strip("<% ")) == pytest.approx(100 * math.exp(token.logprob), rel=0.06, abs=0.01)
        shares = [float(text.strip("<% ")) for text in card.locator(".share").all_inner_texts()]
        assert len(shares) == 6 + (token.token not in [t.token for t in token.top_logprobs])
        assert shares[0] == pytest.approx(100 * math.exp(token.top_logprobs[0].logprob), rel=0.06, abs=0.01)
    page.mouse.move(5, 5)
    assert page.locator("#token-card").is_hidden()
    mean = -sum(token.logprob for token in expected) / 12
    assert f"12 tokens, perplexity {math.exp(mean):.2f}" in page.locator(".legend").inner_text()


def test_the_inspector_goes_by_keyboard_and_stays_when_the_page_is_opened_again(visit):
    page = visit()
    limit(page, 6)
    say(page, "Hello")
    reply(page)
    button(page, "Inspect tokens").press("Enter")
    tokens = page.locator("#log .token")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert tokens.nth(2).evaluate("(n) => n === document.activeElement")
    assert page.locator("#token-card").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#token-card").is_hidden()
    page.reload()
    page.locator("#list .open").click()
    button(page, "Inspect tokens of all replies").click()
    assert tokens.count() == 6


def test_nothing_is_recorded_when_that_is_switched_off(scripted):
    page = scripted(events("one"))
    sent = []
    page.on("request", lambda r: sent.append(r.post_data_json) if "completions" in r.url else None)
    button(page, "Settings").click()
    page.get_by_label("Record the probabilities of tokens").uncheck()
    button(page, "Close settings").click()
    say(page, "x")
    reply(page)
    assert "logprobs" not in sent[0] and button(page, "Inspect tokens").count() == 0


def test_side_by_side_with_rewards_and_a_stored_preference(visit, client_of_site, preferences, tokenizer):
    before = len(records(preferences))
    page = visit()
    limit(page, 20, Temperature=1, Seed=11)
    button(page, "Side by side").click()
    assert page.locator("#columns label").all_inner_texts() == ["tiny", "other"]
    say(page, "Which is better?")
    columns = page.locator("#log .column")
    columns.locator(".reward").nth(1).wait_for()
    assert columns.locator(".name").all_inner_texts() == ["tiny", "other"]
    rewards = [float(text.split()[1]) for text in columns.locator(".reward").all_inner_texts()]
    assert columns.locator(".reward.best").count() == (2 if rewards[0] == rewards[1] else 1)
    button(page, "Prefer this: other").dblclick()  # counts once
    columns.get_by_text("Preferred, stored").wait_for()
    assert page.locator(".prefer").count() == 0
    stored = records(preferences)[before:]
    assert len(stored) == 1
    record = stored[0]
    messages = [{"role": "user", "content": "Which is better?"}]
    for side, model, reward in (("rejected", "tiny", rewards[0]), ("chosen", "other", rewards[1])):
        same = client_of_site.chat.completions.create(
            model=model, messages=messages, max_tokens=20, seed=11, temperature=1
        )
        assert record[side] == same.choices[0].message.content
        assert record[f"{side}_model"] == model and round(record[f"{side}_score"], 2) == reward
    assert record["messages"] == messages and record["blind"] is False
    pairs = read_pairs(preferences / FILE, tokenizer, 700)
    assert not pairs.skipped and pairs.items[-1].chosen == record["chosen"]
    button(page, "Side by side").click()
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "And then?")  # goes on from the preferred reply
    assert request.value.post_data_json["messages"][1]["content"] == record["chosen"]


def test_a_blind_comparison_hides_names_and_scores(scripted, preferences):
    before = len(records(preferences))
    page = scripted(events("left"), events("right"))
    button(page, "Settings").click()
    page.get_by_label("Hide names and scores").check()
    button(page, "Close settings").click()
    button(page, "Side by side").click()
    say(page, "Blind?")
    names = page.locator("#log .column .name")
    names.nth(1).wait_for()
    reply(page)
    assert names.all_inner_texts() == ["Reply A", "Reply B"] and page.locator(".reward").count() == 0
    assert "tiny" not in page.locator("#log").inner_text()
    button(page, "Prefer this: Reply A").click()
    page.get_by_text("Preferred, stored").wait_for()
    assert sorted(names.all_inner_texts()) == ["other", "tiny"] and page.locator(".reward").count() == 2
    record = records(preferences)[before]
    assert record["blind"] and (record["chosen"], record["rejected"]) == ("left", "right")
    assert {record["chosen_model"], record["rejected_model"]} == {"tiny", "other"}


def test_one_model_is_asked_twice(visit):
    page = visit()
    limit(page, 16, Seed=5)
    button(page, "Side by side").click()
    page.locator("#columns").get_by_label("other").uncheck()
    say(page, "Twice")
    names = page.locator("#log .column .name")
    names.nth(1).wait_for()
    reply(page)
    assert names.all_inner_texts() == ["tiny A", "tiny B"]
    left, right = page.locator("#log .column > .text").all_inner_texts()
    assert left != right


@pytest.mark.parametrize("width", [1200, 390])
def test_columns_stand_beside_each_other(scripted, width):
    texts = [events(f"{word} " * 100) for word in ("left", "right", "new", "newer")]
    page = scripted(*texts, viewport={"width": width, "height": 800})
    button(page, "Side by side").click()
    say(page, "x")
    reply(page)
    left, right = (page.locator("#log .column").nth(i).bounding_box() for i in range(2))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    assert (right["x"] + right["width"] <= width) == (width == 1200)  # a phone scrolls to the second
    assert page.evaluate("() => document.getElementById('scroll').scrollWidth") <= width
    button(page, "Write again").first.click()
    page.get_by_text("newer newer").wait_for()
    reply(page)
    button(page, "Previous branch").click()
    page.get_by_text("left left").wait_for()
    assert page.locator("#log .column").count() == 2 and page.get_by_text("newer newer").count() == 0


def test_equal_replies_are_no_preference(scripted, preferences):
    before = len(records(preferences))
    page = scripted(events("same"), events("same"))
    button(page, "Side by side").click()
    say(page, "x")
    reply(page)
    page.locator(".prefer").first.click()
    assert page.locator(".toast").inner_text() == "Not stored: a choice needs two different replies"
    assert page.locator(".prefer").count() == 2 and len(records(preferences)) == before


def test_stop_stops_every_column(visit, site):
    page = visit()
    button(page, "Side by side").click()
    say(page, "Both for ever")
    page.wait_for_timeout(150)
    button(page, "Stop").click()
    reply(page)
    metas = page.locator("#log .meta").all_inner_texts()
    assert len(metas) == 2 and all("stopped" in text for text in metas)
    for service in site[1].all:
        for _ in range(100):  # the page says so as soon as it has asked for it
            if not service.engine.scheduler:
                break
            page.wait_for_timeout(50)
        assert not service.engine.scheduler


def test_a_server_with_nothing_to_compare_says_no_such_things(visit, start):
    with start() as (address, _):
        page = visit(address)
        limit(page, 4)
        button(page, "Side by side").click()
        assert page.locator("#columns").is_hidden()
        say(page, "x")
        page.locator(".prefer").nth(1).wait_for()
        assert re.fullmatch("Go on with this", page.locator(".prefer").first.inner_text())
        page.locator(".prefer").first.click()
        page.get_by_text("Chosen", exact=True).wait_for()
        assert page.locator(".reward").count() == 0


def test_a_server_with_a_key_asks_for_it(visit, start):
    with start(api_key="sesame") as (address, _):
        page = visit(address, locked=True)
        assert page.get_by_text("This server wants an API key").is_visible()
        page.get_by_role("button", name="Settings", exact=True).last.click()
        page.get_by_label("API key").fill("sesame")
        button(page, "Close settings").click()
        page.locator("#model option").first.wait_for(state="attached")
        limit(page, 3)
        say(page, "x")
        page.get_by_text("3 tokens").wait_for()
    assert visit.wrong and all("401" in text for text in visit.wrong)
    visit.wrong.clear()
