"""Rules as data: published limits are the defaults or say so, drops name rule and value, good real texts pass."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.core.config import source_of
from openqwen.data import quality
from openqwen.data.config import GopherConfig, QualityConfig, RulesConfig
from openqwen.data.documents import Document
from openqwen.data.rules import RULES

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "text"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.setting)
def test_published_limits_are_the_defaults_or_the_setting_says_what_was_published(rule) -> None:  # type: ignore[no-untyped-def]
    table, name = rule.setting.split(".")
    info = type(getattr(RulesConfig(), table)).model_fields[name]
    if rule.published is None:
        assert rule.source.startswith("ours")
    elif rule.limit(RulesConfig()) != rule.published:
        assert re.search(rf"\bis {rule.published:g}\)", source_of(info) or "")


def test_every_limit_belongs_to_a_rule() -> None:
    used = {rule.setting for rule in RULES}
    tables = RulesConfig.model_fields
    declared = {f"{t}.{name}" for t in tables for name in type(getattr(RulesConfig(), t)).model_fields}
    assert used == declared


def test_a_limit_is_a_setting_and_a_drop_names_rule_value_and_limit() -> None:
    text = "The river begins in the mountains and ends in the sea. It is long. It has many bends and a bridge or two."
    for least, says in ((20, None), (50, "words = 23 < 50 (gopher.min_words; Gopher, A.1.1)"), (None, None)):
        config = RulesConfig(gopher=GopherConfig(min_words=least))
        kept, dropped = quality.filter_rules([Document("x", text, "web", "en")], config)
        assert (dropped[0].detail if dropped else None) == says
        assert [*kept, *(d.document for d in dropped)][0].scores["rules.words"] == 23
    assert QualityConfig().drop


@pytest.mark.shared
@pytest.mark.parametrize(
    "lang, most", [("en", {"blog": 0.1, "technical": 0.05, "speech": 0.05, "wikipedia": 0.06, "reviews": 0.02}),
                   ("zh", {"law": 0.05, "newsletter": 0, "guide": 0, "poetry": 0.01, "tech-article": 0.08})],
)  # fmt: skip
def test_good_texts_pass(lang: str, most: dict[str, float]) -> None:
    if not SHARED.is_dir():
        pytest.skip("no shared data")
    records = [
        json.loads(line)
        for line in gzip.decompress((SHARED / f"{lang}.jsonl.gz").read_bytes()).split(b"\n")
        if line
    ]
    for domain, share in most.items():
        texts = [r["text"] for r in records if r["domain"] == domain][:80]
        _, dropped = quality.filter_rules([Document("x", t, "web", lang) for t in texts], RulesConfig())
        assert len(dropped) <= share * len(texts) + 1, (domain, [d.detail for d in dropped])


PIECES = [*'x_é中1.!。…”" \n\u3000', "...", "the", "be", "of", "to", "and"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_measures_are_what_they_are_called(text: str) -> None:
    found, words = quality.measure(text), text.split()
    assert found["words"] == len(words)
    assert found["word_length"] == max(1, sum(map(len, words))) / max(1, len(words))
    assert found["alphabetic"] == sum(any(map(str.isalpha, word)) for word in words) / max(1, len(words))
    assert found["letters"] == sum(map(str.isalpha, text)) / max(1, len(text))
    assert found["longest_run"] == (0 if "中" in text else max(map(len, words), default=0))
    stops = ["the", "be", "to", "of", "and", "that", "have", "with"]
    assert found["stopwords"] == sum(re.search(rf"\b{word}\b", text) is not None for word in stops)
    assert found["sentences"] == len(re.findall(r"[.!?](?=[\s\"'”’)]|$)|[。！？]", text))


def test_placeholders_count_in_both_languages() -> None:
    assert quality.measure("Please log in to read all of it.")["placeholders"] == 6 / 25
    assert quality.measure("请登录以后再看")["placeholders"] == 2 / 7
