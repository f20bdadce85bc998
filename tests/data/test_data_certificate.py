"""Contamination certificates: what they state, and that no byte can change unnoticed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from shard_bench import resolved

from openqwen.cli import main
from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.errors import DataError
from openqwen.core.jsonl import read_jsonl_zst
from openqwen.data.account import Account
from openqwen.data.certificate import certify, verify
from openqwen.data.config import DataConfig
from openqwen.data.stage import run

ITEMS = [
    "How many apples does Maria have left after she gives four of her eleven apples to her younger brother Tom?",
    "A farmer walks along a fence of ninety posts and paints every third post red before it starts to rain.",
    "Which planet was discovered because another one did not move along the path that Newton had predicted for it?",
]


def words(rng: random.Random, count: int) -> str:
    sounds = [a + b for a in "bdfgkl" for b in "aeio"]
    return " ".join("".join(rng.choices(sounds, k=rng.randint(1, 4))) for _ in range(count))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "puzzles.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"q{n}", "question": text}) + "\n" for n, text in enumerate(ITEMS))
    )
    return path


def built(folder: Path, benchmarks: list[Path], more: Sequence[str] = (), **settings: Any) -> Artifact:
    """Twenty documents and `more`; the first five hold an item of the benchmark each, one between much other text."""
    rng = random.Random(5)
    texts = [f"{words(rng, 40)}. {ITEMS[n % 3].upper()} {words(rng, 40)}." for n in range(4)]
    much = ". ".join(words(rng, 10) for _ in range(20))
    texts.append(f"{much}. {ITEMS[0]} {much[::-1]}.")
    texts += [*(words(rng, 80) + "." for _ in range(15)), *more]
    folder.mkdir()
    (folder / "in.jsonl").write_text(
        "\n".join(json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(texts))
    )
    flags = {
        "quality__rules": False,
        "quality__lm": False,
        "language__keep": [],
        "quality__spam": 1.0,
        "quality__offensive": 1.0,
        "runner__how": "in-process",
        "valid_fraction": 0.2,
        "shard_bytes": 4000,
        "decontaminate__benchmarks": [str(path) for path in benchmarks],
        **settings,
    }
    return run(resolved(DataConfig, "data", **flags), {"input": folder / "in.jsonl"}, folder / "corpus")


def test_a_folder_of_benchmarks_is_used_where_it_exists(
    benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    without = built(tmp_path / "without", [])
    assert json.loads(without.file("stats.json").read_text())["benchmarks"] == {}
    (tmp_path / "data/benchmarks").mkdir(parents=True)
    shutil.copy(benchmark, tmp_path / "data/benchmarks")
    cleaned = built(tmp_path / "with", [])
    stats = json.loads(cleaned.file("stats.json").read_text())
    assert stats["benchmarks"] == {"puzzles": 3}
    (line,) = (line for line in stats["funnel"] if line["step"] == "decontaminate")
    assert sum(line["dropped"].values()) == 5
    assert cleaned.fingerprint != without.fingerprint


@pytest.fixture(scope="module")
def clean(benchmark: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return built(tmp_path_factory.mktemp("clean") / "c", [benchmark])


def numbers(ids: list[dict[str, Any]]) -> list[str]:
    return sorted(one["document"].rpartition("#")[2] for one in ids)


# ---- what it states --------------------------------------------------------------------------------------------
def test_a_clean_corpus_names_what_was_dropped(clean: Artifact, benchmark: Path, tmp_path: Path) -> None:
    stated = certify(clean, benchmark, tmp_path / "cert.json")
    assert (stated["items"], stated["documents"]) == (3, 15)
    assert stated["hits"] == stated["cut"] == {"documents": 0, "named": []}
    assert numbers(stated["removed"]["named"]) == ["d0", "d1", "d2", "d3", "d4"]
    assert {i for one in stated["removed"]["named"] for i in one["items"]} == {"q0", "q1", "q2"}
    gone = [
        r for part in sorted((clean.path / "dropped/decontaminate").iterdir()) for r in read_jsonl_zst(part)
    ]
    assert sorted(r["id"] for r in gone) == sorted(one["document"] for one in stated["removed"]["named"])
    assert verify(tmp_path / "cert.json", None, None, again=True) == stated


def test_a_corpus_that_was_never_cleaned_says_so(benchmark: Path, tmp_path: Path) -> None:
    stated = certify(built(tmp_path / "c", []), benchmark, tmp_path / "cert.json")
    assert numbers(stated["hits"]["named"]) == ["d0", "d1", "d2", "d3", "d4"] and stated["documents"] == 20
    assert stated["removed"]["documents"] == 0
    held = {one["document"].rpartition("#")[2]: one["items"] for one in stated["hits"]["named"]}
    assert held == {"d0": ["q0"], "d1": ["q1"], "d2": ["q2"], "d3": ["q0"], "d4": ["q0"]}


def test_phrases_are_counted_over_the_whole_corpus(benchmark: Path, tmp_path: Path) -> None:
    """A text that more documents hold than the settings allow is a phrase and no evidence."""
    few = certify(built(tmp_path / "c", [], decontaminate__max_documents=1), benchmark, tmp_path / "a.json")
    assert numbers(few["hits"]["named"]) == ["d1", "d2"]  # the first item stands in three documents


def test_cut_documents_are_counted_for_the_benchmark_they_overlapped_with(
    benchmark: Path, tmp_path: Path
) -> None:
    """Two benchmarks, one file of which alone was met by what was cut; what was taken out is kept to be scanned."""
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"id": "r0", "question": ITEMS[1]}) + "\n")
    found = built(tmp_path / "c", [benchmark, other], decontaminate__overlap="cut")
    stated = certify(found, benchmark, tmp_path / "cert.json")
    cut = [d for d in Account(found).documents(["train", "valid"]) if "cut" in d.record["scores"]]
    assert numbers(stated["cut"]["named"]) == ["d4"] == [d.record["id"].rpartition("#")[2] for d in cut]
    assert stated["cut"]["named"][0]["items"] == ["q0"] and stated["hits"]["documents"] == 0
    assert stated["removed"]["documents"] == 4
    (before,) = Account(found).documents(["cut"])
    assert ITEMS[0] in before.record["text"] and ITEMS[0] not in cut[0].record["text"]
    stats = json.loads(found.file("stats.json").read_text())
    assert stats["benchmarks"] == {"other": 1, "puzzles": 3}
    beside = certify(found, other, tmp_path / "other.json")
    assert numbers(beside["removed"]["named"]) == ["d1"] and beside["cut"]["documents"] == 0
    assert verify(tmp_path / "cert.json", None, None, again=True) == stated


def test_a_document_that_was_cut_counts_once(tmp_path: Path) -> None:
    """What it still holds is one document's, not also that of the page it was: no phrase, and no part cut out."""
    settings = {"decontaminate__overlap": "cut", "decontaminate__max_documents": 1, "dedup__fuzzy": False}
    one = tmp_path / "one.jsonl"
    item = "How long do seven painters need for the wall that two of them would finish in a week of rain?"
    one.write_text(json.dumps({"id": "q", "question": item}) + "\n")
    rng = random.Random(6)
    text = "\n".join([*(words(rng, 10) for _ in range(40)), item, *(words(rng, 10) for _ in range(40))])
    found = built(tmp_path / "c", [one], more=[text], **settings)
    (before,) = Account(found).documents(["cut"])
    left = tmp_path / "left.jsonl"
    few = " ".join([*text.split()[:20], words(rng, 80)])  # less than half of an item may be a phrase
    left.write_text(json.dumps({"id": "x", "question": few}) + "\n")
    stated = certify(found, left, tmp_path / "cert.json")
    assert stated["hits"]["named"] == [{"document": before.record["id"], "items": ["x"]}]
    assert stated["cut"]["documents"] == 0


