"""Table 3's sweep on a toy model: the form of its files, which text it reads, what it says when there is little."""

from __future__ import annotations

import copy
import gzip
import importlib
import json
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openqwen.cli import main
from openqwen.core.artifact import find, stage_run, write_json
from openqwen.core.config import Config, Resolved, setting, validate
from openqwen.core.errors import DataError, UsageError
from openqwen.core.shards import open_tokens
from openqwen.model import Extension, save_model
from openqwen.model.config import ExtendConfig, ModelConfig, layer_windows
from openqwen.model.extend import KIND, PUBLISHED, TECHNIQUES, cut_blocks, make_changes, run, token_losses
from openqwen.model.qwen import Qwen
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.tokenizer.train import byte_ranks


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


def sweep(tmp_path: Path, model: Path, tokens: Path, **settings: Any) -> dict:
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
def test_losses_are_those_of_pieces_read_alone(small):
    ids = torch.arange(33) % 61
    wanted = torch.stack(
        [
            F.cross_entropy(small(ids[s : s + 8][None])[0], ids[s + 1 : s + 9], reduction="none")
            for s in range(0, 32, 8)
        ]
    )
    torch.testing.assert_close(
        token_losses(small, ids, 8, Extension()), wanted.double(), rtol=1e-5, atol=1e-5
    )


def test_rule_of_windows_at_the_reports_sizes():
    assert layer_windows(2048, 32) == (2048,) * 4 + (4096,) * 4 + (8192,) * 24
    assert layer_windows(256, 4) == (256, 512, 1024, 1024)


def test_changes_are_paired():
    """Blocks differ by nats, the technique by a hundredth: in pairs the interval is the technique's."""
    ways = {way: [1.0 + 0.01 * number, 3.0 + 0.01 * number] for number, way in enumerate(TECHNIQUES)}
    losses = {(way, m): values for way, values in ways.items() for m in (1.0, 4.0)}
    losses["plain", 4.0] = [2.0, 5.0]
    rows = {row["change"]: row["cells"] for row in make_changes({1: "1x (16)", 4: "4x (64)"}, losses, 0)}
    assert len(rows) == 4 and all(list(cells) == ["4x (64)"] for cells in rows.values())
    assert rows["plain over its training length"]["4x (64)"]["value"] == pytest.approx(exp(1.5))
    logn = rows["+ dynamic_ntk + logn over + dynamic_ntk"]["4x (64)"]
    assert logn["n"] == 2
    assert [logn[key] for key in ("value", "low", "high")] == pytest.approx([exp(0.01)] * 3)


@torch.inference_mode()
def test_analysis(tmp_path, small, model_artifact):
    tokens = make_tokens(tmp_path / "tokens", [300], ["a"])
    table = sweep(tmp_path, model_artifact, tokens, blocks=2, analysis=(4, 8), analysis_blocks=1)
    for multiple in (4, 8):
        analysis = json.loads((tmp_path / f"out/entropy_{multiple}x.json").read_text())
        assert analysis["length"] == 16 * multiple and analysis["blocks"] == 1
        assert (tmp_path / f"out/entropy_{multiple}x.svg").read_text().startswith("<svg")
        # The analysis reads the losses of the table: their mean by position is the table's cell.
        widths = np.diff([0, *analysis["ends"]])
        for row, found in zip(table["rows"][-4:], analysis["techniques"].values()):
            mean = np.dot(widths, found["loss"]) / analysis["length"]
            cell = row["cells"][f"{multiple}x ({16 * multiple})"]
            assert exp(mean) == pytest.approx(cell["value"], rel=1e-3)
        assert len(analysis["query_scale"]["loss"]) == len(analysis["query_scale"]["scales"])
        ids = np.concatenate([block.ids for block in cut_blocks(open_tokens(tokens, "valid"), ["a"], 128, 2)])
        pairs = np.delete(np.stack([ids[:-1], ids[1:]]), 128, axis=1)  # without the seam of the blocks
        alone = F.cross_entropy(small(torch.from_numpy(pairs[0, :, None]))[:, 0], torch.from_numpy(pairs[1]))
        assert analysis["one_token_loss"] == pytest.approx(float(alone), abs=1e-5)
    assert sum("What context is worth" in note for note in table["notes"]) == 2
    assert sum("What LogN can win" in note for note in table["notes"]) == 2


def test_analysis_only_of_lengths_in_the_table():
    with pytest.raises(UsageError, match="analysis"):
        validate(ExtendConfig, {"analysis": (3,)})


