"""PPO on the toy world of letters: raises the true reward, starts each step at ratio 1, resumes in the same bits."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import letters
import pytest
import tiny_artefacts as tiny
import torch

from openqwen.core.artifact import Artifact, stage_run
from openqwen.core.config import Resolved, fields_without_source, resolve
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.core.shards import open_tokens
from openqwen.engine import Engine, native
from openqwen.model.weights import load_model
from openqwen.reward.config import RewardConfig
from openqwen.reward.loop import run as train_reward
from openqwen.rlhf import loop, ppo, rollout, update
from openqwen.rlhf.config import PPOConfig
from openqwen.rlhf.evaluate import compare, text_loss
from openqwen.rlhf.models import Models, freeze, load_models
from openqwen.rlhf.prompts import Prompt, prompts_at, read_prompts
from openqwen.rlhf.rollout import Reply, make_rows, reply_logits, sample_replies, seed_of
from openqwen.rlhf.watchdog import findings, repetition
from openqwen.tokenizer import Tokenizer
from openqwen.train.compiled import compiled_blocks
from openqwen.train.loader import batch_at

TINY: dict[str, Any] = {
    "steps": 7,
    "value_warmup_steps": 2,
    "prompts_per_step": 16,
    "max_new_tokens": 12,
    "max_prompt": 40,
    "minibatches": 2,
    "micro_rows": 12,
    "reward_norm": "mean-std",
    "policy_optim.lr": 3e-3,
    "value_optim.lr": 3e-3,
    "pretrain_batch": 2,
    "pretrain_context": 32,
    "heldout": 20,
    "eval_tokens": 256,
    "checkpoint_every": 3,
    "precision": "fp32",
}
CPU = torch.device("cpu")


def config(**changes: object) -> Resolved[PPOConfig]:
    return resolve(PPOConfig, "ppo", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rlhf")
    chat = letters.policy(folder / "chat")
    settings = {"batch_size": 32, "micro_batch": 32, "max_length": 64, "optim.lr": 3e-3}
    pairs = {
        "pairs": letters.pairs(folder / "pairs.jsonl", 0, 900),
        "heldout": letters.pairs(folder / "heldout.jsonl", 1, 50),
    }
    train_reward(
        resolve(RewardConfig, "reward", flags=settings, environ={}), {"model": chat, **pairs}, folder / "rm"
    )
    return {
        "policy": chat,
        "reward": folder / "rm",
        "prompts": letters.prompts(folder / "prompts.jsonl"),
        "tokens": tiny.tokens_artefact(folder / "tokens", tiny.sums(0, 300), tiny.sums(1, 20)),
    }


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return loop.run(config(), inputs, tmp_path_factory.mktemp("whole") / "ppo")


@pytest.fixture
def models(inputs: dict[str, Path]) -> Models:
    return load_models(inputs["policy"], inputs["reward"], "fp32")


def sample(
    models: Models,
    inputs: dict[str, Path],
    count: int = 9,
    prompts: list[Prompt] | None = None,
    **changes: Any,
) -> list[Reply]:
    prompts = prompts or read_prompts(inputs["prompts"], models.tokenizer, 40, 5).train[:count]
    settings = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12, **changes}
    seeds = [seed_of(3, 0, row) for row in range(count)]
    return sample_replies(
        Engine(models.policy, models.tokenizer), prompts, models.tokenizer.im_end_id, seeds=seeds, **settings
    )


def test_defaults_are_the_reports() -> None:
    assert not fields_without_source(PPOConfig)
    default = PPOConfig()
    assert default.value_warmup_steps == 50
    assert default.responses == 2
    assert default.kl_coef == 0.04
    assert default.reward_norm == "mean"
    assert (default.policy_optim.lr, default.value_optim.lr) == (1e-6, 5e-6)
    assert default.value_clip == 0.15
    assert default.top_p == 0.9
    assert default.pretrain_coef > 0
    with pytest.raises(UsageError, match="do not divide into 3 minibatches"):
        resolve(PPOConfig, "ppo", flags={"minibatches": 3}, environ={})


def liked(artifact: Artifact) -> tuple[float, float]:
    records = [json.loads(line) for line in (artifact.path / "heldout.jsonl").read_text().split("\n") if line]
    before, after = ([letters.liking(r[name]) for r in records] for name in ("before", "after"))
    return sum(before) / len(before), sum(after) / len(after)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_the_true_reward_rises_with_every_seed(seed: int, inputs: dict[str, Path], tmp_path: Path) -> None:
    artifact = loop.run(config(seed=seed), inputs, tmp_path / "ppo")
    before, after = liked(artifact)
    assert after > before + 0.7
    facts = artifact.manifest["facts"]
    assert facts["reward_after"] > facts["reward_before"]
    assert 0 < facts["kl_final"] < 15
    assert facts["max_log_ratio_start"] == 0.0
    assert facts["comparison"]["win"] > facts["comparison"]["loss"]


def test_what_a_run_leaves(trained: Artifact, inputs: dict[str, Path]) -> None:
    records = trained.metrics
    assert [r["step"] for r in records] == list(range(1, 10))
    assert [r["warming"] for r in records] == [True] * 2 + [False] * 7
    wanted = (
        "reward kl kl_k3 entropy explained_variance length value_clip_fraction seconds_rollout seconds_score"
    )
    assert set(wanted.split()) <= records[0].keys()
    assert {"policy_clip_fraction", "ratio_max", "ratio_min", "log_ratio_start", "pretrain_loss"} <= records[
        2
    ].keys()
    # The policy has not moved before its first update: not in the warm-up, nor when step 3 scores its replies.
    assert [r["kl"] for r in records[:3]] == [0.0] * 3 and records[3]["kl"] != 0.0
    assert all(r["log_ratio_start"] == 0.0 for r in records[2:])
    assert all(r["rollout_gap"] < 1e-4 for r in records)
    assert records[-1]["reward"] > records[0]["reward"]
    facts = trained.manifest["facts"]
    assert facts["pretrain_tokens"] == 7 * 2 * 2 * 32
    assert facts["reply_tokens"] == pytest.approx(sum(r["length"] * 32 for r in records[2:]), abs=1)
    samples = [json.loads(line) for line in (trained.path / "samples.jsonl").read_text().split("\n") if line]
    assert [s["label"] for s in samples[:2]] == ["before", "after"] and samples[0]["prompt"] == samples[1][
        "prompt"
    ]
    assert not (trained.path / "checkpoints").exists()
    load_model(trained.path)


def same_but_for_time(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in records]


@pytest.mark.fault("PPO", "PPO breaks while scoring, in the warm-up or in an update", "same bits")
@pytest.mark.parametrize("place", ["score_all", "policy_gradient"])
def test_a_run_broken_anywhere_continues_in_the_same_bits(
    place: str, inputs: dict[str, Path], trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken while scoring (in the warm-up) or while updating the policy, between two checkpoints."""
    real, calls = getattr(loop, place), []

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == {"score_all": 2, "policy_gradient": 10}[place]:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, place, broken)
    with pytest.raises(KeyboardInterrupt):
        loop.run(config(), inputs, tmp_path / "ppo")
    monkeypatch.undo()
    artifact = loop.run(config(), inputs, tmp_path / "ppo")
    assert artifact.content == trained.content
    assert same_but_for_time(artifact.metrics) == same_but_for_time(trained.metrics)


