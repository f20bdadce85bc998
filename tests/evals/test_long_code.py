"""Perplexity of long files of code: the same tokens in every way, changes in pairs, intervals over repositories."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import tiny_artefacts
import torch
import torch.nn.functional as F

from openqwen.cli import main
from openqwen.code_qwen.config import LongCodeConfig
from openqwen.evals.long_code import ALONE, OTHER, OWN, LongFile, bounds, make_table, means, readings
from openqwen.model import Qwen, save_model
from openqwen.model.config import ModelConfig

TOKENIZER = tiny_artefacts.byte_tokenizer()
LENGTH = 64


@pytest.fixture(scope="module")
def model() -> Qwen:
    torch.set_num_threads(1)
    made = Qwen(
        ModelConfig(
            vocab_size=TOKENIZER.vocab_size, hidden_size=32, num_layers=2, num_heads=2, max_length=LENGTH
        )
    )
    made.init_weights(3)
    return made.eval()


def test_every_way_reads_the_same_tokens_of_the_file(model: Qwen) -> None:
    rng = np.random.default_rng(0)
    ids, own, other = (rng.integers(0, 256, size) for size in (LENGTH + 1, 20, 20))
    found = dict(readings(model, LongFile("r", "a.py", ids, {OWN: own, OTHER: other}), LENGTH, 0.5))
    assert {way: len(losses) for way, losses in found.items()} == {ALONE: 64, OWN: 32, OTHER: 32}
    for way, before in ((ALONE, []), (OWN, own), (OTHER, other)):
        count = len(found[way])
        text = torch.tensor([*before, *ids[: count + 1]])
        with torch.no_grad():
            logits = model(text[None])[0].float()
        wanted = F.cross_entropy(
            logits[len(before) : -1], torch.from_numpy(ids[1 : count + 1]), reduction="none"
        )
        np.testing.assert_allclose(found[way], wanted, rtol=1e-4)


def test_columns_double_and_only_full_ones_are_filled() -> None:
    assert bounds(256, 4) == [0, 32, 64, 128, 256]
    assert means(np.arange(128.0), [0, 32, 64, 128, 256]) == [15.5, 47.5, 95.5]


def test_changes_are_paired_and_intervals_are_of_repositories() -> None:
    files = [LongFile(name, "a.py", np.zeros(1), {OWN: np.zeros(9)}) for name in "aaaabc"]
    level = [5.0, 5.0, 5.0, 5.0, 2.0, 2.0]
    read = [{ALONE: [x, x], OWN: [x - log(2)], OTHER: [x]} for x in level]
    table = make_table(files, read, [0, 4, 8], LongCodeConfig())
    alone, own, _ = (row["cells"] for row in table["rows"])
    assert (
        alone["0-4"]["value"] == pytest.approx(exp(3)) and alone["0-4"]["n"] == 3
    )  # a, b and c weigh the same
    assert set(own) == {"0-4"} and set(alone) == {"0-4", "4-8"}
    change = next(c for c in table["changes"] if c["change"] == f"{OWN} over {ALONE}")["cells"]["0-4"]
    assert change["value"] == change["low"] == change["high"] == pytest.approx(0.5)
    few = make_table(files[:5], read[:5], [0, 4, 8], LongCodeConfig())
    assert few["rows"][0]["cells"]["0-4"]["n"] == 5 and "too few" in few["notes"][-1]


def test_the_command_reads_checkouts(model: Qwen, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(model, tmp_path / "model")
    TOKENIZER.save(tmp_path / "model")
    for name in ("one", "two", "three"):
        root = tmp_path / "code" / name
        (root / ".git").mkdir(parents=True)
        (root / "main.py").write_text(
            f"from part import {name}\n" + f"{name} = call({name})\n" * 9, encoding="utf-8"
        )
        (root / "part.py").write_text(f"{name} = 1  # a part\n", encoding="utf-8")
        (root / "blob.py").write_bytes(bytes(200))
    words = ["long-code", "--model", str(tmp_path / "model"), "--input", str(tmp_path / "code")]
    assert main([*words, "--out", str(tmp_path / "out"), "--buckets", "3"]) == 0
    table = json.loads((tmp_path / "out" / "long_code.json").read_text(encoding="utf-8"))
    assert [column["name"] for column in table["columns"]] == ["0-16", "16-32", "32-64"]
    cells = {row["model"]: row["cells"] for row in table["rows"]}
    assert list(cells[OWN]) == ["0-16", "16-32"] and cells[ALONE]["32-64"]["n"] == 3
    assert (tmp_path / "out" / "long_code.svg").read_text(encoding="utf-8").startswith("<svg")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["facts"]["skipped"] == {"binary file": 3} and manifest["facts"]["files"] == 3
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "none"), "--length", "4096"]) == 4
    assert "no file has the 4097 tokens" in capsys.readouterr().err
