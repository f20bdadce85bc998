"""Poison: each kind ends in one clear error or in a counted, located, skipped record; never in half an artefact."""

from __future__ import annotations

import gzip
import json
import os
import time
import tracemalloc
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import zstandard

from openqwen.core import artifact
from openqwen.core.config import resolve
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.core.jsonl import read_corpus
from openqwen.data import extract as extraction
from openqwen.data.config import DataConfig, ExtractConfig, SourcesConfig
from openqwen.data.documents import Bad, Raw
from openqwen.data.encoding import decode_page
from openqwen.data.sources import binary_reason, find_files, read_file, read_path
from openqwen.data.stage import run

GOOD = (
    "The river begins in the mountains and flows past the old mill to the sea. Many people have walked along it, "
    "and every one of them remembers the sound of the water."
)


def read(path: Path, **settings: Any) -> tuple[list[Raw], Bad]:
    bad = Bad(1.0)
    return list(read_path(path, SourcesConfig(**settings), bad)), bad


def build(path: Path, out: Path, **flags: Any) -> artifact.Artifact:
    settings = {"quality.lm": False, **{k.replace("__", "."): v for k, v in flags.items()}}
    return run(resolve(DataConfig, "data", flags=settings, environ={}), {"input": path}, out)


def test_folder_without_documents(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="the folder is empty") as empty:
        build(tmp_path / "in", tmp_path / "out")
    assert str(tmp_path / "in") in empty.value.render() and ".html" in empty.value.render()
    (tmp_path / "in" / "a.bin").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match="no file with a known ending among 1"):
        build(tmp_path / "in", tmp_path / "out")
    assert artifact.find(tmp_path / "out") is None


@pytest.mark.fault("data", "a folder holds nothing but binary files", "refused, and told from text")
def test_only_binary_pages(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i, head in enumerate([b"\x89PNG\r\n\x1a\n", b"%PDF-1.7\n", b"\0\1\2\3" * 100]):
        (tmp_path / "in" / f"{i}.html").write_bytes(head + os.urandom(2000))
    with pytest.raises(DataError, match=r"no readable document .3 files or records skipped.*binary file"):
        build(tmp_path / "in", tmp_path / "out")
    assert artifact.find(tmp_path / "out") is None
    assert [r["reason"] for r in artifact.read_jsonl(tmp_path / "out" / "skipped.jsonl")][
        1
    ] == "binary file: PDF"


def test_binary_is_told_from_text() -> None:
    assert binary_reason(GOOD.encode()) is None
    assert binary_reason("中文网页".encode("gb18030") * 50) is None
    assert binary_reason(GOOD.encode("utf-16")) is None
    assert binary_reason(GOOD.encode("utf-16-le")) is None
    assert binary_reason(b"text with one \0 in it" + b"x" * 400) is None
    assert binary_reason(bytes(range(1, 32)) * 20) == "binary file: control bytes"


def test_encodings() -> None:
    chinese = "这是一个关于河流和山脉的网页，水从山里流出来，最后流进大海。" * 3
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"):
        text = chinese if encoding != "big5" else "這是一個關於河流和山脈的網頁，水從山裡流出來。" * 5
        assert decode_page(text.encode(encoding), "big5" if encoding == "big5" else None)[0] == text
    assert decode_page("café déjà vu".encode("cp1252"), "windows-1252")[0] == "café déjà vu"
    assert decode_page(b"\xff broken", "no-such-charset")[0]  # never an exception


@pytest.mark.fault(
    "data", "a document is one line of 100 MB", "its record is refused with its place, memory stays bounded"
)
def test_one_line_of_100_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps({"text": GOOD}).encode() + b"\n")
        file.write(b'{"text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + json.dumps({"text": GOOD + "!"}).encode())
    tracemalloc.start()
    try:
        raws, bad = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [r.text for r in raws] == [GOOD, GOOD + "!"]
    assert [(r["where"], r["reason"][:13]) for r in bad.records] == [(f"{path}:2", "line too long")]
    assert peak < 4 * SourcesConfig().max_line_bytes < 100 << 20


@pytest.mark.fault(
    "data", "records are torn, not JSON, or without text", "skipped, counted, named by file and line"
)
def test_damaged_records_are_located(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [b'{"text": "fine \xe2\x80\xa8 one"}', b"{broken", b'"just a string"', b'{"no": "text"}', b"\xff\xfe{}",
             b"[" * 100_000, b'{"text": 5}', b'{"text": "also fine", "id": "n1", "source": "books"}']  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    raws, bad = read(path)
    assert [(r.id, r.source, r.text) for r in raws] == [
        ("x.jsonl/1", "text", "fine \u2028 one"),
        ("x.jsonl/8#n1", "books", "also fine"),
    ]
    assert [int(r["where"].rsplit(":", 1)[1]) for r in bad.records] == [2, 3, 4, 5, 6, 7]


@pytest.mark.fault("data", "most records of a file are damaged", "the run stops and says so")
def test_too_much_damage_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([json.dumps({"text": f"Number {i}. {GOOD}"}) for i in range(60)] + ["{"] * 40))
    with pytest.raises(
        DataError, match=r"40 of 100 input records are unreadable.*bad_fraction = 0.1"
    ) as error:
        build(path, tmp_path / "out")
    assert error.value.where == f"{path}:61"
    made = build(path, tmp_path / "out", bad_fraction=0.5)
    assert made.manifest["facts"]["skipped"] == 40


@pytest.mark.fault(
    "data", "gzip, zstd or WARC files end in the middle", "what is whole is read, the loss is named"
)
def test_truncated_archives(tmp_path: Path) -> None:
    whole = b"".join(
        json.dumps({"text": f"{GOOD} {i} {os.urandom(40).hex()}"}).encode() + b"\n" for i in range(500)
    )
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(whole)[:9000])
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(whole)[:-50])
    (tmp_path / "c.txt.gz").write_bytes(b"not gzip at all")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(whole))
    raws, bad = read(tmp_path)
    assert sum(r.file.startswith("d.") for r in raws) == 500
    places = {Path(r["where"].split(":")[0]).name for r in bad.records}
    assert {"a.jsonl.gz", "b.jsonl.zst", "c.txt.gz"} <= places


