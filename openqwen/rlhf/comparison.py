"""Policies side by side: the chat model, PPO, its alternatives and best-of-n, on one table.

Report §3.2.2 (alignment tax), §6.2 (alternatives). Ours: the measurement. All answer the same prompts with the same
seeds; one reward model, one true score (where it is known), one text and one set of questions judge them. The first
model is the reference: the others' KL is from it, wins are against it, and best-of-n chooses among its replies.

Each row is written when it is whole; a run that was killed goes on with the first that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openqwen.chat import chatml
from openqwen.core.artifact import (
    Artifact,
    Run,
    find,
    open_inputs,
    read_jsonl,
    stage_run,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError, UsageError
from openqwen.core.intervals import bootstrap, wilson
from openqwen.core.metrics import read_metrics
from openqwen.core.shards import Tokens, open_tokens
from openqwen.data.primer import check
from openqwen.engine import Engine, Sampling
from openqwen.model.weights import load_model
from openqwen.rlhf.config import CompareConfig
from openqwen.rlhf.evaluate import compare, divergence, modelled_rewards, text_loss
from openqwen.rlhf.loop import TRUE_SCORES, rollout_engine
from openqwen.rlhf.models import Models, load_models
from openqwen.rlhf.prompts import Prompt, read_prompts
from openqwen.rlhf.rft import answers, best_place
from openqwen.rlhf.rollout import Reply, seed_of
from openqwen.tokenizer import load_tokenizer
from openqwen.train.precision import deterministic

FILE = "rows.jsonl"
TABLE = "policies.json"
MODEL = "model-"  # inputs that are compared: model-NAME
# Key of a row -> its column in the table.
COLUMNS = {
    "true": "true reward",
    "reward": "modelled reward",
    "win_rate": "win rate, %",
    "kl": "KL, nats a reply",
    "tax": "alignment tax, nats a token",
    "answered": "questions, %",
    "length": "length, tokens",
    "finished": "ends by itself, %",
}


def run(resolved: Resolved[CompareConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "reward", "prompts" (JSONL), "tokens" and models ("model-NAME", the first is the reference), optionally
    "questions" (JSONL in the primer's form), to a comparison artefact."""
    config = resolved.config
    names = [name.removeprefix(MODEL) for name in inputs if name.startswith(MODEL)]
    if not names:
        raise UsageError("no model is to be compared", where="--model", fix="--model NAME=ARTEFACT")
    kinds: dict[str, str | tuple[str, ...]] = {"reward": "reward", "tokens": "tokens"}
    opened = open_inputs(inputs, {**kinds, **{MODEL + name: "model" for name in names}})
    with stage_run(out, "comparison", resolved, opened) as stage:
        deterministic(config.seed)
        rows = measured(names, inputs, config, stage)
        write_json(out / TABLE, table(rows, config, stage.fingerprint))
        write_jsonl(out / "samples.jsonl", [sample for row in rows for sample in row["samples"]])
        stage.fact(rows={row["model"]: row["means"] for row in rows})
    done = find(out)
    assert done is not None
    return done


def measured(
    names: Sequence[str], inputs: Mapping[str, Path], config: CompareConfig, stage: Run
) -> list[dict[str, Any]]:
    """The rows of rows.jsonl, those that are missing measured now."""
    models = load_models(inputs[MODEL + names[0]], inputs["reward"], config.precision)
    models = replace(models, value=models.reward)  # PPO's copy is not needed
    prompts = usable_prompts(inputs["prompts"], models, config, stage)
    valid = open_tokens(inputs["tokens"], "valid")
    if valid.meta["tokenizer"] != models.tokenizer.content:
        raise DataError(
            "the text was packed with another tokenizer than the models'",
            where=str(inputs["tokens"]),
            fix="pack the corpus with their tokenizer",
        )
    questions = list(read_jsonl(inputs["questions"])) if "questions" in inputs else []
    jobs: list[tuple[str, int]] = [(names[0], 1)]
    jobs += [(f"best of {count}", count) for count in config.best_of] + [(name, 1) for name in names[1:]]
    written = [row["model"] for row in read_metrics(stage.path / FILE)] if stage.resumed else []
    if written != [label for label, _ in jobs][: len(written)]:
        raise DataError("rows of other models are in the way", where=str(stage.path), fix="delete the folder")
    file = stage.open_metrics(len(written), FILE)
    with Progress("policies", len(jobs), start=len(written)) as bar:
        for number, (label, count) in enumerate(jobs[len(written) :], len(written) + 1):
            if count == 1 and number > 1:
                models = with_policy(models, inputs[MODEL + label])
            values = measure(models, label, count, prompts, valid, questions, config, stage)
            file.write(number, model=label, **values)
            bar.update(number)
    file.sync()
    rows = read_metrics(stage.path / FILE)
    for row in rows:
        row["means"] = summary(row, rows[0], config)
    return rows


