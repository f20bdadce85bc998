"""PPO with four models: sample two replies a query, score them, update value and policy; repeat.

Report §3.2.2. The report's: value-only warm-up, two responses, KL penalty, running-mean rewards, value clipping,
top-p, the pretrained gradient. Ours: what it leaves open (see config.py) and the order within one step:

    1 rollout   queries -> replies with the support of each token              (rollout.py)
    2 scoring   four forward passes -> log-probabilities, values, KL, rewards, advantages    (update.py)
    3 update    minibatches of the same rows: value loss; clipped policy loss + pretrained gradient

Everything random is a function of (seed, step): a checkpoint holds weights, optimizers and running moments.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from openqwen.core.artifact import Artifact, Run, find, open_inputs, stage_run, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress, note
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.core.metrics import read_metrics
from openqwen.core.shards import Tokens, open_tokens
from openqwen.data.primer import true_score
from openqwen.engine import Engine, native
from openqwen.model.qwen import Qwen
from openqwen.model.weights import save_model
from openqwen.rlhf import ppo
from openqwen.rlhf.config import PPOConfig
from openqwen.rlhf.evaluate import TrueScore, answer, compare, divergence, modelled_rewards, text_loss
from openqwen.rlhf.models import Models, load_models
from openqwen.rlhf.prompts import Prompts, prompts_at, read_prompts
from openqwen.rlhf.rollout import Reply, sample_replies, seed_of
from openqwen.rlhf.update import (
    Scored,
    Sums,
    credit,
    plan,
    policy_gradient,
    pretrained_gradient,
    score_all,
    value_gradient,
    visits,
)
from openqwen.rlhf.watchdog import findings, repetition
from openqwen.train import checkpoint
from openqwen.train.compiled import compiled_blocks
from openqwen.train.memory import keep_freed_memory
from openqwen.train.optimizer import make_optimizer
from openqwen.train.precision import deterministic
from openqwen.train.signals import stop_on_signal
from openqwen.train.step import Guard, clip_and_step

TRUE_SCORES: dict[str, TrueScore] = {"primer": true_score}


def run(resolved: Resolved[PPOConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "policy" (model), "reward" (reward), "prompts" (JSONL) and "tokens" to a model artefact."""
    opened = open_inputs(inputs, {"policy": "model", "reward": "reward", "tokens": "tokens"})
    config = resolved.config
    with stage_run(out, "model", resolved, opened) as stage:
        deterministic(config.seed)
        keep_freed_memory()
        models = load_models(inputs["policy"], inputs["reward"], config.precision)
        tokens = open_tokens(inputs["tokens"])
        check_inputs(models, tokens, config)
        prompts = read_prompts(
            inputs["prompts"], models.tokenizer, config.max_prompt, config.heldout, config.max_skipped
        )
        if prompts.skipped:
            stage.log(f"{inputs['prompts']}: skipped {prompts.summary()}")
        train(models, prompts, tokens, config, stage)
        report(models, prompts, open_tokens(inputs["tokens"], "valid"), config, stage)
        save_model(models.policy, out, eos_ids=[models.tokenizer.im_end_id, models.tokenizer.eos_id])
        models.tokenizer.save(out)
    shutil.rmtree(out / "checkpoints")  # only now: DONE stands, nothing will continue from them
    artifact = find(out)
    assert artifact is not None
    return artifact


def check_inputs(models: Models, tokens: Tokens, config: PPOConfig) -> None:
    """Refuses pretraining tokens of another vocabulary and lengths the policy was not trained for."""
    if tokens.meta["tokenizer"] != models.tokenizer.content:
        raise DataError(
            "the pretraining tokens were packed with another tokenizer than the policy's",
            fix="pack the corpus with the policy's tokenizer",
        )
    limit = models.policy.config.max_length
    for name, length in (
        ("pretrain_context", config.pretrain_context),
        ("max_prompt + max_new_tokens", config.max_prompt + config.max_new_tokens),
    ):
        if length > limit:
            raise UsageError(
                f"{name} is {length}, the policy was trained with {limit} tokens",
                fix=f"set it to at most {limit}",
            )