# ---- that nothing changes unnoticed ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def certified(clean: Artifact, benchmark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpus, benchmark and certificate side by side."""
    folder = tmp_path_factory.mktemp("certified")
    shutil.copytree(clean.path, folder / "corpus")
    shutil.copy(benchmark, folder / "puzzles.jsonl")
    certify(artifact.load(folder / "corpus", "corpus"), folder / "puzzles.jsonl", folder / "cert.json")
    return folder


@contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """A file with one bit another while the body runs."""
    with path.open("r+b", buffering=0) as file:
        byte = path.read_bytes()[place]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
        yield
        file.seek(place)
        file.write(bytes([byte]))


@pytest.mark.fault("data", "a certificate or benchmark is edited", "verification fails")
def test_every_byte_of_certificate_and_benchmark_counts(certified: Path) -> None:
    rng = random.Random(0)
    for name in ("cert.json", "puzzles.jsonl"):
        path = certified / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            with flipped(path, place, rng.randrange(8)), pytest.raises(DataError):
                verify(certified / "cert.json", None, None)
        for other in (whole[:-1], whole + b"\n", b"", whole.replace(b" ", b"", 1)):
            path.write_bytes(other)
            with pytest.raises(DataError):
                verify(certified / "cert.json", None, None)
            path.write_bytes(whole)
    verify(certified / "cert.json", None, None)


