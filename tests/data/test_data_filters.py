"""Decontamination, rules, classifiers, language, mixing, truth: each step by itself."""

from __future__ import annotations

import html
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_bench import Bench

from openqwen.core.errors import DataError
from openqwen.data import classifier, decontaminate, language, lm, quality, truth
from openqwen.data.config import (
    DecontaminateConfig,
    LanguageConfig,
    RulesConfig,
    SourcesConfig,
)
from openqwen.data.documents import Document
from openqwen.data.html_text import main_text, tidy
from openqwen.data.rules import RULES
from openqwen.data.sources.standard_library import NEVER, module_names, pydoc_pages, stdlib_sources

ENGLISH = [
    f"{a}{b}"
    for a in ("ma", "to", "ri", "ke", "lu", "so")
    for b in ("lan", "ver", "tin", "dor", "mes", "pol", "gra")
]
CHINESE = [chr(c) for c in range(0x4E00, 0x4E00 + 900)]


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(ENGLISH, k=count))


def characters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(CHINESE, k=count))


def disguise(text: str, chinese: bool, data: st.DataObject) -> str:
    """The same item as people copy it: other case, punctuation, line breaks, width, at last entities."""
    if data.draw(st.booleans()):
        text = data.draw(st.sampled_from([str.upper, str.title]))(text)
    if data.draw(st.booleans()):
        text = (", " if not chinese else "，").join(text.split(" ")) + "!!"
    if data.draw(st.booleans()):
        text = "\n".join(text) if chinese else text.replace(" ", "\n")
    if data.draw(st.booleans()):
        text = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    if data.draw(st.booleans()):
        text = html.escape(text).replace("a", "&#97;").replace("一", "&#19968;")
    return text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.integers(6, 60), st.data())
