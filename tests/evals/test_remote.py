"""A chat model behind an address: the same scores, refusals counted, a failing endpoint ends and goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from openqwen.annotate.config import RemoteConfig
from openqwen.annotate.models import Remote
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.evals import harness
from openqwen.evals.harness import evaluate
from openqwen.evals.remote import remote_subject
from openqwen.evals.task import Item
from openqwen.evals.tasks import TASKS, math401


class Server:
    """Adds two numbers as a chat model would; `plan` says what it does with the n-th request: a status, or None."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.plan: dict[int, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(body)
                status = outer.plan.get(len(outer.seen), 200)
                question = body["messages"][-1]["content"]
                total = sum(map(int, question.removesuffix("=").split("+")))
                found: Any = {
                    "choices": [{"message": {"content": f"It is {total}."}, "finish_reason": "stop"}]
                }
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
