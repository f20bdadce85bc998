"""Every kind of source gives the same documents with their labels and ids; data sets of the hub, and without it."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet
from shard_bench import resolved

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import DataError, MissingTool
from openqwen.core.jsonl import read_corpus
from openqwen.data.config import DataConfig, SourcesConfig
from openqwen.data.documents import Bad, Raw
from openqwen.data.sources import hub, read_path
from openqwen.data.stage import run

TEXT = "The lake lies between two hills, and who rows across it at dawn meets nobody. 湖在两山之间。"
PAGE = f"<html><body><p>{TEXT}</p></body></html>"
TWO = [{"text": TEXT}, {"content": TEXT, "id": "7", "source": "books"}]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in TWO)


def warc(kind: str, address: str, content: str, body: bytes) -> bytes:
    """One record as ISO 28500 has it."""
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {address}\r\nContent-Type: {content}\r\n"
    head += "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\nWARC-Date: 2023-09-28T00:00:00Z\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def response(body: bytes, kind: str) -> bytes:
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return warc("response", "http://a.example/x", "application/http; msgtype=response", answer)


ARCHIVE = response(PAGE.encode("gb18030"), "text/html; charset=gb18030") + response(
    b"\x89PNG\r\n", "image/png"
)
WET = warc("warcinfo", "", "application/warc-fields", b"a: b") + warc(
    "conversion", "http://a.example/y", "text/plain", TEXT.encode()
)
TABLE = io.BytesIO()
COLUMNS = pa.schema([(name, pa.string()) for name in ("id", "text", "content", "source")])
parquet.write_table(pa.Table.from_pylist(TWO, COLUMNS), TABLE)
# name -> bytes, and the documents that are in it: id after the name, source, whether it is a page
FILES: dict[str, tuple[bytes, list[tuple[str, str, bool]]]] = {
    "site/page.html": (PAGE.encode(), [("", "web", True)]),
    "site/old.HTM": (PAGE.encode(), [("", "web", True)]),
    "site/packed.html.gz": (gzip.compress(PAGE.encode()), [("", "web", True)]),
    "plain.txt": (TEXT.encode(), [("", "text", False)]),
    "wide.txt": (TEXT.encode("utf-16"), [("", "text", False)]),
    "readme.md": (TEXT.encode(), [("", "text", False)]),
    "paper.tex": (TEXT.encode(), [("", "text", False)]),
    "tree/src/main.rs": (TEXT.encode(), [("", "code", False)]),
    "tree/src/deep/er/tool.py": (TEXT.encode(), [("", "code", False)]),
    "rows.jsonl": (LINES, [("/1", "text", False), ("/2#7", "books", False)]),
    "rows.jsonl.gz": (gzip.compress(LINES), [("/1", "text", False), ("/2#7", "books", False)]),
    "rows.jsonl.zst": (zstandard.compress(LINES), [("/1", "text", False), ("/2#7", "books", False)]),
    "table.parquet": (TABLE.getvalue(), [("/1", "text", False), ("/2#7", "books", False)]),
    "crawl.warc": (ARCHIVE, [("/1#http://a.example/x", "web", True)]),
    "crawl.warc.gz": (gzip.compress(ARCHIVE), [("/1#http://a.example/x", "web", True)]),
    "crawl.wet": (WET, [("/1#http://a.example/y", "web", False)]),
}  # fmt: skip


def folder(root: Path) -> Path:
    for name, (data, _) in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_every_kind(tmp_path: Path, name: str) -> None:
    bad = Bad(1.0)
    found = [raw for raw in read_path(folder(tmp_path), SourcesConfig(), bad) if raw.id.startswith(name)]
    found = [raw for raw in found if raw.id == name or raw.id[len(name)] == "/"]
    assert [(r.id, r.source, r.html is not None) for r in found] == [
        (name + rest, source, is_page) for rest, source, is_page in FILES[name][1]
    ]
    assert all(raw.text == TEXT for raw in found if raw.html is None)
    assert {Path(r["where"].split(":")[0]).name for r in bad.records} == {"crawl.warc", "crawl.warc.gz"}
    assert {r["reason"] for r in bad.records} == {"not a page: image/png"}


def test_labels_by_name_give_way_to_those_of_records(tmp_path: Path) -> None:
    labels = {"site/*": "encyclopedia", "tree/*": "examples", "*.jsonl": "forum"}
    found = {r.id: r.source for r in read_path(folder(tmp_path), SourcesConfig(labels=labels), Bad(1.0))}
    assert found["site/page.html"] == "encyclopedia" and found["tree/src/deep/er/tool.py"] == "examples"
    assert (found["rows.jsonl/1"], found["rows.jsonl/2#7"]) == ("forum", "books")
    assert (found["rows.jsonl.gz/1"], found["plain.txt"]) == ("text", "text")


def test_sources_keep_their_labels_to_the_end(tmp_path: Path) -> None:
    """Pages, books, an encyclopedia and code in one corpus; what repeats itself is told apart by its label's place."""
    settings: dict[str, Any] = {
        "sources__labels": {"site/*": "encyclopedia"}, "language__keep": [], "quality__rules": False,
        "dedup__exact": False, "dedup__fuzzy": False, "quality__drop": False, "valid_fraction": 0, "bad_fraction": 1,
        "runner__how": "in-process",
    }  # fmt: skip
    made = run(resolved(DataConfig, "data", **settings), {"input": folder(tmp_path / "in")}, tmp_path / "out")
    found = {record["id"]: record for record in read_corpus(made.path)}
    expected = {name + rest: source for name, (_, group) in FILES.items() for rest, source, _ in group}
    expected |= {ident: "encyclopedia" for ident in expected if ident.startswith("site/")}
    assert {ident: record["source"] for ident, record in found.items()} == expected
    assert {record["text"] for record in found.values()} == {TEXT}


