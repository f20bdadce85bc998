"""The mix: targets met within one document, caps kept, the same for any order and cut of the documents."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_bench import Bench, resolved

from openqwen.core.artifact import write_jsonl
from openqwen.core.errors import DataError, UsageError
from openqwen.core.jsonl import read_corpus
from openqwen.data import mix, output
from openqwen.data.account import Account
from openqwen.data.config import DataConfig, MixConfig
from openqwen.data.documents import Document
from openqwen.data.review.sample import strata
from openqwen.data.stage import run
from openqwen.data.why import explain

BYTES = {"*": 1.0}  # a token is a byte: targets can be counted


def planned(
    documents: list[tuple[mix.Cell, str, int]], config: MixConfig
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The plan of (cell, id, bytes), and how often it takes each document."""
    cells = list(dict.fromkeys(cell for cell, _, _ in documents))
    table = mix.plan(
        cells,
        np.array([cells.index(cell) for cell, _, _ in documents], np.int64),
        np.array([mix.hash64(3, "mix", ident) for _, ident, _ in documents], np.uint64),
        np.array([size for _, _, size in documents], np.int64),
        config,
    )
    rows = {mix.Cell(row["source"], row["lang"], row["band"]): row for row in table}
    return table, Counter({ident: mix.times(ident, rows[cell], 3) for cell, ident, _ in documents})


CELLS = [mix.Cell(source, lang) for source in ("web", "books", "instruction") for lang in ("en", "zh")]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CELLS), st.integers(1, 5000)), min_size=1, max_size=60),
    st.dictionaries(
        st.sampled_from(["web", "books/zh", "*/en", "instruction"]), st.floats(0.01, 0.24), max_size=4
    ),
    st.one_of(st.none(), st.integers(1, 400_000)),
    st.floats(1, 6),
    st.randoms(use_true_random=False),
)
def test_targets_are_met_within_one_document_and_caps_are_kept(
    sizes: list[tuple[mix.Cell, int]],
    shares: dict[str, float],
    tokens: int | None,
    most: float,
    rng: random.Random,
) -> None:
    documents = [(cell, str(i), size) for i, (cell, size) in enumerate(sizes)]
    held = {cell.group(shares) for cell, _ in sizes}
    shares = {name: share for name, share in shares.items() if name in held}
    config = MixConfig(proportions=shares, tokens=tokens, max_epochs=most, bytes_per_token=BYTES)
    table, taken = planned(documents, config)
    there: Counter[str | None] = Counter()
    got: Counter[str | None] = Counter()
    largest: dict[str | None, int] = {}
    for cell, ident, size in documents:
        group = cell.group(shares)
        there[group] += size
        got[group] += size * taken[ident]
        largest[group] = max(size, largest.get(group, 0))
        assert taken[ident] <= -(-most // 1)
    wanted = {g: shares.get(g, 1 - sum(shares.values())) for g in there}  # type: ignore[arg-type]
    total = tokens or max(there[g] / share for g, share in wanted.items())
    for group, share in wanted.items():
        target, cap = share * total, most * there[group]
        assert got[group] <= cap * (1 + 1e-9)
        assert abs(got[group] - min(target, cap)) <= largest[group]
        rows = [row for row in table if row["group"] == (group or "the rest")]
        assert sum(row["taken"] for row in rows) == pytest.approx(got[group], abs=len(rows))
        assert {row["capped"] for row in rows} == {target > cap * (1 + 1e-9)}
    again = documents[:]
    rng.shuffle(again)
    assert planned(again, config) == (table, taken)


def test_without_targets_everything_is_taken_once() -> None:
    table, taken = planned([(CELLS[i % 6], str(i), 10 + i) for i in range(40)], MixConfig())
    assert set(taken.values()) == {1} and {row["epochs"] for row in table} == {1.0}
    assert (
        mix.plan([], np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64), MixConfig()) == []
    )


def test_bands_and_the_most_specific_group() -> None:
    config = MixConfig(bands={"high": 0.7, "middle": 0.4})
    bands = [mix.Cell.of("web", "zh", {"quality": q}, config).band for q in (0.9, 0.7, 0.5, 0.1)]
    assert bands == ["high", "high", "middle", ""]
    names = dict.fromkeys(["web", "*/zh", "web/zh", "web/*/high", "*"], 0.1)
    cells = [
        ("web", "zh", "high"),
        ("web", "en", "high"),
        ("web", "en", ""),
        ("books", "zh", ""),
        ("x", "y", ""),
    ]
    assert [mix.Cell(*c).group(names) for c in cells] == ["web/zh", "web/*/high", "web", "*/zh", "*"]


