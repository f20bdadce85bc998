"""A hub on this machine: the few addresses that huggingface_hub asks, serving folders as repositories."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


class Hub:
    """repos: name -> folder; gated: names that ask for terms. asked: every path that was asked for."""

    def __init__(self, repos: dict[str, Path], gated: tuple[str, ...] = ()) -> None:
        self.repos, self.gated, self.asked = repos, gated, list[str]()
        self.damaged: set[str] = set()  # files whose bytes are not what their sha256 says

    def fetched(self) -> set[str]:
        """Names of the files that were sent."""
        return {
            path.rsplit("/", 1)[1] for path in self.asked if path.startswith("GET") and "/resolve/" in path
        }

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 6:
            return self._api("/".join(parts[2:4]), parts[4], "/".join(parts[5:]))
        if len(parts) == 5 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[4])
        return 404, {}, b""

    def _api(self, name: str, what: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if name not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if revision not in REVISIONS:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = sorted(path for path in self.repos[name].rglob("*") if path.is_file())
        names = [str(path.relative_to(self.repos[name])) for path in files]
        if what == "revision":
            siblings = [{"rfilename": file} for file in names]
            return 200, {}, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        return 200, {}, json.dumps([_entry(path, file) for path, file in zip(files, names)]).encode()

    def _file(self, name: str, file: str) -> tuple[int, dict[str, str], bytes]:
        path = self.repos[name] / file
        body = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(path)}"'}
        if file in self.damaged:
            body = body[:-1] + bytes([body[-1] ^ 1])
        return 200, headers, body


def _etag(path: Path) -> str:
    kind = hashlib.sha256 if path.suffix == ".safetensors" else hashlib.sha1
    return kind(path.read_bytes()).hexdigest()


def _entry(path: Path, name: str) -> dict[str, object]:
    size, etag = path.stat().st_size, _etag(path)
    entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": etag[:40]}
    return {**entry, "lfs": {"oid": etag, "size": size, "pointerSize": 130}} if len(etag) == 64 else entry


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of the hub while the body runs."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = reply

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """Points the library, which reads its variables once, at an address and at an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    form = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + form)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


def tiny_repository(folder: Path) -> Path:
    """An untrained model as the released ones lie on the hub: QWenLMHeadModel with qwen.tiktoken."""
    from openqwen.model import ModelConfig, Qwen, save_model
    from openqwen.tokenizer.ranks import write_ranks

    config = ModelConfig(
        vocab_size=512, hidden_size=32, num_layers=2, num_heads=2, ffn_size=48, max_length=64
    )
    model = Qwen(config)
    model.init_weights(0)
    save_model(model, folder, layout="qwen1")
    write_ranks(folder / "qwen.tiktoken", {bytes([b]): b for b in range(256)})
    return folder
