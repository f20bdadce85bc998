"""`openqwen tokenizer check`: a sound tokenizer passes, each kind of damage is named and fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openqwen.cli import main
from openqwen.tokenizer import Tokenizer, unicode
from openqwen.tokenizer.encoders import GigatokenEncoder, TiktokenEncoder
from openqwen.tokenizer.train import byte_ranks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved tokenizer; of the code points only some are looked at, to be quick (and transformers is left out)."""
    monkeypatch.setattr(unicode, "CODE_POINTS", [*range(0x600), *range(0x323A0, 0x323C0)])
    monkeypatch.setattr("openqwen.tokenizer.check.find_spec", lambda name: None)
    ranks = byte_ranks()
    Tokenizer({**ranks, b"th": len(ranks), b"the": len(ranks) + 1}, encoder="tiktoken").save(tmp_path)
    return tmp_path


def records(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    code = main(["tokenizer", "check", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def change(path: Path, **parts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


@pytest.mark.parametrize("name", ["", "vocab.tiktoken", "tokenizer.json"])
def test_a_sound_tokenizer_passes(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "check", str(folder / name)]) == 0
    shown = capsys.readouterr()
    assert "258 ranks without a gap, 208 special tokens, ids 0..465" in shown.out and "FAIL" not in shown.out
    assert "equals the readable twin" in shown.out and "cuts: tiktoken" in shown.out
    assert "normal form of every code point" in shown.err and "normal form of" not in shown.out


def test_json_holds_the_ranges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = records(capsys, str(folder))
    assert code == 0 and all(record["ok"] for record in found)
    compared = [record for record in found if "ranges" in record]
    assert {record["name"] for record in compared} == {"cuts", "normal forms"}
    for record in compared:
        assert record["unexplained"] == [] and len(record["versions"]) == 2
        if record["versions"][0] == record["versions"][1]:
            assert record["ranges"] == []


def test_differences_are_listed_with_names(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder / "tokenizer.json", normalizer={"type": "NFKC"})
    monkeypatch.setattr(unicode, "CODE_POINTS", range(0xA0, 0x100))
    assert main(["tokenizer", "check", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert "FAIL  normal forms" in shown
    assert "U+00B2..U+00B5  4  SUPERSCRIPT TWO .. MICRO SIGN\n" in shown and "U+00B6" not in shown
    assert "FAIL  exported ids: tokenizers gives other ids" in shown


def test_an_exported_layout_of_another_vocabulary_fails(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    model["vocab"]["the"], model["vocab"]["th"] = model["vocab"]["th"], model["vocab"]["the"]
    change(folder / "tokenizer.json", model=model)
    code, found = records(capsys, str(folder))
    assert code == 1
    assert [r["text"] for r in found if r["name"] == "tokenizer.json"] == [
        "other tokens or ids than the vocabulary"
    ]


def test_an_engine_that_cuts_wrongly_fails_with_the_code_point(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = TiktokenEncoder.encode

    def wrong(self: TiktokenEncoder, text: str) -> list[int]:
        parts = text.partition("\u0416")
        return [i for part in parts for i in right(self, part)] if parts[1] else right(self, text)

    monkeypatch.setattr(TiktokenEncoder, "encode", wrong)
    code, found = records(capsys, str(folder), "--encoder", "tiktoken")
    assert code == 1
    bad = {tuple(map(tuple, record["unexplained"])) for record in found if not record["ok"]}
    assert bad == {((0x416, 0x416),)}


def test_an_engine_that_is_not_in_use_is_named_and_allowed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    monkeypatch.setattr("openqwen.tokenizer.check.find_spec", lambda name: name == "gigatoken" or None)
    monkeypatch.setattr(GigatokenEncoder, "encode", lambda self, text: [0])
    code, found = records(capsys, str(folder))
    assert code == 0 and "engine in use: tiktoken" in found[0]["text"]
    assert any(record["text"].startswith("gigatoken (not in use) differs") for record in found)


@pytest.mark.parametrize("name", ["vocab.tiktoken", "tokenizer.json"])
def test_a_torn_file_is_one_error(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["tokenizer", "check", str(folder)]) == 4
    error = capsys.readouterr().err
    assert "error: " in error and name in error and "Traceback" not in error


def test_nothing_there_and_unknown_engines_are_one_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", "check", str(folder / "absent")]) == 4
    assert "no tokenizer there" in capsys.readouterr().err
    assert main(["tokenizer", "check", str(folder), "--encoder", "other"]) == 2
