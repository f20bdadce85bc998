"""The whole stage: on a small primer with known truth, on a user's folder, twice with the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from shard_bench import SHARDS, Bench, resolved

from openqwen.core import artifact
from openqwen.core.config import fields_without_source
from openqwen.core.errors import OpenQwenError
from openqwen.core.jsonl import read_corpus, read_jsonl_zst
from openqwen.data import dedup, exact, minhash, quality
from openqwen.data.config import DataConfig, DedupConfig
from openqwen.data.documents import Document
from openqwen.data.stage import run


@pytest.fixture(scope="module")
def corpus(primer: Path, tmp_path_factory: pytest.TempPathFactory) -> artifact.Artifact:
    flags = {"sources__pydoc": True, "sources__pydoc_text_bytes": 40_000, "sources__pydoc_bytes": 150_000,
             "sources__stdlib": True, "sources__stdlib_bytes": 30_000}  # fmt: skip
    return run(
        resolved(DataConfig, "data", **flags), {"primer": primer}, tmp_path_factory.mktemp("c") / "corpus"
    )


def test_every_planted_page_is_found_and_little_else(corpus: artifact.Artifact) -> None:
    accuracy = json.loads(corpus.file("stats.json").read_text())["truth"]
    assert accuracy["extract"]["token_f1"] >= 0.99
    for step in ("language", "exact", "fuzzy", "spam", "offensive", "rules", "decontaminate"):
        assert accuracy[step]["recall"] >= 0.9, (step, accuracy[step])
        assert accuracy[step]["precision"] >= 0.9, (step, accuracy[step])


@pytest.mark.fault(
    "data", "documents could vanish between steps", "in = kept + dropped at each step, on disk"
)
def test_the_account_adds_up(corpus: artifact.Artifact, primer: Path) -> None:
    """In = kept + dropped at every step, on disk as in the funnel; no id twice; every drop has a reason."""
    stats = json.loads(corpus.file("stats.json").read_text())
    for before, after in zip(stats["funnel"], stats["funnel"][1:]):
        assert before["out"] == after["in"]
    gone = set()
    for step in stats["funnel"]:
        parts = sorted((corpus.path / "dropped" / step["step"]).iterdir())
        records = [record for part in parts for record in read_jsonl_zst(part)]
        assert len(records) == step["in"] - step["out"] == sum(step["dropped"].values())
        assert all(r["reason"] in step["dropped"] for r in records)
        gone |= {r["id"] for r in records}
    train, valid = (list(read_corpus(corpus.path, split)) for split in ("train", "valid"))
    kept = [r["id"] for r in [*train, *valid]]
    assert len(kept) == len(set(kept)) == stats["funnel"][-1]["out"] and not gone & set(kept)
    assert {r["source"] for r in train} == {"primer", "docs", "code"}
    assert {r["lang"] for r in train} == {"en", "zh", "code"}
    assert train and valid and all(r["text"].strip() for r in [*train, *valid])
    pages = sum(1 for _ in artifact.read_jsonl(primer / "truth.jsonl"))
    assert sum(i.startswith("primer/") for i in [*kept, *gone]) == pages


def test_facts_and_samples(corpus: artifact.Artifact) -> None:
    facts = corpus.manifest["facts"]
    assert facts["documents"] == facts["train"] + facts["valid"] and facts["bytes_out"] > 100_000
    samples = list(artifact.read_jsonl(corpus.file("samples.jsonl")))
    assert {"label", "text"} == set(samples[0]) and len(samples) == 4


def test_every_score_and_every_drop_is_in_the_table_of_verdicts(corpus: artifact.Artifact) -> None:
    parts = sorted((corpus.path / "verdicts").iterdir())
    table = [row for part in parts for row in parquet.read_table(part).to_pylist()]
    stats = json.loads(corpus.file("stats.json").read_text())
    assert len(table) == stats["funnel"][0]["in"]
    for step in stats["funnel"]:
        assert Counter(r["reason"] for r in table if r["step"] == step["step"]) == Counter(step["dropped"])
    kept = {r["id"]: r for split in ("train", "valid") for r in read_corpus(corpus.path, split)}
    judged = {row["id"]: dict(row["scores"]) for row in table if row["step"] is None}
    assert judged.keys() == kept.keys()
    for ident, scores in judged.items():
        assert {"spam", "offensive", "lm", "rules.words", "rules.dup_5"} <= scores.keys()
        assert kept[ident]["scores"] == {k: v for k, v in scores.items() if not k.startswith("rules.")}
    gone = [dict(row["scores"]) for row in table if row["step"] == "rules"]
    assert gone and all("rules.line_ends" in scores and "lm" not in scores for scores in gone)


def test_same_bytes_however_it_is_run(in_process: artifact.Artifact, primer: Path, tmp_path: Path) -> None:
    """Three processes and other parts of every exchange; two processes are below, two nodes in test_data_ray.py."""
    assert in_process.manifest["facts"]["shards"] >= 4
    more = {"runner__workers": 3, "runner__exchange_rows": 200, "runner__store": str(tmp_path / "store")}
    settings = resolved(DataConfig, "data", runner__how="processes", **SHARDS | more)
    made = run(settings, {"primer": primer}, tmp_path / "out")
    assert made.content == in_process.content
    assert made.fingerprint == in_process.fingerprint  # how it was run is no part of what it is
    assert not (made.path / "checkpoints").exists()
    assert (tmp_path / "store" / "fuzzy.edges").is_dir()  # a store that somebody named is kept


def test_shards_are_cut_into_what_one_would_give(
    primer: Path, corpus: artifact.Artifact, in_process: artifact.Artifact
) -> None:
    """Copies across the borders of shards and parts are found like those within; so are phrases and samples."""

    def account(found: artifact.Artifact) -> dict[str, Any]:
        parts = sorted((found.path / "verdicts").iterdir())
        rows = [row for part in parts for row in parquet.read_table(part).to_pylist()]
        return {r["id"]: (r["step"], r["reason"], r["of"]) for r in rows if r["id"].startswith("primer/")}

    whole, cut = account(corpus), account(in_process)
    assert corpus.manifest["facts"]["shards"] == 3  # primer, pydoc, stdlib
    steps = ("extract", "language", "exact", "fuzzy")
    early = {ident: row for ident, row in whole.items() if row[0] in steps}
    assert early == {ident: row for ident, row in cut.items() if row[0] in steps}
    assert {row[0] for row in early.values()} >= {"exact", "fuzzy"}


def test_copies_over_shards_are_those_of_the_whole(tmp_path: Path) -> None:
    """Against deduplication of everything at once, for any cut."""
    rng = random.Random(5)
    words = [f"word{i}" for i in range(400)]
    documents: list[Document] = []
    for i in range(120):
        text = " ".join(rng.choices(words, k=60))
        for copy in range(rng.choice([1, 1, 1, 2, 4])):
            parts = text.split(" ")
            parts[rng.randrange(60)] = "changed" if copy else parts[0]
            documents.append(Document(f"{i}/{copy}", " ".join(parts) + " more" * rng.randrange(3), "web"))
    documents += [replace(d, id=f"again {d.id}", text=f" {d.text.upper()}!") for d in documents[::3]]
    rng.shuffle(documents)
    settings = DedupConfig().model_dump(mode="json")
    left, copies = exact.deduplicate(documents)
    expected = [{d.document.id: d.kept for d in copies}]
    expected.append({d.document.id: d.kept for d in minhash.deduplicate(left, DedupConfig(), 3)[1]})
    assert len(expected[0]) > 50 and len(expected[1]) > 30
    for shards, parts in ((1, 1), (5, 3), (40, 7)):
        bench = Bench(tmp_path / f"{shards}")
        cut = [
            bench.shard(documents[i * len(documents) // shards : (i + 1) * len(documents) // shards])
            for i in range(shards)
        ]
        keys = [bench.run(dedup.exact_keys, shard, parts=parts).outputs["keys"] for shard in cut]
        found = [
            bench.run(dedup.exact_copies, {"keys": keys}, part=i).outputs["copies"] for i in range(parts)
        ]
        gone = [_dropped(bench, cut, found)]
        signed = [
            bench.run(dedup.signatures, shard, dedup=settings, seed=3, shard=i, parts=parts).outputs
            for i, shard in enumerate(cut)
        ]
        inputs = {"bands": [outputs["bands"] for outputs in signed]}
        edges = [bench.run(dedup.edges, inputs, part=i).outputs["edges"] for i in range(parts)]
        inputs = {"edges": edges, "signatures": [outputs["signatures"] for outputs in signed]}
        gone.append(
            _dropped(bench, cut, [bench.run(dedup.clusters, inputs, dedup=settings).outputs["copies"]])
        )
        assert gone == expected, (shards, parts)


def _dropped(bench: Bench, cut: list[dict[str, Any]], copies: list[Any]) -> dict[str, str | None]:
    """Drops copies of every shard, which goes on with what is left."""
    gone = {}
    for i, shard in enumerate(cut):
        record = bench.run(dedup.drop_copies, {**shard, "copies": copies}, shard=i, reason="copy")
        gone |= {d.document.id: d.kept for d in bench.verdicts(shard, record)[1]}
        shard["verdicts"] = [record.outputs["verdicts"]]
    return gone


def test_only_what_depends_on_a_setting_is_done_again(primer: Path, tmp_path: Path) -> None:
    flags = {"runner__store": str(tmp_path / "store"), "runner__how": "in-process", **SHARDS}

    def build(**more: Any) -> tuple[artifact.Artifact, dict[str, int]]:
        made = run(resolved(DataConfig, "data", **flags, **more), {"primer": primer}, tmp_path / "out")
        return made, made.manifest["facts"]["tasks"]

    first, tasks = build()
    assert tasks == {"ran": tasks["ran"]}
    again, none = build()
    assert (again.content, none) == (first.content, {"done_before": tasks["ran"]})
    first = replace(first, path=shutil.copytree(first.path, tmp_path / "first"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.json")}
    bits = sorted(r["scores"]["lm"] for r in read_corpus(first.path))
    changed, tasks = build(quality__lm_max_bits=(bits[-5] + bits[-4]) / 2)
    later = {
        "lm",
        "decontaminate.hits",
        "decontaminate.phrases",
        "decontaminate",
        "mix.sizes",
        "mix.plan",
        "corpus",
    }
    again = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert {"lm", "decontaminate", "corpus"} <= {path.parent.name for path in again} <= later
    assert tasks == {"ran": len(again), "done_before": len(before) - len(again)}
    lost = {r["id"] for r in read_corpus(first.path)} - {r["id"] for r in read_corpus(changed.path)}
    assert len(lost) == 4
    assert build()[0].content == first.content


@pytest.mark.fault("data", "a document makes a step raise", "it is named by source, file and row")
def test_a_document_that_breaks_a_step_is_named(
    in_process: artifact.Artifact, primer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, poison = quality.measure, list(read_corpus(in_process.path))[77]

    def measure(text: str) -> dict[str, float]:
        assert text != poison["text"], "poison"
        return real(text)

    monkeypatch.setattr(quality, "measure", measure)
    settings = resolved(DataConfig, "data", runner__how="in-process", **SHARDS)
    with pytest.raises(OpenQwenError, match=r"task rules/0000. failed: AssertionError: poison") as error:
        run(settings, {"primer": primer}, tmp_path / "out")
    assert re.match(rf"document {poison['id']}, row \d+ of extract/0000", str(error.value.where))
    assert artifact.find(tmp_path / "out") is None
    monkeypatch.setattr(quality, "measure", real)
    made = run(settings, {"primer": primer}, tmp_path / "out")
    assert made.content == in_process.content
    assert made.manifest["facts"]["tasks"]["done_before"] > 20  # it went on where it had stopped


@pytest.mark.fault(
    "data", "the whole run is killed at many moments", "it continues and ends in the same bytes"
)
@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(
    in_process: artifact.Artifact, primer: Path, tmp_path: Path
) -> None:
    """Killed with all its processes at different moments; what is there at the end is what it would have been."""
    script = tmp_path / "build.py"
    script.write_text(
        "from pathlib import Path\nfrom shard_bench import SHARDS, resolved\n"
        "from openqwen.data.config import DataConfig\nfrom openqwen.data.stage import run\n"
        "if __name__ == '__main__':\n"
        f"    run(resolved(DataConfig, 'data', runner__workers=2, **SHARDS), {{'primer': Path({str(primer)!r})}}, "
        f"Path({str(tmp_path / 'out')!r}))\n"
    )
    store, before = tmp_path / "out" / "checkpoints" / "shards", 0
    for goal in (3, 20, 45):
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        driver = subprocess.Popen(
            [sys.executable, script], env={**os.environ, "PYTHONPATH": path}, start_new_session=True
        )
        while len(list(store.rglob("*.json"))) < goal and driver.poll() is None:
            time.sleep(0.01)
        assert driver.poll() is None, "it ended before it was killed"
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        assert artifact.find(tmp_path / "out") is None
        assert len(list(store.rglob("*.json"))) >= before
        before = len(list(store.rglob("*.json")))
    flags = resolved(DataConfig, "data", runner__how="in-process", **SHARDS)
    made = run(flags, {"primer": primer}, tmp_path / "out")
    assert made.content == in_process.content
    assert made.manifest["facts"]["tasks"]["done_before"] >= 45


def test_a_folder_of_everything(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    body = (
        "The mill stands by the river and is older than the town. It has seen many winters, and every miller has "
        "cut his name into the beam above the door. There you can still read them."
    )
    (root / "a.html").write_text(f"<html><body><nav>Home</nav><article><p>{body}</p></article></body></html>")
    (root / "b.md").write_text(
        "# Bridges\n\nBefore the bridge was built, a ferry carried people, carts and sheep across the water. The "
        "ferryman lived on the far bank in a house. It has since become a school."
    )
    (root / "c.py").write_text("def area(width, height):\n    return width * height\n" * 5)
    line = {"id": "n", "source": "books", "text": "In the year of the great frost the lake was hard as iron. The "
            "children crossed it to reach the school on the other side of the valley. Nobody had seen that."}  # fmt: skip
    (root / "d.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n")
    made = run(resolved(DataConfig, "data", valid_fraction=0), {"input": root}, tmp_path / "out")
    records = {r["id"]: r for r in read_corpus(made.path)}
    assert {k: (r["source"], r["lang"]) for k, r in records.items()} == {
        "a.html": ("web", "en"), "b.md": ("text", "en"), "c.py": ("code", "code"), "d.jsonl/1#n": ("books", "en"),
    }  # fmt: skip
    assert "Home" not in records["a.html"]["text"]
    assert list(read_corpus(made.path, "valid")) == []


def test_every_setting_says_where_it_comes_from() -> None:
    assert fields_without_source(DataConfig) == []


@pytest.mark.shared
def test_real_warc_files(shared: Path, tmp_path: Path) -> None:
    made = run(
        resolved(DataConfig, "data", quality__rules=False, language__keep=[], bad_fraction=0.5),
        {"input": shared / "data" / "html" / "warcio"}, tmp_path / "out",
    )  # fmt: skip
    assert made.manifest["facts"]["skipped"] >= 4
    assert made.manifest["facts"]["documents"] >= 2
