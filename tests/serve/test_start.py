"""What cannot be served is said in one line before anything is, and so is what is risky."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from openqwen.core.errors import DataError, OpenQwenError
from openqwen.model import save_model
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.serve.server import listen, serve


@pytest.fixture
def saved(model, tokenizer, tmp_path) -> Path:
    folder = tmp_path / "model"
    save_model(model, folder)
    tokenizer.save(folder)
    return folder


def served(address: str) -> None:
    raise AssertionError(f"served at {address}")


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def only_begun(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete")


def a_tensor_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "model.safetensors")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def half_a_config(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text()[:100])


def foreign(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}))


def no_tokenizer(folder: Path) -> None:
    for name in ("vocab.tiktoken", "tokenizer.json"):
        (folder / name).unlink()


def half_a_tokenizer(folder: Path) -> None:
    for path in folder.glob("*.tiktoken"):
        path.write_bytes(path.read_bytes()[:400])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN = [cut_short, only_begun, a_tensor_less, no_config, half_a_config, foreign, no_tokenizer]
BROKEN += [half_a_tokenizer, pickled]


@pytest.mark.fault("server", "a checkpoint is half downloaded", "one line before anything is served")
@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_folder_is_refused_before_anything_is_served(saved, damage):
    damage(saved)
    with pytest.raises(OpenQwenError) as error:
        serve(saved, port=0, compiled=False, ready=served)
    assert error.value.what and "\n" not in error.value.what and len(error.value.what) < 200


@pytest.mark.fault("server", "the tokenizer is of another model", "one line before anything is served")
def test_a_tokenizer_that_does_not_fit_the_embedding_rows(tokenizer, tmp_path):
    save_model(
        Qwen(ModelConfig(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2, max_length=64)), tmp_path
    )
    tokenizer.save(tmp_path)
    with pytest.raises(DataError, match=r"tokenizer has \d+ ids, the model 300 embedding rows"):
        serve(tmp_path, port=0, compiled=False)


def test_nobody_is_let_in_before_the_model_is_loaded(saved, monkeypatch):
    """The port is taken at once, so that it cannot be lost; clients are refused until it can answer."""
    taken: list[socket.socket] = []

    def load(*_: object, **__: object) -> None:
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(taken[0].getsockname())
        raise DataError("planted")

    monkeypatch.setattr("openqwen.serve.server.load_model", load)
    monkeypatch.setattr("openqwen.serve.server.listen", lambda *where: _keep(taken, listen(*where)))
    with pytest.raises(DataError, match="planted"):
        serve(saved, port=0)
    assert taken[0].fileno() == -1  # and given back


def _keep(taken: list[socket.socket], sock: socket.socket) -> socket.socket:
    taken.append(sock)
    return sock


def test_the_command_says_it_in_one_line(saved):
    cut_short(saved)
    line = [sys.executable, "-m", "openqwen", "serve", str(saved), "--port", "0"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4 and done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ") and "Traceback" not in done.stderr
    assert all(re.match(r"  (where|fix): ", other) for other in rest)


@pytest.mark.parametrize(
    ("host", "key", "said"),
    [("0.0.0.0", None, True), ("0.0.0.0", "secret", False), ("127.0.0.1", None, False), ("::1", None, False)],
)
def test_an_open_door_is_pointed_out(saved, monkeypatch, capsys, host, key, said):
    """Elsewhere than on the loopback and without a key."""

    def no_model(*_: object, **__: object) -> None:
        raise DataError("planted")

    monkeypatch.setattr("openqwen.serve.server.load_model", no_model)
    try:
        with pytest.raises(DataError, match="planted"):
            serve(saved, host=host, port=0, api_key=key)
    except OSError:
        pytest.skip("no such interface")
    assert ("can use this server: no --api-key" in capsys.readouterr().err) == said
