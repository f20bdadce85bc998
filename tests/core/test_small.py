"""Metrics, console and token shards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from openqwen.core.console import Progress, duration
from openqwen.core.errors import DataError, nearest
from openqwen.core.metrics import Metrics, read_metrics
from openqwen.core.shards import open_tokens


@pytest.mark.fault(
    "training", "metrics reach beyond the checkpoint a run restarts from", "what came after it is dropped"
)
def test_metrics_resume_drops_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in range(5):
        metrics.write(step, loss=float(step), bad=float("nan"))
    metrics.close()
    path.write_text(path.read_text() + '{"step": 5, "lo')  # torn by a crash
    again = Metrics(path, resume_step=2)
    again.write(3, loss=9.0)
    again.close()
    records = read_metrics(path)
    assert (
        [r["step"] for r in records] == [0, 1, 2, 3]
        and records[0]["bad"] is None
        and records[3]["loss"] == 9.0
    )


def test_metrics_damaged_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        read_metrics(path)


@pytest.mark.fault("training", "the record of metrics is torn by a crash", "read up to the tear, continued")
def test_a_record_torn_within_a_character_is_left_out(tmp_path: Path) -> None:
    """As by a disk that is full: files end at a block's end, wherever that is."""
    path = tmp_path / "samples.jsonl"
    samples = Metrics(path)
    for step, text in enumerate(("中国的首都是", "北京")):
        samples.write(step, text=text)
    samples.close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) - 2):
        path.write_bytes(whole[:end])
        Metrics(path, resume_step=1).close()
        assert path.read_bytes() == whole[:first]


def test_records_are_on_disk_before_they_take_the_place_of_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done, flush, rename = tmp_path / "metrics.jsonl", [], os.fsync, os.replace
    metrics = Metrics(path)
    metrics.write(1, loss=1.0)
    metrics.close()
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("flush"), flush(number)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("rename"), rename(old, new)))
    Metrics(path, resume_step=1)
    assert done == ["flush", "rename"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3s"), (75, "1m15s"), (3700, "1h01m"), (200_000, "2d07h"), (-1, "0s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_line_has_rate_and_time_left() -> None:
    bar = Progress("train", 100)
    bar._tokens = 50_000
    assert bar.line(50, 10.0, {"loss": 2.41234}) == "  train 50/100 50%  loss 2.412  5.0k tok/s  10s left"


def test_progress_line_of_a_long_run_fits_a_terminal_and_leaves_evaluations_out() -> None:
    bar = Progress("pretrain", 572_205)
    bar.update(312_345, tokens=1_300_000, seconds=1.0)
    values = {"loss": 2.41234, "lr": 0.00029999, "mfu": "52%", "mem": "71.2 GiB"}
    line = bar.line(312_345, 2_340_000.0, values)
    assert "1300.0k tok/s" in line and line.endswith("22d12h left") and len(line) < 110


def test_a_note_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 2, every=0.0) as bar:
        bar.update(1, loss=1.0)
        bar.note("step 1: skipped [not finite]")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("  train 1/2 50%") and second == "  step 1: skipped [not finite]"


def test_nearest_name() -> None:
    assert nearest("lrr", ["lr", "beta1"]) == "lr" and nearest("zzz", ["lr"]) is None


def write_split(path: Path, shards: list[list[int]], ends: list[int]) -> None:
    files = []
    for i, ids in enumerate(shards):
        np.array(ids, "<u2").tofile(path / f"train-{i:05d}.bin")
        files.append({"name": f"train-{i:05d}.bin", "tokens": len(ids)})
    np.save(path / "train.index.npy", np.array(ends, np.int64))
    splits = {"train": {"files": files, "bytes": 10}}
    (path / "shards.json").write_text(json.dumps({"dtype": "uint16", "splits": splits}))


def test_slices_cross_shards(tmp_path: Path) -> None:
    write_split(tmp_path, [[1, 2, 3], [4, 5], [6]], [2, 5, 6])
    tokens = open_tokens(tmp_path)
    assert len(tokens) == 6 and tokens.num_documents == 3
    assert tokens.slice(1, 6).tolist() == [2, 3, 4, 5, 6] and tokens.slice(4, 4).tolist() == []
    assert tokens.document(1).tolist() == [3, 4, 5]


def test_truncated_shard_is_named(tmp_path: Path) -> None:
    write_split(tmp_path, [[1, 2, 3]], [3])
    (tmp_path / "train-00000.bin").write_bytes(b"\1\0")
    with pytest.raises(DataError, match="6 bytes"):
        open_tokens(tmp_path)
    with pytest.raises(DataError, match="valid"):
        open_tokens(tmp_path, "valid")
