"""A small study: instructions with replies of three models, and the page's server in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODELS = ("small", "middle", "large")
TOPICS = ("coding", "knowledge")


def write_samples(path: Path, count: int = 4, texts: Mapping[str, str] | None = None) -> Path:
    """A file of instructions; texts: of each model, a `{}` in them is the instruction's number."""
    given = texts or {name: f"Reply of quality {n} to {{}}." for n, name in enumerate(MODELS)}
    rows = [
        {
            "id": f"q{i}",
            "task": TOPICS[i % 2],
            "instruction": f"Question {i}?",
            "replies": {name: text.replace("{}", str(i)) for name, text in given.items()},
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@contextmanager
def serving(samples: Path, db: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of `openqwen annotate`, without a slash at its end, and its process."""
    program = "import sys; from openqwen.cli.annotate import app; sys.exit(app(sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(samples), "--db", str(db), *(words or ("--port", "0"))]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://[^/]+", line)))
        yield address, server
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(address + path, timeout=20) as reply:
        return json.load(reply)


def post(address: str, body: Any) -> int:
    """The status of an answer that is sent."""
    request = urllib.request.Request(
        f"{address}/answer", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def answer_to(reply: Mapping[str, Any], annotator: str, **more: Any) -> dict[str, Any]:
    """An answer that puts the replies in the order in which they are shown; more: fields that are other."""
    cards = {card["name"]: {"place": n} for n, card in enumerate(reply["item"]["cards"], 1)}
    body = {
        "study": reply["study"], "key": uuid.uuid4().hex, "annotator": annotator,
        "item": reply["item"]["id"], "cards": cards,
    }  # fmt: skip
    return {**body, **more}