def train(models: Models, prompts: Prompts, tokens: Tokens, config: PPOConfig, stage: Run) -> None:
    """All steps from the last checkpoint on."""
    engine = rollout_engine(models, config.rows, stage)
    modules: dict[str, torch.nn.Module] = {"policy": models.policy, "value": models.value}
    policy_optimizer = make_optimizer(models.policy, config.policy_optim)
    value_optimizer = make_optimizer(models.value, config.value_optim)
    optimizers: dict[str, torch.optim.Optimizer] = {"policy": policy_optimizer, "value": value_optimizer}
    policy_guard, value_guard = (
        Guard(config.policy_optim.max_bad_steps),
        Guard(config.value_optim.max_bad_steps),
    )
    moments, start = ppo.RunningMoments(), 0
    saved = checkpoint.load_latest(stage.checkpoints, modules, optimizers)
    if saved:
        start, moments = saved["step"], ppo.RunningMoments(**saved["moments"])
        policy_guard.restore(saved["policy_guard"])
        value_guard.restore(saved["value_guard"])
    metrics = stage.open_metrics(start if saved else None)
    history = read_metrics(stage.path / "metrics.jsonl")
    named: set[str] = set()
    with (
        compiled_blocks(models.blocks) if config.compile else nullcontext(),
        stop_on_signal() as stop,
        checkpoint.Saver(stage.checkpoints, modules, optimizers) as saver,
        Progress("ppo", config.total_steps, start=start) as bar,
    ):
        for step in range(start, config.total_steps):
            warming = step < config.value_warmup_steps  # report: the value model alone, 50 steps
            clock = [time.monotonic()]

            # ---- 1 rollout: two replies a query -------------------------------------------------------------
            queries = prompts_at(prompts.train, step, config.prompts_per_step, config.seed)
            follow(engine.model, models.policy)
            # As in scoring and updating; compiled decoding reads weights of that format and adds in fp32.
            with nullcontext() if engine.compiled else models.autocast():
                replies = sample_replies(
                    engine,
                    [query for query in queries for _ in range(config.responses)],
                    models.tokenizer.im_end_id,
                    seeds=[seed_of(config.seed, step, row) for row in range(config.rows)],
                    temperature=config.temperature,
                    top_p=config.top_p,
                    max_new_tokens=config.max_new_tokens,
                    support=config.top_p < 1,
                )
            clock.append(time.monotonic())

            # ---- 2 scoring: four models, then rewards and advantages ----------------------------------------
            groups = plan(replies, models, config, step)
            minibatches = score_all(models, groups, config, graph=not warming)
            batch = [scored for minibatch in minibatches for scored in minibatch]
            moments, rewards = credit(batch, moments, config)
            clock.append(time.monotonic())

            # ---- 3 update: value, then policy with the pretrained gradient ----------------------------------
            sums: Sums = defaultdict(list)
            for visit, place in enumerate(visits(config, step)):
                loss = value_gradient(models, minibatches[place], config, sums)
                norm = clip_and_step(value_optimizer, loss, config.value_optim, value_guard, step=step + 1)
                sums["value_loss"].append(loss)
                sums["value_grad_norm"].append(norm)
                if warming:
                    continue
                update = (step - config.value_warmup_steps) * config.updates_per_step + visit
                loss = policy_gradient(models, minibatches[place], config, sums)
                sums["policy_loss"].append(loss)
                loss += pretrained_gradient(models, tokens, update, config, sums)
                norm = clip_and_step(policy_optimizer, loss, config.policy_optim, policy_guard, step=step + 1)
                sums["policy_grad_norm"].append(norm)
            clock.append(time.monotonic())
            # ---------------------------------------------------------------------------------------------------

            done = step + 1
            record: dict[str, Any] = {"warming": warming, **reply_metrics(replies, config)}
            record |= score_metrics(batch, rewards, moments) | update_metrics(sums)
            for name, begun, ended in zip(("rollout", "score", "update"), clock, clock[1:]):
                record[f"seconds_{name}"] = ended - begun
            metrics.write(done, **record)
            history.append({"step": done, **record})
            shown = {name: record[name] for name in ("reward", "true_reward", "kl") if name in record}
            bar.update(done, tokens=sum(len(reply.ids) for reply in replies), **shown)

            found = findings([r for r in history if not r["warming"]], config.watchdog)
            for finding in found:
                if (kind := finding.split(":")[0]) not in named:
                    named.add(kind)
                    stage.log(f"step {done}: watchdog: {finding}")
                    note(f"step {done}: {finding}")
            halt = bool(found) and config.watchdog.action == "stop"
            if stop or halt or done % config.checkpoint_every == 0 or done == config.total_steps:
                state = {"moments": asdict(moments), "policy_guard": policy_guard.state()}
                state["value_guard"] = value_guard.state()
                saver.save(done, state)
            if halt:
                raise OpenQwenError(
                    f"the watchdog stopped PPO at step {done}: {'; '.join(found)}",
                    where=str(stage.path),
                    fix="raise kl_coef, lower policy_optim.lr, or set watchdog.action to warn to go on",
                )
            if stop and done < config.total_steps:
                raise stop.interrupted(f"ppo after step {done}")
    stage.fact(**summary(history, config), watchdog=sorted(named))