def test_planted_items_are_found_however_they_are_written(
    seed: int, chinese: bool, length: int, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    make = characters if chinese else words
    item = make(rng, length)
    config = DecontaminateConfig()
    index = decontaminate.Index([decontaminate.Item("bench", "1", item)], config)
    page = Document("p", make(rng, 80) + " " + disguise(item, chinese, data) + " " + make(rng, 80), "web")
    clean = Document("c", make(rng, 200), "web")
    kept, dropped = decontaminate.decontaminate([page, clean], index, config)
    assert [d.id for d in kept] == ["c"]
    assert [(d.document.id, d.reason, d.kept) for d in dropped] == [("p", "overlap with bench", "bench:1")]


def test_no_false_hit_on_clean_text() -> None:
    """Two megabytes that share words and even 12-grams with the items, but no 13-gram."""
    rng = random.Random(1)
    items = [words(rng, 30) for _ in range(300)] + [characters(rng, 40) for _ in range(300)]
    config = DecontaminateConfig()
    index = decontaminate.Index([decontaminate.Item("b", str(i), t) for i, t in enumerate(items)], config)
    documents = []
    for i in range(1500):
        near = " ".join(items[i % 300].split()[:12]) if i % 2 else items[300 + i % 300][:19]
        filler = words(rng, 150) if i % 2 else characters(rng, 300)
        documents.append(Document(str(i), f"{filler} zzz {near} qqq {filler[:300]}", "web"))
    assert sum(len(d.text.encode()) for d in documents) > 1_500_000
    kept, dropped = decontaminate.decontaminate(documents, index, config)
    assert not dropped and len(kept) == 1500


def test_phrases_of_many_documents_are_no_evidence(tmp_path: Path) -> None:
    phrase = (
        "choose the one best answer from the four options given below and explain your reasoning in detail"
    )
    config = DecontaminateConfig()
    index = decontaminate.Index(
        [decontaminate.Item("b", "1", phrase + " secret ending of the item here")], config
    )
    rng = random.Random(2)
    many = [Document(str(i), f"{phrase} {words(rng, 40)}", "web") for i in range(20)]
    leak = Document("leak", f"{phrase} secret ending of the item here", "web")
    kept, dropped = decontaminate.decontaminate([*many, leak], index, config)
    assert len(kept) == 20 and [d.document.id for d in dropped] == ["leak"]


PROSE = (
    "The river begins in the mountains and ends in the sea. It passes three towns on its way, and each of them has "
    "a bridge of its own. People say that the oldest bridge was built by a single man in one winter."
)
ZH_PROSE = (
    "这条河从山里流出来，最后流进大海。路上有三座小城，每座城都有自己的桥。"
    "人们说，最老的桥是一个人在一个冬天里造好的。"
)


@pytest.mark.parametrize(
    "text, lang, source, reason",
    [
        (PROSE, "en", "web", None),
        (ZH_PROSE, "zh", "web", None),
        ("Too short.", "en", "web", "too few words"),
        ("\n".join(["The same line is here and it is long enough to count."] * 8), "en", "web", "duplicate lines"),
        (PROSE + " lorem ipsum dolor", "en", "web", "lorem ipsum"),
        ("• " + "\n• ".join(f"item {w} of the list that is and was." for w in ENGLISH), "en", "web", "bullet lines"),
        ("\n".join(("the ", "and ")[i % 2] + words(random.Random(i), 9) + ". So" for i in range(20)),
         "en", "web", "lines without end"),
        (PROSE.replace(".", "!!!!!!!!"), "en", "web", "shouting"),
        ("Log in\n\nForgot your password? Page not found. Accept all cookies. Subscribe to our newsletter. "
         "All rights reserved. Terms of use and privacy policy. Your cart is empty. Log in. Log in.",
         "en", "web", "placeholder page"),
        ("x" * 1200 + " " + PROSE, "en", "docs", "one long line"),
        ("Help on module x:\n\nNAME\n    x\n\nDATA\n    A = 1\n    B = 2\n    C = 3\n    D = 4", "en", "docs", None),
        ("def f(x):\n    return x\n" * 40, "code", "code", None),
        ("\n".join("a = " + "1, " * 50 for _ in range(9)), "code", "code", "long lines of code"),
        (" ".join(ENGLISH * 4) + "。" + ZH_PROSE, "zh", "web", "few Chinese characters"),
        ("Question: 3 + 4 = ?\nAnswer: 7.\n\n" * 3 + "Question: Which is the larger of 3 and 4?\nAnswer: 4 is.",
         "en", "primer", None),
    ],
)  # fmt: skip
def test_rules(text: str, lang: str, source: str, reason: str | None) -> None:
    document = Document("x", text, source, lang)
    kept, dropped = quality.filter_rules([document], RulesConfig())
    assert (dropped[0].reason if dropped else None) == reason
    assert len(kept) + len(dropped) == 1


def test_every_rule_says_where_it_comes_from_and_measures_something() -> None:
    values = quality.measure(PROSE) | quality.repetition([PROSE])[0]
    off = RulesConfig.model_validate(
        {table: dict.fromkeys(fields, None) for table, fields in RulesConfig().model_dump().items()}
    )
    for rule in RULES:
        assert rule.source and rule.measure in values
        assert rule.limit(RulesConfig()) is None or rule.breaks(-1.0, 0.0) == rule.is_least
        assert rule.limit(off) is None
        if not rule.source.startswith("ours"):
            assert rule.published is not None, rule
    assert {"Gopher", "C4", "FineWeb", "The Stack"} <= {rule.source.partition(",")[0] for rule in RULES}
    assert {name for table in RulesConfig().model_dump().values() for name in table} == {
        rule.setting.partition(".")[2] for rule in RULES
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "bcd", "ef", "g", "你", "好"]), max_size=25), min_size=1, max_size=4
    )
)
def test_repetition_equals_counting(documents: list[list[str]]) -> None:
    texts = [" ".join(d) for d in documents]
    for own, text, values in zip(documents, texts, quality.repetition(texts)):
        for n in range(2, 11):
            runs = [" ".join(own[i : i + n]) for i in range(len(own) - n + 1)]
            top = max((len(run) * count for run, count in Counter(runs).items() if count > 1), default=0)
            again = [i for i, run in enumerate(runs) if run in runs[:i]]
            covered = {place for i in again for place in range(i, i + n)}
            if n <= 4:
                assert values[f"top_{n}"] == pytest.approx(top / max(1, len(text)))
            else:
                share = sum(len(own[i]) for i in covered) / max(1, len(text))
                assert values[f"dup_{n}"] == pytest.approx(share)


