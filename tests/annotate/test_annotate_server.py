"""Items, the file of answers, and the annotation server through HTTP."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import annotate_study as study
import pytest
import tiny_artefacts as tiny
from annotate_study import answer_to, get, post, serving, write_samples
from fastapi.testclient import TestClient

from openqwen.annotate import sample
from openqwen.annotate.ballots import Answer, Ballots, Conflict, Mark
from openqwen.annotate.config import SampleConfig
from openqwen.annotate.instructions import FILE, LANGUAGES, TOPICS, select
from openqwen.annotate.items import MOST, Item, Items, read_items, turns
from openqwen.annotate.prompts import read_prompts
from openqwen.annotate.server import LONGEST, Booth, create_app, serve
from openqwen.core.config import resolve
from openqwen.core.errors import DataError, OpenQwenError, UsageError


@pytest.fixture
def items(tmp_path: Path) -> Items:
    return read_items(write_samples(tmp_path / "samples.jsonl"))


@pytest.fixture
def booth(items: Items, tmp_path: Path) -> Booth:
    return Booth(Ballots.start(tmp_path / "said.sqlite", items, 7), judges=2)


@pytest.fixture
def client(booth: Booth) -> TestClient:
    return TestClient(create_app(booth), base_url="http://127.0.0.1")


# ---- items -----------------------------------------------------------------------------------------------------
def test_what_sample_made_is_read(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    talks = [[{"role": "system", "content": ""}, {"role": "user", "content": text}] for text in "abc"]
    rows = [{"id": f"q{i}", "messages": talk} for i, talk in enumerate(talks)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {
        "prompts": prompts,
        "model-1": tiny.model_artefact(tmp_path / "one", 0),
        "model-2": tiny.model_artefact(tmp_path / "two", 1),
    }
    flags = {"max_tokens": 4, "temperatures": [1.0], "batch_size": 4}
    made = sample.run(resolve(SampleConfig, "sample", flags=flags, environ={}), inputs, tmp_path / "replies")
    found = read_items(made.path)
    assert [item.id for item in found.items] == ["q0", "q1", "q2"]
    for item in found.items:
        assert {reply["from"]["model"] for reply in item.replies} == {"one", "two"}
        assert {card.text for card in item.cards(0, "a")} == {reply["text"] for reply in item.replies}


def test_equal_replies_are_one_card_and_what_cannot_be_ranked_is_counted(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "?", "replies": {"x": "same", "y": "same", "z": "other"}},
        {"id": "b", "prompt": "??", "replies": {"x": "same", "y": "same"}},
        {"id": "c", "prompt": "???", "replies": {"x": "alone"}},
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_items(path)
    assert found.left_out == {"all replies are the same": 1, "fewer than two replies": 1}
    (item,) = found.items
    assert sorted(len(card.replies) for card in item.cards(0, "a")) == [1, 2]


@pytest.mark.parametrize(
    "row, said",
    [
        ({"id": "a", "prompt": "?"}, "replies"),
        ({"id": "a", "prompt": "?", "replies": {"x": 1}}, "replies"),
        ({"id": "a", "replies": {"x": "y"}}, "none of"),
        ({"id": "q0", "prompt": "?", "replies": {"x": "1", "y": "2"}}, "twice"),
    ],
)
def test_records_that_are_no_items_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write_samples(tmp_path / "in.jsonl", 1)
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=said) as error:
        read_items(path)
    assert error.value.where == f"{path}:2"


def test_models_take_turns_when_there_are_more_replies_than_keys() -> None:
    replies = [{"id": f"{m}{n}", "from": {"model": m}} for m in "abc" for n in range(5)]
    kept = [reply["id"] for reply in turns(replies)]
    assert kept == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"] and len(kept) == MOST


def test_orders_are_an_annotator_s_own_and_all_are_as_likely() -> None:
    replies = tuple({"id": m, "from": {"model": m}, "text": m} for m in "abc")
    item = Item({"id": "q"}, replies)
    seen = Counter("".join(c.text for c in item.cards(3, f"person {n}")) for n in range(1200))
    assert len(seen) == 6 and max(abs(count - 200) for count in seen.values()) < 5 * (200 * 5 / 6) ** 0.5
    assert item.cards(3, "anna") == item.cards(3, "anna")


# ---- instructions that come with the project -----------------------------------------------------------------------
def test_own_instructions_are_of_all_topics_half_chinese() -> None:
    prompts, skipped = read_prompts(FILE, 0.0)
    assert not skipped and len(prompts) == len(select()) == 150
    counts = Counter((record["task"], record["lang"]) for record in select())
    assert counts == {(topic, language): 15 for topic in TOPICS for language in LANGUAGES}
    assert {record["licence"] for record in select()} == {"CC0-1.0"}
    for record in select():
        chinese = any("\u4e00" <= c <= "\u9fff" for c in record["instruction"])
        assert chinese == (record["lang"] == "zh"), record["id"]
    with pytest.raises(UsageError, match="poetry"):
        select(topic="poetry")


# ---- the file of answers -------------------------------------------------------------------------------------------
def ranked(item: Item, *places: int) -> dict[str, Mark]:
    return {reply["id"]: Mark(place) for reply, place in zip(item.replies, places, strict=True)}


def test_an_answer_is_stored_once_and_the_last_one_counts(booth: Booth) -> None:
    ballots = booth.ballots
    item = ballots.study.items[0]
    first = Answer(item.id, "anna", ranked(item, 1, 2, 3), "why not")
    for _ in range(3):
        ballots.add("key-1", first)
    assert ballots.answers() == [first]
    with pytest.raises(Conflict):
        ballots.add("key-1", Answer(item.id, "anna", ranked(item, 1, 1, 1)))
    later = Answer(
        item.id, "anna", {"q0/small": Mark(2, 4, True, True), **dict(list(first.marks.items())[1:])}
    )
    ballots.add("key-2", later)
    assert Ballots(ballots.path).answers() == [later]
    assert ballots.answers("bo") == [] and ballots.counts() == {item.id: 1}


def test_a_file_belongs_to_its_items_and_seed(booth: Booth, items: Items, tmp_path: Path) -> None:
    path = booth.ballots.path
    assert Ballots.start(path, items, 7).study == booth.ballots.study
    with pytest.raises(DataError, match="another seed"):
        Ballots.start(path, items, 8)
    with pytest.raises(DataError, match="other instructions"):
        Ballots.start(path, Items(items.items[:2], {}), 7)
    with pytest.raises(DataError, match="no file of answers there"):
        Ballots(tmp_path / "nothing")
    (tmp_path / "text").write_text("no database, but a text that is long enough to be none " * 20)
    with pytest.raises(DataError, match="no file of answers"):
        Ballots.start(tmp_path / "text", items, 7)
    with pytest.raises(OpenQwenError, match="cannot be written"):
        Ballots.start(tmp_path / "nowhere" / "said.sqlite", items, 7)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as base:
        base.execute("CREATE TABLE mine (x)")
    with pytest.raises(DataError, match="no file of answers"):
        Ballots.start(tmp_path / "other.sqlite", items, 7)


def test_an_answer_that_fails_halfway_leaves_nothing(booth: Booth) -> None:
    item = booth.ballots.study.items[0]
    marks = {**ranked(item, 1, 2, 3), "a reply of nobody": Mark(1)}
    with pytest.raises(DataError, match="FOREIGN KEY"):
        booth.ballots.add("key", Answer(item.id, "anna", marks))
    assert booth.ballots.counts() == {}
    booth.ballots.add("key", Answer(item.id, "anna", ranked(item, 1, 2, 3)))
    assert booth.ballots.counts() == {item.id: 1}


# ---- the server ----------------------------------------------------------------------------------------------------
def test_a_whole_study_by_two_people(client: TestClient, booth: Booth) -> None:
    for name in ("anna", "bo"):
        seen = []
        while (reply := client.get("/next", params={"annotator": name}).json())["item"]:
            assert (reply["done"], reply["total"]) == (len(seen), 4)
            assert reply["before"] == (seen[-1] if seen else None)
            seen.append(reply["item"]["id"])
            body = answer_to(reply, name)
            assert client.post("/answer", json=body).json() == {"stored": body["key"]}
        assert sorted(seen) == ["q0", "q1", "q2", "q3"] and reply["before"] == seen[-1]
    late = client.get("/next", params={"annotator": "a third"}).json()
    assert late["item"] is None and late["total"] == 0  # two are enough
    assert booth.ballots.counts() == dict.fromkeys(seen, 2)


def test_places_reach_the_replies_that_were_shown(client: TestClient, booth: Booth) -> None:
    """Whoever always puts the best text first has put the large model first, however cards were ordered."""
    for name in ("anna", "bo"):
        while (reply := client.get("/next", params={"annotator": name}).json())["item"]:
            cards = {
                c["name"]: {"place": 3 - int(c["text"].split()[3]), "score": 5, "flags": ["broken"]}
                for c in reply["item"]["cards"]
            }
            assert client.post("/answer", json=answer_to(reply, name, cards=cards)).status_code == 200
    for answer in booth.ballots.answers():
        found = {reply.split("/")[1]: mark for reply, mark in answer.marks.items()}
        assert {model: mark.place for model, mark in found.items()} == {"small": 3, "middle": 2, "large": 1}
        assert set(found.values()) == {Mark(place, 5, True) for place in (1, 2, 3)}


@pytest.mark.fault("annotation", "an annotator looks for the models' names in the page", "they are not there")
def test_the_page_learns_no_model(client: TestClient) -> None:
    text = client.get("/next", params={"annotator": "anna"}).text
    assert not any(name in text for name in study.MODELS)


def test_an_answer_can_be_looked_at_and_changed(client: TestClient, booth: Booth) -> None:
    reply = client.get("/next", params={"annotator": "anna"}).json()
    client.post("/answer", json=answer_to(reply, "anna", comment="hm"))
    ask = {"annotator": "anna", "item": reply["item"]["id"]}
    again = client.get("/next", params=ask).json()
    assert again["item"]["cards"] == reply["item"]["cards"] and again["before"] is None
    assert again["item"]["answer"]["comment"] == "hm"
    assert [again["item"]["answer"]["cards"][c["name"]]["place"] for c in again["item"]["cards"]] == [1, 2, 3]
    equal = {card["name"]: {"place": 1} for card in again["item"]["cards"]}
    client.post("/answer", json=answer_to(again, "anna", cards=equal))
    (stored,) = booth.ballots.answers()
    assert {mark.place for mark in stored.marks.values()} == {1} and stored.comment == ""


@pytest.mark.fault("annotation", "many annotators at once, each answer sent twice", "each is stored once")
def test_annotators_at_once_and_every_answer_sent_twice(client: TestClient, booth: Booth) -> None:
    broken = []

    def work(name: str) -> None:
        try:
            while (reply := client.get("/next", params={"annotator": name}).json())["item"]:
                body = answer_to(reply, name)
                assert [client.post("/answer", json=body).status_code for _ in range(2)] == [200, 200]
        except Exception as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("anna", "bo")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not broken
    assert Counter(a.annotator for a in booth.ballots.answers()) == {"anna": 4, "bo": 4}
    with closing(sqlite3.connect(booth.ballots.path)) as base:
        assert base.execute("SELECT count(*) FROM answers").fetchone() == (8,)
        assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    "more, status",
    [
        ({"study": "other"}, 409),
        ({"item": "q99"}, 404),
        ({"cards": {"a": {"place": 1}, "b": {"place": 2}}}, 422),
        ({"cards": {}}, 422),
        ({"cards": None}, 422),
        ({"annotator": ""}, 422),
        ({"annotator": "a" * 81}, 422),
        ({"annotator": " a"}, 422),
        ({"key": "short"}, 422),
        ({"key": "x" * 20 + "'; DROP TABLE answers"}, 422),
        ({"comment": "x" * 4001}, 422),
        ({"more": 1}, 422),
        ({"comment": "x" * LONGEST}, 413),
    ],
)
def test_answers_that_are_refused(
    client: TestClient, booth: Booth, more: dict[str, Any], status: int
) -> None:
    reply = client.get("/next", params={"annotator": "anna"}).json()
    assert client.post("/answer", json={**answer_to(reply, "anna"), **more}).status_code == status
    assert booth.ballots.counts() == {}


@pytest.mark.parametrize(
    "said", [{"place": 0}, {"place": 10}, {"place": 1.5}, {"place": "1"}, {"place": True}, {},
             {"place": 1, "score": 11}, {"place": 1, "flags": ["rude"]}, {"place": 1, "more": 1}],
)  # fmt: skip
def test_marks_that_are_refused(client: TestClient, booth: Booth, said: dict[str, Any]) -> None:
    reply = client.get("/next", params={"annotator": "anna"}).json()
    cards = {card["name"]: said for card in reply["item"]["cards"]}
    assert client.post("/answer", json=answer_to(reply, "anna", cards=cards)).status_code == 422
    assert booth.ballots.counts() == {}


@pytest.mark.parametrize(
    "field, value, where",
    [
        ("comment", '"\\ud800"', "body.comment: "),
        ("annotator", '"\\udfff anna"', "body.annotator: "),
        ("item", '"q0\\ud800"', "body.item: "),
        ("\\ud83d", "1", "body: "),
        ("cards", '{"a": {"place": NaN}}', "body.cards.a.place: "),
        ("cards", '{"a": {"place": Infinity}}', "body.cards.a.place: "),
        ("cards", '{"\\ud800": {"place": -Infinity}}', "body.cards."),
    ],
)
def test_surrogates_and_nan_are_refused(
    client: TestClient, booth: Booth, field: str, value: str, where: str
) -> None:
    """JSON as Python reads it may hold half of a character and NaN; no reply can hold them, so none sends them back."""
    reply = client.get("/next", params={"annotator": "anna"}).json()
    given = {name: json.dumps(own) for name, own in answer_to(reply, "anna").items()} | {field: value}
    content = "{" + ", ".join(f'"{name}": {own}' for name, own in given.items()) + "}"
    headers = {"Content-Type": "application/json"}
    answer = client.post("/answer", content=content.encode(), headers=headers)
    assert answer.status_code == 422 and answer.json()["detail"].startswith(where)
    assert booth.ballots.counts() == {}


@pytest.mark.fault("annotation", "a foreign page or host name reaches the annotation server", "refused")
@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Host": "evil.example"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 422),
        ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_pages_elsewhere_are_kept_out(
    client: TestClient, booth: Booth, headers: dict[str, str], status: int
) -> None:
    """By another host name that leads here, by a form, or by a script of theirs."""
    reply = client.get("/next", params={"annotator": "anna"}).json()
    content = json.dumps(answer_to(reply, "anna"))
    given = {"Content-Type": "application/json", **headers}
    assert client.post("/answer", content=content, headers=given).status_code == status
    assert len(booth.ballots.answers()) == (status == 200)
    if status in (400, 403):
        assert client.get("/next", params={"annotator": "anna"}, headers=headers).status_code == status


def test_other_requests_that_are_refused(client: TestClient) -> None:
    assert (
        client.post("/answer", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422
    )
    assert client.post("/answer", content=iter([b"{}"])).status_code == 411  # a body without an end in sight
    assert client.get("/next").status_code == 422
    assert client.get("/next", params={"annotator": "a", "item": "q99"}).status_code == 404
    assert client.get("/answer").status_code == 405
    for path in ("/page/..%2Fserver.py", "/page/chat.js", "/page/nothing", "/nothing"):
        assert client.get(path).status_code == 404


def test_every_reply_forbids_what_is_not_the_page_s_own(client: TestClient) -> None:
    sources = [
        "/page/annotate.js",
        "/page/outbox.js",
        "/page/words.js",
        "/page/annotate.css",
        "/page/markdown.js",
    ]
    for path in ("/", *sources, "/next?annotator=a", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    own = [client.get(path).text for path in ("/", *sources[:-1])]
    assert not any("http://" in text or "https://" in text for text in own)
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link leads here


@pytest.mark.fault(
    "annotation",
    "the annotation server is killed after an answer",
    "what was confirmed is there, the next server goes on",
)
def test_what_was_confirmed_survives_a_kill_and_the_next_server_goes_on(tmp_path: Path) -> None:
    samples, db = write_samples(tmp_path / "samples.jsonl", 40), tmp_path / "said.sqlite"
    confirmed: list[str] = []
    with serving(samples, db) as (address, process):
        killer = threading.Timer(0.4, process.send_signal, (signal.SIGKILL,))
        pending: dict[str, Any] = {}
        try:
            killer_started = False
            while True:
                reply = get(address, "/next?annotator=anna")
                pending = answer_to(reply, "anna")
                if not killer_started:
                    killer.start()
                    killer_started = True
                assert post(address, pending) == 200
                confirmed.append(pending["item"])
                if reply["total"] == len(confirmed):
                    break
        except OSError:
            pass
    stored = [answer.item for answer in Ballots(db).answers()]
    assert confirmed and stored[: len(confirmed)] == confirmed and len(stored) <= len(confirmed) + 1
    with serving(samples, db) as (address, _):
        if pending["item"] not in confirmed:  # sent again, as the page does
            assert post(address, pending) == 200
            confirmed.append(pending["item"])
        reply = get(address, "/next?annotator=anna")
        assert reply["done"] == len(confirmed) and reply["before"] == confirmed[-1]
    assert [answer.item for answer in Ballots(db).answers()] == confirmed


def test_a_port_that_is_taken(booth: Booth) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="cannot serve"):
        serve(booth, taken.getsockname()[1])
