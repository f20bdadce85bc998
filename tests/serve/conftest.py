"""A running server over a tiny random model, in a thread of the test process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import torch

from openqwen.engine import Engine
from openqwen.engine import engine as engine_module
from openqwen.engine.sampler import sample
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.serve.server import create_app, listen, make_server
from openqwen.tokenizer import Tokenizer

torch.set_num_threads(1)


def tiny_model() -> Qwen:
    model = Qwen(ModelConfig(vocab_size=464, hidden_size=64, num_layers=2, num_heads=4, max_length=512))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)}, encoder="tiktoken")


@pytest.fixture(scope="session")
def model() -> Qwen:
    return tiny_model()


@pytest.fixture
def twin(model: Qwen, tokenizer: Tokenizer) -> Engine:
    """An engine of our own over the server's model, to know what a reply must be."""
    return endless(Engine(model, tokenizer))


def endless(engine: Engine) -> Engine:
    """Replies never end by chance, so that tests know how long they are."""
    engine.end_ids = frozenset()
    return engine


@contextlib.contextmanager
def running(model: Qwen, tokenizer: Tokenizer, **settings: Any) -> Iterator[tuple[str, Any]]:
    """The address of a server and its service."""
    compiled = settings.pop("compiled", False)
    longest = settings.pop("max_length", 700)
    engine = endless(
        Engine(model, tokenizer, settings.pop("max_batch", 32), max_length=longest, compiled=compiled)
    )
    app = create_app(engine, name="tiny", **settings)
    sock, started = listen("127.0.0.1", 0), threading.Event()
    server = make_server(app, started.set)
    thread = threading.Thread(target=lambda: server.run(sockets=[sock]))
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", app.state.service
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def client(server: tuple[str, Any]) -> openai.OpenAI:
    return openai.OpenAI(base_url=server[0] + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def server(model: Qwen, tokenizer: Tokenizer) -> Iterator[tuple[str, Any]]:
    with running(model, tokenizer) as found:
        yield found


def scripted(service: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """Sets what the model writes, reply by reply; returns the list that the prompts it is shown come to.

    Tokens are bytes. What a grammar forbids has no chance, so the reply then differs from the script.
    """
    submit, eos = service.worker.submit, service.tokenizer.eos_id

    def writes(*texts: str) -> list[list[int]]:
        left, shown = list(texts), []
        ids: list[int] = []

        def submitted(prompts, *rest, **named):
            shown.extend(prompts)
            ids[:] = [*left.pop(0).encode(), eos]
            return submit(prompts, *rest, **named)

        def bent(logits, rows, index, compiled):
            for row, place in enumerate(index.tolist()):
                logits[row, ids[min(place, len(ids) - 1)]] += 1e4
            return sample(logits, rows, index, compiled)

        monkeypatch.setattr(service.worker, "submit", submitted)
        monkeypatch.setattr(engine_module, "sample", bent)
        return shown

    return writes


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


@pytest.fixture
def start(model: Qwen, tokenizer: Tokenizer) -> Callable[..., Any]:
    return lambda **settings: running(model, tokenizer, **settings)