def test_classifiers_learn_from_examples_and_are_deterministic() -> None:
    examples = classifier.read_examples(classifier.EXAMPLES)
    for label in ("spam", "offensive"):
        positive, negative = [], []
        for fold in range(5):  # each example is judged by a model that has not seen it
            rest = [pair for i, pair in enumerate(examples) if i % 5 != fold]
            held = [pair for i, pair in enumerate(examples) if i % 5 == fold]
            said = classifier.train(rest, label).probability([text for text, _ in held])
            positive += [p for p, (_, name) in zip(said, held) if name == label]
            negative += [p for p, (_, name) in zip(said, held) if name != label]
        auc = np.mean(np.array(positive)[:, None] > np.array(negative)[None])
        assert auc >= 0.9, (label, auc)  # chance is 0.5
    model, again = classifier.train(rest, label), classifier.train(rest, label)
    assert (model.weights == again.weights).all() and model.bias == again.bias
    with pytest.raises(DataError, match="both kinds"):
        classifier.HashedLinear.train(["a", "b"], [True, True])


def test_abuse_is_found_inside_a_long_page_but_not_in_code() -> None:
    model = classifier.train(classifier.read_examples(classifier.EXAMPLES), "offensive")
    abuse = "Shut up, you stupid idiot, nobody likes you. What a moron you are! "
    abuse += "Get lost, you worthless pig. I hate you all, you idiots. "
    documents = [
        Document("calm", (PROSE + " ") * 4, "web"),
        Document("rude", PROSE + " " + abuse * 3, "web"),
        Document("code", abuse, "code"),
    ]
    kept, dropped = classifier.filter_label(documents, model, "offensive", 0.5)
    assert [d.id for d in kept] == ["calm", "code"] and [d.document.id for d in dropped] == ["rude"]
    assert all(0 <= d.scores["offensive"] <= 1 for d in documents)


@pytest.mark.parametrize(
    "text, lang",
    [
        (PROSE, "en"), (ZH_PROSE, "zh"), ("안녕하세요 오늘은 날씨가 좋습니다", "ko"), ("今日はとても天気がいいですね", "ja"),
        ("Die Stadt liegt an einem kleinen Fluss und am Morgen öffnen die Läden sehr früh", "de"),
        ("Город стоит на берегу маленькой реки, утром магазины открываются рано", "ru"),
        ("สวัสดีครับ วันนี้อากาศดีมาก", "th"), ("12345 !!! ---", "und"), ("", "und"),
        ("使用 Python 的 import numpy as np 语句导入数组库", "zh"),
    ],
)  # fmt: skip
def test_language(text: str, lang: str) -> None:
    documents = [Document("x", text, "web")]
    language.identify(documents, LanguageConfig(keep=()))
    assert documents[0].lang == lang


def test_languages_not_asked_for_are_dropped_and_declared_ones_believed() -> None:
    documents = [
        Document("en", PROSE, "web"), Document("ko", "안녕하세요 오늘은 날씨가 좋습니다", "web"),
        Document("docs", "x y z 1 2", "docs", lang="en"), Document("py", "import os", "code"),
    ]  # fmt: skip
    kept, dropped = language.identify(documents, LanguageConfig(keep=("en",)))
    assert [(d.id, d.lang) for d in kept] == [("en", "en"), ("docs", "en"), ("py", "code")]
    assert [d.reason for d in dropped] == ["language ko"]


def test_language_model_finds_noise(tmp_path: Path) -> None:
    """Over two shards: the models are of both, and the result is that of one."""
    rng = random.Random(3)
    natural = [
        Document(f"n{i}", " ".join(PROSE.split()[rng.randrange(10) :]) + words(rng, 30), "web")
        for i in range(220)
    ]
    noise = [
        Document(f"x{i}", "".join(chr(rng.randrange(33, 126)) for _ in range(300)), "web") for i in range(5)
    ]
    found = []
    for cut in (0, 100):
        bench, budget = Bench(tmp_path / str(cut)), {"bytes": 20_000}
        parts = [part for part in (natural[:cut], [*natural[cut:], *noise]) if part]
        cuts = [bench.shard(part) for part in parts]
        samples = [bench.run(lm.sample, shard, seed=0, **budget).outputs["sample"] for shard in cuts]
        models = bench.run(lm.models, {"samples": samples}, order=4, **budget).outputs["models"]
        kept, dropped = [], []
        for shard in cuts:
            record = bench.run(lm.drop_noise, {**shard, "models": [models]}, seed=0, max_bits=6.5, drop=True)
            more_kept, more_dropped = bench.verdicts(shard, record)
            kept, dropped = kept + more_kept, dropped + more_dropped
        assert [d.document.id for d in dropped] == [d.id for d in noise]
        assert max(d.scores["lm"] for d in kept) < 4
        found.append([(d.id, d.scores) for d in kept])
    assert found[0] == found[1]


