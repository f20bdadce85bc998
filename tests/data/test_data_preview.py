"""The preview of thresholds: what it says would be dropped is what a build drops, and its page holds only text."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_bench import SHARDS, resolved

from openqwen.cli import main
from openqwen.core.artifact import write_jsonl
from openqwen.core.errors import DataError
from openqwen.data import preview
from openqwen.data.account import Account, Place
from openqwen.data.config import DataConfig, QualityConfig
from openqwen.data.review.sample import random_numbers
from openqwen.data.stage import run
from openqwen.report.preview import figure, render, share, ticks

STEPS = ("spam", "offensive", "rules", "quality")


def built(out: Path, inputs: dict[str, Path], **flags: Any) -> Account:
    config = resolved(
        DataConfig, "data", runner__how="in-process", **{**SHARDS, "quality__lm": False, **flags}
    )
    return Account(run(config, inputs, out))


@pytest.fixture(scope="module")
def scored(primer: Path, tmp_path_factory: pytest.TempPathFactory) -> Account:
    """A corpus in several parts that was only scored."""
    return built(tmp_path_factory.mktemp("scored") / "c", {"primer": primer}, quality__drop=False)


def seen(account: Account, **limits: float) -> dict[str, Any]:
    config = account.config.quality.model_copy(update=limits)
    return preview.preview(account, preview.thresholds(config), 3, 0)


def values(account: Account, score: str) -> dict[Place, float]:
    """Every document's score, row by row."""
    return {
        Place(part, row): dict(scores)[score]
        for part, table in enumerate(account.tables(["scores"]))
        for row, scores in enumerate(table["scores"].to_pylist())
        if score in dict(scores)
    }


def test_what_it_shows_is_what_a_build_drops(scored: Account, primer: Path, tmp_path: Path) -> None:
    limits = {"spam": 0.3, "quality": 0.6}
    dropping = built(tmp_path / "c", {"primer": primer}, **{f"quality__{n}": v for n, v in limits.items()})
    dropped: Counter[str] = Counter()
    for table in dropping.tables(["step", "source", "lang"]):
        for row in table.to_pylist():
            if row["step"] in STEPS:
                dropped[f"{row['source']}/{row['lang']}"] += 1
    found = seen(scored, **limits)
    assert {g["name"]: g["dropped"] for g in found["groups"] if g["dropped"]} == dropped and dropped


def test_every_count_is_that_of_the_account(scored: Account) -> None:
    own = values(scored, "spam")
    limit = sorted(own.values())[-9]  # a document lies on it
    found = seen(scored, spam=limit)
    spam = found["scores"][0]
    assert (spam["score"], spam["sign"], spam["limit"]) == ("spam", ">=", limit)
    assert spam["documents"] == len(own) and spam["dropped"] == sum(v >= limit for v in own.values()) >= 9
    assert found["documents"] - found["unscored"] == len(own)
    assert sum(g["documents"] for g in spam["groups"]) == len(own)
    edges, counts = np.array(spam["edges"]), np.sum([g["counts"] for g in spam["groups"]], axis=0)
    assert counts.tolist() == np.histogram(list(own.values()), edges)[0].tolist()
    beyond = _beyond(scored, found, limit)
    broken = Counter(place for _, places in beyond for place in places)
    for name, places in beyond:
        only = sum(broken[place] == 1 for place in places)
        assert only == next(s["only"] for s in found["scores"] if s["name"] == name)


def _beyond(account: Account, found: dict[str, Any], limit: float) -> list[tuple[str, list[Place]]]:
    """The documents beyond each threshold, by the rows of the account."""
    rows = {
        Place(part, i): row
        for part, table in enumerate(account.tables(["source", "lang"]))
        for i, row in enumerate(table.to_pylist())
    }
    out = []
    config = account.config.quality.model_copy(update={"spam": limit})
    for threshold in preview.thresholds(config):
        own = values(account, threshold.score)
        compare = {"<": np.less, ">": np.greater, ">=": np.greater_equal}[threshold.sign]
        places = [
            place
            for place, value in own.items()
            if compare(value, threshold.limit) and threshold.suits(rows[place]["source"], rows[place]["lang"])
        ]
        out.append((threshold.name, places))
    return [pair for pair in out if pair[0] in {s["name"] for s in found["scores"]}]


