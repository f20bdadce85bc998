"""Review by people: the sample, the judgements, what follows from them, and the page."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from shard_bench import resolved

from openqwen.cli import main
from openqwen.core.artifact import Artifact
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.core.intervals import wilson
from openqwen.data.account import Account, Place
from openqwen.data.config import DataConfig
from openqwen.data.review.compare import compare
from openqwen.data.review.estimate import Counts, agreement, summary, weighted
from openqwen.data.review.judgements import Judgement, Judgements
from openqwen.data.review.sample import queue, random_numbers, strata
from openqwen.data.review.server import SHOWN, Desk, create_app, serve, shortened
from openqwen.data.stage import run

CHROMIUM = shutil.which("chromium")
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> & &lt;b&gt;"


# ---- the sample ------------------------------------------------------------------------------------------------
def test_strata_are_all_documents_once_and_their_samples_are_as_asked(in_process: Artifact) -> None:
    account = Account(in_process)
    found = strata(account, 5, 7, 0)
    rows = [row for table in account.tables(["step", "reason", "source"]) for row in table.to_pylist()]
    sizes = Counter((r["step"], r["source"] if r["step"] is None else r["reason"]) for r in rows)
    assert {(s.step, s.label): s.size for s in found} == sizes
    for s in found:
        assert len(s.sample) == len(set(s.sample)) == min(s.size, 7 if s.step is None else 5)
        for place in s.sample:
            row = account.verdict(place)
            assert (row["step"], row["source"] if s.step is None else row["reason"]) == (s.step, s.label)
    assert [s.step for s in found] == sorted(
        (s.step for s in found), key=lambda x: account.steps.index(x) if x else 99
    )


def test_the_sample_is_the_seed_s_and_grows_without_losing_any(in_process: Artifact) -> None:
    account = Account(in_process)
    small, again, large, other = (strata(account, n, n, seed) for n, seed in ((4, 1), (4, 1), (9, 1), (4, 2)))
    assert [s.sample for s in small] == [s.sample for s in again] != [s.sample for s in other]
    for few, many in zip(small, large):
        assert many.sample[: len(few.sample)] == few.sample


def test_every_document_is_as_likely_as_any_other() -> None:
    rows, hits = np.arange(40), np.zeros(40)
    for seed in range(2000):
        hits[np.argsort(random_numbers(3, rows, seed))[:8]] += 1
    assert abs(hits - 400).max() < 5 * (2000 * 0.2 * 0.8) ** 0.5


def test_whoever_stops_early_has_seen_all_strata_alike(in_process: Artifact) -> None:
    found = strata(Account(in_process), 20, 20, 0)
    order = queue(found)
    assert sorted(order) == sorted(place for s in found for place in s.sample)
    half = set(order[: len(order) // 2])
    for s in found:
        assert abs(len(half.intersection(s.sample)) - len(s.sample) / 2) <= 1


# ---- judgements ------------------------------------------------------------------------------------------------
def test_judgements_of_several_people_and_undo(tmp_path: Path) -> None:
    said = Judgements(tmp_path / "said.sqlite", "c")
    said.judge(Place(0, 1), "anna", "keep")
    said.judge(Place(0, 1), "bo", "drop")
    said.judge(Place(0, 2), "anna", "skip")
    said.judge(Place(0, 1), "anna", "drop")  # a second thought
    expected = [("bo", 1, "drop"), ("anna", 2, "skip"), ("anna", 1, "drop")]
    assert [(j.reviewer, j.place.row, j.verdict) for j in Judgements(said.path, "c").all()] == expected
    assert said.undo("anna") == Place(0, 1)
    assert {(j.reviewer, j.place.row, j.verdict) for j in said.all()} == {
        ("anna", 1, "keep"), ("bo", 1, "drop"), ("anna", 2, "skip"),
    }  # fmt: skip
    assert [said.undo("anna"), said.undo("anna"), said.undo("anna")] == [Place(0, 2), Place(0, 1), None]
    assert [j.reviewer for j in said.all()] == ["bo"]


def test_judgements_belong_to_one_corpus(tmp_path: Path) -> None:
    Judgements(tmp_path / "said.sqlite", "one")
    with pytest.raises(DataError, match="another corpus"):
        Judgements(tmp_path / "said.sqlite", "two")
    (tmp_path / "text").write_text("no database, but a text that is long enough to be none " * 20)
    with pytest.raises(DataError, match="no file of judgements"):
        Judgements(tmp_path / "text", "one")
    with pytest.raises(OpenQwenError, match="cannot be written"):
        Judgements(tmp_path / "nowhere" / "said.sqlite", "one")


@pytest.mark.fault("data", "the review server is killed after an answer", "the judgement is there")
def test_what_was_answered_for_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from openqwen.data.account import Place\n"
        "from openqwen.data.review.judgements import Judgements\n"
        "said = Judgements(Path(sys.argv[1]), 'c')\n"
        "for row in range(10**9): said.judge(Place(0, row), 'anna', 'keep'); print(row, flush=True)\n"
    )
    path = tmp_path / "said.sqlite"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 30:
        pass
    process.send_signal(signal.SIGKILL)
    answered = 31 + len(process.stdout.read().splitlines())
    process.wait()
    rows = [j.place.row for j in Judgements(path, "c").all()]
    assert rows == list(range(len(rows))) and len(rows) in (answered, answered + 1)


def test_many_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "said.sqlite"
    Judgements(path, "c")

    def work(name: str) -> None:
        own = Judgements(path, "c")
        for row in range(25):
            own.judge(Place(0, row), name, "drop")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(j.reviewer for j in Judgements(path, "c").all()) == dict.fromkeys("abcd", 25)


# ---- estimates -------------------------------------------------------------------------------------------------
def test_one_stratum_is_wilson_s_interval() -> None:
    found = weighted("x", [Counts(10**9, 50, 41)])
    assert (found.share, found.covered, found.judged) == (0.82, 1.0, 50)
    assert (found.low, found.high) == pytest.approx(wilson(41, 50), abs=2e-4)


def test_strata_are_weighted_by_their_sizes() -> None:
    """900 documents of which one in ten is bad and 100 of which all are: 19 %, however many of each are judged."""
    found = weighted("x", [Counts(900, 20, 2), Counts(100, 80, 80)])
    assert found.share == pytest.approx(0.19)
    half = weighted("x", [Counts(900, 20, 2), Counts(100)])
    assert (half.share, half.covered) == (0.1, 0.9)
    assert weighted("x", [Counts(5)]).share is None


def test_whoever_judged_all_knows() -> None:
    found = weighted("x", [Counts(4, 4, 1), Counts(1, 1, 1)])
    assert found.low == found.share == found.high == 0.4


@pytest.mark.parametrize(
    "sizes, bad, judged",
    [
        ((10_000, 200), (0.1, 0.9), (20, 20)),
        ((5_000, 5_000, 50), (0.02, 0.4, 1.0), (50, 20, 10)),
        ((300,) * 6, (0.05, 0.95, 0.5, 0.5, 0.2, 0.8), (8,) * 6),
        ((1000, 30, 3), (0.5, 0.0, 1.0), (25, 25, 3)),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    sizes: tuple[int, ...], bad: tuple[float, ...], judged: tuple[int, ...]
) -> None:
    """95 of 100 samples; few documents come in steps, so a little less is allowed."""
    rng = np.random.default_rng(0)
    wrong = [round(size * share) for size, share in zip(sizes, bad)]
    truth, held = sum(wrong) / sum(sizes), 0
    for _ in range(2000):
        drops = [
            int(rng.hypergeometric(w, size - w, n)) if n else 0 for w, size, n in zip(wrong, sizes, judged)
        ]
        found = weighted("x", [Counts(*counts) for counts in zip(sizes, judged, drops)])
        assert found.low is not None and found.high is not None
        held += found.low - 1e-4 <= truth <= found.high + 1e-4
    assert held / 2000 >= 0.93


def test_summary_counts_documents_not_votes(in_process: Artifact) -> None:
    account = Account(in_process)
    found = strata(account, 20, 50, 0)
    spam = next(s for s in found if s.step == "spam")
    web = next(s for s in found if s.step is None)
    said = [
        Judgement(spam.sample[0], "anna", "drop"),
        Judgement(spam.sample[0], "bo", "drop"),
        Judgement(spam.sample[1], "anna", "drop"),
        Judgement(spam.sample[1], "bo", "keep"),
        Judgement(spam.sample[2], "anna", "skip"),
        Judgement(web.sample[0], "anna", "keep"),
    ]
    result = summary(account, found, said)
    step = next(line for line in result["filters"] if line["name"] == "spam")
    assert (step["judged"], step["share"], step["size"]) == (2, 0.75, spam.size)
    assert (result["kept"]["judged"], result["kept"]["share"]) == (1, 0.0)
    assert result["reviewers"] == {"anna": 4, "bo": 2}
    assert (result["agreement"]["pairs"], result["agreement"]["share"]) == (2, 0.5)
    assert [line["name"] for line in result["filters"]] == [
        step for step in account.steps if any(s.step == step for s in found)
    ]
    assert agreement([])["share"] is None


# ---- side by side ----------------------------------------------------------------------------------------------
TEXTS = st.text(st.sampled_from("ab c\n,.中文字é"), max_size=60)


@given(TEXTS, TEXTS)
def test_pieces_are_the_texts(left: str, right: str) -> None:
    for text, pieces in zip((left, right), compare(left, right)):
        assert "".join(piece for piece, _ in pieces) == text
        assert all(a[1] != b[1] for a, b in pairwise(pieces))


@given(TEXTS)
def test_equal_texts_have_no_mark(text: str) -> None:
    assert not any(marked for pieces in compare(text, text) for _, marked in pieces)


def test_what_differs_is_marked() -> None:
    left = "The old bridge was closed on Monday after an engineer found two cracks. Traffic goes around."
    right = "THE OLD  bridge was closed on Friday, after an engineer found two cracks. 昨天桥被关闭了。"
    one, other = ([text for text, marked in pieces if marked] for pieces in compare(left, right))
    assert one == ["Monday", "Traffic goes around"] and other == ["Friday", "昨天桥被关闭了"]


def test_long_texts_cost_no_more_than_their_length() -> None:
    rng = random.Random(0)
    words = [rng.choice(("a", "b", "c")) for _ in range(200_000)]
    left, right = compare(" ".join(words), " ".join(words[:-1]))
    assert sum(len(text) for text, marked in left if marked) < 100
    assert [len(text) for text, _ in shortened(right)] == [SHOWN]
    assert shortened([("abc", True), ("def", False), ("g", True)], 4) == [("abc", True), ("d", False)]


# ---- the page --------------------------------------------------------------------------------------------------
@pytest.fixture
def desk(in_process: Artifact, tmp_path: Path) -> Desk:
    account = Account(in_process)
    return Desk(account, strata(account, 4, 4, 0), Judgements(tmp_path / "said.sqlite", in_process.content))


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(create_app(desk), base_url="http://127.0.0.1")


def test_a_whole_review(client: TestClient, desk: Desk) -> None:
    reply = client.get("/next", params={"reviewer": "anna"}).json()
    total, seen = reply["total"], []
    while (found := reply["document"]) is not None:
        seen.append(found["place"])
        assert reply["done"] == len(seen) - 1
        said = {
            "reviewer": "anna", "place": found["place"], "verdict": "keep" if found["step"] is None else "drop",
        }  # fmt: skip
        reply = client.post("/judge", json=said).json()
    assert len(seen) == len(set(seen)) == total == reply["done"] == len(desk.queue)
    assert client.post("/undo", json={"reviewer": "anna"}).json()["document"]["place"] == seen[-1]
    assert client.get("/next", params={"reviewer": "bo"}).json()["done"] == 0
    found = client.get("/summary").json()
    assert all(line["share"] == 1.0 for line in found["filters"] if line["judged"])
    assert found["kept"]["share"] in (0.0, None) and found["reviewers"] == {"anna": total - 1}


def test_copies_stand_beside_what_stayed(client: TestClient, desk: Desk) -> None:
    """And overlaps beside the benchmark's item, as far as its file is there."""
    kinds = set()
    for place in desk.queue:
        found = desk.document(place)
        assert "".join(text for text, _ in found["pieces"]) == desk.account.text(place)
        if found["step"] in ("exact", "fuzzy", "decontaminate"):
            kinds.add(found["step"])
            assert found["other"]["name"] == found["of"]
            common = sum(len(text) for text, marked in found["pieces"] if not marked)
            if found["step"] == "exact":
                assert not any(marked for text, marked in found["pieces"])
            if found["step"] == "fuzzy":
                both = found["pieces"] + found["other"]["pieces"]
                assert common > found["length"] / 2 and any(marked for _, marked in both)
        else:
            assert found["other"] is None
    assert kinds == {"exact", "fuzzy", "decontaminate"}