@pytest.fixture
def byte_model(tmp_path) -> Path:
    """A model artefact with a tokenizer of bytes inside, as pretraining leaves one."""
    tokenizer = Tokenizer(byte_ranks())
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        ffn_size=16,
        max_length=16,
    )
    with stage_run(tmp_path / "byte-model", "model", Resolved(Empty(), {}), {}):
        save_model(Qwen(config), tmp_path / "byte-model")
        tokenizer.save(tmp_path / "byte-model")
    return tmp_path / "byte-model"


def test_documents_as_they_are(tmp_path, byte_model):
    texts = tmp_path / "texts"
    texts.mkdir()
    records = [
        {"text": "one two three " * 20, "source": "book"},
        {"text": "四五六" * 40, "source": "classic"},
    ]
    with gzip.open(texts / "long.jsonl.gz", "wt", encoding="utf-8", newline="\n") as file:
        file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    (texts / "paper.tex").write_text("\\section{A} " * 30, encoding="utf-8")
    out = tmp_path / "table"
    words = ["extend", "--model", str(byte_model), "--documents", str(texts), "--out", str(out)]
    assert main([*words, "--blocks", "3"]) == 0
    packed = find(tmp_path / "table-tokens")
    assert packed is not None and packed.manifest["facts"]["documents"] == 3
    split = json.loads((packed.path / "shards.json").read_text())["splits"]
    assert split["train"]["tokens"] == 0 and split["valid"]["tokens"] == 280 + 360 + 360 + 3
    ids = open_tokens(packed.path, "valid").document(0)
    assert Tokenizer(byte_ranks()).decode(ids[:-1]) == records[0]["text"]
    table = json.loads((out / "table_03.json").read_text())
    assert "from book, classic, text" in table["notes"][1]
    assert table["rows"][-1]["cells"]["8x (128)"]["n"] == 3
    again = packed.path / "DONE"
    before = again.stat().st_mtime_ns
    assert main([*words, "--blocks", "2"]) == 0 and again.stat().st_mtime_ns == before, "packed once"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--tokens ARTEFACT or --documents PATH"),
        (["--tokens", "t", "--documents", "d"], 2, "either packed tokens or documents"),
        (["--tokens", "t", "--tokenizer", "k"], 2, "packed tokens need no tokenizer"),
        (["--documents", "nowhere"], 4, "nowhere"),
        (["--documents", "nowhere", "--blocs", "3"], 2, "blocks"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path, byte_model, capsys, words, code, said):
    assert main(["extend", "--model", str(byte_model), "--out", str(tmp_path / "out"), *words]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out-tokens").exists()


def test_documents_need_a_tokenizer(tmp_path, model_artifact, capsys):
    (tmp_path / "a.txt").write_text("words " * 100)
    words = ["extend", "--model", str(model_artifact), "--out", str(tmp_path / "out")]
    assert main([*words, "--documents", str(tmp_path / "a.txt")]) == 4
    assert "--tokenizer" in capsys.readouterr().err


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def recorded(monkeypatch) -> tuple[Any, dict[str, Any]]:
    """benchmarks/context.py and what it has written."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("context"), json.loads((BENCHMARKS / "results/context.json").read_text())


def test_the_recorded_tables_have_the_shape_of_the_reports(recorded):
    """LogN at 4x and 8x; at 16x, where NTK itself gives way, it may do harm, and the entropy files say why."""
    benchmark, found = recorded
    assert [table["seed"] for table in found["tables"]] == list(benchmark.SEEDS)
    for table, stored in zip(found["tables"], found["pattern"]):
        shape = benchmark.pattern(table)
        assert stored == {"seed": table["seed"], **shape}
        assert shape["plain_explodes"] and shape["ntk_holds"] and all(shape["windows_no_worse"].values())
        assert list(shape["logn_improves"].values())[:2] == [True, True]
    assert benchmark.summary(found["tables"]) == found["summary"]


@pytest.mark.parametrize(
    ("part", "kind", "row", "column", "value"),
    [
        ("plain_explodes", "changes", 0, 2, {"low": 9.9}),
        ("ntk_holds", "rows", -3, 2, {"value": 30.0}),
        ("logn_improves", "changes", 2, 3, {"high": 1.0}),
        ("windows_no_worse", "changes", 3, 4, {"high": 1.01}),
    ],
)
def test_a_table_of_another_shape_would_be_seen(recorded, part, kind, row, column, value):
    benchmark, found = recorded
    table = copy.deepcopy(found["tables"][0])
    name = table["columns"][column]["name"]
    table[kind][row]["cells"][name].update(value)
    before, after = benchmark.pattern(found["tables"][0]), benchmark.pattern(table)
    assert [key for key in after if after[key] != before[key]] == [part]
    assert (after[part][name] if isinstance(after[part], dict) else after[part]) is False