def usable_prompts(path: Path, models: Models, config: CompareConfig, stage: Run) -> list[Prompt]:
    """The prompts of a file, each once; none is held out, for all of them are."""
    prompts = read_prompts(path, models.tokenizer, config.max_prompt, 0, config.max_skipped)
    if prompts.skipped:
        stage.log(f"{path}: skipped {prompts.summary()}")
    return prompts.train[: config.max_prompts]


def with_policy(models: Models, path: Path) -> Models:
    """Another policy beside the same reference and reward model. DataError if it has another tokenizer."""
    if load_tokenizer(path).content != models.tokenizer.content:
        raise DataError(
            "this model has another tokenizer than the first",
            where=str(path),
            fix="compare models with one tokenizer",
        )
    return replace(models, policy=load_model(path).to(models.device).eval())


# ---- one row -----------------------------------------------------------------------------------------------------
def measure(
    models: Models,
    label: str,
    count: int,
    prompts: Sequence[Prompt],
    valid: Tokens,
    questions: Sequence[Mapping[str, Any]],
    config: CompareConfig,
    stage: Run,
) -> dict[str, Any]:
    """What one policy does; with `count` above 1, what the best of so many of its replies are.

    Lists have a value a prompt: the mean over its replies.
    """
    engine = rollout_engine(models, config.drawing.rows, stage)
    replies, rewards = drawn(models, engine, prompts, count, config)
    trues = None
    if config.true_reward is not None:
        judge = TRUE_SCORES[config.true_reward]
        trues = [judge(reply.prompt.item, reply.text) for reply in replies]
    if count == 1:
        kl = divergence(models, replies, config.micro_rows)
    else:
        kl = best_of_kl(count)
    each = config.responses
    found: dict[str, Any] = {
        "reward": [mean(rewards[at : at + each]) for at in range(0, len(replies), each)],
        "true": None
        if trues is None
        else [mean(trues[at : at + each]) for at in range(0, len(replies), each)],
        "kl": kl,
        "length": mean([len(reply.ids) for reply in replies]),
        "finished": [reply.finished for reply in replies],
        "samples": [
            {"label": label, "prompt": reply.prompt.text, "text": reply.text}
            for reply in replies[: 2 * each : each]
        ],
    }
    if count == 1:  # the best of n are replies, not a model: its text and its questions are the reference's
        context = min(config.text_context, models.policy.config.max_length)
        found["text_loss"] = text_loss(models, models.policy, valid, context, config.text_tokens, config.seed)
        found["answered"] = answered(models, engine, questions, config)
    return found