@pytest.mark.fault("PPO", "a PPO process is killed", "same bits")
def test_a_killed_process_continues_in_the_same_bits(
    inputs: dict[str, Path], trained: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "ppo"
    process = tiny.in_process(loop.run, config(), inputs, out)
    while not (out / "metrics.jsonl").is_file() or '{"step": 5,' not in (out / "metrics.jsonl").read_text():
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (out / "DONE").exists()
    assert loop.run(config(), inputs, out).content == trained.content


def test_the_support_is_the_nucleus_and_the_log_probabilities_are_those_drawn_from(
    models: Models, inputs: dict[str, Path]
) -> None:
    replies = sample(models, inputs)
    rows = make_rows(replies, models.tokenizer.vocab_size, CPU)
    with torch.no_grad():
        logits_NV = reply_logits(models.policy, rows, 1.0)
    support_NV = rows.support.dense()
    engine = Engine(models.policy, models.tokenizer)
    n = 0
    for reply in replies:
        for place, token in enumerate(reply.ids):
            # An independent pass over exactly the tokens before this one.
            before = torch.tensor([reply.prompt.ids + reply.ids[:place]])
            with torch.no_grad():
                probs = models.policy(before)[0, -1].softmax(-1)
            torch.testing.assert_close(probs, logits_NV[n].softmax(-1), rtol=1e-4, atol=1e-6)
            ranked = sorted(range(len(probs)), key=lambda i: -probs[i].item())
            kept, mass = [], 0.0
            while mass < 0.9:
                kept.append(ranked[len(kept)])
                mass += probs[kept[-1]].item()
            assert set(kept) == set(support_NV[n].nonzero().flatten().tolist())
            truncated = ppo.truncated_logp(logits_NV[n : n + 1], support_NV[n : n + 1], torch.tensor([token]))
            assert truncated.item() == pytest.approx(math.log(probs[token].item() / mass), abs=1e-4)
            naive = ppo.token_logp(logits_NV[n : n + 1], torch.tensor([token])).item()
            assert math.exp(naive - truncated.item()) == pytest.approx(mass, abs=1e-4)  # off by the kept mass
            n += 1
    assert n == len(rows.tokens_N) and rows.tokens_N.tolist() == [t for r in replies for t in r.ids]
    assert engine.end_ids >= {models.tokenizer.im_end_id}


@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_before_an_update_the_ratio_is_exactly_one_whatever_the_temperature(
    top_p: float, models: Models, inputs: dict[str, Path]
) -> None:
    settings = config(temperature=0.7, top_p=top_p).config
    replies = sample(models, inputs, count=32, temperature=0.7, top_p=top_p, support=top_p < 1)
    for group in update.plan(replies, models, settings, 0):
        scored = [update.score(models, rows, settings) for rows in group]
        assert all((s.rows.support is None) == (top_p == 1) for s in scored)
        assert max(s.rollout_gap for s in scored) < 1e-4
        update.credit(scored, ppo.RunningMoments(), settings)
        sums: update.Sums = defaultdict(list)
        update.policy_gradient(models, scored, settings, sums)  # with gradients
        assert sums["log_ratio"] == [0.0]
    models.policy.zero_grad()


def test_the_pass_updated_first_is_not_computed_again_and_gives_the_same_gradients(
    models: Models, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config().config
    groups = update.plan(sample(models, inputs, count=32), models, settings, 0)
    assert [len(group) for group in groups] == [2, 2]
    computed: list[torch.Tensor] = []
    real = rollout.states
    monkeypatch.setattr(
        rollout, "states", lambda model, rows, places: [computed.append(places), real(model, rows, places)][1]
    )
    found = []
    for graph in (False, True):
        scored = update.score_all(models, groups, settings, graph)
        update.credit([s for minibatch in scored for s in minibatch], ppo.RunningMoments(), settings)
        kept = [s.logp_N is not None and s.values_N is not None for group in scored for s in group]
        assert kept == [graph, False, False, False]
        computed.clear()
        sums: update.Sums = defaultdict(list)
        for minibatch in scored:
            update.value_gradient(models, minibatch, settings, sums)
            update.policy_gradient(models, minibatch, settings, sums)
        assert len(computed) == (6 if graph else 8)
        assert sums["log_ratio"] == [0.0, 0.0] and not any(s.logp_N is not None for s in scored[0])
        parameters = [*models.policy.parameters(), *models.value.parameters()]
        found.append([p.grad.clone() for p in parameters])
        models.policy.zero_grad()
        models.value.zero_grad()
    assert all(map(torch.equal, *found))


def test_frozen_models_give_the_bits_of_autocast(models: Models, inputs: dict[str, Path]) -> None:
    half = replace(models, dtype=torch.bfloat16)
    frozen = replace(
        half,
        reference=freeze(copy.deepcopy(models.policy), half.dtype),
        reward=freeze(copy.deepcopy(models.reward), half.dtype),
    )
    assert (
        frozen.reference.head.weight.dtype
        == frozen.reward.backbone.blocks[0].attn.qkv.bias.dtype
        == half.dtype
    )
    assert {p.dtype for p in (frozen.reward.scalar.weight, frozen.reference.embed.weight)} == {torch.float32}
    rows = update.plan(sample(models, inputs, count=12), half, config().config, 0)[0][0]
    own, plain = (update.score(some, rows, config().config) for some in (frozen, half))
    assert torch.equal(own.k1_BR, plain.k1_BR) and torch.equal(own.exact_kl_N, plain.exact_kl_N)
    assert own.score_B == pytest.approx(plain.score_B, rel=0, abs=0, nan_ok=True)
    tokens = open_tokens(inputs["tokens"])
    losses = [text_loss(frozen, model, tokens, 16, 64, 0) for model in (frozen.reference, half.policy)]
    assert losses[0] == losses[1]


@pytest.mark.skipif(native.missing() is not None, reason="needs a C++ compiler")
def test_generated_code_starts_at_ratio_one_too_and_is_left_again(
    models: Models, inputs: dict[str, Path]
) -> None:
    """In bf16, where other code rounds differently."""
    half = replace(models, dtype=torch.bfloat16)
    settings = config(compile=True, minibatches=1).config
    rows = update.plan(sample(models, inputs, count=12), half, settings, 0)[0][0]
    plain = update.score(half, rows, settings)
    with compiled_blocks(half.policy.blocks):
        scored = update.score(half, rows, settings)
        update.credit([scored], ppo.RunningMoments(), settings)
        sums: update.Sums = defaultdict(list)
        update.policy_gradient(half, [scored], settings, sums)
    assert sums["log_ratio"] == [0.0]
    torch.testing.assert_close(scored.logp_BR, plain.logp_BR, atol=0.1, rtol=0)
    assert not torch.equal(scored.logp_BR, plain.logp_BR)  # other roundings: it was other code
    assert torch.equal(update.score(half, rows, settings).logp_BR, plain.logp_BR)
    models.policy.zero_grad()


@pytest.mark.fault(
    "PPO", "replies of one batch differ in length", "the score is read at each one's end token"
)
def test_the_reward_is_read_at_the_end_token_never_at_padding(
    models: Models, inputs: dict[str, Path]
) -> None:
    replies = sample(models, inputs)
    assert len({len(r.prompt.ids) + len(r.ids) for r in replies}) > 1
    scores = models.scores(make_rows(replies, models.tokenizer.vocab_size, CPU)).tolist()
    for reply, score in zip(replies, scores):
        with torch.no_grad():
            alone = models.reward(torch.tensor([reply.prompt.ids + reply.ids]))[0, -1].item()
        assert score == pytest.approx(alone, abs=1e-4)


@pytest.mark.fault("PPO", "a reply never ends: it has no end token", "it gets the penalty and no score")
def test_a_cut_off_reply_gets_the_penalty_and_no_score(models: Models, inputs: dict[str, Path]) -> None:
    settings = config(cutoff_reward=-1.5).config
    replies = sample(models, inputs, max_new_tokens=4)
    assert {r.finished for r in replies} == {True, False}
    assert all((r.ids[-1] == models.tokenizer.im_end_id) == r.finished for r in replies)
    scored = update.score(models, make_rows(replies, models.tokenizer.vocab_size, CPU), settings)
    moments, rewards = update.credit([scored], ppo.RunningMoments(), settings)
    assert moments.count == sum(r.finished for r in replies)
    assert [math.isnan(s) for s in scored.score_B] == [not r.finished for r in replies]
    assert [w == -1.5 for w in rewards] == [not r.finished for r in replies]


@pytest.mark.fault(
    "PPO",
    "replies are empty: all of a batch are the end token and nothing else",
    "scored at it; advantages and gradients are finite",
)
@pytest.mark.parametrize("norm", ["mean", "mean-std"])
@pytest.mark.parametrize("equal", [True, False], ids=["one query", "many"])
def test_a_batch_of_empty_replies(equal: bool, norm: str, models: Models, inputs: dict[str, Path]) -> None:
    """Of one query all scores and values are equal as well: nothing is left to whiten."""
    settings = config(minibatches=1, reward_norm=norm).config
    prompts = read_prompts(inputs["prompts"], models.tokenizer, 40, 5).train[:4]
    end = models.tokenizer.im_end_id
    empty = [
        Reply(prompts[0] if equal else prompt, [end], [], [-1.0], "", True)
        for prompt in prompts
        for _ in range(settings.responses)
    ]
    (minibatch,) = update.plan(empty, models, settings, 0)
    scored = [update.score(models, rows, settings) for rows in minibatch]
    moments, rewards = update.credit(scored, ppo.RunningMoments(), settings)
    assert moments.count == len(rewards) == len(empty) and all(map(math.isfinite, rewards))
    for batch in scored:
        assert batch.rows.mask_BR.shape[1] == 1 and batch.rows.mask_BR.all()
        for reply, found in zip(batch.rows.replies, batch.score_B):
            with torch.no_grad():
                alone = models.reward(torch.tensor([[*reply.prompt.ids, end]]))[0, -1].item()
            assert found == pytest.approx(alone, abs=1e-4)
        assert batch.advantages_BR.isfinite().all() and batch.returns_BR.isfinite().all()
    sums: update.Sums = defaultdict(list)
    update.policy_gradient(models, scored, settings, sums)
    update.value_gradient(models, scored, settings, sums)
    for model in (models.policy, models.value):
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)
        assert equal or any(grad.abs().max() > 0 for grad in grads)
    assert all(math.isfinite(value) for values in sums.values() for value in values)
    assert repetition([end]) == 0.0


@pytest.mark.fault(
    "PPO",
    "the reward model gives no number",
    "the reply counts as without a score, the running mean is unmoved",
)
def test_rewards_are_normalised_clipped_and_never_steered_by_a_score_that_is_no_number() -> None:
    moments = ppo.RunningMoments().update([1.0, 3.0])  # mean 2, std 1
    scores, finished = [2.5, math.nan, math.inf, 90.0, math.nan], [True, True, True, True, False]
    for norm, first in (("mean-std", 0.5), ("mean", 0.5), ("none", 2.5)):
        settings = config(reward_norm=norm, reward_limit=4.0, cutoff_reward=-1.0).config
        assert update.normalise(scores, finished, moments, settings) == [first, 0.0, 0.0, 4.0, -1.0]
    wide = ppo.RunningMoments().update([0.0, 4.0])  # mean 2, std 2
    assert update.normalise([3.0], [True], wide, config(reward_norm="mean-std").config) == [0.5]
    assert update.normalise([3.0], [True], wide, config(reward_norm="mean").config) == [1.0]


def test_the_pretrained_gradient_is_its_coefficient_times_that_of_the_language_model(
    models: Models, inputs: dict[str, Path]
) -> None:
    tokens, settings = (
        open_tokens(inputs["tokens"]),
        config(pretrain_coef=0.3, pretrain_batch=5, micro_rows=2).config,
    )
    sums: update.Sums = {"pretrain_loss": []}
    loss = update.pretrained_gradient(models, tokens, 4, settings, sums)
    got = [p.grad.clone() for p in models.policy.parameters() if p.grad is not None]
    models.policy.zero_grad()
    ids = batch_at(tokens, 4, 5, 32, settings.seed)
    logits = models.policy(ids[:, :-1])
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    (0.3 * plain).backward()
    assert loss == pytest.approx(0.3 * plain.item(), rel=1e-5)
    for mine, theirs in zip(got, (p.grad for p in models.policy.parameters()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_the_pretrained_gradient_lowers_the_tax(
    trained: Artifact, inputs: dict[str, Path], tmp_path: Path
) -> None:
    without = loop.run(config(pretrain_coef=0), inputs, tmp_path / "ppo")
    assert without.manifest["facts"]["pretrain_tokens"] == 0
    assert trained.manifest["facts"]["text_loss_after"] < without.manifest["facts"]["text_loss_after"] - 0.5


@pytest.mark.fault(
    "PPO", "the reward rises while replies collapse", "named, and the run stops where it was asked to"
)
def test_the_watchdog_can_stop_a_run(inputs: dict[str, Path], tmp_path: Path) -> None:
    changes = {"watchdog.action": "stop", "watchdog.window": 1, "watchdog.kl": 0.01}
    with pytest.raises(OpenQwenError, match=r"drift: .* nats a reply from the reference"):
        loop.run(config(**changes), inputs, tmp_path / "ppo")
    assert not (tmp_path / "ppo" / "DONE").exists()


def test_watchdog_findings_name_the_collapse() -> None:
    settings = config(**{"watchdog.window": 2}).config.watchdog
    healthy = [{"kl": 1.0, "length": 10, "repetition": 0.0, "reward": 0.0, "true_reward": 3.0}] * 2

    def names(**last: float) -> list[str]:
        return [f.split(":")[0] for f in findings([*healthy, *[{**healthy[0], **last}] * 2], settings)]

    assert names() == []
    assert names(kl=31.0) == ["drift"]
    assert names(length=21) == ["length"] and names(length=4) == ["length"] and names(length=19) == []
    assert names(repetition=0.4) == ["repetition"]
    assert names(reward=1.0, true_reward=2.5) == ["reward hacking"]
    assert names(reward=-1.0, true_reward=2.5) == [] and names(reward=1.0, true_reward=3.5) == []
    assert findings([{**healthy[0], "kl": 99.0}] * 3, settings) == []  # too few records to tell


def test_repetition_counts_four_grams() -> None:
    assert repetition([1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 3)
    assert repetition([1, 2, 3, 4, 5]) == 0.0 and repetition([1]) == 0.0


def test_compare_counts_a_tie_half() -> None:
    verdict = compare([1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 0.0, 5.0])
    assert (verdict["win"], verdict["tie"], verdict["loss"], verdict["win_rate"]) == (2, 1, 1, 0.625)
    assert verdict["win_rate_low"] < 0.625 < verdict["win_rate_high"]


@pytest.mark.fault("PPO", "policy, reward model and tokens are of different tokenizers", "refused")
def test_a_reward_model_or_tokens_of_another_tokenizer_are_refused(
    models: Models, inputs: dict[str, Path], tmp_path: Path
) -> None:
    other = Tokenizer({**{bytes([b]): b for b in range(256)}, b"ab": 256})
    stranger = tmp_path / "rm"
    stranger.mkdir()
    other.save(stranger)
    with pytest.raises(DataError, match="another tokenizer than the policy"):
        load_models(inputs["policy"], stranger, "fp32")
    tokens = open_tokens(inputs["tokens"])
    tokens.meta["tokenizer"] = "another"
    with pytest.raises(DataError, match="packed with another tokenizer"):
        loop.check_inputs(models, tokens, config().config)
    with pytest.raises(UsageError, match="max_prompt \\+ max_new_tokens is 65"):
        loop.check_inputs(models, open_tokens(inputs["tokens"]), config(max_prompt=53).config)


@pytest.mark.fault(
    "PPO", "prompts are empty, too long or there twice", "skipped and counted with their lines"
)
def test_bad_prompts_are_counted_with_their_lines_and_twins_kept_once(tmp_path: Path) -> None:
    good = [{"messages": letters.query(i)} for i in range(4)]
    bad: list[Any] = [
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [*letters.query(1), {"role": "assistant", "content": "x"}]},
        {"messages": letters.query(10**60)},
        3,
    ]
    path = letters.write(tmp_path / "prompts.jsonl", [*good, *bad, good[2]])
    path.write_text(path.read_text() + "{\n")
    prompts = read_prompts(path, tiny.byte_tokenizer(), 64, 1)
    assert len(prompts.train) == 3 and len(prompts.heldout) == 1
    assert prompts.skipped == {
        "without a conversation that ends with the user's turn": [5, 6, 8],
        "longer than 64 tokens": [7],
        "not JSON": [10],
    }
    with pytest.raises(DataError, match="lines 5, 6, 8"):
        read_prompts(path, tiny.byte_tokenizer(), 64, 1, max_skipped=0.1)
    with pytest.raises(DataError, match="4 of 10 prompts can be used, 4 of them are to be held out"):
        read_prompts(path, tiny.byte_tokenizer(), 64, 4)


def test_the_held_out_part_depends_on_the_text_alone(tmp_path: Path) -> None:
    tok = tiny.byte_tokenizer()
    records = [{"messages": letters.query(i)} for i in range(60)]
    split = read_prompts(letters.write(tmp_path / "a.jsonl", records), tok, 64, 10)
    again = read_prompts(letters.write(tmp_path / "b.jsonl", records[::-1]), tok, 64, 10)
    assert {p.text for p in split.heldout} == {p.text for p in again.heldout}
    assert len(split.heldout) == 10 and not {p.text for p in split.heldout} & {p.text for p in split.train}


def test_queries_of_a_step_are_a_function_of_the_step_and_none_is_left_out(tmp_path: Path) -> None:
    path = letters.prompts(tmp_path / "prompts.jsonl", 20)
    train = read_prompts(path, tiny.byte_tokenizer(), 64, 5).train
    seen = [p.line for step in range(5) for p in prompts_at(train, step, 6, 1)]  # 30 places: two epochs of 15
    assert sorted(seen[:15]) == sorted(seen[15:]) == sorted(p.line for p in train) and seen[:15] != seen[15:]
    assert [p.line for p in prompts_at(train, 3, 6, 1)] == seen[18:24]


def test_each_reply_has_a_seed_of_its_own() -> None:
    seeds = {seed_of(base, step, row) for base in range(3) for step in range(50) for row in range(64)}
    assert len(seeds) == 3 * 50 * 64 and all(0 <= seed < 2**63 for seed in seeds)


def test_replies_to_one_query_share_a_row_of_one_minibatch(models: Models, inputs: dict[str, Path]) -> None:
    settings = config().config
    prompts = read_prompts(inputs["prompts"], models.tokenizer, 40, 5).train[:16]
    replies = sample(models, inputs, count=32, prompts=[p for p in prompts for _ in range(2)])
    groups = update.plan(replies, models, settings, 5)
    assert [[len(rows.replies) for rows in group] for group in groups] == [[12, 4], [12, 4]]
    assert [[len(rows.ids_BT) for rows in group] for group in groups] == [[6, 2], [6, 2]]
    planned = [reply for group in groups for rows in group for reply in rows.replies]
    assert sorted(map(id, planned)) == sorted(map(id, replies))
    assert all(a.prompt is b.prompt for a, b in zip(planned[::2], planned[1::2]))
    alone = [make_rows([reply], models.tokenizer.vocab_size, CPU) for reply in planned]
    scored = [update.score(models, rows, settings) for group in groups for rows in group]
    apart = [update.score(models, rows, settings) for rows in alone]
    together = torch.cat([ppo.flatten(s.logp_BR, s.rows.mask_BR) for s in scored])
    torch.testing.assert_close(together, torch.cat([s.logp_BR[0] for s in apart]), rtol=1e-4, atol=1e-5)
    together = torch.cat([ppo.flatten(s.values_BR, s.rows.mask_BR) for s in scored])
    torch.testing.assert_close(together, torch.cat([s.values_BR[0] for s in apart]), rtol=1e-4, atol=1e-5)
    scores, expected = ([x for s in some for x in s.score_B] for some in (scored, apart))
    assert scores == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_rollouts_decode_with_a_copy_in_the_format_of_products_that_follows_the_policy(
    models: Models, inputs: dict[str, Path], tmp_path: Path
) -> None:
    if reason := native.missing():
        pytest.skip(reason)
    half = replace(models, dtype=torch.bfloat16)
    with stage_run(tmp_path / "run", "model", config(), {}) as stage:
        assert loop.rollout_engine(models, 4, stage).model is models.policy
        engine = loop.rollout_engine(half, 4, stage)
    with torch.no_grad():
        models.policy.head.weight.add_(0.5)
    loop.follow(engine.model, models.policy)
    for own, live in zip(engine.model.parameters(), models.policy.parameters(), strict=True):
        assert own.dtype == torch.bfloat16 and torch.equal(own, live.bfloat16())
    prompts = read_prompts(inputs["prompts"], models.tokenizer, 40, 5).train[:8]
    settings = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12}
    drawn = sample_replies(engine, prompts, models.tokenizer.im_end_id, seeds=range(8), **settings)
    scored = update.score(half, make_rows(drawn, models.tokenizer.vocab_size, CPU), config().config)
    assert scored.rollout_gap < 0.05


def test_minibatches_hold_every_reply_once_and_the_first_epoch_comes_as_planned(
    models: Models, inputs: dict[str, Path]
) -> None:
    settings = config(epochs=3).config
    replies = sample(models, inputs, count=32)
    groups = update.plan(replies, models, settings, 5)
    assert [[len(rows.replies) for rows in group] for group in groups] == [[12, 4], [12, 4]]
    planned = [id(reply) for group in groups for rows in group for reply in rows.replies]
    assert sorted(planned) == sorted(map(id, replies))
    order = update.visits(settings, 5)
    assert order[:2] == [0, 1] and sorted(order) == [0, 0, 0, 1, 1, 1]
