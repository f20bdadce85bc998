"""A chat model behind an address: the same scores, refusals counted, a failing endpoint ends and goes on."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from openqwen.annotate.config import RemoteConfig
from openqwen.annotate.models import Remote
from openqwen.cli.table import table
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.engine import Sampling
from openqwen.evals import harness, verify
from openqwen.evals.harness import evaluate, obstacle
from openqwen.evals.remote import remote_subject
from openqwen.evals.task import Ask, Item
from openqwen.evals.tasks import TASKS, math401


def add(question: str) -> str:
    return f"It is {sum(map(int, question.removesuffix('=').split('+')))}."


class Server:
    """Adds two numbers as a chat model would; `plan` says what it does with the n-th request: a status, or None."""

    def __init__(self) -> None:
        self.reply = add
        self.seen: list[dict[str, Any]] = []
        self.plan: dict[int, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(body)
                status = outer.plan.get(len(outer.seen), 200)
                question = body["messages"][-1]["content"]
                message = {"content": outer.reply(question)}
                found: Any = {"choices": [{"message": message, "finish_reason": "stop"}]}
                if status != 200:
                    found = {"error": {"message": "no, thanks"}}
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1#adder"


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


STOPS = ("a1", "a2", "a3", "a4", "\n")
ITEMS: list[Item] = [
    math401.parse({"query": f"{i}+{i}=", "response": str(2 * i + (i == 3)), "id": str(i)}, "m:1")
    for i in range(6)
]


def run(server: Server, retries: int = 1, **more: Any) -> harness.Result:
    remote = Remote(server.address, RemoteConfig(retries=retries))
    subject = remote_subject(remote, 4000, parallel=1)
    done = evaluate(subject, TASKS["math401"], ITEMS, 0, limit=9, **more)
    assert done is not None
    return done


def test_scores_of_an_address(server: Server) -> None:
    done = run(server)
    assert [record["right"] for record in done.records] == [True, True, True, False, True, True]
    assert done.card["model"] == {"name": "adder", "kind": "chat", "weights": done.card["model"]["weights"]}
    assert "127.0.0.1" in done.card["model"]["weights"] and done.card["refused"] == 0
    asked = server.seen[0]
    assert [m["role"] for m in asked["messages"]] == ["system", "user"] and asked["temperature"] == 0
    assert asked["messages"][1]["content"] == "0+0="


def test_a_busy_moment_is_waited_for_and_a_refusal_counted(server: Server) -> None:
    server.plan = {2: 503, 4: 400}
    done = run(server)
    assert [record["right"] for record in done.records] == [True, True, False, False, True, True]
    assert len(server.seen) == 7 and done.card["refused"] == 1 and done.card["empty"] == 1
    assert "no, thanks" in done.records[2]["ended"]


@pytest.mark.fault(
    "evaluation", "an endpoint fails halfway", "retried, then counted; nothing is scored as right"
)
def test_an_endpoint_that_fails_halfway(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "BLOCK", 2)
    server.plan = {5: 500}
    with pytest.raises(OpenQwenError, match="no, thanks"):
        run(server, retries=0, journal=tmp_path / "j.jsonl")
    before = len(server.seen)
    done = run(server, journal=tmp_path / "j.jsonl")
    assert len(server.seen) - before == 2 and done.cell["n"] == 6


def test_what_an_address_cannot_do(server: Server) -> None:
    subject = remote_subject(Remote(server.address, RemoteConfig()), 5)
    done = evaluate(subject, TASKS["math401"], ITEMS, 0, limit=2)
    assert done is not None and done.card["refused"] == 2 and not server.seen
    with pytest.raises(UsageError, match="does not score"):
        subject.engine.loglikelihood([])


def test_every_stop_ends_a_reply_though_the_api_takes_four(server: Server) -> None:
    server.reply = lambda question: "one two\nthree"
    subject = remote_subject(Remote(server.address, RemoteConfig()), 4000)
    ask = Ask(lambda item: "q", lambda item: "", judge=lambda text, item: text == "one two", stop=STOPS)
    task = replace(TASKS["math401"], chat=ask)
    done = evaluate(subject, task, ITEMS[:1], 0, limit=1)
    assert done is not None and done.records[0]["right"] and done.records[0]["ended"] == "stop"
    assert server.seen[0]["stop"] == list(STOPS[:4])


class Letters:
    """A base model of letters: "b" is likeliest after anything, others cost their distance from it."""

    identity = {"model": "letters"}  # noqa: RUF012 - as of a real address
    without: str | None = None

    def complete(self, request: dict[str, Any]) -> Any:
        raise AssertionError("a base model is asked by texts")

    def continued(self, request: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        text = request["prompt"]
        if self.without == "all":
            return {}, "refused by letters: no"
        if not request.get("echo"):
            return {"text": "b\nbb", "finish_reason": "length"}, None
        values = [None, *(-float(abs(ord(c) - ord("b"))) for c in text[1:]), -0.5]  # and the new token
        tops = [None if value is None else {"b": 0.0} for value in values]
        told = {"token_logprobs": values, "top_logprobs": tops}
        return {"text": text, "logprobs": None if self.without else told}, None


def test_a_base_model_is_scored_by_what_a_text_adds() -> None:
    address = Letters()
    subject = remote_subject(address, 4000, kind="base")
    encode = subject.tokenizer.encode
    pairs = [(encode("ac"), encode("bb")), (encode("ac"), encode("bd")), (encode("a"), encode("e"))]
    assert subject.engine.loglikelihood(pairs) == [(0.0, True), (-2.0, False), (-3.0, False)]
    (reply,) = subject.engine.generate([encode("q")], Sampling(temperature=0, max_tokens=4, stop=("\n",)))
    assert (reply.text, reply.finish_reason) == ("b", "stop")
    for address.without in ("scores", "all"):
        with pytest.raises(OpenQwenError, match="no log-probabilities of a given text"):
            subject.engine.loglikelihood(pairs)


def test_what_needs_the_models_tokens_is_not_asked_of_an_address() -> None:
    subject = remote_subject(Letters(), 4000, kind="base")
    assert "log-probability a token" in (obstacle(subject, TASKS["boolq"].base) or "")
    assert obstacle(subject, TASKS["mmlu"].base) is None


def write_rows(folder: Path, **sets: list[dict[str, Any]]) -> Path:
    for name, rows in sets.items():
        text = "".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in enumerate(rows))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


SUMS = [{"query": f"{i}+{i}=", "response": str(2 * i + (i == 3))} for i in range(6)]
WORDS = [{"question": f"{i}+1 is what?", "answer": f"I add.\n#### {i + 1}"} for i in range(4)]
CHOICES = [
    {"subject": "law", "question": "q", "choices": ["a", "b", "c", "d"], "answer": "B", "split": split}
    for split in ("dev", "test")
]


def test_a_table_is_filled_by_an_address(server: Server, tmp_path: Path) -> None:
    data, file = write_rows(tmp_path, math401=SUMS), tmp_path / "t.json"
    assert table(12, chat=[server.address], data=data, out=tmp_path / "out", form="json", to=file) == 0
    (row,) = [row for row in json.loads(file.read_text())["rows"] if row["origin"] == "ours"]
    assert row["model"] == "ours: adder" and list(row["cells"]) == ["Math401"]
    assert row["cells"]["Math401"]["value"] == pytest.approx(500 / 6)
    checks, wrong = verify.verify(tmp_path / "out")
    assert len(checks) == 1 and not wrong and not checks[0].problems


def test_a_protocol_is_asked_for_and_what_it_lacks_is_a_dash_with_a_reason(
    server: Server, tmp_path: Path
) -> None:
    """The harness reads what stands after ####, the report the last number; an address gives no log-probabilities."""
    server.reply = lambda question: f"#### {int(re.findall('[0-9]', question + '0')[0]) + 1}, or 9"
    data, file = write_rows(tmp_path, gsm8k=WORDS, mmlu=CHOICES), tmp_path / "t.json"
    found = {}
    for protocol in ("report", "harness"):
        table(2, chat=[server.address], data=data, protocol=protocol, form="json", to=file)
        made = json.loads(file.read_text())
        found[protocol] = next(row["cells"] for row in made["rows"] if row["origin"] == "ours")
    assert list(found["report"]) == ["MMLU", "GSM8K"] and list(found["harness"]) == ["GSM8K"]
    assert [found[protocol]["GSM8K"]["value"] for protocol in ("report", "harness")] == [0, 100]
    assert any("Not asked, MMLU (adder): options are compared by log-probability" in n for n in made["notes"])
    assert any("lm-evaluation-harness 0.4" in note for note in made["notes"])
    asked = server.seen[-1]["messages"][-1]["content"]
    assert asked.startswith("Question: ") and asked.endswith("\nAnswer:")


def test_what_cannot_be_asked_at_all_is_an_error(server: Server, tmp_path: Path) -> None:
    data = write_rows(tmp_path, math401=SUMS, mmlu=CHOICES)
    with pytest.raises(UsageError, match="Math401 \\(adder\\): lm-evaluation-harness has no task"):
        table(12, chat=[server.address], data=data, protocol="harness")
    with pytest.raises(UsageError, match="log-probability"):
        table(2, chat=[server.address], data=data, protocol="harness")
    with pytest.raises(UsageError, match="not ADDRESS#NAME"):
        table(2, chat=["http://127.0.0.1:1/v1"], data=data)
    assert not server.seen