@pytest.mark.fault(
    "data", "bytes of a sealed corpus change, a file comes or goes", "the certificate no longer holds"
)
def test_every_file_of_the_corpus_counts(certified: Path) -> None:
    """Bytes at the ends and at random places of each file, a file too many, a file too few."""
    rng = random.Random(1)
    files = [p for p in sorted((certified / "corpus").rglob("*")) if p.is_file() and p.name != ".lock"]
    assert len(files) > 20
    for path in files:
        whole = path.read_bytes()
        places = {0, len(whole) - 1, rng.randrange(len(whole))} if whole else set()
        for place in places:
            with flipped(path, place, rng.randrange(8)), pytest.raises(DataError):
                verify(certified / "cert.json", None, None)
        path.write_bytes(whole + b" ")
        with pytest.raises(DataError):
            verify(certified / "cert.json", None, None)
        path.unlink()
        with pytest.raises(DataError):
            verify(certified / "cert.json", None, None)
        path.write_bytes(whole)
    more = certified / "corpus" / "train" / "part-00099.jsonl.zst"
    more.write_bytes(b"")
    with pytest.raises(DataError, match="part-00099"):
        verify(certified / "cert.json", None, None)
    more.unlink()
    verify(certified / "cert.json", None, None)


def test_a_seal_of_one_s_own_does_not_help_against_another_scan(certified: Path, tmp_path: Path) -> None:
    stated = json.loads((certified / "cert.json").read_text())
    body = {name: value for name, value in stated.items() if name != "seal"}
    body["removed"] = {"documents": 0, "named": []}
    artifact.write_json(tmp_path / "cert.json", {**body, "seal": artifact.digest(body)})
    where = {"corpus": certified / "corpus", "benchmark": certified / "puzzles.jsonl"}
    verify(tmp_path / "cert.json", **where)
    with pytest.raises(DataError, match="finds other removed"):
        verify(tmp_path / "cert.json", **where, again=True)


def test_a_folder_as_benchmark(clean: Artifact, benchmark: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "more").mkdir(parents=True)
    shutil.copy(benchmark, folder / "a.jsonl")
    shutil.copy(benchmark, folder / "more" / "b.jsonl")
    stated = certify(clean, folder, tmp_path / "cert.json")
    assert list(stated["benchmark"]["files"]) == ["a.jsonl", "more/b.jsonl"]
    (folder / "c.jsonl").write_text(json.dumps({"question": "What else is there to ask about this?"}))
    with pytest.raises(DataError, match=r"c\.jsonl"):
        verify(tmp_path / "cert.json", None, None)


# ---- the commands ----------------------------------------------------------------------------------------------
def test_the_commands(certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, benchmark, out = certified / "corpus", certified / "puzzles.jsonl", tmp_path / "cert.json"
    command = ["data", "certificate", str(corpus), "--benchmark", str(benchmark), "--out", str(out)]
    assert main(command) == 0
    assert "documents that overlap with it are in: 0" in capsys.readouterr().out
    assert main(["data", "verify", str(out), "--again"]) == 0
    assert "so is the count" in capsys.readouterr().out
    moved = tmp_path / "elsewhere.jsonl"
    shutil.copy(benchmark, moved)
    assert main(["data", "verify", str(out), "--benchmark", str(moved), "--corpus", str(corpus)]) == 0
    moved.write_bytes(moved.read_bytes() + b" ")
    assert main(["data", "verify", str(out), "--benchmark", str(moved)]) == 4
    assert "not the certified one" in capsys.readouterr().err
    assert main(["data", "verify", str(tmp_path / "none.json")]) == 4