@pytest.mark.fault("data", "a foreign page or host name reaches the review server", "refused, nothing stored")
@pytest.mark.parametrize(
    "path, request_, status",
    [
        ("/judge", {"json": {"reviewer": "a", "place": "0:99999", "verdict": "keep"}}, 404),
        ("/judge", {"json": {"reviewer": "a", "place": "../x", "verdict": "keep"}}, 404),
        ("/judge", {"json": {"reviewer": "a", "place": "0:0", "verdict": "burn"}}, 422),
        ("/judge", {"json": {"reviewer": "", "place": "0:0", "verdict": "keep"}}, 422),
        ("/judge", {"json": {"reviewer": "a" * 81, "place": "0:0", "verdict": "keep"}}, 422),
        ("/judge", {"json": {"reviewer": "a", "place": "0:0", "verdict": "keep", "more": 1}}, 422),
        ("/judge", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
        ("/undo", {"content": b'{"reviewer": "a"}', "headers": {"Content-Type": "text/plain"}}, 422),
        ("/undo", {"json": {"reviewer": "a"}, "headers": {"Host": "evil.example"}}, 400),
    ],
)
def test_what_is_refused(
    client: TestClient, desk: Desk, path: str, request_: dict[str, Any], status: int
) -> None:
    """A page elsewhere can neither send JSON here without being asked first, nor come under another name."""
    assert client.post(path, **request_).status_code == status
    assert desk.judgements.all() == []


def test_only_its_own_files_and_nothing_else_may_run(client: TestClient) -> None:
    for path in (
        "/",
        "/page/review.js",
        "/page/review.css",
        "/page/icon.svg",
        "/next?reviewer=a",
        "/nothing",
    ):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and "access-control-allow-origin" not in headers
    assert client.get("/page/..%2Fserver.py").status_code == 404
    sources = [client.get(f"/page/{name}").text for name in ("review.js", "review.css")] + [
        client.get("/").text
    ]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", sources[0])
    assert not any(re.search(r"https?://", source) for source in sources)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A corpus of texts that would like to be HTML."""
    folder = tmp_path_factory.mktemp("hostile")
    sentence = (
        "The old bridge was closed on a Monday in March because an engineer had found cracks in its arches."
    )
    lines = [
        json.dumps({"id": HOSTILE, "text": f"{HOSTILE}\n" + f"{n} {sentence}\n" * 6, "source": "<img src=x>"})
        for n in (1, 2)
    ]
    (folder / "in.jsonl").write_text("\n".join(lines))
    flags = {
        "quality__rules": False,
        "quality__spam": 1.0,
        "quality__offensive": 1.0,
        "runner__how": "in-process",
        "valid_fraction": 0.0,
    }
    return run(resolved(DataConfig, "data", **flags), {"input": folder / "in.jsonl"}, folder / "corpus")


@pytest.mark.fault("data", "a document under review is markup with scripts", "shown as text")
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_documents_stay_text_in_a_browser(hostile: Artifact, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    command = [sys.executable, "-m", "openqwen", "data", "review", str(hostile.path), "--port", "0",
               "--judgements", str(tmp_path / "said.sqlite")]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=4000",
            f"--user-data-dir={tmp_path}",
        ]
        done = subprocess.run(
            [CHROMIUM, *flags, "--dump-dom", f"{address}?reviewer=anna"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (
            "&lt;script&gt;document.title='owned'&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"
            in done.stdout
        )
        assert "<title>openqwen review</title>" in done.stdout and "<img" not in done.stdout
        assert "&amp;amp;lt;" not in done.stdout and "&amp;lt;b&amp;gt;" in done.stdout
        with urllib.request.urlopen(f"{address}summary", timeout=10) as reply:
            assert json.load(reply)["kept"]["judged"] == 0
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()


def test_a_port_that_is_taken(desk: Desk) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="cannot serve"):
        serve(desk, taken.getsockname()[1])


# ---- the command -----------------------------------------------------------------------------------------------
def test_summary_on_the_command_line(
    in_process: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Judgements(tmp_path / "said.sqlite", in_process.content)
    spam = next(s for s in strata(Account(in_process), 20, 50, 0) if s.step == "spam")
    for place in spam.sample[:5]:
        said.judge(place, "anna", "drop")
    command = ["data", "review", str(in_process.path), "--judgements", str(said.path)]
    assert main([*command, "--summary"]) == 0
    row = next(line for line in capsys.readouterr().out.split("\n") if line.startswith("spam"))
    assert row.split()[:4] == ["spam", str(spam.size), "5", "100.0%"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert next(line for line in found["filters"] if line["name"] == "spam")["judged"] == 5
    assert main(["data", "review", str(tmp_path), "--summary"]) == 4
