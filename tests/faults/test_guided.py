"""A coverage-guided fuzzer on what reads requests, conversations, ReAct texts and ids. OPENQWEN_GUIDED: seconds in all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults.record import record

pytest.importorskip("atheris", reason="atheris is not installed: it has no wheel for this Python")
ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("OPENQWEN_GUIDED", "240"))
TARGETS = ("requests", "conversations", "react", "detokeniser")
START = {
    "requests": ['{"messages": [{"role": "user", "content": "hi"}], "n": 2}', '{"prompt": [[1, 2]], "stop": ["x"]}'],
    "conversations": ["abcdefgh"],
    "react": ["Thought: a\nAction: b\nAction Input: {}\nObservation: c\nThought: d\nFinal Answer: e"],
    "detokeniser": ["\x00\x01\x02\x03"],
}  # fmt: skip


def fuzz(target: str, folder: Path, *options: str) -> int:
    """Runs one target; how many inputs it tried. A crash fails with the input in it."""
    corpus = folder / target
    corpus.mkdir()
    for number, text in enumerate(START[target]):
        (corpus / str(number)).write_text(text)
    command = [sys.executable, str(ROOT / "tests" / "faults" / "guided.py"), target, *options, str(corpus)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    counted = re.search(r"Done (\d+) runs", done.stderr)
    assert done.returncode == 0 and counted, done.stdout[-2000:] + done.stderr[-3000:]
    return int(counted[1])


@pytest.mark.fault(
    "files from strangers",
    "a coverage-guided fuzzer looks for a ReAct text that breaks its reader",
    "there is none",
)
def test_guided_fuzzing_finds_nothing_soon(tmp_path: Path) -> None:
    assert fuzz("react", tmp_path, "-runs=2000", "-seed=12") >= 2000


@pytest.mark.long
def test_guided_fuzzing_finds_nothing(tmp_path: Path) -> None:
    runs = {
        target: fuzz(target, tmp_path, f"-max_total_time={SECONDS // len(TARGETS)}") for target in TARGETS
    }
    record("coverage-guided fuzzing", **runs, crashes=0, seconds=SECONDS)