def drawn(
    models: Models, engine: Engine, prompts: Sequence[Prompt], count: int, config: CompareConfig
) -> tuple[list[Reply], list[float | None]]:
    """`responses` replies to each prompt, prompt by prompt, each the best of `count` draws; and their rewards."""
    replies: list[Reply] = []
    rewards: list[float | None] = []
    queries = [prompt for prompt in prompts for _ in range(config.responses)]
    size = max(1, config.drawing.rows // count)
    for at in range(0, len(queries), size):
        part = queries[at : at + size]
        seeds = [seed_of(config.seed, draw, at + row) for row in range(len(part)) for draw in range(count)]
        found = answers(
            models, engine, [query for query in part for _ in range(count)], seeds, config.drawing
        )
        scores = modelled_rewards(models, found, config.micro_rows)
        for start in range(0, len(found), count):
            place = start + best_place(scores[start : start + count])
            replies.append(found[place])
            rewards.append(scores[place])
    return replies, rewards


def best_of_kl(count: int) -> float:
    """The most nats that choosing the best of `count` replies can move from the model that wrote them."""
    return math.log(count) - (count - 1) / count


def answered(
    models: Models, engine: Engine, questions: Sequence[Mapping[str, Any]], config: CompareConfig
) -> list[bool] | None:
    """Which of the questions are answered rightly, greedily; None if there are none."""
    if not questions:
        return None
    tokenizer = models.tokenizer
    asked = [[m for m in question["messages"] if m["role"] != "assistant"] for question in questions]
    greedy = Sampling(temperature=0, max_tokens=config.question_tokens)
    done = engine.generate([chatml.render_prompt(messages, tokenizer) for messages in asked], greedy)
    return [check(question, completion.text) for question, completion in zip(questions, done, strict=True)]


# ---- the table ---------------------------------------------------------------------------------------------------
def summary(
    row: Mapping[str, Any], first: Mapping[str, Any], config: CompareConfig
) -> dict[str, float | None]:
    """The numbers of a row; what was not measured is None."""
    cells = cells_of(row, first, config)
    return {key: cells[name]["value"] if name in cells else None for key, name in COLUMNS.items()}


def cells_of(
    row: Mapping[str, Any], first: Mapping[str, Any], config: CompareConfig
) -> dict[str, dict[str, Any]]:
    """A row's cells by column, intervals (95 %) over prompts or questions."""
    cells: dict[str, dict[str, Any]] = {}
    for key in ("true", "reward"):
        if values := [value for value in row[key] or () if value is not None]:
            low, high = bootstrap(values, config.seed)
            cells[COLUMNS[key]] = {"value": mean(values), "low": low, "high": high, "n": len(values)}
    by = "true" if row["true"] is not None else "reward"
    if row["model"] != first["model"]:
        worth = [[-math.inf if value is None else value for value in side[by]] for side in (first, row)]
        verdict = compare(*worth)
        cells[COLUMNS["win_rate"]] = {
            "value": 100 * verdict["win_rate"],
            "low": 100 * verdict["win_rate_low"],
            "high": 100 * verdict["win_rate_high"],
            "n": verdict["prompts"],
        }
    cells[COLUMNS["kl"]] = {"value": row["kl"]}
    if "text_loss" in row:
        cells[COLUMNS["tax"]] = {"value": row["text_loss"] - first["text_loss"]}
    for key in ("answered", "finished"):
        if flags := row.get(key):
            low, high = wilson(sum(flags), len(flags))
            share = 100 * sum(flags) / len(flags)
            cells[COLUMNS[key]] = {"value": share, "low": 100 * low, "high": 100 * high, "n": len(flags)}
    cells[COLUMNS["length"]] = {"value": row["length"]}
    return cells


def table(rows: Sequence[Mapping[str, Any]], config: CompareConfig, manifest: str) -> dict[str, Any]:
    """The table of core/tables.py's form. manifest: what vouches for its cells."""
    first = rows[0]
    by_row = [cells_of(row, first, config) for row in rows]
    shown = [{"name": name} for name in COLUMNS.values() if any(name in cells for cells in by_row)]
    return {
        "title": "Policies side by side",
        "columns": shown,
        "rows": [
            {"model": row["model"], "origin": "ours", "cells": signed(cells, manifest)}
            for row, cells in zip(rows, by_row)
        ],
        "notes": [
            f"KL and wins are from and against {first['model']}; the alignment tax is the rise of the loss on held-out "
            "text over its.",
            "Best of n: among the first model's replies the reward model's favourite; its KL is an upper bound, and the "
            "weights do not change.",
            "Intervals are 95 %: bootstrap over prompts, Wilson for shares.",
        ],
    }


def signed(cells: Mapping[str, Mapping[str, Any]], manifest: str) -> dict[str, dict[str, Any]]:
    """The cells with what vouches for them; without it no table shows a number of ours."""
    return {name: {**cell, "manifest": manifest} for name, cell in cells.items()}


def mean(values: Sequence[float | None]) -> float | None:
    """Of what is there; None if nothing is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
