"""The annotation page in a headless Chromium: what an annotator does, and what is kept when things break."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from annotate_study import serving, write_samples
from pages import chromium, visits

from openqwen.annotate.ballots import Ballots

HOSTILE = "**bold** <script>document.title='owned'</script><img src=x onerror=alert(1)> `code`"
TEXTS = {
    "small": f"{HOSTILE} {{}}",
    "middle": "Middle {}\n\n| a | b |\n| - | - |\n| 1 | 2 |",
    "large": "Large {}",
}


@pytest.fixture(scope="module")  # not longer: while it lasts, this thread has a running event loop
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples") / "in.jsonl", 4, TEXTS)


@pytest.fixture(scope="module")
def site(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Ballots]]:
    """The address of a server for all tests, each with an annotator of its own, and the file of answers."""
    db = tmp_path_factory.mktemp("answers") / "said.sqlite"
    with serving(samples, db, "--port", "0", "--judges", "99") as (address, _):
        yield address, Ballots(db)


@pytest.fixture
def visit(browser: Any, site: tuple[str, Ballots]) -> Iterator[Callable[..., Any]]:
    """Opens the page in a fresh profile; at the end there must be no console error and no request elsewhere.

    A test that means one to happen takes it out of `visit.wrong`.
    """
    with visits(browser) as opened:

        def open_page(annotator: str, address: str = site[0], **settings: Any) -> Any:
            path = f"/?annotator={annotator}" if annotator else "/"
            return opened.open(address, path, **{"locale": "en-GB", **settings})

        open_page.wrong = opened.wrong  # type: ignore[attr-defined]
        yield open_page


def card(page: Any, letter: str) -> Any:
    return page.get_by_role("listitem", name=f"Reply {letter}", exact=True)


def count(page: Any, text: str) -> None:
    page.locator("#count").get_by_text(text, exact=True).wait_for()


def places(page: Any) -> list[str]:
    """Of the replies as shown, "-" where there is none."""
    chosen = [item.locator("[role=radio][aria-checked=true]") for item in page.locator(".sheet").all()]
    return [found.inner_text() if found.count() else "-" for found in chosen]


def test_ranking_with_the_keyboard_alone(visit, site):
    page = visit("keys")
    count(page, "0 of 4")
    shown = page.locator(".sheet .text").all_inner_texts()
    page.keyboard.press("2")
    page.keyboard.press("1")
    assert page.get_by_role("button", name="Save and go on").is_disabled()
    page.keyboard.press("s")  # not yet: one has no place
    assert "1 without a place" in page.locator("#missing").inner_text()
    page.keyboard.press("2")
    assert places(page) == ["2", "1", "2"]
    page.keyboard.press("ArrowRight")  # from the last to the first
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("u")
    page.keyboard.press("c")
    page.keyboard.type("1s fine")  # letters are letters here
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    count(page, "1 of 4")
    (answer,) = site[1].answers("keys")
    item = site[1].item(answer.item)
    text_of = {r["id"]: r["text"] for r in item.replies}
    marks = sorted(answer.marks.items(), key=lambda entry: shown.index(next(
        s for s in shown if s.split()[0].strip("*") == text_of[entry[0]].split()[0].strip("*"))))  # fmt: skip
    assert [mark.place for _, mark in marks] == [2, 1, 2] and answer.comment == "1s fine"
    assert [(mark.broken, mark.unsafe) for _, mark in marks] == [(True, False), (False, True), (False, False)]
    assert places(page) == ["-", "-", "-"]


def test_ranking_with_the_mouse_to_the_end_and_back(visit, site):
    page = visit("mouse")
    for done in range(4):
        count(page, f"{done} of 4")
        for n, letter in enumerate("ABC", 1):
            card(page, letter).get_by_role("radio", name=str(n), exact=True).click()
        card(page, "B").get_by_label("Score of reply B").select_option("7")
        card(page, "C").get_by_role("button", name="Unsafe").click()
        page.get_by_role("button", name="Save and go on").click()
    count(page, "4 of 4")
    page.get_by_text("There is nothing left for you to rank").wait_for()
    for answer in site[1].answers("mouse"):
        assert sorted((m.place, m.score, m.unsafe) for m in answer.marks.values()) == [
            (1, None, False), (2, 7, False), (3, None, True),
        ]  # fmt: skip
    page.get_by_role("button", name="Previous").click()
    card(page, "A").wait_for()
    assert places(page) == ["1", "2", "3"]
    card(page, "A").get_by_role("radio", name="3", exact=True).click()
    page.get_by_role("button", name="Save and go on").click()
    page.get_by_text("There is nothing left for you to rank").wait_for()
    assert len(site[1].answers("mouse")) == 4
    assert sorted(m.place for m in site[1].answers("mouse")[-1].marks.values()) == [2, 3, 3]


@pytest.mark.fault("annotation", "a reply to be ranked holds scripts and markup", "shown as text")
def test_replies_are_rendered_and_stay_text(visit):
    page = visit("reader")
    count(page, "0 of 4")
    cards = page.locator("#cards")
    assert cards.locator("strong").inner_text() == "bold" and cards.locator("table td").count() == 2
    assert cards.locator("script, img").count() == 0 and "<script>document.title" in cards.inner_text()
    assert page.title() == "openqwen annotate"
    assert "small" not in page.content() and "large" not in page.content().replace("Large", "")


def test_a_page_opened_again_goes_on_with_what_was_begun(visit):
    page = visit("again")
    count(page, "0 of 4")
    shown = page.locator(".sheet .text").all_inner_texts()
    page.keyboard.press("3")
    page.keyboard.press("1")
    page.reload()
    count(page, "0 of 4")
    assert places(page) == ["3", "1", "-"] and page.locator(".sheet .text").all_inner_texts() == shown


@pytest.mark.fault(
    "annotation", "an annotator answers without a connection", "kept in the page, sent once it is back"
)
def test_an_answer_without_a_connection_is_kept_and_sent(visit, site):
    page = visit("offline")
    count(page, "0 of 4")
    for key in "123":
        page.keyboard.press(key)
    page.context.set_offline(True)
    page.keyboard.press("s")
    page.get_by_text("Not saved yet").wait_for()
    assert places(page) == ["1", "2", "3"] and site[1].answers("offline") == []  # the page has not moved on
    page.context.set_offline(False)
    count(page, "1 of 4")
    assert len(site[1].answers("offline")) == 1 and page.locator("#status").is_hidden()
    assert any("ERR_INTERNET_DISCONNECTED" in text for text in visit.wrong)
    visit.wrong[:] = [text for text in visit.wrong if "ERR_INTERNET_DISCONNECTED" not in text]


@pytest.mark.fault(
    "annotation", "the server is killed during an answer and the page is closed", "the answer is there once"
)
def test_a_server_killed_during_an_answer_and_a_page_closed_meanwhile(visit, samples, tmp_path):
    """The reply to the first sending is lost, the server dies, the page is closed: the answer is there, once."""
    db = tmp_path / "said.sqlite"
    with serving(samples, db) as (address, process):
        page = visit("anna", address)
        count(page, "0 of 4")
        page.route(
            "**/answer", lambda route: (route.fetch(), process.send_signal(signal.SIGKILL), route.abort())
        )
        for key in "111s":
            page.keyboard.press(key)
        page.get_by_text("Not saved yet").wait_for()
        assert len(Ballots(db).answers("anna")) == 1
        page.unroute("**/answer")
        page.close()
        process.wait()
    with serving(samples, db, "--port", address.rpartition(":")[2]) as (again, _):
        assert again == address
        page = page.context.new_page()
        page.goto(f"{address}/?annotator=anna")
        count(page, "1 of 4")
        assert (
            page.evaluate("Object.keys(localStorage).filter((name) => name.includes('answer/')).length") == 0
        )
    (answer,) = Ballots(db).answers("anna")
    assert {mark.place for mark in answer.marks.values()} == {1}
    visit.wrong[:] = [text for text in visit.wrong if "ERR_" not in text]


def test_an_answer_kept_by_a_closed_page_is_sent_by_the_next(visit, site):
    page = visit("closed")
    count(page, "0 of 4")
    page.route("**/answer", lambda route: route.abort())
    for key in "321s":
        page.keyboard.press(key)
    page.get_by_text("Not saved yet").wait_for()
    context = page.context
    page.close()
    assert site[1].answers("closed") == []
    page = context.new_page()
    page.goto(f"{site[0]}/?annotator=closed")
    count(page, "1 of 4")
    assert len(site[1].answers("closed")) == 1
    visit.wrong[:] = [text for text in visit.wrong if "ERR_FAILED" not in text]


def test_two_annotators_at_once_see_orders_of_their_own(visit, site):
    pages = {name: visit(name) for name in ("first", "second")}
    orders = {name: [] for name in pages}
    for done in range(4):
        for name, page in pages.items():
            count(page, f"{done} of 4")
            orders[name].append([text.split()[0] for text in page.locator(".sheet .text").all_inner_texts()])
        for page in pages.values():
            for key in "112s":
                page.keyboard.press(key)
    for name, page in pages.items():
        count(page, "4 of 4")
        assert len(site[1].answers(name)) == 4
    assert orders["first"] != orders["second"]


def test_chinese(visit):
    page = visit("zhang", locale="zh-CN")
    count(page, "0 / 4")
    assert page.get_by_role("heading", level=1).inner_text() == "哪个回答更好？"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.get_by_role("button", name="保存并继续").is_visible()
    page.keyboard.press("?")
    assert "按整体质量" in page.locator("#guide").inner_text()
    page.keyboard.press("1")
    page.keyboard.press("l")
    count(page, "0 of 4")
    assert places(page) == ["1", "-", "-"]  # what was said stays
    page.reload()
    count(page, "0 of 4")  # so does the language


def test_nobody_answers_without_a_name(visit, site):
    page = visit("")
    page.get_by_text("Enter your name").wait_for()
    assert page.locator("#item").is_hidden()
    page.get_by_label("Annotator").fill("late")
    page.keyboard.press("Enter")
    count(page, "0 of 4")
    card(page, "A").wait_for()


@pytest.mark.parametrize("scheme, light", [("light", True), ("dark", False)])
def test_light_and_dark(visit, scheme, light):
    page = visit(f"eyes-{scheme}", color_scheme=scheme)
    count(page, "0 of 4")
    script = """() => {
      const shade = (node, property) => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.fillStyle = getComputedStyle(node)[property];
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
        return (r + g + b) / 765;
      };
      const node = document.querySelector(".sheet");
      return [shade(node, "backgroundColor"), shade(node, "color")];
    }"""
    back, front = page.evaluate(script)
    assert (back > 0.9 and front < 0.2) if light else (back < 0.2 and front > 0.8)


def test_a_phone(visit):
    page = visit("phone", viewport={"width": 375, "height": 720}, has_touch=True, is_mobile=True)
    count(page, "0 of 4")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [page.locator(".sheet").nth(i).bounding_box() for i in range(3)]
    assert boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"] and {box["x"] for box in boxes} == {boxes[0]["x"]}
    for letter in "ABC":
        button = card(page, letter).get_by_role("radio", name="1", exact=True)
        size = button.bounding_box()
        assert size["width"] >= 44 and size["height"] >= 44
        button.tap()
    page.get_by_role("button", name="Save and go on").tap()
    count(page, "1 of 4")


def test_what_the_server_refuses_is_said_and_the_page_goes_on(visit, site):
    page = visit("refused")
    count(page, "0 of 4")
    refusal = {
        "status": 422,
        "content_type": "application/json",
        "body": json.dumps({"detail": "not like this"}),
    }
    page.route("**/answer", lambda route: route.fulfill(**refusal))
    for key in "123s":
        page.keyboard.press(key)
    page.get_by_text("The server refuses this answer: not like this").wait_for()
    page.unroute("**/answer")
    assert places(page) == ["1", "2", "3"]
    page.keyboard.press("s")
    count(page, "1 of 4")
    assert len(site[1].answers("refused")) == 1
    visit.wrong[:] = [text for text in visit.wrong if "422" not in text]
