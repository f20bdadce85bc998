"""Decontamination: planted items however they are written, nothing in clean text, phrases, cuts, benchmark files."""

from __future__ import annotations

import gzip
import html
import json
import random
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.core.artifact import write_jsonl
from openqwen.core.errors import DataError
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.data import decontaminate
from openqwen.data.config import DecontaminateConfig
from openqwen.data.decontaminate import Index, Item, judge, phrases, read_benchmarks, spread
from openqwen.data.documents import Document
from openqwen.data.items import item_texts
from openqwen.data.text import tokens

CONFIG = DecontaminateConfig()
ENGLISH = [
    a + b
    for a in ("ma", "to", "ri", "ke", "lu", "so")
    for b in ("lan", "ver", "tin", "dor", "mes", "pol", "gra")
]
SPELT = [
    "don't",
    "well-known",
    "3.14",
    "e.g.",
    "1,000",
    "f(x)",
    "x^2",
    "\\frac{1}{2}",
    "a+b=c",
    "C++",
    "AT&T",
    "naïve",
]
QUOTED = {"speech", "law"}  # kinds of documents from which benchmarks quote
CHINESE = [chr(c) for c in range(0x4E00, 0x4E00 + 900)]


def words(rng: random.Random, count: int, vocabulary: list[str] = ENGLISH) -> str:
    return " ".join(rng.choices(vocabulary, k=count))


def characters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(CHINESE, k=count))


def one_item(text: str, **changed: object) -> Index:
    return Index([Item("bench", "1", text)], DecontaminateConfig.model_validate(changed))


Change = Callable[[str, random.Random], str]
SPELLING: dict[str, Change] = {
    "upper": lambda t, rng: t.upper(),
    "title": lambda t, rng: t.title(),
    "spaces": lambda t, rng: regex.sub(" ", lambda _: rng.choice(["  ", "\t", "\u00a0", " \u3000 "]), t),
    "commas": lambda t, rng: t.replace(" ", rng.choice([", ", " - ", "; ", "… "])),
    "quotes": lambda t, rng: "“" + t.replace("'", "’") + "”",
    "apostrophes lost": lambda t, rng: t.replace("'", ""),
    "stops lost": lambda t, rng: regex.sub("[.,;:]", "", t),
    "punctuation lost": lambda t, rng: regex.sub(r"\p{P}", "", t),
    "symbols lost": lambda t, rng: regex.sub(r"[\p{P}\p{S}]", "", t),
    "symbols to spaces": lambda t, rng: regex.sub(r"[\p{P}\p{S}]", " ", t),
}
WRITING: dict[str, Change] = {
    "wrapped": lambda t, rng: "\n".join(textwrap.wrap(t, rng.randrange(8, 60), break_long_words=False)),
    "quoted": lambda t, rng: "> " + t.replace(" ", "\n> ", 3),
    "wide": lambda t, rng: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "zero width": lambda t, rng: "\u200b".join(t),
}
CODING: dict[str, Change] = {
    "escaped": lambda t, rng: html.escape(t),
    "twice": lambda t, rng: html.escape(html.escape(t)),
    "numbers": lambda t, rng: "".join(rng.choice([c, f"&#{ord(c)};", f"&#x{ord(c):x};"]) for c in t),
    "markup": lambda t, rng: html.escape(t).replace(" ", "&nbsp;").replace("\n", "&#13;&#10;"),
}
SAME: Change = lambda t, rng: t  # noqa: E731


@pytest.mark.fault("data", "a benchmark item is hidden by full width, entities, case, spaces", "still found")
@settings(max_examples=250, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["english", "spelt", "chinese", "mixed"]),
    st.integers(5, 60),
    st.sampled_from([SAME, *SPELLING.values()]),
    st.sampled_from([SAME, *WRITING.values()]),
    st.sampled_from([SAME, *CODING.values()]),
)
def test_planted_items_are_found_however_they_are_written(
    seed: int, kind: str, length: int, spelling: Change, writing: Change, coding: Change
) -> None:
    rng = random.Random(seed)
    make = {
        "english": lambda n: words(rng, n),
        "spelt": lambda n: words(rng, n, [*ENGLISH[:20], *SPELT]),
        "chinese": lambda n: characters(rng, n),
        "mixed": lambda n: "".join(rng.choice([characters(rng, 2), f" {words(rng, 1)} "]) for _ in range(n)),
    }[kind]
    item = make(length)
    copy = coding(writing(spelling(item, rng), rng), rng)
    around = [words(rng, 80), characters(rng, 80)]
    index = one_item(item)
    assert not len(index.scan(around).runs)
    hits = index.scan([f"{around[0]}\n{copy}\n{around[1]}"])
    # Without its signs a text may be too short to tell, and one of few different words is a formula.
    told = tokens(copy)
    different = {word for word in told if word.isalpha() and (len(word) > 1 or word in CHINESE)}
    formula = len(different) < 3 and len(told) < CONFIG.min_formula
    assert len(hits.runs) or len(told) < CONFIG.min_tokens or formula, copy


