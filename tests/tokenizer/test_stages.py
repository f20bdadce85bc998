"""The tokenizer and pack stages on a corpus of a few documents."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openqwen.cli import main
from openqwen.core.artifact import Artifact, damage, load, read_jsonl, stage_run
from openqwen.core.config import Config, Resolved, fields_without_source, validate
from openqwen.core.errors import DataError, UsageError
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.core.shards import open_tokens
from openqwen.tokenizer import Tokenizer, load_tokenizer, pack, stage
from openqwen.tokenizer.config import PackConfig, TokenizerConfig
from openqwen.tokenizer.pattern import normalise
from openqwen.tokenizer.ranks import read_ranks, write_ranks

WORDS = [
    "the cat sat",
    "a dog ran",
    "语言模型",
    "你好，世界",
    "cafe\u0301 2023",
    "x = y + 1\n",
    "",
    "<|endoftext|>",
]
DOCUMENTS = [
    {"id": f"d{i}", "text": " ".join(WORDS[(i * k) % 8] for k in range(1, 9)), "source": "s", "lang": "en"}
    for i in range(40)
]


class NoSettings(Config):
    """For an artefact that is only an input."""


def corpus(folder: Path, train: list[dict[str, Any]], parts: int = 2) -> Path:
    with stage_run(folder, "corpus", Resolved(NoSettings(), {}), {}) as run:
        for split, records in (("train", train), ("valid", train[::7])):
            (run.path / split).mkdir()
            for part in range(parts):
                write_jsonl_zst(run.path / split / f"part-{part:05d}.jsonl.zst", records[part::parts])
    return folder


def learn(folder: Path, data: Path, vocab_size: int = 520, **inputs: Path) -> Artifact:
    config = Resolved(TokenizerConfig(vocab_size=vocab_size), {})
    return stage.run(config, {"corpus": data, **inputs}, folder)


def shards(folder: Path, data: Path, tokenizer: Path, **settings: Any) -> Artifact:
    return pack.run(Resolved(PackConfig(**settings), {}), {"corpus": data, "tokenizer": tokenizer}, folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    data = corpus(root / "corpus", DOCUMENTS)
    learn(root / "tokenizer", data)
    shards(root / "tokens", data, root / "tokenizer", shard_tokens=300, batch_bytes=700)
    return {name: root / name for name in ("corpus", "tokenizer", "tokens")}


def test_tokenizer_artefact(made: dict[str, Path]) -> None:
    folder = made["tokenizer"]
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    tok = load_tokenizer(folder)
    assert tok.vocab_size == facts["vocab_size"] == 520 and facts["merges_missing"] == 0
    result = json.loads((folder / "compression.json").read_text())
    assert {(row["by"], row["name"]) for row in result["groups"]} == {
        ("all", "all"),
        ("lang", "en"),
        ("source", "s"),
    }
    whole = result["groups"][0]
    assert whole["rate"]["bytes"] == 1 and whole["rate"]["ours"] < 0.6
    assert whole["bytes_per_token"]["ours"] == pytest.approx(
        whole["bytes"] / whole["tokens"]["ours"], abs=1e-3
    )
    assert [r["label"] for r in read_jsonl(folder / "samples.jsonl")][:2] == ["first merges", "last merges"]


def test_vocabulary_does_not_depend_on_order_or_files(made: dict[str, Path], tmp_path: Path) -> None:
    data = corpus(tmp_path / "corpus", DOCUMENTS[::-1], parts=5)
    learn(tmp_path / "tokenizer", data)
    for name in ("vocab.tiktoken", "tokenizer.json", "merges.txt", "special.json"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (made["tokenizer"] / name).read_bytes()


def test_files_give_the_vocabulary_of_the_corpus(made: dict[str, Path], tmp_path: Path) -> None:
    lines = [json.dumps(document) + "\n" for document in DOCUMENTS]
    (tmp_path / "a.jsonl").write_text("".join(lines[25:]))
    (tmp_path / "b.jsonl").write_text("".join(lines[:25]))
    config = Resolved(TokenizerConfig(vocab_size=520, workers=2), {})
    inputs = {"text": tmp_path / "a.jsonl", "text-2": tmp_path / "b.jsonl"}
    made_of_files = stage.run(config, inputs, tmp_path / "tokenizer")
    for name in ("vocab.tiktoken", "tokenizer.json", "merges.txt", "special.json"):
        assert (made_of_files.path / name).read_bytes() == (made["tokenizer"] / name).read_bytes()


def test_held_out_documents_are_measured(tmp_path: Path) -> None:
    lines = [json.dumps({**d, "text": d["text"] + f" {i}"}) for i, d in enumerate(DOCUMENTS)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for share, is_measured in ((0.3, True), (0.0, False)):
        config = Resolved(TokenizerConfig(vocab_size=480, held_out=share), {})
        folder = stage.run(config, {"text": tmp_path / "a.jsonl"}, tmp_path / f"held-{share}").path
        groups = json.loads((folder / "compression.json").read_text())["groups"]
        assert bool(groups) is is_measured
        assert all(0 < group["documents"] < 30 for group in groups)


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text to learn from"):
        stage.run(Resolved(TokenizerConfig(vocab_size=480), {}), {}, tmp_path / "none")
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(DataError, match="there is no text"):
        stage.run(
            Resolved(TokenizerConfig(vocab_size=480), {}), {"text": tmp_path / "a.jsonl"}, tmp_path / "t"
        )


def test_small_corpus_gives_a_smaller_vocabulary_and_says_so(tmp_path: Path) -> None:
    data = corpus(tmp_path / "corpus", DOCUMENTS)
    facts = learn(tmp_path / "tokenizer", data, vocab_size=5000).manifest["facts"]
    assert facts["vocab_size"] + facts["merges_missing"] == 5000 and facts["merges_missing"] > 0
    assert "instead of 5000" in (tmp_path / "tokenizer/log.txt").read_text()


def test_augmenting_a_given_vocabulary(made: dict[str, Path], tmp_path: Path) -> None:
    base = read_ranks(made["tokenizer"] / "vocab.tiktoken")
    write_ranks(tmp_path / "base.tiktoken", {**base, b"20": len(base)})
    data = corpus(tmp_path / "corpus", [{**d, "text": "语言模型很大 " * 9} for d in DOCUMENTS])
    learn(tmp_path / "grown", data, vocab_size=530, base=tmp_path / "base.tiktoken")
    grown = read_ranks(tmp_path / "grown/vocab.tiktoken")
    assert list(grown)[: len(base)] == list(base) and b"20" not in grown
    assert "很大".encode() in b" ".join(list(grown)[len(base) :])
    with pytest.raises(DataError, match="more than vocab_size"):
        learn(tmp_path / "small", data, vocab_size=500, base=tmp_path / "base.tiktoken")


def test_vocabulary_must_hold_the_bytes() -> None:
    with pytest.raises(UsageError, match="at least 464: 256 bytes and 208 special tokens"):
        validate(TokenizerConfig, {"vocab_size": 463})
    assert validate(TokenizerConfig, {"vocab_size": "32k"}).vocab_size == 32_000
    assert fields_without_source(TokenizerConfig) == fields_without_source(PackConfig) == []


def check_tokens(folder: Path, tok: Tokenizer) -> None:
    for split, wanted in (("train", DOCUMENTS), ("valid", DOCUMENTS[::7])):
        tokens = open_tokens(folder, split)
        index = list(read_jsonl(folder / f"documents.{split}.jsonl"))
        texts = {d["id"]: d["text"] for d in wanted}
        assert tokens.num_documents == len(index) == len(wanted)
        assert tokens.num_bytes == sum(len(text.encode()) for text in texts.values())
        for number, record in enumerate(index):
            *ids, last = tokens.document(number).tolist()
            assert last == tok.eos_id and tok.eos_id not in ids
            assert tok.decode(ids) == normalise(texts[record["id"]])
        for file in tokens.meta["splits"][split]["files"]:
            assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"]
            assert file["tokens"] <= 300


def test_tokens_artefact(made: dict[str, Path]) -> None:
    tok = load_tokenizer(made["tokenizer"])
    check_tokens(made["tokens"], tok)
    meta = json.loads((made["tokens"] / "shards.json").read_text())
    assert meta["dtype"] == "uint16" and meta["vocab_size"] == 520 and meta["eos_id"] == tok.eos_id
    assert meta["tokenizer"] == tok.content
    assert len(meta["splits"]["train"]["files"]) > 2
    assert not (made["tokens"] / "checkpoints").exists()


@pytest.mark.fault("tokenizer", "a token shard is changed", "found by its checksum")
def test_damaged_shards_are_found(made: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(made["tokens"], folder)
    assert damage(load(folder, "tokens")) == {} and main(["show", str(folder), "--verify"]) == 0
    data = bytearray((folder / "train-00001.bin").read_bytes())
    data[7] ^= 1
    (folder / "train-00001.bin").write_bytes(data)
    (folder / "valid.index.npy").unlink()
    assert damage(load(folder, "tokens")) == {"train-00001.bin": "changed", "valid.index.npy": "missing"}
    assert main(["show", str(folder), "--verify"]) == 4


@pytest.mark.fault("tokenizer", "packing is broken off at any write", "continues, same bytes")
@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_packing_goes_on_after_a_crash(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    written = 0
    append = pack._append

    def torn(path: Path, data: bytes) -> None:
        nonlocal written
        if path.suffix == ".bin":
            written += 1
            if written > stop_after:
                append(path, data[: len(data) // 2])
                raise KeyboardInterrupt
        append(path, data)

    arguments = (tmp_path / "tokens", made["corpus"], made["tokenizer"])
    monkeypatch.setattr(pack, "_append", torn)
    with pytest.raises(KeyboardInterrupt):
        shards(*arguments, shard_tokens=300, batch_bytes=700)
    assert not (tmp_path / "tokens/DONE").exists()
    monkeypatch.setattr(pack, "_append", append)
    again = shards(*arguments, shard_tokens=300, batch_bytes=700)
    for path in made["tokens"].iterdir():
        if path.suffix in (".bin", ".npy") or path.name.startswith(("documents", "shards")):
            assert (again.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_large_vocabularies_take_four_bytes() -> None:
    assert pack.token_dtype(65_536) == np.dtype("<u2") and pack.token_dtype(65_537) == np.dtype("<u4")
