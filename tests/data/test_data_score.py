"""Documents scored by a model of ours: the bits are those of its logits, and a build judges by them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_artefacts as tiny
from shard_bench import resolved

from openqwen.cli import main
from openqwen.core.artifact import write_jsonl
from openqwen.core.errors import DataError
from openqwen.data import lm
from openqwen.data.account import Account
from openqwen.data.config import DataConfig
from openqwen.data.stage import run

TEXTS = ["a", "The river is long. " * 9, "河很长，也很慢。" * 5, "x" * 48, "y" * 49, "Rain and wind."]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_artefact(tmp_path_factory.mktemp("score") / "model")


def built(out: Path, texts: list[str], **flags: Any) -> Account:
    path = out.with_suffix(".jsonl")
    write_jsonl(path, [{"source": "web", "text": text} for text in texts])
    settings = {
        "quality__drop": False,
        "dedup__fuzzy": False,
        "language__keep": [],
        "quality__rules": False,
        **flags,
    }
    return Account(run(resolved(DataConfig, "data", **settings), {"input": path}, out))


def rows(account: Account) -> dict[str, dict[str, Any]]:
    """Rows of the account by the text they are of."""
    tables = [
        row for table in account.tables(["id", "step", "detail", "scores"]) for row in table.to_pylist()
    ]
    places = account.find([row["id"] for row in tables])
    return {account.text(places[row["id"]]): {**row, "scores": dict(row["scores"])} for row in tables}


def test_bits_are_those_of_the_logits_for_any_batch(model: Path) -> None:
    import torch

    from openqwen.model.weights import load_model
    from openqwen.pretrain.score import bits_per_byte
    from openqwen.tokenizer import load_tokenizer

    net, tokenizer = load_model(model), load_tokenizer(model)
    wanted = []
    for text in TEXTS:
        ids, nats = [tokenizer.eos_id, *tokenizer.encode(text)], 0.0
        for start in range(0, len(ids) - 1, 48):  # the model's length
            piece = ids[start : start + 49]
            with torch.no_grad():
                logp = net(torch.tensor([piece[:-1]]))[0].double().log_softmax(-1)
            nats -= sum(float(logp[i, token]) for i, token in enumerate(piece[1:]))
        wanted.append(nats / math.log(2) / len(text.encode()))
    for batch in (1, 4, 64):
        found = bits_per_byte(net, tokenizer, [text.encode() for text in TEXTS], batch)
        assert found == pytest.approx(wanted, rel=1e-4)


def test_a_build_judges_by_the_scores(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"Hill {i} lies by the river and has {i * i} trees. {'mud ' * (i % 5)}" for i in range(30)]
    scored = built(tmp_path / "first", texts)
    for name in ("one", "two"):
        command = ["data", "score", "--corpus", str(scored.corpus.path), "--model", str(model)]
        assert main([*command, "--out", str(tmp_path / name), "--batch", "7"]) == 0
    assert (tmp_path / "one" / lm.FILE).read_bytes() == (tmp_path / "two" / lm.FILE).read_bytes()
    flags = {"quality__scores": str(tmp_path / "one")}
    bits = {
        text: row["scores"]["lm"] for text, row in rows(built(tmp_path / "again", texts, **flags)).items()
    }
    assert len(bits) == 30 and len(set(bits.values())) > 20
    limit = sorted(bits.values())[20]
    capsys.readouterr()
    flags |= {
        "quality__drop": True,
        "quality__lm_max_bits": limit,
        "quality__spam": 1.0,
        "quality__quality": 0.0,
    }
    told = rows(built(tmp_path / "dropped", [*texts, "A page that no model has read."], **flags))
    assert "1 documents have no score" in "".join(capsys.readouterr())
    assert {text for text, row in told.items() if row["step"] == "lm"} == {
        t for t, b in bits.items() if b > limit
    }
    assert all(row["step"] in (None, "lm") for row in told.values())
    assert "lm" not in told["A page that no model has read."]["scores"]


def test_refusals(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="scores"):
        built(tmp_path / "c", TEXTS[-1:], quality__scores=str(model))
    out = ["--out", str(tmp_path / "s")]
    assert main(["data", "score", "--corpus", str(model), "--model", str(model), *out]) == 4
    assert "corpus" in capsys.readouterr().err


def test_a_beginning_ends_with_a_whole_character() -> None:
    text = "ab" + "河" * 10
    assert [lm.head(text, size).decode() for size in (1, 2, 4, 5, 100)] == ["a", "ab", "ab", "ab河", text]
    assert lm.key(lm.head("x")) != lm.key(lm.head("y"))
