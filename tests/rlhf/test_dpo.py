"""Direct preference optimisation against slow twins, on the toy world of letters, and broken off in the middle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import letters
import pytest
import torch

from openqwen.chat import chatml
from openqwen.core.artifact import Artifact, read_jsonl
from openqwen.core.config import Resolved, resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.engine import Engine, Sampling
from openqwen.model.weights import load_model
from openqwen.reward.data import read_pairs
from openqwen.rlhf import dpo
from openqwen.rlhf.config import DPOConfig
from openqwen.rlhf.dpo import common_start, dpo_loss, pair_losses, with_reference
from openqwen.tokenizer import load_tokenizer

TINY: dict[str, Any] = {
    "batch_size": 32,
    "micro_batch": 16,
    "max_length": 64,
    "max_pairs": 480,
    "optim.lr": 2e-3,
    "checkpoint_interval": 10,
    "eval_interval": 10,
    "num_samples": 2,
    "sample_tokens": 12,
    "precision": "fp32",
}


def config(**changes: object) -> Resolved[DPOConfig]:
    return resolve(DPOConfig, "dpo", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(world: dict[str, Path]) -> dict[str, Path]:
    return {name: world[name] for name in ("policy", "pairs", "heldout")}


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return dpo.run(config(), inputs, tmp_path_factory.mktemp("whole") / "dpo")


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (1.0, 0.0), (0.5, 0.2)])
def test_the_loss_is_that_of_its_definition(beta: float, smoothing: float) -> None:
    sides = torch.randn(4, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 9
    loss, margin = dpo_loss(*sides, beta, smoothing)
    for i, (chosen, rejected, old_chosen, old_rejected) in enumerate(sides.T.tolist()):
        # Odds of the preference under Bradley and Terry's model with rewards beta * log(policy / reference).
        up = math.exp(beta * (chosen - old_chosen)) / math.exp(beta * (rejected - old_rejected))
        wanted = -(1 - smoothing) * math.log(up / (1 + up)) - smoothing * math.log(1 / (1 + up))
        assert loss[i].item() == pytest.approx(wanted, rel=1e-9)
        assert margin[i].item() == pytest.approx(math.log(up), rel=1e-9)


def test_the_loss_of_a_far_pair_is_finite() -> None:
    far = torch.tensor([-1e4, 1e4])
    loss, _ = dpo_loss(far, -far, torch.zeros(2), torch.zeros(2), 1.0)
    assert loss.tolist() == [2e4, 0.0]


def slow_margin(model: Any, old: Any, pair: Any, tokenizer: Any, beta: float) -> torch.Tensor:
    """The margin of a pair alone: whole replies, one row at a time, token by token, nothing left out or padded."""
    totals = []
    for ids in (pair.chosen_ids, pair.rejected_ids):
        start = len(chatml.render_prompt(chatml.parse(ids, tokenizer)[:-1], tokenizer))
        ratio = torch.zeros(())
        for source, sign in ((model, 1.0), (old, -1.0)):
            logits = source(torch.tensor([ids]))[0]
            for place in range(start, len(ids)):
                ratio = ratio + sign * (logits[place - 1, ids[place]] - logits[place - 1].logsumexp(0))
        totals.append(ratio)
    return beta * (totals[0] - totals[1])


def test_margins_and_gradients_are_those_of_whole_replies_one_by_one(inputs: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(inputs["policy"])
    old, model = load_model(inputs["policy"]), load_model(inputs["policy"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    pairs = read_pairs(inputs["pairs"], tokenizer, 64).items[:9]
    assert len({pair.lengths for pair in pairs}) > 1 and len({common_start(pair) for pair in pairs}) > 1
    settings = config(beta=0.7).config
    choices = with_reference(old, pairs, settings, torch.float32)
    loss, margin, _ = pair_losses(model.train(), choices, settings)
    loss.sum().backward()
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    slow = torch.stack([slow_margin(model, old, pair, tokenizer, 0.7) for pair in pairs])
    torch.testing.assert_close(margin, slow.detach(), rtol=1e-4, atol=1e-4)
    (1 + (-slow).exp()).log().sum().backward()
    for mine, theirs in zip(got, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_at_the_start_policy_and_reference_agree(inputs: dict[str, Path]) -> None:
    model, tokenizer = load_model(inputs["policy"]), load_tokenizer(inputs["policy"])
    pairs = read_pairs(inputs["pairs"], tokenizer, 64).items[:16]
    choices = with_reference(model, pairs, config().config, torch.float32)
    assert [choice.pair for choice in choices] == pairs  # in their order, though computed by length
    loss, margin, chosen = pair_losses(model, choices, config().config)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(margin, torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(chosen, torch.zeros(16), atol=1e-5, rtol=0)


def liked(model: Path) -> float:
    tokenizer = load_tokenizer(model)
    prompts = [chatml.render_prompt(letters.query(i), tokenizer) for i in range(60)]
    how = [Sampling(temperature=1.0, top_p=0.9, max_tokens=12, seed=i) for i in range(60)]
    done = Engine(load_model(model), tokenizer).generate(prompts, how)
    return sum(letters.liking(completion.text) for completion in done) / 60


def test_the_true_reward_rises_and_the_run_says_so(trained: Artifact, inputs: dict[str, Path]) -> None:
    assert liked(trained.path) > liked(inputs["policy"]) + 0.7
    facts, records = trained.manifest["facts"], trained.metrics
    assert facts["pairs"] == 480 and facts["steps"] == 15
    assert records[0]["heldout_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert facts["heldout_accuracy"] > 0.85 and facts["heldout_loss"] < math.log(2)
    last = [record for record in records if "loss" in record][-1]
    assert {"accuracy", "margin", "chosen_reward"} <= last.keys() and last["margin"] > 0
    samples = list(read_jsonl(trained.path / "samples.jsonl"))
    assert [s["label"] for s in samples] == ["before"] * 2 + ["after"] * 2 and samples[0]["prompt"]
    assert not (trained.path / "checkpoints").exists()


@pytest.mark.fault("training", "direct preference optimisation breaks between two checkpoints", "same bits")
def test_a_broken_run_continues_in_the_same_bits(
    inputs: dict[str, Path], trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = dpo.pair_losses, []

    def broken(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 32:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(dpo, "pair_losses", broken)
    with pytest.raises(KeyboardInterrupt):
        dpo.run(config(), inputs, tmp_path / "dpo")
    monkeypatch.undo()
    assert list((tmp_path / "dpo" / "checkpoints").glob("step-*"))
    again = dpo.run(config(), inputs, tmp_path / "dpo")
    assert again.content == trained.content and again.metrics == trained.metrics


def test_adapters_alone_are_trained_where_asked(inputs: dict[str, Path], tmp_path: Path) -> None:
    flags = {"lora.rank": 4, "lora.train_embeddings": False, "max_pairs": 64}
    found = dpo.run(config(**flags), inputs, tmp_path / "dpo")
    assert (found.path / "adapter").is_dir()
    before, after = load_model(inputs["policy"]), load_model(found.path)
    assert torch.equal(before.embed.weight, after.embed.weight)
    moved = [
        name
        for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(one, other)
    ]
    assert moved and all("blocks" in name for name in moved)


@pytest.mark.fault("training", "a held-out comparison pair is trained on", "refused with both places")
def test_a_pair_on_both_sides_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"also trained on .*pairs.jsonl:1\b"):
        dpo.run(config(), {**inputs, "heldout": inputs["pairs"]}, tmp_path / "dpo")


def test_settings_that_cannot_work_are_refused() -> None:
    for flags in ({"beta": 0}, {"label_smoothing": 0.5}, {"parallel.shards": 4, "batch_size": 6}):
        with pytest.raises(UsageError):
            config(**flags)


def test_sides_of_which_one_is_the_others_beginning_have_a_start() -> None:
    pair: Any = type("Pair", (), {"chosen_ids": [1, 2, 3, 9], "rejected_ids": [1, 2, 3, 4, 9]})
    assert common_start(pair) == 3