def test_what_cannot_be_is_said() -> None:
    documents = [(mix.Cell("web", "en"), str(i), 100) for i in range(90)]
    documents += [(mix.Cell("books", "en"), f"b{i}", 100) for i in range(10)]
    config = MixConfig(proportions={"books": 0.5}, max_epochs=2, bytes_per_token=BYTES)
    table, taken = planned(documents, config)
    assert [row["capped"] for row in table] == [True, False] and table[0]["missed"] == 9000 - 2000
    assert mix.missed(table) == [
        "books: 7,000 tokens are missing to 50.00%; all its documents are taken as often as allowed"
    ]
    assert {taken[f"b{i}"] for i in range(10)} == {2}
    for shares, says in (
        ({"boks": 0.5}, "no document of group 'boks'.*Did you mean 'books'"),
        ({"books": 0.6, "web": 0.6}, "not exceed 1"),
        ({"books": 1.0}, "nothing is left for web/en"),
    ):
        with pytest.raises(UsageError, match=says):
            planned(documents, MixConfig(proportions=shares))


def test_shards_take_what_the_plan_says_however_they_are_cut(tmp_path: Path) -> None:
    documents = [Document(f"w{i}", "x" * (50 + i % 90), "web", "en") for i in range(300)]
    documents += [Document(f"b{i}", "y" * 200, "books", "zh") for i in range(40)]
    config = MixConfig(proportions={"books": 0.4}, bytes_per_token=BYTES).model_dump(mode="json")
    found = []
    for cut in (0, 7, 123):
        bench = Bench(tmp_path / str(cut))
        parts = [bench.shard(part) for part in (documents[:cut], documents[cut:]) if part]
        settings = {"seed": 1, "valid_fraction": 0.1, "steps": ["extract"], "mix": config}
        sizes = [bench.run(output.sizes, part, **settings).outputs["sizes"] for part in parts]
        table = bench.run(output.plan, {"sizes": sizes}, mix=config).facts["table"]
        groups: Counter[str] = Counter()
        for part in parts:
            groups.update(bench.run(output.write, part, **settings, plan=table, cut=False).facts["groups"])
        found.append((table, groups))
    assert found[0] == found[1] == found[2]
    table, groups = found[0]
    assert groups["books/zh"] * 200 == table[0]["taken"]
    share = table[0]["taken"] / sum(row["taken"] for row in table)
    assert abs(share - 0.4) < 200 / sum(row["taken"] for row in table)


def test_instruction_data_is_mixed_in_and_a_miss_can_stop_the_run(tmp_path: Path) -> None:
    rng = random.Random(4)
    words = [f"{a}{b}" for a in ("ma", "to", "ri", "ke") for b in ("lan", "ver", "tin", "dor", "mes")]
    pages = [{"source": "web", "text": " ".join(rng.choices(words, k=60)) + "."} for _ in range(150)]
    samples = [
        {"source": "instruction", "text": f"Add {i} and {i + 1}. The answer is {2 * i + 1}."}
        for i in range(30)
    ]
    write_jsonl(tmp_path / "in.jsonl", [*pages, *samples])
    flags = {"quality__drop": False, "quality__lm": False, "dedup__fuzzy": False, "language__keep": [],
             "mix__proportions": {"instruction": 0.05}, "mix__max_epochs": 9.0, "valid_fraction": 0.0,
             "mix__bytes_per_token": BYTES}  # fmt: skip

    def built(**more: Any) -> dict[str, int]:
        made = run(
            resolved(DataConfig, "data", **{**flags, **more}),
            {"input": tmp_path / "in.jsonl"},
            tmp_path / "out",
        )
        size: Counter[str] = Counter()
        for record in read_corpus(made.path):
            size[record["source"]] += len(record["text"])
        return size

    size = built()
    assert abs(size["instruction"] / size.total() - 0.05) < 50 / size.total()  # type: ignore[attr-defined]
    capped = built(mix__max_epochs=1.0)
    assert capped["web"] == size["web"] and capped["instruction"] < size["instruction"]
    with pytest.raises(DataError, match=r"instruction: [\d,]+ tokens are missing to 5\.00%"):
        built(mix__max_epochs=1.0, mix__missed="stop")


def test_a_document_that_the_mix_leaves_out_is_accounted_for(tmp_path: Path) -> None:
    pages = [
        {"source": "web", "text": f"Page {i} has {i * 7} words and {i} letters. " * 3} for i in range(60)
    ]
    write_jsonl(tmp_path / "in.jsonl", pages)
    flags = {"quality__drop": False, "quality__lm": False, "dedup__fuzzy": False, "language__keep": [],
             "mix__tokens": 2000, "mix__bytes_per_token": BYTES, "valid_fraction": 0.1}  # fmt: skip
    made = run(resolved(DataConfig, "data", **flags), {"input": tmp_path / "in.jsonl"}, tmp_path / "out")
    account = Account(made)
    last = json.loads(made.file("stats.json").read_text())["funnel"][-1]
    drawn = {record["id"] for record in read_corpus(made.path)}
    assert last["step"] == "mix" and last["in"] == 60
    assert last["dropped"] == {"not drawn by the mix": 60 - last["out"]} and last["out"] < 40
    assert made.manifest["facts"]["documents"] == last["out"]
    assert sum(map(len, account.tables(["id"]))) == 60
    for table in account.tables(["id", "step"]):
        for row in table.to_pylist():
            told = explain(account, row["id"])
            assert told["in"] == (row["step"] is None) and (told["copies"] > 0) == (row["id"] in drawn)
    assert {stratum.step for stratum in strata(account, 5, 5, 0)} == {None}
