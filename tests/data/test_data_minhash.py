"""MinHash: the S-curve on planted pairs, short documents, components, clusters."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.data import minhash
from openqwen.data.config import DedupConfig
from openqwen.data.documents import Document
from openqwen.data.text import tokens

ENGLISH = [f"{a}{b}" for a in ("ma", "to", "ri", "ke", "lu", "so", "bi", "na") for b in range(300)]
CHINESE = [chr(c) for c in range(0x4E00, 0x4E00 + 2400)]
CODE = [f"{verb}_{i}(x[{i}])" for verb in ("load", "save", "sort", "scan") for i in range(600)]


def planted(vocabulary: list[str], gap: str, similarity: float, pairs: int, rng: random.Random) -> list[str]:
    """Pairs of texts whose sets of single tokens have about this Jaccard similarity."""
    size = 300
    common = round(size * 2 * similarity / (1 + similarity))
    out = []
    for _ in range(pairs):
        drawn = rng.sample(vocabulary, 2 * size - common)
        out += [gap.join(drawn[:size]), gap.join(drawn[:common] + drawn[size:])]
    return out


def jaccard(a: str, b: str, n: int) -> float:
    x, y = ({tuple(t[i : i + n]) for i in range(len(t) - n + 1)} for t in (tokens(a), tokens(b)))
    return len(x & y) / len(x | y)


@pytest.mark.parametrize(
    "vocabulary, gap", [(ENGLISH, " "), (CHINESE, ""), (CODE, "\n")], ids=["en", "zh", "code"]
)
def test_s_curve(vocabulary: list[str], gap: str) -> None:
    """Share of planted pairs that meet = 1 - (1 - s**r)**b, within three standard errors; so does the estimate."""
    rng = random.Random(5)
    bands, rows = minhash.choose_bands(0.72, 112)
    pairs = 150
    for similarity in (0.5, 0.65, 0.75, 0.85):
        texts = planted(vocabulary, gap, similarity, pairs, rng)
        signature, _ = minhash.signatures(texts, 1, 112)
        keys = minhash.band_keys(signature, bands, rows)
        met = (keys[0::2] == keys[1::2]).any(axis=1).mean()
        true = [jaccard(a, b, 1) for a, b in zip(texts[0::2], texts[1::2])]
        wanted = np.mean([minhash.s_curve(s, bands, rows) for s in true])
        assert abs(met - wanted) <= 3 * np.sqrt(wanted * (1 - wanted) / pairs) + 0.02, (
            similarity,
            met,
            wanted,
        )
        estimate = (signature[0::2] == signature[1::2]).mean(axis=1)
        assert abs(estimate.mean() - np.mean(true)) < 0.01


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


def test_identical_crowd_is_not_quadratic() -> None:
    """A bucket of thousands gives edges in proportion to its members."""
    keys = np.zeros((5000, 3), np.uint64)
    pairs = minhash.bucket_pairs(keys, np.ones(5000, bool))
    assert len(pairs) < 2 * 5000
    assert (minhash.components(pairs, 5000) == 0).all()


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