@pytest.mark.fault("data", "a Parquet file is cut", "named; the whole one beside it is read")
def test_truncated_parquet_and_a_good_one(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"text": [GOOD, None, "second"], "id": ["a", "b", "c"], "junk": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "good.parquet")
    data = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    raws, bad = read(tmp_path)
    assert [r.id for r in raws] == ["good.parquet/1#a", "good.parquet/3#c"]
    assert sorted(Path(r["where"].split(":row")[0]).name for r in bad.records) == [
        "cut.parquet",
        "good.parquet",
    ]


@pytest.mark.fault(
    "data",
    "folders hold links out of them, FIFOs, names with line ends",
    "none is followed or waited for; names are data",
)
def test_links_fifos_and_odd_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("outside")
    (root / "good.txt").write_text(GOOD)
    (root / "line\nbreak.txt").write_text(GOOD)
    (root / "a" / "loop").symlink_to(root)
    (root / "self.txt").symlink_to(root / "self.txt")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "in.txt").symlink_to(root / "good.txt")
    os.mkfifo(root / "pipe.txt")
    raws, bad = read(root)
    assert sorted(r.id for r in raws) == ["good.txt", "in.txt", "line\nbreak.txt"]
    reasons = {Path(r["where"]).name: r["reason"] for r in bad.records}
    assert reasons == {
        "loop": "link to a folder", "self.txt": "broken link", "out.txt": "link out of the folder",
        "pipe.txt": "not a regular file",
    }  # fmt: skip