def test_duplicate_ids_are_counted_and_located_and_both_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"id": i, "text": f"{TEXT} Once {n}."}) + "\n" for n, i in enumerate("aba"))
    )
    settings = {"dedup__fuzzy": False, "quality__drop": False, "language__keep": [], "valid_fraction": 0}
    made = run(resolved(DataConfig, "data", **settings), {"input": path}, tmp_path / "out")
    assert sorted(r["id"] for r in read_corpus(made.path)) == [
        "rows.jsonl/1#a",
        "rows.jsonl/2#b",
        "rows.jsonl/3#a",
    ]
    assert list(read_jsonl(made.file("odd.jsonl"))) == [{"where": f"{path}:3", "reason": "duplicate id"}]
    assert json.loads(made.file("stats.json").read_text())["odd"] == {"duplicate id": 1}


@pytest.mark.fault("data", "a small compressed file unpacks to a huge one", "skipped at the bound, counted")
def test_a_small_file_that_unpacks_to_a_large_one_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"0" * 40_000_000, 1))
    (tmp_path / "bomb.jsonl.zst").write_bytes(zstandard.compress(b"0" * 40_000_000 + b"\n" + LINES))
    bad = Bad(1.0)
    found = list(read_path(tmp_path, SourcesConfig(), bad))
    assert [raw.id for raw in found] == ["bomb.jsonl.zst/2", "bomb.jsonl.zst/3#7"]
    reasons = {Path(r["where"]).name: r["reason"].split(":")[0] for r in bad.records}
    assert reasons == {"bomb.txt.gz": "too large", "bomb.jsonl.zst:1": "line too long"}


