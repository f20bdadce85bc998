"""MinHash: the S-curve on planted pairs, short documents, components, clusters."""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.data import minhash
from openqwen.data.config import DedupConfig
from openqwen.data.documents import Document
from openqwen.data.text import mix, tokens

ENGLISH = [f"{a}{b}" for a in ("ma", "to", "ri", "ke", "lu", "so", "bi", "na") for b in range(300)]
CHINESE = [chr(c) for c in range(0x4E00, 0x4E00 + 2400)]
CODE = [f"{verb}_{i}(x[{i}])" for verb in ("load", "save", "sort", "scan") for i in range(600)]


# Words, how they are joined, and where they end.
MADE = {
    "en": [" ".join(random.Random(i).choices(ENGLISH, k=900)) for i in range(6)],
    "zh": ["".join(random.Random(i).choices(CHINESE, k=900)) for i in range(6)],
    "code": ["\n".join(random.Random(i).choices(CODE, k=900)) for i in range(6)],
}
SHARED = {"en": "text/en", "zh": "text/zh", "code": "code/code"}
THRESHOLD, HASHES, SHINGLE = 0.72, 112, 5


def edited(
    texts: list[str], unspaced: bool, most: float, count: int, rng: random.Random
) -> tuple[list[str], list[str]]:
    """Passages of 100 words or characters, and the same with up to a share of them replaced, added or gone."""
    cut = [re.findall(r"." if unspaced else r"\S+\s*", text, re.DOTALL) for text in texts]
    cut = [units for units in cut if len(units) > 100]
    words = [unit for units in cut[:50] for unit in units]
    left, right = [], []
    for _ in range(count):
        units, rate = rng.choice(cut), rng.uniform(0, most)
        start = rng.randrange(len(units) - 100)
        units = units[start : start + 100]
        other = [
            rng.choice(([rng.choice(words)], [unit, rng.choice(words)], []))
            if rng.random() < rate
            else [unit]
            for unit in units
        ]
        left.append("".join(units))
        right.append("".join(unit for part in other for unit in part))
    return left, right


def jaccard(a: str, b: str, n: int) -> float:
    x, y = ({tuple(t[i : i + n]) for i in range(max(1, len(t) - n + 1))} for t in (tokens(a), tokens(b)))
    return len(x & y) / len(x | y)


def check_s_curve(texts: list[str], unspaced: bool, most: float = 0.08, pairs: int = 1000) -> None:
    """Recall and precision of LSH, above the threshold, are those of 1 - (1 - s**r)**b for the true similarities."""
    left, right = edited(texts, unspaced, most, pairs, random.Random(5))
    true = np.array([jaccard(a, b, SHINGLE) for a, b in zip(left, right)])
    alike = true >= THRESHOLD
    assert 0.25 < alike.mean() < 0.75  # both sides of the curve
    bands, rows = minhash.choose_bands(THRESHOLD, HASHES)
    wanted = minhash.s_curve(true, bands, rows)
    met = []
    for seed in range(4):
        signature, _ = minhash.signatures(left + right, SHINGLE, HASHES, seed)
        keys = minhash.band_keys(signature, bands, rows)
        met.append((keys[:pairs] == keys[pairs:]).any(axis=1))
        error = (signature[:pairs] == signature[pairs:]).mean(axis=1) - true
        assert abs(error.mean()) < 0.005
        # The hash functions are independent: the error is that of so many draws.
        assert 0.9 < error.std() / np.sqrt((true * (1 - true)).mean() / HASHES) < 1.1
    found = np.stack(met)
    assert abs(found[:, alike].mean() - wanted[alike].mean()) < 0.02
    assert abs(found[:, alike].sum() / found.sum() - wanted[alike].sum() / wanted.sum()) < 0.02


@pytest.mark.parametrize("name", MADE)
def test_s_curve(name: str) -> None:
    check_s_curve(
        MADE[name], name == "zh", most=0.25 if name == "code" else 0.08
    )  # a word of code is many tokens


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED)
def test_s_curve_on_real_text(shared: Path, name: str) -> None:
    lines = gzip.decompress((shared / f"data/{SHARED[name]}.jsonl.gz").read_bytes()).split(b"\n")
    check_s_curve([json.loads(line)["text"] for line in lines[:200]], name == "zh")