def rollout_engine(models: Models, rows: int, stage: Run) -> Engine:
    """Decodes with the policy: by compiled code on a CPU, which a line in the log says if it cannot be.

    Compiled code reads weights in the number format of matrix products: a copy, if the policy's own differ (`follow`).
    """
    compiled = models.device.type == "cpu"
    if compiled and (reason := native.missing()):
        stage.log(f"rollouts are slower here: {reason}")
        compiled = False
    policy = models.policy
    if compiled and policy.embed.weight.dtype != models.dtype:
        policy = copy.deepcopy(policy).to(models.dtype).requires_grad_(False)
    return Engine(policy, models.tokenizer, max_batch=rows, compiled=compiled)


@torch.no_grad()
def follow(copied: Qwen, policy: Qwen) -> None:
    """Brings a copy of the policy up to date; nothing to do where it is the policy itself."""
    if copied is not policy:
        for own, live in zip(copied.parameters(), policy.parameters(), strict=True):
            own.copy_(live)


def reply_metrics(replies: Sequence[Reply], config: PPOConfig) -> dict[str, Any]:
    """What the replies look like, and the true reward where it is known."""
    count = len(replies)
    record: dict[str, Any] = {
        "length": sum(len(reply.ids) for reply in replies) / count,
        "cut_off": sum(not reply.finished for reply in replies) / count,
        "repetition": sum(repetition(reply.ids) for reply in replies) / count,
    }
    if config.true_reward is not None:
        judge = TRUE_SCORES[config.true_reward]
        record["true_reward"] = sum(judge(reply.prompt.item, reply.text) for reply in replies) / count
    return record


def score_metrics(
    batch: Sequence[Scored], rewards: Sequence[float], moments: ppo.RunningMoments
) -> dict[str, Any]:
    """Rewards, divergence from the reference (nats a reply), entropy (nats a token), how good the values were."""
    replies = [reply for scored in batch for reply in scored.rows.replies]
    raw = [value for scored in batch for value in scored.score_B if math.isfinite(value)]
    values_N, returns_N = (
        torch.cat([ppo.flatten(x, s.rows.mask_BR) for x, s in zip(xs, batch)])
        for xs in ([s.values_BR for s in batch], [s.returns_BR for s in batch])
    )
    everything = torch.ones_like(values_N, dtype=torch.bool)
    return {
        "reward": sum(raw) / len(raw) if raw else math.nan,
        "reward_normalised": sum(rewards) / len(rewards),
        "reward_mean": moments.mean,
        "reward_std": moments.std,
        "bad_scores": sum(reply.finished for reply in replies) - len(raw),
        "kl": sum(s.k1_BR.sum().item() for s in batch) / len(replies),
        "kl_k3": sum(s.k3_BR.sum().item() for s in batch) / len(replies),
        "kl_exact": sum(s.exact_kl_N.sum().item() for s in batch) / len(replies),
        "entropy": torch.cat([s.entropy_N for s in batch]).mean().item(),
        "rollout_gap": max(s.rollout_gap for s in batch),
        "explained_variance": ppo.explained_variance(values_N, returns_N, everything),
    }


