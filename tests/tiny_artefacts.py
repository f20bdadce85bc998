"""Artefacts small enough to train on in a test, made by the shipped code wherever it exists."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from openqwen.core.artifact import sha256_file, stage_run, write_json
from openqwen.core.config import Config, Resolved, setting
from openqwen.core.errors import OpenQwenError
from openqwen.tokenizer.tokenizer import Tokenizer


class NoSettings(Config):
    """For artefacts written by hand."""

    made_by: str = setting("a test", source="ours")


def byte_tokenizer() -> Tokenizer:
    """256 bytes and the special tokens: 464 ids."""
    return Tokenizer({bytes([b]): b for b in range(256)})


def tokenizer_artefact(path: Path) -> Path:
    with stage_run(path, "tokenizer", Resolved(NoSettings(), {}), {}):
        byte_tokenizer().save(path)
    return path


def tokens_artefact(path: Path, documents: list[str], held_out: list[str]) -> Path:
    """Shards of texts under the byte tokenizer; the training split is spread over two files."""
    tok = byte_tokenizer()
    splits = {}
    with stage_run(path, "tokens", Resolved(NoSettings(), {}), {}):
        for split, texts in (("train", documents), ("valid", held_out)):
            encoded = [[*tok.encode(text), tok.eos_id] for text in texts]
            np.save(path / f"{split}.index.npy", np.cumsum([len(ids) for ids in encoded]).astype(np.int64))
            flat = np.concatenate(encoded).astype("<u2")
            files = []
            for number, shard in enumerate(np.array_split(flat, 2 if split == "train" else 1)):
                file = path / f"{split}-{number:05d}.bin"
                shard.tofile(file)
                files.append({"name": file.name, "tokens": len(shard), "sha256": sha256_file(file)})
            splits[split] = {
                "files": files,
                "tokens": len(flat),
                "documents": len(texts),
                "bytes": sum(len(text.encode()) for text in texts),
            }
        meta = {
            "dtype": "uint16",
            "vocab_size": tok.vocab_size,
            "tokenizer": tok.content,
            "eos_id": tok.eos_id,
        }
        write_json(path / "shards.json", {**meta, "splits": splits})
    return path


def model_artefact(path: Path, seed: int = 0, tokenizer: Tokenizer | None = None) -> Path:
    """An untrained model of 28 thousand parameters, with the byte tokenizer if no other is given."""
    from openqwen.model.config import ModelConfig
    from openqwen.model.qwen import Qwen
    from openqwen.model.weights import save_model

    config = ModelConfig(
        vocab_size=464,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        ffn_size=48,
        max_length=48,
        dynamic_ntk=False,
    )
    model = Qwen(config)
    model.init_weights(seed)
    with stage_run(path, "model", Resolved(NoSettings(), {}), {}):
        save_model(model, path)
        (tokenizer or byte_tokenizer()).save(path)
    return path


def sums(seed: int, count: int) -> list[str]:
    """Little documents with something to learn."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 10, (count, 2))
    return [f"{a} plus {b} is {a + b}." for a, b in pairs.tolist()]


def conversations(path: Path, seed: int, count: int) -> Path:
    """A file of question and answer in the primer's form."""
    lines = []
    for text in sums(seed, count):
        question, answer = text.removesuffix(".").split(" is ")
        messages = [{"role": "user", "content": f"{question}?"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ---- runs in processes of their own, to be killed --------------------------------------------------------------
_server = multiprocessing.get_context("forkserver")  # torch is imported once, children are forked from there
_server.set_forkserver_preload(["torch._dynamo", "openqwen.pretrain.loop", "openqwen.sft.loop"])


def in_process(run: Callable[..., Any], config: Any, inputs: dict[str, Path], out: Path) -> Any:
    """Starts a stage in a fresh process; its error, if any, goes to `error.txt` beside `out`."""
    process = _server.Process(target=_run, args=(run, config, inputs, out))
    process.start()
    return process


def _run(run: Callable[..., Any], config: Any, inputs: dict[str, Path], out: Path) -> None:
    try:
        run(config, inputs, out)
    except OpenQwenError as error:
        (out.parent / "error.txt").write_text(str(error), encoding="utf-8")
        sys.exit(error.exit_code)


def wait_for_step(out: Path, process: Any, step: int) -> None:
    """Until the metrics hold a training record of this step."""
    file, end = out / "metrics.jsonl", time.monotonic() + 120
    while not (file.is_file() and f'{{"step": {step}, "loss"' in file.read_text(encoding="utf-8")):
        assert process.is_alive(), "the run ended before it was to be killed"
        assert time.monotonic() < end
        time.sleep(0.001)
