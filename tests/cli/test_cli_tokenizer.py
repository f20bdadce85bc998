"""`openqwen tokenizer compare`: the table, the files it writes, and what it says of wrong input."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tiny_artefacts import NoSettings, byte_tokenizer, tokenizer_artefact

from openqwen.cli import main
from openqwen.core.artifact import stage_run
from openqwen.core.config import Resolved
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.tokenizer import Tokenizer
from openqwen.tokenizer.ranks import write_ranks

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    {"text": "the then thin the " * 5, "lang": "en"},
    {"text": "der die das " * 5, "lang": "de"},
    {"text": "no language"},
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with a text and two vocabularies: bytes, and bytes with "the"."""
    monkeypatch.chdir(tmp_path)
    Path("text.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    write_ranks(Path("plain.tiktoken"), byte_tokenizer().ranks)
    Path("ours").mkdir()
    Tokenizer({**byte_tokenizer().ranks, b"th": 256, b"the": 257}).save(Path("ours"))
    return tmp_path


def compare(*words: str) -> int:
    return main(["tokenizer", "compare", *words])


def test_table_json_and_figure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ours", "p=plain.tiktoken@gpt2", "--text", "text.jsonl", "--base", "p", "--out", "new/folder"]
    assert compare(*words) == 0
    lines = capsys.readouterr().out.split("\n")
    assert [line.split()[0] for line in lines if line[1:4].strip() and "." in line][:4] == [
        *("all", "de", "en", "unknown")
    ]
    english = next(line.split() for line in lines if line.startswith(" en"))
    # 15 of 18 letters remain of "the then thin the ": two tokens less for each "the", one for "th"
    assert english == ["en", "0.1", f"{18 / 11:.2f}", f"{11 / 18:.3f}", "1.00"]
    assert any("tokens over those of p " in line and "XLM-R" in line for line in lines)
    result = json.loads(Path("new/folder/compression.json").read_text())
    assert result["made_with"]["ours"] == {
        "kind": "tiktoken",
        "vocab_size": 256 + 2 + 208,
        "file": "ours/vocab.tiktoken",
        "sha256": hashlib.sha256(Path("ours/vocab.tiktoken").read_bytes()).hexdigest(),
        "pattern": "qwen",
    }
    assert result["made_with"]["p"]["pattern"] == "gpt2" and result["base"] == "p"
    assert (
        result["text"]["sha256"] == hashlib.sha256("".join(d["text"] for d in DOCUMENTS).encode()).hexdigest()
    )
    drawn = " ".join(ET.parse("new/folder/figure3.svg").getroot().itertext())
    assert "p = 1" in drawn and "ours" in drawn and "unknown" in drawn and f"{11 / 18:.2f}" in drawn


def test_held_out_part_of_a_corpus(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stage_run(place / "corpus", "corpus", Resolved(NoSettings(), {}), {}):
        for split, lang in (("train", "xx"), ("valid", "yy")):
            (place / "corpus" / split).mkdir()
            document = {"text": "the", "lang": lang, "source": split}
            write_jsonl_zst(place / "corpus" / split / "part-00000.jsonl.zst", [document])
    assert compare("ours", "--text", "corpus") == 0
    shown = capsys.readouterr().out
    assert "yy" in shown and "xx" not in shown
    assert compare("ours", "--text", "corpus", "--split", "train", "--by", "source") == 0
    shown = capsys.readouterr().out
    assert "train" in shown and "valid" not in shown


def test_names_may_hold_what_separates_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ours").rename("lr=3@2")
    assert compare("lr=3@2", "name=lr=3@2", "--text", "text.jsonl", "--min-bytes", "0.06k") == 0
    shown = capsys.readouterr().out
    assert "lr=3@2" in shown and "name" in shown and "left out: 1 with less than 60 bytes" in shown


def test_a_guess_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("plain.tiktoken", "--text", "text.jsonl") == 0
    assert "read as Qwen cuts text" in capsys.readouterr().out
    assert compare("ours", "plain.tiktoken@qwen", "--text", "text.jsonl") == 0
    assert "read as" not in capsys.readouterr().out


WRONG = {
    "no tokenizer": (["--text", "text.jsonl"], 2, "no tokenizer to measure"),
    "only the base": (["ours", "--text", "text.jsonl", "--base", "ours"], 2, "beside the base 'ours'"),
    "no text": (["ours"], 2, "--text"),
    "absent tokenizer": (["a=ous", "--text", "text.jsonl"], 4, "Did you mean 'ours'"),
    "absent text": (["ours", "--text", "text.json"], 4, "Did you mean 'text.jsonl'"),
    "folder without tokenizer": (["a=.", "--text", "text.jsonl"], 4, "holds no tokenizer"),
    "no path": (["a=", "--text", "text.jsonl"], 2, "NAME=PATH"),
    "one name twice": (["ours", "ours=plain.tiktoken", "--text", "text.jsonl"], 2, "'ours' is taken"),
    "name of the bytes": (["bytes=ours", "--text", "text.jsonl"], 2, "'bytes' is taken"),
    "unknown base": (["ours", "--text", "text.jsonl", "--base", "our"], 2, "Did you mean 'ours'"),
    "unknown pattern": (["plain.tiktoken@gtp2", "--text", "text.jsonl"], 2, "Did you mean 'gpt2'"),
    "no count": (["ours", "--text", "text.jsonl", "--min-bytes", "-3"], 2, "no count"),
    "empty text": (["ours", "--text", "empty.txt"], 4, "no text to measure on"),
    "into an artefact": (["ours", "--text", "text.jsonl", "--out", "done"], 2, "finished artefact"),
    "out is a file": (["ours", "--text", "text.jsonl", "--out", "text.jsonl"], 1, "cannot write"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_error(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer_artefact(place / "done")
    Path("empty.txt").touch()
    capsys.readouterr()
    words, code, message = WRONG[name]
    assert compare(*words) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and message in shown.err and not shown.out
    assert "Traceback" not in shown.err and not (place / "done/figure3.svg").exists()


@pytest.mark.fault("command line", "a comparison is interrupted", "nothing is written")
def test_interrupted_run_writes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tokenizer, "encode_batch", stopped)
    assert compare("ours", "--text", "text.jsonl", "--out", "made") == 130
    assert "nothing was written" in capsys.readouterr().err and not list((place / "made").iterdir())


def test_files_are_whole_when_the_reader_of_the_table_goes(place: Path) -> None:
    line = f"{sys.executable} -m openqwen tokenizer compare ours --text text.jsonl --out made | true"
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == "" and (place / "made/figure3.svg").is_file()