def slow_scan(items: list[str], text: str, config: DecontaminateConfig) -> set[tuple[int, int, int]]:
    """(item, first, last) of every overlap, by comparing strings."""

    def runs(own: list[str]) -> list[tuple[int, int]]:
        weights = [config.n if len(t) == 1 and "\u3400" <= t <= "\u9fff" else config.n_unspaced for t in own]
        found = []
        for i in range(len(own)):
            stop, weight = i, 0
            while stop < len(own) and weight < config.n * config.n_unspaced:
                weight += weights[stop]
                stop += 1
            if weight >= config.n * config.n_unspaced:
                found.append((i, stop))
        return found

    first: dict[tuple[str, ...], int] = {}
    for number, item in enumerate(items):
        own = tokens(item)
        spans = runs(own) or ([(0, len(own))] if len(own) >= config.min_tokens else [])
        for a, b in spans:
            first.setdefault(tuple(own[a:b]), number)
    own = tokens(text)
    spans = {(a, b) for a, b in runs(own)} | {
        (a, a + len(run)) for run in first for a in range(len(own) - len(run) + 1)
    }
    return {(first[tuple(own[a:b])], a, b) for a, b in spans if tuple(own[a:b]) in first}


# Few words, so that runs repeat, overlap and share their beginnings; no symbols, which copies may lose.
SENTENCE = st.lists(st.sampled_from(["a", "b", "no", "yes", "12", "été", "你", "好", "吗"]), max_size=25).map(
    " ".join
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SENTENCE, max_size=5), st.lists(SENTENCE, max_size=4), st.integers(4, 7), st.integers(1, 5))
def test_a_scan_finds_what_comparing_strings_finds(
    items: list[str], texts: list[str], n: int, least: int
) -> None:
    config = DecontaminateConfig(
        n=n, n_unspaced=n + 3, min_tokens=least, min_formula=1, min_words=0, max_items=1000
    )
    index = Index([Item("b", str(i), text) for i, text in enumerate(items)], config)
    texts = [*texts, " ".join([*texts[:1], *items[:1], *texts[1:2]])]
    hits = index.scan(texts)
    for number, text in enumerate(texts):
        own = hits.where(hits.documents == number)
        found = set(zip(own.items.tolist(), own.starts.tolist(), own.stops.tolist()))
        assert found == slow_scan(items, text, config)


def test_no_false_hit_on_near_misses() -> None:
    """Two megabytes that share 12 words or 19 characters with the items."""
    rng = random.Random(1)
    items = [words(rng, 30) for _ in range(300)] + [characters(rng, 40) for _ in range(300)]
    index = Index([Item("b", str(i), text) for i, text in enumerate(items)], CONFIG)
    texts = []
    for i in range(1500):
        near = " ".join(items[i % 300].split()[:12]) if i % 2 else items[300 + i % 300][:19]
        filler = words(rng, 150) if i % 2 else characters(rng, 300)
        texts.append(f"{filler} zzz {near} qqq {filler[:300]}")
    assert sum(len(text.encode()) for text in texts) > 1_500_000
    assert not len(index.scan(texts).runs)
    assert len(index.scan([text.replace("qqq", "") for text in items]).runs) > 600 * 10


def test_parts_formulas_and_templates_are_no_evidence_alone() -> None:
    rng = random.Random(3)
    answer, explanation = words(rng, 8), words(rng, 20)
    template = "Select the statement that follows from the passage above and mark its letter on the sheet of answers:"
    formula = "a x 2 + b x y + c y 2 + d x + e y + f = 0"
    items = [Item("logic", str(i), f"{words(rng, 3)} {template} {words(rng, 14)}") for i in range(30)]
    items += [Item("logic", "0", answer, part=True), Item("logic", "0", explanation, part=True)]
    items += [Item("maths", "1", f"{words(rng, 12)} {formula} {words(rng, 12)}"), Item("maths", "2", formula)]
    index = Index(items, CONFIG)

    def found(text: str) -> list[int]:
        return index.scan([f"{characters(rng, 30)} {text} {characters(rng, 30)}"]).items.tolist()

    assert not found(answer) and set(found(explanation)) == {31}
    assert not found(template) and set(found(items[7].text)) == {7}
    assert found(formula) == [33]  # only as the whole item it is elsewhere
    assert set(found(items[32].text)) == {32, 33}


