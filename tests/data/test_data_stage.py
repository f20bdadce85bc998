"""The whole stage: on a small primer with known truth, on a user's folder, twice with the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openqwen.core import artifact
from openqwen.core.config import fields_without_source, resolve
from openqwen.core.jsonl import read_corpus, read_jsonl_zst
from openqwen.data.config import DataConfig
from openqwen.data.primer.config import PrimerConfig
from openqwen.data.primer.stage import run as run_primer
from openqwen.data.stage import run


def resolved(cls: Any, stage: str, **flags: Any) -> Any:
    return resolve(cls, stage, flags={k.replace("__", "."): v for k, v in flags.items()}, environ={})


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("primer") / "primer"
    few = dict.fromkeys(
        ["sft_train", "sft_heldout", "tools_train", "tools_heldout", "pmp_pairs", "pairs_train", "pairs_heldout",
         "prompts_train", "prompts_heldout"], 20,
    )  # fmt: skip
    run_primer(resolved(PrimerConfig, "primer", pages=500, leak=0.02, **few), {}, out)
    return out


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


def test_the_account_adds_up(corpus: artifact.Artifact, primer: Path) -> None:
    """In = kept + dropped at every step, on disk as in the funnel; no id twice; every drop has a reason."""
    stats = json.loads(corpus.file("stats.json").read_text())
    for before, after in zip(stats["funnel"], stats["funnel"][1:]):
        assert before["out"] == after["in"]
    gone = set()
    for step in stats["funnel"]:
        records = list(read_jsonl_zst(corpus.path / "dropped" / f"{step['step']}.jsonl.zst"))
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


def test_same_bytes_again_whatever_the_number_of_workers(primer: Path, tmp_path: Path) -> None:
    flags = {"quality__lm": False}
    one = run(resolved(DataConfig, "data", **flags), {"primer": primer}, tmp_path / "one")
    two = run(resolved(DataConfig, "data", extract__workers=1, **flags), {"primer": primer}, tmp_path / "two")
    assert one.content == two.content and one.fingerprint != two.fingerprint


def test_a_folder_of_everything(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    body = (
        "The mill stands by the river and is older than the town. It has seen many winters, and every miller has "
        "cut his name into the beam above the door, where you can still read them."
    )
    (root / "a.html").write_text(f"<html><body><nav>Home</nav><article><p>{body}</p></article></body></html>")
    (root / "b.md").write_text(
        "# Bridges\n\nBefore the bridge was built, a ferry carried people, carts and sheep across the water. The "
        "ferryman lived on the far bank in a house that has since become a school."
    )
    (root / "c.py").write_text("def area(width, height):\n    return width * height\n" * 5)
    line = {"id": "n", "source": "books", "text": "In the year of the great frost the lake was hard as iron, and "
            "children crossed it to reach the school on the other side of the valley."}  # fmt: skip
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
