"""Text to learn from comes from corpora and from files as they are, streamed, with an account of what is unreadable."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from openqwen.core.errors import DataError
from openqwen.data.documents import Bad
from openqwen.tokenizer import texts
from openqwen.tokenizer.pattern import normalise, split


def test_every_kind_of_file(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    lines = [json.dumps({"text": "你好", "lang": "zh", "source": "b"}), json.dumps({"content": "hello"})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines[0].encode()))
    parquet.write_table(arrow.table({"text": ["row"], "lang": ["en"]}), tmp_path / "c.parquet")
    (tmp_path / "d.txt.zst").write_bytes(zstandard.compress("plain é".encode()))
    (tmp_path / "e.py").write_text("x = 1\n")
    (tmp_path / "f.txt").write_text("wide", encoding="utf-16")
    (tmp_path / "g.html").write_text("<p>a page is not text yet</p>")
    found = list(texts.documents([tmp_path]))
    assert [d["text"] for d in found] == ["你好", "hello", "你好", "row", "plain é", "x = 1\n", "wide"]
    assert found[0] == {"text": "你好", "lang": "zh", "source": "b"} and found[3]["lang"] == "en"


def test_a_large_file_passes_in_blocks_that_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"line {i} of 你好 e\u0301\r\n  \n" for i in range(500)) + "end"
    (tmp_path / "big.txt").write_text(text, encoding="utf-8", newline="")
    monkeypatch.setattr(texts, "BLOCK_BYTES", 100)
    blocks = [d["text"] for d in texts.documents([tmp_path / "big.txt"])]
    assert "".join(blocks) == text and len(blocks) > 50 and max(map(len, blocks)) < 400
    assert [p for block in blocks for p in split(normalise(block))] == split(normalise(text))


@pytest.mark.fault("tokenizer", "training text has broken records", "skipped, counted, named")
def test_bad_records_are_counted_with_their_place(tmp_path: Path) -> None:
    good = json.dumps({"text": "fine"}) + "\n"
    (tmp_path / "a.jsonl").write_text(good + "{broken\n" + '{"title": "no text"}\n' + good)
    (tmp_path / "b.txt").write_bytes(b"\x89PNG\r\n")
    bad = Bad(0.05)
    assert len(list(texts.documents([tmp_path], bad=bad))) == 2
    assert [Path(r["where"]).name for r in bad.records] == ["a.jsonl:2", "a.jsonl:3", "b.txt"]
    (tmp_path / "a.jsonl").write_text(good + "{broken\n" * 30)
    with pytest.raises(DataError, match="30 of 31 input records"):
        list(texts.documents([tmp_path / "a.jsonl"]))


@pytest.mark.parametrize("name", ["absent.txt", "empty", "page.html"])
def test_nothing_to_read_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").write_text("<p>")
    with pytest.raises(DataError, match=r"nothing there|no text there"):
        list(texts.documents([tmp_path / name]))


def test_each_document_is_on_one_side(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {i}"}) for i in range(400)]
    for order, name in ((lines, "a"), (lines[::-1], "b")):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(order))
        learnt = set(texts.training_texts([tmp_path / f"{name}.jsonl"], 0.2))
        measured = {d["text"] for d in texts.held_out_documents([tmp_path / f"{name}.jsonl"], 0.2)}
        assert not learnt & measured and len(learnt | measured) == 400 and 40 < len(measured) < 120
