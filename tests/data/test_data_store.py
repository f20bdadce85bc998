"""Stores and inputs in S3 and Google Cloud Storage by their real clients; stores and disks that are lost."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import ObjectStore
from shard_bench import resolved

from openqwen.core import artifact
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.data.config import DataConfig
from openqwen.data.documents import Bad
from openqwen.data.sources import find_files
from openqwen.data.stage import run
from openqwen.data.store import Store

SMALL = {
    "runner__how": "in-process",
    "quality__lm": False,
    "shard_bytes": 4000,
    "valid_fraction": 0.2,
    "quality__rules": False,
}


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    keys = {"AWS_ACCESS_KEY_ID": "name", "AWS_SECRET_ACCESS_KEY": "key", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    found = ObjectStore(tmp_path / "objects")
    yield found
    found.close()


def page(number: int) -> bytes:
    words = ["river", "mill", "road", "town", "lake", "bridge", "winter", "people", "stone", "field", "water"]
    seen = " and the ".join(random.Random(number).choices(words, k=60))
    text = f"This is page {number} of the book of the valley, and on it you can read about the {seen}."
    return f"<html><body><p>{text}</p></body></html>".encode()


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_store_in_the_cloud(objects: ObjectStore, kind: str) -> None:
    store, data = Store(objects.address(kind, "runs")), os.urandom(11_000_000)  # more than one part
    store.write("a/big.bin", data)
    store.write("a/50% of ü? #1.txt", b"small")
    assert store.read("a/big.bin") == data and store.sizes(["a/big.bin", "a/no"]) == [len(data), None]
    with store.open("a/big.bin") as file:
        file.seek(10_500_000)
        assert file.read(10) == data[10_500_000:10_500_010]
    files, ignored = find_files(store.root, Bad(1))
    scheme = "s3" if kind == "s3" else "gs"
    assert [(f.name, f.size) for f in files] == [(f"{scheme}://bucket/runs/a/50% of ü? #1.txt", 5)]
    assert files[0].modified > 0 and ignored == {".bin": 1}
    store.delete("a/big.bin")
    store.delete("a/big.bin")
    with pytest.raises(DataError, match="a shard is gone") as error:
        store.read("a/big.bin")
    assert str(error.value.where).endswith("bucket/runs/a/big.bin")


@pytest.mark.fault("data", "an object store fails between calls", "same bytes once it answers")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_corpus_by_the_cloud_is_the_same_although_the_store_is_lost(
    objects: ObjectStore, tmp_path: Path, kind: str
) -> None:
    for i in range(11):
        objects.put(f"pages/{i:02d} ü?.html", page(i))
    book = {"html": page(11).decode(), "source": "books"}
    objects.put("pages/books.jsonl.gz", gzip.compress(json.dumps(book).encode()))
    objects.put("pages/note.bin", b"no document")
    address = objects.address(kind, "pages")
    whole = run(
        resolved(DataConfig, "data", **SMALL, sources__addresses=[address]),
        {},
        tmp_path / "whole",
    )
    assert whole.manifest["facts"]["documents"] == 12 and whole.manifest["facts"]["shards"] >= 3

    def build() -> artifact.Artifact:
        flags = {"runner__store": objects.address(kind, "store"), "sources__addresses": [address]}
        return run(resolved(DataConfig, "data", **SMALL, **flags), {}, tmp_path / "cloud")

    for lost, message in (
        (r"GET .*pages/1\d", "can no longer be read"),
        (r"(PUT|POST) .*exact\.copies", "store does not answer"),
        (r"GET .*corpus/.*zst", "store does not answer"),
    ):
        objects.lose(lost)
        with pytest.raises(OpenQwenError, match=message) as error:
            build()
        assert "bucket/" in str(error.value.where) and "it continues" in str(error.value.fix)
        assert artifact.find(tmp_path / "cloud") is None
    objects.lose("")
    made = build()
    assert made.content == whole.content
    assert made.manifest["facts"]["tasks"]["done_before"] > 10
    assert any(name.startswith("store/exact.keys/00000.") for name in objects.names())


@pytest.mark.fault("data", "an address carries a password", "refused, and not repeated in the message")
def test_a_password_in_an_address_is_refused(tmp_path: Path) -> None:
    for flags in (
        {"sources__addresses": ["s3://me:secret@bucket/pages"]},
        {"runner__store": "s3://me:secret@bucket"},
    ):
        with pytest.raises(UsageError, match="must not hold a password") as error:
            run(resolved(DataConfig, "data", **{"sources__stdlib": True, **flags}), {}, tmp_path / "out")
        assert "secret" not in error.value.render() and not (tmp_path / "out").exists()


def test_addresses_that_are_none(tmp_path: Path) -> None:
    for address, message in (
        ("ftp://host/x", "cannot open this address"),
        (str(tmp_path / "no"), "nothing there"),
    ):
        with pytest.raises(DataError, match=message) as error:
            run(resolved(DataConfig, "data", sources__addresses=[address]), {}, tmp_path / "out")
        assert error.value.where == address


@pytest.mark.fault(
    "data", "the disk is full at any write of the run", "nothing looks finished; the next run completes it"
)
def test_a_full_disk_in_the_middle_leaves_nothing_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is full at each of many moments; what is there at the end is what it would have been."""
    (tmp_path / "in").mkdir()
    for i in range(11):
        (tmp_path / "in" / f"{i:02d}.html").write_bytes(page(i))
    inputs, settings = {"input": tmp_path / "in"}, resolved(DataConfig, "data", **SMALL)
    whole = run(settings, inputs, tmp_path / "whole")
    real, left = os.fsync, [0]

    def fsync(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(artifact.os, "fsync", fsync)
    failed = 0
    for room in (5, 7, 11, 13, 17, 19, 10_000):
        left[0] = room
        try:
            made = run(settings, inputs, tmp_path / "out")
            break
        except OpenQwenError as error:
            assert "the disk is full" in error.what
            assert artifact.find(tmp_path / "out") is None
            failed += 1
    assert failed == 6 and made.content == whole.content