@pytest.mark.fault(
    "data",
    "file names of 255 bytes, names and labels that lead up by ../",
    "each is a name and no path: nothing is read or written elsewhere",
)
def test_the_longest_names_and_names_that_lead_up_are_names(tmp_path: Path) -> None:
    root, out = tmp_path / "deep" / "in", tmp_path / "deep" / "out"
    root.mkdir(parents=True)
    (tmp_path / "deep" / "secret.txt").write_text(f"A secret. {GOOD}")
    longest = "长" * 83 + "ab.txt"
    assert len(longest.encode()) == 255
    (root / longest).write_text(f"Once. {GOOD}")
    (root / "..\\secret.txt").write_text(f"Twice. {GOOD}")
    up = {"id": "../../secret.txt", "source": "../../secret", "text": f"Three times. {GOOD}"}
    (root / "up.jsonl").write_text(json.dumps(up))
    before = set(tmp_path.rglob("*"))
    made = build(
        root, out, dedup__fuzzy=False, quality__drop=False, valid_fraction=0, runner__how="in-process"
    )
    found = {record["id"]: record["text"].partition(".")[0] for record in read_corpus(made.path)}
    assert found == {longest: "Once", "..\\secret.txt": "Twice", "up.jsonl/1#../../secret.txt": "Three times"}
    assert all(path.is_relative_to(out) for path in {*tmp_path.rglob("*")} - before)


@pytest.mark.fault("data", "a page is removed after it was listed, or while it is", "counted and named")
def test_pages_that_vanish_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(GOOD)
    walk = os.walk

    def removing(*words: Any, **named: Any) -> Any:
        for found in walk(*words, **named):
            (tmp_path / "a.txt").unlink()
            yield found

    bad = Bad(1.0)
    with monkeypatch.context() as listing:
        listing.setattr(os, "walk", removing)
        files, _ = find_files(str(tmp_path), bad)
    (tmp_path / "b.txt").unlink()
    raws = [raw for file in files for raw in read_file(file, SourcesConfig(), bad)]
    assert [raw.id for raw in raws] == ["c.txt"]
    reasons = {Path(record["where"]).name: record["reason"] for record in bad.records}
    assert reasons["a.txt"] == "gone, or not to be read" and "FileNotFoundError" in reasons["b.txt"]


def billion_laughs() -> bytes:
    """Ten entities, each of ten of the one before: 5 GB where somebody unfolds them."""
    entities = ['<!ENTITY x0 "laugh">']
    entities += [f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 10)]
    head = f'<?xml version="1.0"?><!DOCTYPE html [{"".join(entities)}]>'
    return f"{head}<html><body><p>{GOOD}</p><p>And then &x9; is said.</p></body></html>".encode()


@pytest.mark.fault(
    "data",
    "pages nested without end, spanning 9e15 columns, of entities of entities",
    "each ends in bounded time with a reason",
)
def test_bombs_cannot_stop_the_extractor() -> None:
    good = f"<html><body><p>{GOOD}</p></body></html>".encode()
    pages = {
        "nested": b"<div>" * 100_000 + b"deep" + b"</div>" * 100_000,
        "one tag": b"<p " + b"a=1 " * 400_000 + b">text</p>",
        "open brackets": b"<" * 1_000_000,
        "nul": b"<p>" + GOOD.replace(" ", " \0", 1).encode() + b"</p>",
        "huge": b"<p>" + b"word " * 500_000,
        "spans": (
            b"<table>"
            + b"<tr><td colspan=9000000000000000 rowspan=9000000000000000>one<th colspan=-9e15>two" * 200
            + f"</table><p>{GOOD}</p>".encode()
        ),
        "entities": billion_laughs(),
        "entities of entities": b"<p>&" + b"amp;" * 200_000 + f"</p><p>{GOOD}</p>".encode(),
        "png": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        "empty": b"<html></html>",
    }
    raws = [
        Raw("first", "web", html=good),
        *(Raw(k, "web", html=v) for k, v in pages.items()),
        Raw("last", "web", html=good),
    ]
    began = time.monotonic()
    kept, dropped = extraction.extract(raws, ExtractConfig(workers=1, page_seconds=2))
    assert time.monotonic() - began < 30
    texts = {d.id: d.text for d in kept}
    assert texts["first"] == texts["last"] == texts["nul"] == GOOD
    reasons = {d.document.id: d.reason for d in dropped}
    for name in ("spans", "entities", "entities of entities"):  # read, and none is unfolded
        assert GOOD in texts[name] and len(texts[name]) <= len(pages[name])
    assert "one" in texts["spans"] and "&x9;" in texts["entities"] and "laugh" * 100 not in texts["entities"]
    assert reasons["nested"] == "nested too deeply"
    assert reasons["huge"] == "page too large"
    assert reasons["png"] == "binary file"
    assert reasons["empty"] == "no text"
    assert set(texts) | set(reasons) == {"first", "last", *pages}