def test_truth_judges_groups_not_copies() -> None:
    records = {
        f"{i}.html": {"file": f"{i}.html", "id": str(i), "label": label, "of": of, "text": "a b c"}
        for i, (label, of) in enumerate(
            [("clean", None), ("exact-duplicate", "0"), ("near-duplicate", "1"), ("spam", None), ("clean", None)]
        )
    }  # fmt: skip
    known = truth.Truth(records)
    assert known.groups() == {"0.html": "0", "1.html": "0", "2.html": "0", "3.html": "3", "4.html": "4"}
    docs = [Document(str(i), "a b d", "web", file=f"{i}.html") for i in range(5)]
    from openqwen.data.documents import Dropped

    drops = [Dropped(docs[0], "dup", kept="1"), Dropped(docs[4], "dup", kept="3")]
    assert truth.by_group(known, [docs[1], docs[2], docs[3]], drops, ["exact-duplicate", "near-duplicate"]) == {
        "precision": 0.5, "recall": 0.5, "dropped": 2,
    }  # fmt: skip
    judged = truth.by_label(known, docs[:3], [Dropped(docs[3], "spam"), Dropped(docs[4], "spam")], "spam")
    assert judged["precision"] == 0.5 and judged["recall"] == 1.0 and judged["wrong"] == {"clean": 1}
    assert truth.token_f1("a b d", "a b c") == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_main_text_keeps_code_lists_and_chinese() -> None:
    page = (
        '<html><body class="with-sidebar"><header><a href="/">Site</a></header>'
        '<nav><ul><li><a href="/">Home</a></li></ul></nav>'
        f"<main><h1>标题</h1><p>{ZH_PROSE}</p><pre><code>def f(x):\n    if x:\n        return 1\n</code></pre>"
        "<ul><li>one</li><li>two</li></ul></main><div class='site-footer'>All rights reserved</div></body></html>"
    )
    text = main_text(page)
    assert "def f(x):\n    if x:\n        return 1" in text
    assert ZH_PROSE in text and "one" in text and "two" in text and "标题" in text
    assert "Home" not in text and "rights" not in text


@given(st.text(max_size=200))
def test_tidy_is_idempotent_and_clean(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once
    assert not any(c in once for c in "\0\r\x0b\ufeff") and "\n\n\n" not in once


def test_pydoc_pages_are_isolated_and_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENQWEN_TEST_SECRET", "do-not-publish-me")
    modules = ["textwrap", "os", "bisect", "no_such_module"]
    first = list(pydoc_pages(SourcesConfig(), modules))
    assert [p.id.split("/")[-1] for p in first] == ["textwrap.html", "os.html", "bisect.html"]
    assert first == list(pydoc_pages(SourcesConfig(), modules))
    joined = b"".join(p.html or b"" for p in first)
    assert b"do-not-publish-me" not in joined and str(Path.home()).encode() not in joined
    assert b"wrapping" in joined
    one = list(pydoc_pages(SourcesConfig(pydoc_bytes=1000), modules))
    assert len(one) == 1


def test_modules_with_side_effects_are_never_imported() -> None:
    names = {name.split(".")[0] for name in module_names()}
    assert not names & NEVER and {"antigravity", "this", "idlelib", "turtledemo", "test"} <= NEVER
    assert len(names) > 100 and not any("__main__" in name or name.startswith("_") for name in module_names())


def test_pydoc_has_a_hard_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from openqwen.core.errors import OpenQwenError
    from openqwen.data.sources import standard_library as module

    monkeypatch.setattr(module, "_CHILD", "import time; time.sleep(60)")
    with pytest.raises(OpenQwenError, match=r"more than 0\.5 s"):
        list(pydoc_pages(SourcesConfig(pydoc_seconds=0.5), ["os"]))


def test_stdlib_sources_are_real_code_within_budget() -> None:
    found = list(stdlib_sources(SourcesConfig(stdlib_bytes=100_000)))
    assert 100_000 <= sum(len((r.text or "").encode()) for r in found) < 150_000
    assert all(r.source == "code" and "/test" not in r.id for r in found)
    assert [r.id for r in found] == [r.id for r in stdlib_sources(SourcesConfig(stdlib_bytes=100_000))]
