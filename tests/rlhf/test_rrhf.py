"""RRHF against slow twins, on the toy world of letters, and broken off while replies are drawn or learnt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import letters
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_dpo import liked

from openqwen.chat import chatml
from openqwen.cli.report import inputs_of
from openqwen.core.artifact import Artifact, read_jsonl
from openqwen.core.config import Resolved, resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.model.weights import load_model
from openqwen.report import stage as report
from openqwen.report.config import ReportConfig
from openqwen.rlhf import comparison, rft, rrhf
from openqwen.rlhf.config import CompareConfig, RRHFConfig
from openqwen.rlhf.rrhf import Rankings, best_loss, rank_loss, rankings, scores
from openqwen.tokenizer import load_tokenizer

TINY: dict[str, Any] = {
    "drawing.max_new_tokens": 12,
    "drawing.rows": 64,
    "max_prompt": 40,
    "heldout": 20,
    "max_length": 64,
    "batch_size": 6,
    "micro_batch": 4,
    "epochs": 8,  # fewer make what is learnt a matter of which replies were drawn
    "optim.lr": 5e-3,
    "checkpoint_interval": 6,
    "eval_interval": 6,
    "num_samples": 1,
    "sample_tokens": 12,
    "precision": "fp32",
}


def config(**changes: object) -> Resolved[RRHFConfig]:
    return resolve(RRHFConfig, "rrhf", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(world: dict[str, Path]) -> dict[str, Path]:
    return {name: world[name] for name in ("policy", "reward", "prompts")}


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return rrhf.run(config(), inputs, tmp_path_factory.mktemp("whole") / "rrhf")


# ---- mathematics -------------------------------------------------------------------------------------------------
reply = st.tuples(
    st.floats(-9, 0), st.sampled_from([-1.5, 0.0, 0.5, 2.0])
)  # score and reward, ties among them


@given(st.lists(st.lists(reply, min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_losses_are_those_of_their_definition(prompts: list[list[tuple[float, float]]]) -> None:
    width = max(map(len, prompts))
    score, reward = (
        torch.tensor(
            [[r[i] for r in few] + [empty] * (width - len(few)) for few in prompts], dtype=torch.float64
        )
        for i, empty in ((0, 0.0), (1, math.nan))
    )
    loss, right = rank_loss(score, reward)
    best = best_loss(score, reward)
    for row, few in enumerate(prompts):
        cost, order = 0.0, []
        for worse, low in few:
            for better, high in few:
                if low < high:
                    cost += max(0.0, worse - better)
                    order.append(1.0 if better > worse else 0.5 if better == worse else 0.0)
        assert loss[row].item() == pytest.approx(cost)
        shown = right[row].item()
        assert math.isnan(shown) if not order else shown == pytest.approx(sum(order) / len(order))
        top = max(high for _, high in few)
        assert best[row].item() == pytest.approx(-next(s for s, high in few if high == top))


def test_a_pair_pulls_equally_on_both_replies_until_it_is_in_order() -> None:
    score = torch.tensor([[-1.0, -2.0, -3.0], [-2.0, -1.0, 0.0]], requires_grad=True)
    reward = torch.tensor([[1.0, 5.0, math.nan], [1.0, 5.0, math.nan]])
    rank_loss(score, reward)[0].sum().backward()
    assert score.grad is not None and score.grad.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


def slow_score(model: Any, ids: list[int], start: int) -> torch.Tensor:
    """Mean log-probability of a reply alone, token by token, nothing padded."""
    logits = model(torch.tensor([ids]))[0]
    found = [logits[at - 1, ids[at]] - logits[at - 1].logsumexp(0) for at in range(start, len(ids))]
    return torch.stack(found).mean()


def test_losses_and_gradients_are_those_of_replies_one_by_one(inputs: dict[str, Path]) -> None:
    tokenizer, model = load_tokenizer(inputs["policy"]), load_model(inputs["policy"])
    records = [
        {
            "line": 1,
            "messages": letters.query(3),
            "replies": ["ab", "dddd", "bca"],
            "rewards": [2.0, 1.0, 1.5],
        },
        {"line": 2, "messages": letters.query(44), "replies": ["aabb", "c"], "rewards": [-1.0, 0.5]},
    ]
    items, _ = rankings(records, 64, tokenizer)
    for item in items:
        asked = chatml.render_prompt(item.messages, tokenizer)
        assert all(row[: item.start] == asked and row[-1] == tokenizer.im_end_id for row in item.rows)
    settings = config(rank_weight=3.0).config
    task = Rankings(settings, model, items, items, tokenizer, torch.float32, Path("prompts.jsonl"))
    loss, rank, best, right = task.losses(items)
    loss.backward()
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    slow_rank, slow_best, shares = torch.zeros(()), torch.zeros(()), 0.0
    for item in items:
        by_reward = [slow_score(model, row, item.start) for row in item.rows]  # the best first
        pairs = [(high, low) for i, high in enumerate(by_reward) for low in by_reward[i + 1 :]]
        slow_rank = slow_rank + sum((low - high).clamp(min=0) for high, low in pairs)
        slow_best = slow_best - by_reward[0]
        shares += sum(float(high > low) for high, low in pairs) / len(pairs)
    assert slow_rank > 0.1  # some are in the wrong order
    for mine, theirs in ((rank, slow_rank), (best, slow_best), (loss, 3.0 * slow_rank + slow_best)):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert right.item() == pytest.approx(shares)
    (3.0 * slow_rank + slow_best).backward()
    for mine, theirs in zip(got, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    score, reward = scores(model, items)
    assert score.shape == (2, 3) and score[1, 2] == 0 and reward[1, 2].isnan()


# ---- what is ranked ----------------------------------------------------------------------------------------------
def test_what_is_ranked_are_finished_replies_that_differ(inputs: dict[str, Path]) -> None:
    tokenizer, query = load_tokenizer(inputs["policy"]), letters.query(3)
    drawn: list[tuple[list[str], list[float | None]]] = [
        (["ab", "cut", "aa", "ab", " "], [0.5, None, 2.0, 0.5, 9.0]),
        (["b", "c"], [None, 1.0]),
        (["b", "c"], [1.0, 1.0]),
        (["a" * 90, "c", "d"], [9.0, 1.0, 0.0]),
        (["a" * 90, "c"], [9.0, 1.0]),
    ]
    records = [
        {"line": line, "messages": query, "replies": replies, "rewards": rewards}
        for line, (replies, rewards) in enumerate(drawn, 1)
    ]
    found, skipped = rankings(records, 64, tokenizer)
    said = [[chatml.parse(row, tokenizer)[-1]["content"] for row in item.rows] for item in found]
    assert said == [["aa", "ab"], ["c", "d"]]
    assert [(item.line, item.rewards) for item in found] == [(1, [2.0, 0.5]), (4, [1.0, 0.0])]
    assert [record.line for record in skipped] == [2, 3, 5]
    assert {record.reason for record in skipped} == {"without two replies that differ in reward"}


# ---- the run -----------------------------------------------------------------------------------------------------
def test_the_true_reward_rises_and_the_run_says_so(trained: Artifact, inputs: dict[str, Path]) -> None:
    assert liked(trained.path) > liked(inputs["policy"]) + 0.3  # 0.6 to 0.9 over five seeds
    facts, records = trained.manifest["facts"], trained.metrics
    assert facts["prompts"] + facts["heldout_prompts"] + sum(facts["skipped"].values()) == 40
    assert facts["steps"] == 8 * math.ceil(facts["prompts"] / 6) == records[-1]["step"]
    assert facts["heldout_accuracy"] > facts["heldout_accuracy_before"] + 0.2  # 0.38 to 0.53
    assert records[0]["heldout_rank_loss"] > facts["heldout_rank_loss"] >= 0
    last = [record for record in records if "loss" in record][-1]
    assert last["loss"] == pytest.approx(last["rank_loss"] + last["best_loss"], rel=1e-5)
    samples = list(read_jsonl(trained.path / "samples.jsonl"))
    assert [s["label"] for s in samples] == ["before", "after"] and samples[0]["prompt"].endswith("?")
    assert not (trained.path / "checkpoints").exists()


@pytest.mark.parametrize("place", ["drawn", "train"])
@pytest.mark.fault("training", "RRHF breaks while replies are drawn or learnt", "same bits")
def test_a_broken_run_continues_in_the_same_bits(
    place: str,
    inputs: dict[str, Path],
    trained: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken with three of five batches of prompts written, or between two checkpoints."""
    module, name, at = {"drawn": (rft, "drawn", 4), "train": (rrhf, "scores", 21)}[place]
    real, calls = getattr(module, name), []

    def broken(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(KeyboardInterrupt):
        rrhf.run(config(), inputs, tmp_path / "rrhf")
    monkeypatch.undo()
    assert bool(list((tmp_path / "rrhf" / "checkpoints").glob("step-*"))) == (place == "train")
    monkeypatch.setattr(rft, "drawn", lambda *a, real=rft.drawn: calls.append(2) or real(*a))
    again = rrhf.run(config(), inputs, tmp_path / "rrhf")
    assert again.content == trained.content and again.metrics == trained.metrics
    assert calls.count(2) == {"drawn": 3, "train": 0}[place]  # the third batch again, for it may lack records


def test_the_page_and_the_table_show_it_beside_rejection_sampling(
    trained: Artifact, world: dict[str, Path], tmp_path: Path
) -> None:
    flags = {"heldout": 20, "max_prompt": 40, "steps": 1, "batch_size": 2, "drawing.max_new_tokens": 12}
    other = resolve(rft.RFTConfig, "rft", flags={**flags, "max_length": 64, "responses": 1}, environ={})
    rft.run(other, {name: world[name] for name in ("policy", "reward", "prompts")}, tmp_path / "rft")
    found = inputs_of([str(trained.path), str(tmp_path / "rft")])
    assert found == {"rrhf": trained.path, "rft": tmp_path / "rft"}
    report.run(resolve(ReportConfig, "report", environ={}), found, tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Ranked replies" in page and "pairs of replies in the right order" in page
    flags = {"best_of": (), "max_prompts": 40, "max_prompt": 40, "text_tokens": 32, "text_context": 16}
    compared = resolve(CompareConfig, "compare", flags={**flags, "drawing.max_new_tokens": 12}, environ={})
    models = {"model-chat": world["policy"], "model-rrhf": trained.path}
    judges = {name: world[name] for name in ("reward", "prompts", "tokens")}
    made = comparison.run(compared, {**models, **judges}, tmp_path / "comparison")
    rows = made.manifest["facts"]["rows"]
    assert set(rows) == {"chat", "rrhf"}
    assert rows["rrhf"]["reward"] > rows["chat"]["reward"] + 0.5  # 1.3 to 1.6 over five seeds
    assert rows["rrhf"]["win_rate"] > 60  # 78 to 82


@pytest.mark.fault("training", "RRHF finds no two replies to rank", "refused, with what to change")
def test_nothing_to_rank_is_an_error(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 40 prompts 0 have replies to rank"):
        rrhf.run(config(**{"drawing.max_new_tokens": 1, "responses": 2}), inputs, tmp_path / "rrhf")


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing to rank"):
        config(responses=1)
    for flags in (
        {"rank_weight": -1},
        {"parallel.shards": 4},
        {"lora.rank": 2, "parallel.strategy": "shard"},
    ):
        with pytest.raises(UsageError):
            config(**flags)
