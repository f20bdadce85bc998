"""Compressed JSON lines: whole files come back, damaged ones say where."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from openqwen.core.errors import DataError
from openqwen.core.jsonl import read_corpus, read_jsonl_zst, write_jsonl_zst

RECORDS = [{"id": i, "text": f"line {i} \u2028 你好\n" * (i % 7)} for i in range(3000)]


def test_round_trip_and_several_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    assert write_jsonl_zst(path, RECORDS) == len(RECORDS)
    assert list(read_jsonl_zst(path)) == RECORDS
    path.write_bytes(path.read_bytes() + zstandard.compress(b"") + zstandard.compress(b'{"id": "last"}\n'))
    assert list(read_jsonl_zst(path)) == [*RECORDS, {"id": "last"}]


@pytest.mark.fault("files from strangers", "a compressed file of lines is cut", "never taken for whole")
@pytest.mark.parametrize("cut", [1, 7, 500])
def test_a_truncated_file_is_never_taken_for_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl.zst"
    write_jsonl_zst(path, RECORDS)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match="damaged"):
        list(read_jsonl_zst(path))


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def records():  # type: ignore[no-untyped-def]
        yield {"id": 1}
        raise OSError(28, "No space left on device")

    with pytest.raises(Exception, match="disk is full"):
        write_jsonl_zst(tmp_path / "a.jsonl.zst", records())
    assert list(tmp_path.iterdir()) == []


def test_read_corpus(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for i in (1, 0):
        write_jsonl_zst(tmp_path / "train" / f"part-0000{i}.jsonl.zst", [{"id": i}])
    assert [r["id"] for r in read_corpus(tmp_path)] == [0, 1]
    with pytest.raises(DataError, match="no valid split"):
        list(read_corpus(tmp_path, "valid"))
