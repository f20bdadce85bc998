"""A classifier from a user's examples: the same bytes each time, measured on what it has not seen, used by the stage."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_bench import resolved

from openqwen.cli import main
from openqwen.core.artifact import sha256_file, write_jsonl
from openqwen.core.errors import DataError
from openqwen.core.intervals import wilson
from openqwen.data import classifier, classifier_stage, filters
from openqwen.data.config import ClassifierConfig, TrainingConfig
from openqwen.data.documents import Document
from openqwen.data.text import batches, tokens


def examples(path: Path, count: int = 60) -> Path:
    """Two kinds of text that differ in their words."""
    good, bad = "river house winter road garden", "offer bonus casino prize coupon"
    records = []
    for i in range(count):
        words = (bad if i % 3 == 0 else good).split()
        text = " ".join(words[(i + k) % 5] for k in range(4)) + f" number {i}"
        records.append({"text": text, "label": "spam" if i % 3 == 0 else "clean"})
    write_jsonl(path, records)
    return path


def test_the_command_gives_the_same_bytes_and_says_what_they_are_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = examples(tmp_path / "e.jsonl")
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        command = ["data", "classifier", "train", "--examples", str(path), "--out", str(out), "--folds", "5"]
        assert main(command) == 0
    for name in ("model.safetensors", "classifier.json"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    found = json.loads((outs[0] / "classifier.json").read_text())
    assert found["label"] == "spam" and found["settings"]["training"]["steps"] == 300
    assert found["examples"] == {"sha256": sha256_file(path), "count": {"clean": 40, "spam": 20}}
    held = found["held_out"]
    assert held["precision"] >= 0.9 and held["recall"] >= 0.9 and held["auc"] == 1.0
    assert held["examples"] < 60  # the others chose the threshold
    right = round(held["recall"] * held["positive"])
    assert held["recall_interval"] == pytest.approx(wilson(right, held["positive"]), abs=1e-4)
    assert held["precision_interval"] == pytest.approx(wilson(right, held["found"]), abs=1e-4)
    model = classifier.HashedLinear.from_bytes((outs[0] / "model.safetensors").read_bytes())
    said = model.probability(["casino bonus for you", "a road by the river"])
    assert said[0] > found["threshold"] > said[1]
    assert "threshold" in capsys.readouterr().err + json.dumps(found)


def test_nothing_is_held_out_where_labels_are_noise() -> None:
    """Labels by chance: what is measured on unseen examples must not look better than chance."""
    rng = np.random.default_rng(0)
    noise = [
        (" ".join(map(str, rng.integers(0, 40, 8))), "spam" if rng.random() < 0.5 else "clean")
        for _ in range(200)
    ]
    held = classifier_stage.held_out(noise, ClassifierConfig(folds=4))["held_out"]
    assert 0.3 < held["auc"] < 0.7
    model = classifier.train(noise, "spam")
    said = model.probability([text for text, _ in noise])
    truth = np.array([label == "spam" for _, label in noise])
    assert classifier_stage.measured(said, truth, 0.5)["auc"] > 0.85  # on what it has seen it looks perfect


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=14),
    st.sampled_from([0.5, 0.8, 1.0]),
)
def test_the_threshold_is_the_best_there_is(pairs: list[tuple[int, bool]], precision: float) -> None:
    probability, truth = np.array([p / 8 for p, _ in pairs]), np.array([t for _, t in pairs])
    threshold, reached = classifier_stage.choose(probability, truth, precision)
    possible = {}
    for cut in set(probability.tolist()):
        said = probability >= cut
        if truth[said].mean() >= precision and truth[said].any():
            possible[cut] = int((said & truth).sum())
    said = probability >= threshold
    assert reached == bool(possible)
    if reached:
        assert truth[said].mean() >= precision and int((said & truth).sum()) == max(possible.values())
        assert int(said.sum()) == min(
            int((probability >= c).sum()) for c, n in possible.items() if n == max(possible.values())
        )


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    def trained(path: Path, **flags: object) -> None:
        config = resolved(ClassifierConfig, "classifier", **flags)
        classifier_stage.run(config, {"examples": path}, tmp_path / "out")

    path = examples(tmp_path / "e.jsonl")
    with pytest.raises(DataError, match=r"label 'spm'.*Did you mean 'spam'"):
        trained(path, label="spm")
    with pytest.raises(DataError, match="too few for 40 folds"):
        trained(path, folds=40)
    write_jsonl(tmp_path / "twice.jsonl", [{"text": "a", "label": "spam"}, {"text": "a", "label": "clean"}])
    with pytest.raises(DataError, match="the same text has the labels"):
        trained(tmp_path / "twice.jsonl")
    write_jsonl(tmp_path / "bad.jsonl", [{"text": "a", "label": 1}])
    with pytest.raises(DataError, match='needs "text" and "label"'):
        trained(tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match="not a classifier"):
        classifier.HashedLinear.from_bytes(b"nonsense")


def test_a_model_of_ones_own_replaces_the_shipped(tmp_path: Path) -> None:
    path = examples(tmp_path / "e.jsonl")
    made = classifier_stage.run(
        resolved(ClassifierConfig, "classifier", folds=5), {"examples": path}, tmp_path / "m"
    )
    assert classifier_stage.model_of(made.path, "spam").read_bytes()
    with pytest.raises(DataError, match="finds 'spam', not 'clean'"):
        classifier_stage.model_of(made.path, "clean")


def test_where_nothing_is_dropped_the_scores_stay() -> None:
    model = classifier.train(classifier.read_examples(classifier.EXAMPLES), "spam")
    texts = [
        "Buy now!!! Huge sale!!! Up to 80% off everything!!! Do not wait!!!",
        "The library opens at nine.",
    ]
    made = []
    for drop in (True, False):
        step = filters.scored(lambda documents: classifier.filter_label(documents, model, "spam", 0.5), drop)
        kept, dropped = step([Document(str(i), text, "web") for i, text in enumerate(texts)])
        made.append(({d.id: d.scores for d in [*kept, *(d.document for d in dropped)]}, len(dropped)))
    assert made[0][0] == made[1][0] and [count for _, count in made] == [1, 0]


def test_the_shipped_examples_say_where_they_are_from() -> None:
    records = [json.loads(line) for line in classifier.EXAMPLES.read_text("utf-8").split("\n") if line]
    assert {r["label"] for r in records} == {"clean", "low", "spam", "offensive"}
    for record in records:
        assert record["source"] in ("ours", "primer") or "public domain" in record["licence"]
    assert len({r["text"] for r in records}) == len(records)


@given(st.lists(st.text(alphabet="ab 3!！…你", max_size=30), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_marks_are_counted_in_each_text(texts: list[str]) -> None:
    found = classifier.punctuation(texts)
    for text, own in zip(texts, found.tolist()):
        shares = [min(1.0, text.count(mark) / max(20, len(text)) * 20) for mark in "!！?？$%€¥#*…0123456789"]
        assert own == pytest.approx(shares, abs=1e-15)


def test_features_of_a_text_do_not_depend_on_its_neighbours() -> None:
    texts = [text for text, _ in classifier.read_examples(classifier.EXAMPLES)] * 8  # more than one batch
    assert len(list(batches(texts))) > 1
    row, column, value = classifier.features(texts)
    for i in (0, 7, 440, len(texts) - 1):
        _, own, alone = classifier.features([texts[i]])
        assert (column[row == i] == own).all() and (value[row == i] == alone).all()
        counts = Counter(" ".join(run) for n in (1, 2, 3) for run in windows(tokens(texts[i]), n))
        shares = np.sqrt(list(counts.values())) / np.sqrt(sum(counts.values()))
        assert np.allclose(np.sort(alone[own < 1 << classifier.BITS]), np.sort(shares))


def windows(words: list[str], n: int) -> list[list[str]]:
    return [words[i : i + n] for i in range(len(words) - n + 1)]


def test_training_sums_in_the_order_of_the_examples() -> None:
    examples = classifier.read_examples(classifier.EXAMPLES)[::4]
    config = TrainingConfig(steps=12)
    truth = np.array([label == "spam" for _, label in examples], float)
    row, column, value = classifier.features([text for text, _ in examples])
    weights, bias = np.zeros((1 << classifier.BITS) + 21), 0.0
    balance = np.where(truth > 0, 0.5 / truth.sum(), 0.5 / (len(truth) - truth.sum()))
    for _ in range(config.steps):
        logits = np.bincount(row, weights=value * weights[column], minlength=len(truth)) + bias
        error = (0.5 * (1 + np.tanh(0.5 * logits)) - truth) * balance
        slope = np.bincount(column, weights=value * error[row], minlength=len(weights))
        weights -= config.rate * (slope + config.decay * weights)
        bias -= config.rate * float(error.sum())
    model = classifier.train(examples, "spam", config)
    assert (model.weights == weights.astype(np.float32)).all() and model.bias == bias
