"""Table 3's sweep on a toy model: the form of its files, which text it reads, what it says when there is little."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openqwen.core.artifact import stage_run, write_json
from openqwen.core.config import Config, Resolved, setting
from openqwen.core.errors import DataError
from openqwen.core.shards import open_tokens
from openqwen.model import Extension, save_model
from openqwen.model.config import ExtendConfig, layer_windows
from openqwen.model.extend import KIND, PUBLISHED, cut_blocks, mean_loss, run


class Empty(Config):
    """Settings of an artefact made by hand."""

    seed: int = setting(0, source="ours")


def make_tokens(path: Path, documents: list[int], sources: list[str], vocab_size: int = 61) -> Path:
    ids = np.random.default_rng(0).integers(0, vocab_size, sum(documents)).astype("<u2")
    with stage_run(path, "tokens", Resolved(Empty(), {}), {}):
        (path / "valid-00000.bin").write_bytes(ids.tobytes())
        np.save(path / "valid.index.npy", np.cumsum(documents))
        records = [{"id": str(i), "source": source} for i, source in enumerate(sources)]
        (path / "documents.valid.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        file = {"name": "valid-00000.bin", "tokens": len(ids), "sha256": ""}
        split = {"files": [file], "tokens": len(ids), "documents": len(documents), "bytes": 3 * len(ids)}
        meta = {"dtype": "uint16", "vocab_size": vocab_size, "tokenizer": "x", "eos_id": 0}
        write_json(path / "shards.json", {**meta, "splits": {"valid": split}})
    return path


@pytest.fixture
def model_artifact(tmp_path, small) -> Path:
    with stage_run(tmp_path / "model", "model", Resolved(Empty(), {}), {}):
        save_model(small, tmp_path / "model")
    return tmp_path / "model"


def sweep(tmp_path: Path, model: Path, tokens: Path, **settings: object) -> dict:
    config = ExtendConfig(**settings)
    artifact = run(Resolved(config, {}), {"model": model, "tokens": tokens}, tmp_path / "out")
    assert artifact.kind == KIND
    return json.loads(artifact.file("table_03.json").read_text())


def test_table_and_plot(tmp_path, model_artifact):
    tokens = make_tokens(tmp_path / "tokens", [300, 40, 50, 45, 60], ["a", "b", "b", "b", "b"])
    table = sweep(tmp_path, model_artifact, tokens, blocks=3)
    names = [column["name"] for column in table["columns"]]
    assert names == ["0.5x (8)", "1x (16)", "2x (32)", "4x (64)", "8x (128)"]
    ours = [row for row in table["rows"] if row["origin"] == "ours"]
    assert len(ours) == 4 and len(table["rows"]) == 4 + len(PUBLISHED)
    for row in ours:
        assert row["cells"]["1x (16)"] == ours[0]["cells"]["1x (16)"], "in-length all are the plain model"
        for cell in row["cells"].values():
            assert cell["n"] == 3 and cell["low"] <= cell["value"] <= cell["high"]
    beyond = [row["cells"]["8x (128)"]["value"] for row in ours]
    assert len(set(beyond)) == 4, "each technique changes what is computed beyond the training length"
    assert table["rows"][0]["cells"]["2x (32)"] == {"value": 39.35}
    assert any("joined" in note for note in table["notes"])
    svg = (tmp_path / "out/context.svg").read_text()
    assert svg.startswith("<svg") and "dynamic_ntk" in svg
    lines = (tmp_path / "out/samples.jsonl").read_text().strip().split("\n")
    assert [json.loads(line)["label"] for line in lines] == [row["model"] for row in ours]


def test_same_settings_give_the_same_table(tmp_path, model_artifact):
    tokens = make_tokens(tmp_path / "tokens", [300], ["a"])
    first = sweep(tmp_path, model_artifact, tokens, blocks=2)
    svg = (tmp_path / "out/context.svg").read_bytes()
    assert sweep(tmp_path, model_artifact, tokens, blocks=2) == first
    assert (tmp_path / "out/context.svg").read_bytes() == svg


def test_too_little_text_shortens_the_table_and_says_so(tmp_path, model_artifact):
    tokens = make_tokens(tmp_path / "tokens", [40], ["a"])
    table = sweep(tmp_path, model_artifact, tokens)
    assert [column["name"] for column in table["columns"]] == ["0.5x (8)", "1x (16)", "2x (32)"]
    assert any("4x, 8x" in note for note in table["notes"])


def test_no_text_is_an_error(tmp_path, model_artifact):
    tokens = make_tokens(tmp_path / "tokens", [10], ["a"])
    with pytest.raises(DataError, match="enough text"):
        sweep(tmp_path, model_artifact, tokens)


def test_tokens_of_another_vocabulary(tmp_path, model_artifact):
    tokens = make_tokens(tmp_path / "tokens", [200], ["a"], vocab_size=70)
    with pytest.raises(DataError, match="70 ids"):
        sweep(tmp_path, model_artifact, tokens)


def test_blocks_prefer_long_documents_and_never_mix_sources(tmp_path):
    path = make_tokens(tmp_path / "tokens", [35, 20, 30, 25], ["b", "a", "b", "a"])
    tokens = open_tokens(path, "valid")
    blocks = cut_blocks(tokens, ["b", "a", "b", "a"], 29, 10)
    assert [(block.source, block.joined) for block in blocks] == [("a", True), ("b", False), ("b", False)]
    assert (blocks[1].ids == tokens.document(0)[:30]).all()
    assert (blocks[0].ids == np.concatenate([tokens.document(1), tokens.document(3)])[:30]).all()


@torch.inference_mode()
def test_mean_loss_is_the_plain_one(small):
    ids = torch.arange(33) % 61
    wanted = [F.cross_entropy(small(ids[s : s + 8][None])[0], ids[s + 1 : s + 9]) for s in range(0, 32, 8)]
    assert mean_loss(small, ids, 8, Extension()) == pytest.approx(sum(wanted).item() / 4, rel=1e-5)


def test_rule_of_windows_at_the_reports_sizes():
    assert layer_windows(2048, 32) == (2048,) * 4 + (4096,) * 4 + (8192,) * 24
    assert layer_windows(256, 4) == (256, 512, 1024, 1024)