def test_bands_put_the_threshold_where_it_was_asked() -> None:
    for threshold in (0.5, 0.72, 0.8, 0.9):
        bands, rows = minhash.choose_bands(threshold, 128)
        assert bands * rows <= 128
        half = next(s for s in np.linspace(0, 1, 1001) if minhash.s_curve(s, bands, rows) >= 0.5)
        assert abs(half - threshold) < 0.05


def test_short_documents_do_not_collapse() -> None:
    texts = ["yes", "no", "good morning", "你好", "再见", "", "...", "yes!", "good evening"]
    cluster = minhash.clusters(texts, DedupConfig())
    assert cluster.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 8]


def test_signature_does_not_depend_on_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document alone, in a crowd, or cut by a block border has the same signature."""
    rng = random.Random(1)
    texts = [" ".join(rng.choices(ENGLISH, k=rng.choice((0, 1, 3, 40, 700)))) for _ in range(60)]
    together, _ = minhash.signatures(texts, 5, 32)
    alone = np.concatenate([minhash.signatures([text], 5, 32)[0] for text in texts])
    monkeypatch.setattr(minhash, "_BLOCK", 37)
    cut, _ = minhash.signatures(texts, 5, 32)
    assert (together == alone).all() and (together == cut).all()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_components_are_the_connected_components(edges: list[tuple[int, int]]) -> None:
    found = minhash.components(np.array(edges, np.int64).reshape(-1, 2), 31)
    reach = {i: {i} for i in range(31)}
    for a, b in edges:
        merged = reach[a] | reach[b]
        for member in merged:
            reach[member] = merged
    assert found.tolist() == [min(reach[i]) for i in range(31)]


@pytest.mark.fault(
    "data", "thousands of documents share a bucket", "edges grow with the members, not their square"
)
def test_one_giant_cluster_is_not_quadratic() -> None:
    """A bucket of thousands gives edges in proportion to its members; so does a path through everything."""
    keys = np.zeros((5000, 3), np.uint64)
    pairs = minhash.bucket_pairs(keys, np.ones(5000, bool))
    assert len(pairs) < 2 * 5000
    assert (minhash.components(pairs, 5000) == 0).all()
    signature, sizes = minhash.signatures([" ".join(ENGLISH[:50])], SHINGLE, HASHES)
    order = np.random.default_rng(0).permutation(100_000)
    path = np.stack([order[1:], order[:-1]], axis=1)
    seconds = {}
    for size in (5_000, 100_000):
        began = time.process_time()
        equal = np.repeat(signature, size, axis=0), np.repeat(sizes, size)
        assert (minhash.cluster(*equal, DedupConfig()) == 0).all()
        seconds[size] = time.process_time() - began
    assert seconds[100_000] < 20 * 3 * seconds[5_000] + 0.5
    began = time.process_time()
    assert (minhash.components(path, 100_000) == 0).all()
    assert time.process_time() - began < 3


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=40))
def test_edges_of_a_bucket_join_all_that_share_its_key(drawn: list[bytes]) -> None:
    """Star and chain, and nothing else, whatever the order of the documents."""
    keys = mix(np.array([ord(letter) for letter in drawn], np.uint64))
    ids = np.random.default_rng(0).permutation(len(drawn)) * 3
    found = {tuple(edge) for edge in minhash.bucket_edges(keys, ids).tolist()}
    wanted = set()
    for key in set(keys.tolist()):
        members = sorted(ids[keys == key].tolist())
        wanted |= {(members[0], other) for other in members[1:]} | set(pairwise(members))
    assert found == wanted


def test_the_longest_of_a_cluster_stays() -> None:
    base = " ".join(random.Random(2).choices(ENGLISH, k=200))
    documents = [
        Document("short", base, "web"),
        Document("long", base + " and one sentence more", "web"),
        Document("other", " ".join(random.Random(3).choices(ENGLISH, k=200)), "web"),
    ]
    kept, dropped = minhash.deduplicate(documents, DedupConfig())
    assert [d.id for d in kept] == ["long", "other"]
    assert [(d.document.id, d.kept) for d in dropped] == [("short", "long")]
    chinese = "".join(random.Random(4).choices(CHINESE, k=200))
    kept, _ = minhash.deduplicate(
        [Document("a", chinese, "web"), Document("b", chinese[:100] + "。" + chinese[100:] + "完", "web")],
        DedupConfig(),
    )
    assert [d.id for d in kept] == ["b"]