@pytest.mark.fault(
    "data",
    "zip files within zip files, packed files within packed ones, a zstandard window of 2 GB",
    "none is unfolded; counted, in bounded memory",
)
def test_packed_files_within_packed_files_and_wide_windows_are_skipped(tmp_path: Path) -> None:
    inner, outer = io.BytesIO(), io.BytesIO()
    for file, content in ((inner, b"0" * 1_000_000), (outer, inner)):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(10):
                data = content if isinstance(content, bytes) else content.getvalue()
                archive.writestr(f"{number}.txt", data)
    head, last_block = b"\x28\xb5\x2f\xfd\x00\xa8", b"\x29\x00\x00hello"  # a window of 2**31 bytes, RFC 8878
    files = {
        "zip.txt": outer.getvalue(),
        "zip.txt.gz": gzip.compress(outer.getvalue()),
        "gzip.txt.gz": gzip.compress(gzip.compress(b"0" * 1_000_000)),
        "zstd.txt.zst": zstandard.compress(zstandard.compress(b"0" * 1_000_000)),
        "wide.txt.zst": head + last_block,
        "narrow.txt.zst": head[:-1] + b"\x00" + last_block,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    bad = Bad(1.0)
    assert [(raw.id, raw.text) for raw in read_path(tmp_path, SourcesConfig(), bad)] == [
        ("narrow.txt.zst", "hello")
    ]
    reasons = {Path(record["where"]).name: record["reason"] for record in bad.records}
    assert reasons.pop("wide.txt.zst").startswith("unreadable: ZstdError")
    assert reasons == {
        "zip.txt": "binary file: ZIP archive", "zip.txt.gz": "binary file: ZIP archive",
        "gzip.txt.gz": "binary file: gzip data", "zstd.txt.zst": "binary file: zstandard data",
    }  # fmt: skip


@pytest.mark.fault(
    "data", "a few kilobytes hold hundreds of megabytes", "unpacked piece by piece, never held together"
)
@pytest.mark.parametrize("name", ["bomb.txt.gz", "bomb.jsonl.zst"])
def test_a_bomb_is_never_unpacked_as_a_whole(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        packed = (
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1)
            if name.endswith(".gz")
            else zstandard.ZstdCompressor(level=1).stream_writer(file, closefd=False)
        )
        with packed:
            for _ in range(300):
                packed.write(b"0" * 1_000_000)
    assert (tmp_path / name).stat().st_size < 2_000_000
    bad = Bad(1.0)
    tracemalloc.start()
    try:
        assert list(read_path(tmp_path, SourcesConfig(), bad)) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(bad.records) == 1 and peak < 100 << 20


def hub_documents(spec: str) -> list[Raw]:
    return [raw for part in hub.parts_of(spec) for raw in hub.read_part(part, Bad(1.0))]


def test_a_data_set_by_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder stands for the hub: from there on it is the same code of the library."""
    pytest.importorskip("datasets", reason='needs pip install "openqwen[hub]"')
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    data = tmp_path / "set"
    data.mkdir()
    for part in range(3):
        table = pa.table(
            {"text": [f"{TEXT} {part} {i}" for i in range(4)], "id": [f"{part}{i}" for i in range(4)]}
        )
        parquet.write_table(table, data / f"train-0000{part}-of-00003.parquet")
    parts = hub.parts_of(str(data))
    assert [(p.split, p.part, p.parts) for p in parts] == [("train", i, 3) for i in range(3)]
    found = hub_documents(str(data))
    assert [raw.id for raw in found][:5] == [
        *(f"hf://{data}/default/train/0/{i + 1}#0{i}" for i in range(4)), f"hf://{data}/default/train/1/1#10",
    ]  # fmt: skip
    assert [raw.text for raw in found] == [f"{TEXT} {part} {i}" for part in range(3) for i in range(4)]
    settings = {
        "sources__hub": [str(data)],
        "runner__how": "in-process",
        "dedup__fuzzy": False,
        "quality__drop": False,
    }
    made = run(resolved(DataConfig, "data", **settings, language__keep=[]), {}, tmp_path / "out")
    assert made.manifest["facts"]["documents"] == 12 and made.manifest["facts"]["shards"] == 3
    with pytest.raises(DataError, match="cannot open this data set") as error:
        hub.parts_of(f"{data}@nosuch")
    assert str(data) in str(error.value.where)


@pytest.mark.fault("data", "a data set of the hub, and no network", "refused at once")
def test_without_a_network_the_hub_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="cannot open this data set: OfflineModeIsEnabled") as error:
        run(resolved(DataConfig, "data", sources__hub=["owner/pages"]), {}, tmp_path / "out")
    assert error.value.where == "sources.hub: owner/pages" and "--input" in str(error.value.fix)


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingTool, match="data sets of the hub need datasets") as error:
        hub.parts_of(str(tmp_path))
    assert error.value.fix == 'pip install "openqwen[hub]"'