@pytest.mark.fault(
    "data",
    "a page kills or hangs the process that reads it",
    "it is named and dropped, its neighbours are kept",
)
@pytest.mark.parametrize(
    "crash, reason",
    [
        ("import os; os._exit(9)", "extractor crashed"),
        ("import time; time.sleep(60)", "extractor hung"),
        ("[None for _ in iter(int, 1)]", "extractor hung"),
    ],
)
def test_a_page_that_kills_or_hangs_the_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crash: str, reason: str
) -> None:
    """The page is named and dropped; those before and after it in the same batch are kept."""
    (tmp_path / "sitecustomize.py").write_text(
        "import openqwen.data.encoding as m\nreal = m.decode_page\n"
        "def poisoned(data, declared=None):\n"
        f"    if b'poison' in data:\n        {crash}\n    return real(data, declared)\n"
        "m.decode_page = poisoned\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    raws = [Raw(str(i), "web", html=f"<p>{GOOD} {i}</p>".encode()) for i in range(4)]
    raws.insert(2, Raw("bad", "web", html=b"<p>poison poison poison</p>"))
    monkeypatch.setattr(extraction, "_START_SECONDS", 1.0)
    kept, dropped = extraction.extract(raws, ExtractConfig(workers=1, page_seconds=1))
    assert [d.id for d in kept] == ["0", "1", "2", "3"]
    assert [(d.document.id, d.reason) for d in dropped] == [("bad", reason)]


def pages(folder: Path, count: int = 30) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        words = " ".join(f"word{(i * 31 + j * 7) % 997}" for j in range(120))
        (folder / f"{i:03d}.html").write_text(
            f"<html><body><p>{GOOD} The number is {i} and it is {words}.</p></body></html>"
        )
    return folder


@pytest.mark.fault("data", "the output folder cannot be written", "one clear error before work begins")
def test_unwritable_output(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("I am a file")
    with pytest.raises(OpenQwenError, match="cannot write") as error:
        build(pages(tmp_path / "in", 3), blocked / "out")
    assert "--out" in error.value.render()


@pytest.mark.fault("data", "the disk has too little room for the result", "refused before work begins")
def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(artifact.shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(OpenQwenError, match="too little disk"):
        build(pages(tmp_path / "in", 3), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("data", "filters drop every document", "an error that names the reasons")
def test_everything_dropped_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(
        "Die Stadt liegt an einem kleinen Fluss, und am Morgen öffnen die Läden früh. " * 3
    )
    with pytest.raises(DataError, match="no document is left"):
        build(tmp_path / "in", tmp_path / "out")


def test_impossible_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no document of group 'boks'"):
        build(pages(tmp_path / "in"), tmp_path / "out", mix__proportions={"boks": 0.5})
    with pytest.raises(UsageError, match="not exceed 1"):
        build(pages(tmp_path / "in"), tmp_path / "out", mix__proportions={"web": 0.8, "web/en": 0.8})
    with pytest.raises(DataError, match="benchmark file does not exist"):
        build(
            pages(tmp_path / "in"), tmp_path / "out", decontaminate__benchmarks=[str(tmp_path / "none.jsonl")]
        )
    with pytest.raises(DataError, match="nothing to read"):
        run(resolve(DataConfig, "data", environ={}), {}, tmp_path / "out")