def test_an_item_that_is_too_short_is_counted() -> None:
    """A short formula as well: the first page has the tokens of the item, which stand for another sum."""
    texts = ["Which one?", words(random.Random(0), 9), "Compute 6 + 3 - 6.", "Compute 6 + 3 - 6 + 4 = 7."]
    index = Index([Item("b", str(i), text) for i, text in enumerate(texts)], CONFIG)
    assert index.too_short == [0, 2]
    hits = index.scan(["Compute 6 + 3.\n6 + 3 = 9", *texts])
    assert hits.documents.tolist() == [2, 4] and hits.items.tolist() == [1, 3]
    assert not len(Index([], CONFIG).scan(["anything", ""]).runs)


def test_phrases_are_counted_over_all_shards() -> None:
    """A beginning that many pages share proves nothing, except on a page that goes on as the item does."""
    rng = random.Random(2)
    phrase = words(rng, 16)
    index = one_item(f"{phrase} {words(rng, 20)}")
    shards = [[f"{phrase} {words(rng, 40)}" for _ in range(6)] for _ in range(2)]
    shards.append([f"{words(rng, 40)} {index.items[0].text}"])
    hits = [index.scan(texts) for texts in shards]
    assert all(len(found.runs) for found in hits)
    assert not len(phrases(map(spread, hits[:1]), CONFIG))
    common = phrases(map(spread, hits), CONFIG)
    assert len(common) == 16 - 13 + 1
    assert [len(index.evidence(found, common).runs) for found in hits] == [0, 0, len(hits[2].runs)]
    crowd = index.scan([index.items[0].text] * 20)  # an item that many have copied is no phrase
    common = phrases([spread(crowd)], CONFIG)
    assert len(common) and len(index.evidence(crowd, common).runs) == len(crowd.runs)