def update_metrics(sums: Sums) -> dict[str, Any]:
    """Losses averaged over minibatches, clip fractions over tokens, the widest ratios; log_ratio_start is the
    largest |log ratio| before the first update of the step, 0.0 when rollout and update compute the same."""
    record = {
        name: sum(sums[name]) / len(sums[name])
        for name in ("value_loss", "value_grad_norm", "policy_loss", "policy_grad_norm", "pretrain_loss")
        if sums[name]
    }
    record["value_clip_fraction"] = sum(sums["value_clipped"]) / sum(sums["value_tokens"])
    if sums["policy_tokens"]:
        tokens = sum(sums["policy_tokens"])
        record |= {
            "policy_clip_fraction": sum(sums["policy_clipped"]) / tokens,
            "approx_kl": sum(sums["approx_kl"]) / tokens,
            "ratio_max": max(sums["ratio_max"]),
            "ratio_min": min(sums["ratio_min"]),
            "log_ratio_start": sums["log_ratio"][0],
        }
    return record


def summary(history: Sequence[dict[str, Any]], config: PPOConfig) -> dict[str, Any]:
    """Facts about the whole run."""
    starts = [record["log_ratio_start"] for record in history if record.get("log_ratio_start") is not None]
    seconds = {
        name: round(sum(record[f"seconds_{name}"] for record in history), 2)
        for name in ("rollout", "score", "update")
    }
    ppo_tokens = sum(record["length"] * config.rows for record in history if not record["warming"])
    updates = config.steps * config.updates_per_step if config.pretrain_coef else 0
    return {
        "steps": config.total_steps,
        "max_log_ratio_start": max(starts, default=0.0),
        "reply_tokens": round(ppo_tokens),
        "pretrain_tokens": updates * config.pretrain_batch * config.pretrain_context,
        "seconds": seconds,
    }


def report(models: Models, prompts: Prompts, valid: Tokens, config: PPOConfig, stage: Run) -> None:
    """The alignment tax; held-out replies before and after: heldout.jsonl, comparison.json (Figure 4), samples."""
    sides = {"before": models.reference, "after": models.policy}
    for name, model in sides.items():
        loss = text_loss(models, model, valid, config.pretrain_context, config.eval_tokens, config.seed)
        stage.fact(**{f"text_loss_{name}": loss})
    if not prompts.heldout:
        return
    seeds = [seed_of(config.seed, config.total_steps, row) for row in range(len(prompts.heldout))]
    records: list[dict[str, Any]] = [{"id": p.item.get("id"), "prompt": p.text} for p in prompts.heldout]
    for name, model in sides.items():
        replies = answer(models, model, prompts.heldout, seeds, config)
        rewards = modelled_rewards(models, replies, config.micro_rows)
        for record, reply, reward in zip(records, replies, rewards):
            record |= {name: reply.text, f"reward_{name}": reward}
            if config.true_reward is not None:
                record[f"true_{name}"] = TRUE_SCORES[config.true_reward](reply.prompt.item, reply.text)
        stage.fact(**side_facts(name, records, replies, config))
        if model is models.policy:
            stage.fact(kl_final=divergence(models, replies, config.micro_rows))
    by = "true" if config.true_reward is not None else "reward"
    # A cut-off reply has no modelled reward: it loses against any that has one.
    worth = [
        [-math.inf if (w := record[f"{by}_{name}"]) is None else w for record in records] for name in sides
    ]
    verdict = {"by": by, **compare(*worth)}
    write_jsonl(stage.path / "heldout.jsonl", records)
    write_json(stage.path / "comparison.json", verdict)
    write_jsonl(stage.path / "samples.jsonl", _samples(records[: config.num_samples]))
    stage.fact(comparison=verdict)


def side_facts(
    name: str, records: Sequence[dict[str, Any]], replies: Sequence[Reply], config: PPOConfig
) -> dict[str, Any]:
    """Means over the held-out prompts for one side, "before" or "after"."""
    facts = {
        f"reward_{name}": _mean([r[f"reward_{name}"] for r in records if r[f"reward_{name}"] is not None]),
        f"length_{name}": _mean([len(reply.ids) for reply in replies]),
        f"stopped_{name}": _mean([reply.finished for reply in replies]),
    }
    if config.true_reward is not None:
        facts[f"true_{name}"] = _mean([record[f"true_{name}"] for record in records])
    return facts


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _samples(records: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {"label": name, "prompt": record["prompt"], "text": record[name]}
        for record in records
        for name in ("before", "after")
    ]
