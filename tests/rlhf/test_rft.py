"""Rejection sampling: the best replies are chosen, finetuning on them raises the true reward, a broken run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import letters
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_dpo import liked

from openqwen.chat import chatml
from openqwen.core.artifact import Artifact, read_jsonl
from openqwen.core.config import Resolved, resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.rlhf import rft
from openqwen.rlhf.config import RFTConfig
from openqwen.rlhf.prompts import read_prompts
from openqwen.rlhf.rft import best, best_place
from openqwen.tokenizer import load_tokenizer

TINY: dict[str, Any] = {
    "drawing.max_new_tokens": 12,
    "drawing.rows": 64,
    "max_prompt": 40,
    "heldout": 20,
    "max_length": 64,
    "batch_size": 4,
    "micro_batch": 4,
    "steps": 24,
    "optim.lr": 3e-3,
    "checkpoint_interval": 8,
    "heldout_samples": 4,
    "stop_prompts": 2,
    "num_samples": 1,
    "sample_tokens": 12,
    "precision": "fp32",
}


def config(**changes: object) -> Resolved[RFTConfig]:
    return resolve(RFTConfig, "rft", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(world: dict[str, Path]) -> dict[str, Path]:
    return {name: world[name] for name in ("policy", "reward", "prompts")}


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return rft.run(config(), inputs, tmp_path_factory.mktemp("whole") / "rft")


rewards = st.lists(st.one_of(st.none(), st.floats(-9, 9)), min_size=1, max_size=9)


@given(rewards, st.integers(1, 4), st.data())
def test_the_best_are_those_with_the_highest_rewards(
    scores: list[float | None], keep: int, data: st.DataObject
) -> None:
    texts = [data.draw(st.sampled_from(["a", "b", "c", " "])) for _ in scores]
    taken = best(texts, scores, keep)
    worth: dict[str, float] = {}
    for text, score in zip(texts, scores):
        if score is not None and text != " ":
            worth[text] = max(score, worth.get(text, -99.0))
    assert len(taken) == min(keep, len(worth)) == len(set(taken))
    assert [worth[text] for text in taken] == sorted(worth.values(), reverse=True)[:keep]
    place = best_place(scores)
    known = [score for score in scores if score is not None]
    assert scores[place] == (max(known) if known else None)
    assert place == scores.index(scores[place])


def test_what_was_drawn_is_written_with_its_rewards(trained: Artifact, inputs: dict[str, Path]) -> None:
    records = list(read_jsonl(trained.path / "replies.jsonl"))
    tokenizer = load_tokenizer(inputs["policy"])
    split = read_prompts(inputs["prompts"], tokenizer, 40, 20)
    assert [record["line"] for record in records] == [prompt.line for prompt in split.train]
    assert all(len(record["replies"]) == len(record["rewards"]) == 8 for record in records)
    assert [record["step"] for record in records] == [1 + i // 8 for i in range(40)]
    assert len({tuple(record["replies"]) for record in records}) > 30  # each with seeds of its own
    facts = trained.manifest["facts"]
    assert facts["samples"] == {"prompts": 40 - sum(facts["skipped"].values())}


def test_the_true_reward_rises(trained: Artifact, inputs: dict[str, Path]) -> None:
    records = list(read_jsonl(trained.path / "replies.jsonl"))
    drawn = [letters.liking(text) for record in records for text in record["replies"]]
    taken = [letters.liking(best(record["replies"], record["rewards"], 1)[0]) for record in records]
    assert sum(taken) / len(taken) > sum(drawn) / len(drawn) + 0.5
    assert liked(trained.path) > liked(inputs["policy"]) + 0.4


@pytest.mark.parametrize("place", ["drawn", "train"])
@pytest.mark.fault("training", "rejection sampling breaks while replies are drawn or learnt", "same bits")
def test_a_broken_run_continues_in_the_same_bits(
    place: str,
    inputs: dict[str, Path],
    trained: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken with three of five batches of prompts written, or between two checkpoints of finetuning."""
    module, name, at = {"drawn": (rft, "drawn", 4), "train": (rft.sft, "summed_loss", 20)}[place]
    real, calls = getattr(module, name), []

    def broken(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(KeyboardInterrupt):
        rft.run(config(), inputs, tmp_path / "rft")
    monkeypatch.undo()
    left = (tmp_path / "rft" / "replies.jsonl").read_text().count("\n")
    assert left == {"drawn": 24, "train": 40}[place]
    calls.clear()
    monkeypatch.setattr(rft, "drawn", lambda *a, real=rft.drawn: calls.append(1) or real(*a))
    again = rft.run(config(), inputs, tmp_path / "rft")
    assert again.content == trained.content and again.metrics == trained.metrics
    assert len(calls) == {"drawn": 3, "train": 0}[place]  # the third batch again, for it may lack records


def test_what_is_trained_on_are_conversations_with_the_best_reply(inputs: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(inputs["policy"])
    query = letters.query(3)
    records = [
        {"line": 1, "messages": query, "replies": ["ab", "aa", "dd"], "rewards": [0.5, 2.0, None]},
        {"line": 2, "messages": query, "replies": ["b", "c", "d"], "rewards": [None, None, None]},
        {"line": 3, "messages": query, "replies": ["a" * 90, "c", "d"], "rewards": [9.0, 1.0, 0.0]},
    ]
    samples, skipped = rft.chosen(records, config(keep=2).config, tokenizer)
    assert [(s.line, s.messages[-1]["content"]) for s in samples] == [(1, "aa"), (1, "ab"), (3, "c")]
    assert (samples[0].ids, samples[0].trained) == chatml.render(
        [*query, {"role": "assistant", "content": "aa"}], tokenizer
    )
    assert [(s.line, s.reason) for s in skipped] == [
        (2, "no reply that ended by itself"),
        (3, "longer than max_length 64"),
    ]


@pytest.mark.fault(
    "training", "rejection sampling finds no reply that ends by itself", "refused, with what to change"
)
def test_nothing_to_train_on_is_an_error(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 have a reply to train on"):
        rft.run(config(**{"drawing.max_new_tokens": 1, "responses": 1}), inputs, tmp_path / "rft")


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="9 replies cannot be kept of 8"):
        config(keep=9)
    with pytest.raises(UsageError, match="rejection sampling is one finetuning"):
        config(stages=[{"name": "one"}])