def page(rng: random.Random, sentences: int) -> list[str]:
    """Sentences of about 60 characters, as they stand in mails, lists and Chinese."""
    make = (
        lambda: words(rng, 10).capitalize() + rng.choice([". ", "! ", "?\n", ".\n\n"]),
        lambda: characters(rng, 30) + rng.choice("。！？"),
        lambda: "\n> " + words(rng, 6) + "\n>> " + words(rng, 5),
        lambda: "\n- " + words(rng, 4) + " &amp; x > 1; e.g. " + words(rng, 5),
    )
    return [rng.choice(make)() for _ in range(sentences)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_a_cut_removes_the_sentences_of_an_item_and_those_close_to_it(seed: int) -> None:
    rng = random.Random(seed)
    before, item, after = page(rng, 40), words(rng, 30), page(rng, 40)
    index = one_item(item)
    text = "".join([*before, "\nAsked: ", item, ". ", *after])
    config = DecontaminateConfig(overlap="cut")
    kept, dropped = judge([Document("p", text, "web")], index.scan([text]), index, config)
    assert not dropped
    left = kept[0].text
    assert not len(index.scan([left]).runs) and "Asked" not in left
    assert kept[0].scores["cut"] == round(1 - len(left) / len(text), 4)
    # All within 200 characters is gone, and the rest of the sentences there, which are shorter than 200.
    first, last = text.index("Asked"), text.index(item) + len(item)
    assert left.startswith(text[: first - 400].strip()) and left.endswith(text[last + 400 :].strip())
    assert text[first - 200 : first].strip() not in left and text[last : last + 200].strip() not in left
    assert all(piece in text for piece in left.split("\n\n"))


def test_what_cannot_be_cut_is_dropped() -> None:
    rng = random.Random(5)
    items = [words(rng, 20) for _ in range(12)]
    index = Index([Item("bench", str(i), text) for i, text in enumerate(items)], CONFIG)
    config = DecontaminateConfig(overlap="cut")
    around = [". ".join(words(rng, 8) for _ in range(20)) + ". " for _ in range(13)]
    documents = [
        Document("ten cuts", "".join(a + b + ". " for a, b in zip(around, items[:10])) + around[12], "web"),
        Document(
            "eleven cuts", "".join(a + b + ". " for a, b in zip(around, items[:11])) + around[12], "web"
        ),
        Document("all of it", f"{words(rng, 8)}. {items[0]}. {words(rng, 8)}.", "web"),
        Document("one sentence", f"{words(rng, 300)} {items[0]} {words(rng, 300)}", "web"),
        Document("sample", around[0] + items[0] + ". " + around[1], "instruction"),
        Document("clean", around[0], "web"),
    ]
    hits = index.scan([d.text for d in documents])
    kept, dropped = judge(documents, hits, index, config)
    assert [d.id for d in kept] == ["ten cuts", "clean"] and not len(index.scan([kept[0].text]).runs)
    assert kept[1] is documents[-1]
    assert [d.document.id for d in dropped] == ["eleven cuts", "all of it", "one sentence", "sample"]
    assert {(d.reason, d.kept) for d in dropped} == {("overlap with bench", "bench:0")}
    kept, dropped = decontaminate.decontaminate(documents, index, CONFIG)
    assert [d.id for d in kept] == ["clean"] and len(dropped) == 5


def test_what_is_short_between_two_cuts_goes_too() -> None:
    rng = random.Random(8)
    items = [words(rng, 20), words(rng, 20)]
    index = Index([Item("b", str(i), text) for i, text in enumerate(items)], CONFIG)
    ends = [". ".join(words(rng, 8) for _ in range(12)) for _ in range(2)]
    for sentences, left in ((11, 2), (18, 3)):  # of 45 characters; the cuts take ten of them
        between = ". ".join(words(rng, 8) for _ in range(sentences))
        text = f"{ends[0]}. {items[0]}. {between}. {items[1]}. {ends[1]}."
        kept, _ = judge(
            [Document("p", text, "web")], index.scan([text]), index, DecontaminateConfig(overlap="cut")
        )
        assert len(kept[0].text.split("\n\n")) == left


def test_joining_what_a_cut_leaves_makes_no_new_overlap() -> None:
    rng = random.Random(6)
    halves, other = [words(rng, 12), words(rng, 12)], words(rng, 20)
    index = Index([Item("b", "0", " ".join(halves)), Item("b", "1", other)], CONFIG)
    long = ". ".join(words(rng, 8) for _ in range(20))
    near = [words(rng, 20), words(rng, 20)]  # what the cut takes on both sides
    text = f"{long}. {halves[0]}. {near[0]}. {near[1]}. {other}. {near[1]}. {near[0]}. {halves[1]}. {long}."
    config = DecontaminateConfig(overlap="cut")
    kept, dropped = judge([Document("p", text, "web")], index.scan([text]), index, config)
    assert not kept and [d.kept for d in dropped] == ["b:1"]


RECORDS = [
    {
        "id": "a",
        "question": "Which one is it then?",
        "choices": ["the red one", "the blue one"],
        "answer": "A",
    },
    {"id": "b", "prompt": "def f(x):\n", "canonical_solution": "    return x\n", "test": "assert f(1) == 1"},
]
TEXTS = [
    ("a", "Which one is it then?\nthe red one\nthe blue one", False),
    ("a", "Which one is it then?\nA. the red one\nB. the blue one", False),
    ("a", "A", True),
    ("b", "def f(x):\n\n    return x\n", False),  # the test program is no item: it is code about the item
]


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    columns = {name: [record.get(name) for record in RECORDS] for name in {**RECORDS[1], **RECORDS[0]}}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "mmlu.jsonl": lambda path: write_jsonl(path, RECORDS),
    "mmlu.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress("\n".join(map(json.dumps, RECORDS)).encode())
    ),
    "mmlu.jsonl.zst": lambda path: write_jsonl_zst(path, RECORDS),
    "mmlu.json": lambda path: path.write_text(json.dumps(RECORDS)),
    "MMLU.JSON": lambda path: path.write_text(json.dumps({"version": 2, "data": RECORDS})),
    "mmlu.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_items_of_a_benchmark_file(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    items = read_benchmarks([tmp_path])
    assert {item.benchmark.lower() for item in items} == {"mmlu"}
    assert [(item.id, item.text, item.part) for item in items] == TEXTS
    assert [
        replace(item, benchmark=name.partition(".")[0]) for item in read_benchmarks([tmp_path / name])
    ] == items


