"""`openqwen show chat`: the files finetuning reads, on a terminal, in a pipe, and broken."""

from __future__ import annotations

import gzip
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from openqwen.chat.chatml import Mask
from openqwen.cli import main, show
from openqwen.tokenizer import Tokenizer
from openqwen.tokenizer.train import byte_ranks

RECORDS = [
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    {"instruction": "hi", "output": "hello"},
    {"query": "hi", "tools": [], "final": "hello"},
]
HELLO = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n«hello<|im_end|>»\n"


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)) + "\n")
    return path


def test_every_form_is_shown_with_its_mask(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "chat", str(talk)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(HELLO) == 3 and "«Thought: I now know the final answer.\nFinal Answer: hello" in shown
    assert f"{talk}:4: " in shown and "--tokenizer" in shown


def test_arrays_and_compressed_files(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, packed = talk.with_name("a.json"), talk.with_name("b.jsonl.gz")
    array.write_text(json.dumps(RECORDS, indent=1))
    packed.write_bytes(gzip.compress(talk.read_bytes()))
    for path in (array, packed):
        assert main(["show", "chat", str(path), "--limit", "2"]) == 0
        shown = capsys.readouterr().out
        assert shown.count(HELLO) == 2 and "Final Answer" not in shown


def test_a_tokenizer_gives_the_counts(talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merges = (b"he", b"ll", b"hell", b"hello")
    Tokenizer(byte_ranks() | {token: 256 + i for i, token in enumerate(merges)}).save(tmp_path)
    assert main(["show", "chat", str(talk), "--tokenizer", str(tmp_path), "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert ": 2 of " in shown and HELLO in shown and "--tokenizer" not in shown


def test_the_released_scripts_mask(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "chat", str(talk), "--mask", "released-script", "--limit", "1"]) == 0
    assert "hi«<|im_end|>\n<|im_start|>»assistant\n«hello<|im_end|>\n»" in capsys.readouterr().out


def test_masks_on_offer_are_those_of_chatml() -> None:
    hints = get_type_hints(show.chat, include_extras=False)
    assert get_args(hints["mask"]) == get_args(Mask)


def test_a_broken_line_is_named_and_the_rest_shown(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = talk.read_text().split("\n")
    talk.write_text("\n".join([lines[0], lines[1][:30], lines[2]]))
    assert main(["show", "chat", str(talk)]) == 4
    shown, error = capsys.readouterr()
    assert shown.count(HELLO) == 2 and f"{talk}:2: skipped: not JSON" in shown
    assert error.startswith("error: 1 of 3 records") and f"{talk}:2" in error


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["absent.jsonl"], 4, "No such file"),
        (["."], 4, "Is a directory"),
        (["empty.jsonl"], 4, "holds no conversation"),
        (["binary.jsonl"], 4, "not UTF-8"),
        (["talk.jsonl", "--limit", "0"], 2, "--limit 0"),
        (["talk.jsonl", "--mask", "other"], 2, "released-script"),
        (["talk.jsonl", "--tokenizer", "absent"], 4, "no tokenizer"),
        ([], 2, "file"),
    ],
)
def test_wrong_input_is_one_clear_error(
    talk: Path,
    words: list[str],
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(talk.parent)
    Path("empty.jsonl").touch()
    Path("binary.jsonl").write_bytes(bytes(range(256)) * 40)
    assert main(["show", "chat", *words]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and "Traceback" not in error


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_on_a_terminal(talk: Path, no_color: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_color else {})
    command = [sys.executable, "-m", "openqwen", "show", "chat", str(talk), "--limit", "1"]
    subprocess.run(command, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert ("\x1b[1;32mhello" in seen) == (not no_color) and ("«" in seen) == no_color