def test_examples_are_the_documents_beside_the_threshold(scored: Account) -> None:
    spam = seen(scored, spam=0.3)["scores"][0]
    ordered = sorted(values(scored, "spam").values())
    beyond, within = ([e["value"] for e in spam[side]] for side in ("beyond", "within"))
    assert len(beyond) == len(within) == 3
    assert beyond == sorted(beyond) and within == sorted(within, reverse=True)
    assert set(beyond) <= set([v for v in ordered if v >= 0.3][:30])
    assert set(within) <= set([v for v in ordered if v < 0.3][-30:])
    for example in [*spam["beyond"], *spam["within"]]:
        place = scored.find([example["id"]])[example["id"]]
        assert scored.verdict(place)["scores"]["spam"] == example["value"]
        assert scored.text(place).startswith(example["text"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.lists(st.integers(0, 40), max_size=3), st.integers(1, 8))
def test_the_nearest_are_the_same_however_rows_arrive(far: list[int], cuts: list[int], limit: int) -> None:
    side = preview._Side(limit)
    rows = np.arange(len(far))
    for own in np.split(rows, sorted(min(cut, len(far)) for cut in cuts)):
        side.add(np.array(far, float)[own], 0, own, np.array(far, float)[own], 5)
    numbers = random_numbers(0, rows, 5).tolist()
    nearest = sorted(rows.tolist(), key=lambda row: (far[row], numbers[row]))[:limit]
    assert [place.row for place in side.places] == nearest
    drawn = side.drawn(2)
    assert {place.row for place, _ in drawn} == set(sorted(nearest, key=numbers.__getitem__)[:2])
    assert [value for _, value in drawn] == sorted(value for _, value in drawn)


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6), st.booleans())
def test_ticks_lie_inside_and_are_few(low: float, wide: float, log: bool) -> None:
    high = low + wide
    found = ticks(low, high, log)
    assert found == sorted(set(found)) and len(found) <= 9
    slack = 1e-8 * wide + 1e-12 * high
    assert all(low - slack <= t <= high + slack for t in found)
    assert log or len(found) >= 2


def test_the_page_holds_texts_and_no_markup_of_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "<script>alert(1)</script> <img src=x onerror=alert(1)> Buy now!!! Huge sale!!! Do not wait!!! "
    records = [{"source": "<b>web</b>", "text": f"{evil} {i} " * 3} for i in range(12)]
    records += [
        {"source": "web", "text": f"The library on hill {i} opens at nine. It is quiet."} for i in range(12)
    ]
    write_jsonl(tmp_path / "in.jsonl", records)
    flags = {"quality__drop": False, "dedup__fuzzy": False, "dedup__exact": False, "language__keep": []}
    account = built(tmp_path / "c", {"input": tmp_path / "in.jsonl"}, **flags)
    found = seen(account)
    assert main(["data", "preview", str(account.corpus.path)]) == 0
    page = (tmp_path / "c.preview.html").read_text()
    assert "&lt;script&gt;" in page and "&lt;b&gt;web" in page
    assert not re.search(r"<script|<img|<b>web|https?://|\bon\w+=\"|url\(", page)
    for score in found["scores"]:
        drawn = figure(score)
        assert drawn.count('class="bar"') == sum(c > 0 for g in score["groups"] for c in g["counts"])
        at = float(re.search(r'class="limit" x1="([\d.]+)"', drawn)[1])  # type: ignore[index]
        assert 132 <= at <= 532
    capsys.readouterr()
    assert main(["data", "preview", str(account.corpus.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == json.loads(json.dumps(found["scores"]))


def test_many_groups_share_a_row() -> None:
    groups = [{"name": f"s{i}/en", "documents": 4, "dropped": 1, "counts": [3, 1]} for i in range(12)]
    score = {"name": "x", "groups": groups, "sign": ">", "limit": 0.5, "edges": [0, 0.5, 1], "log": False}
    drawn = figure(score)
    assert "4 others" in drawn and "4 of 16" in drawn and drawn.count('class="group"') == 9
    assert (share(0, 9), share(3, 40), share(1, 10**6)) == ("none", "7.5 %", "below 0.01 %")


def test_refusals(scored: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(scored.corpus.path)
    for words, code, says in (
        (["--mix.tokens", "3"], 2, "no threshold for quality"),
        (["--quality.spm", "0.5"], 2, "Did you mean 'quality.spam'"),
        (["--quality.limits.gopher.min_wrds", "5"], 2, "min_words"),
        (["--quality.spam", "7"], 2, "less than or equal to 1"),
        (["--examples", "0"], 2, "at least 1"),
    ):
        assert main(["data", "preview", path, *words]) == code
        assert says in capsys.readouterr().err
    write_jsonl(tmp_path / "in.jsonl", [{"source": "web", "text": "The library opens at nine. It is quiet."}])
    unscored = built(tmp_path / "c", {"input": tmp_path / "in.jsonl"}, quality__rules=False)
    with pytest.raises(DataError, match=r"no document has a score"):
        preview.preview(unscored, preview.thresholds(QualityConfig())[-1:], 1, 0)  # the language model's
    everything = seen(unscored)
    assert [s["name"] for s in everything["scores"]] == ["spam", "offensive", "low quality"]
    assert "lie beyond some threshold" in render(everything, "t", "s")