@pytest.mark.parametrize("name, gap", [("t.csv", ","), ("t.tsv", "\t")])
def test_tables_with_and_without_names(tmp_path: Path, name: str, gap: str) -> None:
    bare, named = tmp_path / "bare", tmp_path / "named"
    for folder, head in ((bare, ""), (named, f"Question{gap}A{gap}B{gap}Answer\n")):
        folder.mkdir()
        (folder / name).write_text(
            f'{head}"What, pray,\nis it?"{gap}tea{gap}milk{gap}B\n', encoding="utf-8-sig"
        )
    assert read_benchmarks([named])[0].text == "What, pray,\nis it?\ntea\nmilk"
    assert read_benchmarks([bare])[0].text == "What, pray,\nis it?\ntea\nmilk\nB"


@pytest.mark.parametrize(
    "record, wanted",
    [
        (
            {"question": {"stem": "Why?", "choices": [{"label": "A", "text": "so"}]}},
            ["Why?\nso", "Why?\nA. so"],
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, ["Hi\nHo"]),
        ({"sentence": "One.", "other": ["Two."], "level": "3"}, ["One.", "Two.", "One.\nTwo."]),
        ({"question": "Q?", "explanation": "Because.", "segmented_text": "Q ?"}, ["Q?", "Because."]),
        ({"label": "x", "url": "y", "n": 3}, []),
    ],
)
def test_texts_of_a_record(record: dict[str, object], wanted: list[str]) -> None:
    assert [text for text, _ in item_texts(record)] == wanted


@pytest.mark.fault("data", "a benchmark file is damaged", "named, and no corpus is called clean by it")
@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.jsonl", b"[1]\n", "not a benchmark record"),
        ("a.jsonl", b'{"question": "x"\n', "damaged"),
        ("a.jsonl.gz", gzip.compress(b'{"question": "a b c"}\n' * 99, mtime=0)[:-9], "damaged"),
        ("a.json", b"{", "damaged"),
        ("a.csv", b"\xff\xfe\x00,b\n", "damaged"),
        ("a.parquet", b"PAR1", "damaged"),
        ("a.jsonl", b'{"label": "x"}\n', "no text"),
        ("a.jsonl", b"", "no text"),
        ("a.doc", b"text", "no benchmark file there"),
    ],
)
def test_bad_benchmark_files_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        read_benchmarks([tmp_path / name])
    assert str(tmp_path / name) in str(error.value.where)
    with pytest.raises(DataError, match="does not exist"):
        read_benchmarks([tmp_path / "absent"])


@pytest.mark.fault(
    "data", "a page repeats the common beginning of many benchmark items", "the scan takes no longer"
)
def test_a_page_made_to_be_slow_costs_no_more() -> None:
    """Many items with one beginning, and a page of nothing else."""
    rng = random.Random(7)
    start = "which of the following"
    items = [Item("b", str(i), f"{start} {words(rng, 4)}") for i in range(1000)]
    index = Index(items, DecontaminateConfig(min_tokens=4))
    texts = [f"{start} " * 20_000, words(rng, 80_000)]
    seconds = []
    for text in texts:
        began = time.process_time()
        assert not len(index.scan([text]).runs)
        seconds.append(time.process_time() - began)
    assert seconds[0] < 5 * seconds[1] + 0.2


@pytest.mark.shared
def test_nothing_is_found_in_real_clean_text(shared: Path) -> None:
    """Real pages and programs against real items, in English and Chinese; and each item is found in itself."""
    names = ("gsm8k/test", "mbpp/test", "humaneval/HumanEval", "piqa/valid", "cmmlu/dev", "cmath/test")
    items = read_benchmarks([shared / f"data/eval/{name}.jsonl.gz" for name in names])
    index = Index(items, CONFIG)
    for file, size in (("text/en", 1_500_000), ("text/zh", 500_000), ("code/code", 500_000)):
        documents = map(
            json.loads, gzip.decompress((shared / f"data/{file}.jsonl.gz").read_bytes()).splitlines()
        )
        texts, total = [], 0
        for document in documents:
            if document["domain"] not in QUOTED and total < size:
                texts.append(document["text"])
                total += len(texts[-1].encode())
        hits = index.scan(texts)
        assert total > size and not len(hits.runs), [tokens(texts[i])[a:b] for i, _, a, b, _ in zip(*hits)]
    whole = [i for i, item in enumerate(items) if not item.part]
    found = set(index.scan([items[i].text for i in whole]).documents.tolist())
    assert {whole[i] for i in set(range(len(whole))) - found} == set(index.too_short)
