"""Rejection sampling finetuning: the model draws replies, the reward model chooses, finetuning learns the chosen ones.

Report §6.2 names it among the alternatives to PPO. Ours: everything else. Replies are drawn and judged as PPO's are
(rollout.py, evaluate.py), finetuning is that of §3.1.2 (sft/loop.py). Each batch of prompts is written when it is whole,
so a run that was killed goes on with the first that is not, and then with finetuning's checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from openqwen.chat import chatml
from openqwen.core.artifact import Artifact, Run, open_inputs
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.core.metrics import read_metrics
from openqwen.engine import Engine
from openqwen.rlhf.config import DrawingConfig, DrawnConfig, RFTConfig
from openqwen.rlhf.evaluate import modelled_rewards
from openqwen.rlhf.loop import rollout_engine
from openqwen.rlhf.models import Models, load_models
from openqwen.rlhf.prompts import Prompt, read_prompts
from openqwen.rlhf.rollout import Reply, sample_replies, seed_of
from openqwen.sft import loop as sft
from openqwen.sft.data import Sample, Skipped
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train.distributed import World
from openqwen.train.trainer import run_stage

FILE = "replies.jsonl"
KINDS: dict[str, str | tuple[str, ...]] = {"policy": "model", "reward": "reward"}


def run(resolved: Resolved[RFTConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "policy" (model), "reward" (reward) and "prompts" (JSONL) to a model artefact."""
    opened = open_inputs(inputs, KINDS)
    return run_stage(resolved, opened, out, "model", partial(train, resolved.config, inputs))


def train(config: RFTConfig, inputs: Mapping[str, Path], stage: Run, world: World) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    if world.main:
        draw(config, inputs, stage)
    world.barrier("drawing replies")
    tokenizer = load_tokenizer(inputs["policy"])
    samples, skipped = chosen(read_metrics(stage.path / FILE), config, tokenizer)
    need_two(len(samples), len(skipped), "a reply to train on", inputs["prompts"])
    sft.train(config, samples, skipped, tokenizer, inputs["policy"], stage, world)


def need_two(usable: int, skipped: int, what: str, prompts: Path) -> None:
    """DataError for less than a prompt to train on and one to hold out."""
    if usable < 2:
        raise DataError(
            f"of {usable + skipped} prompts {usable} have {what}",
            where=str(prompts),
            fix="more prompts, more responses, or a larger drawing.max_new_tokens",
        )


def draw(config: DrawnConfig, inputs: Mapping[str, Path], stage: Run) -> None:
    """replies.jsonl: a record a prompt, with all replies and their rewards, from the first batch that is missing."""
    models = load_models(inputs["policy"], inputs["reward"], config.precision)
    models = replace(models, value=models.reward, reference=models.policy)  # PPO's copies are not needed
    prompts = read_prompts(
        inputs["prompts"], models.tokenizer, config.max_prompt, config.heldout, config.max_skipped
    )
    if prompts.skipped:
        stage.log(f"{inputs['prompts']}: skipped {prompts.summary()}")
    written = read_metrics(stage.path / FILE) if stage.resumed else []
    done = max((record["step"] for record in written), default=0)
    size = max(1, config.drawing.rows // config.responses)
    batches = [prompts.train[i : i + size] for i in range(0, len(prompts.train), size)]
    if written and done == len(batches) and len(written) == len(prompts.train):
        return
    # The last batch that was written may lack records: it is drawn again, whole.
    file = stage.open_metrics(done - 1 if written else None, FILE)
    engine = rollout_engine(models, config.drawing.rows, stage)
    with Progress("replies", len(batches), start=max(0, done - 1)) as bar:
        for number in range(max(1, done), len(batches) + 1):
            for record in drawn(models, engine, batches[number - 1], config, number):
                file.write(number, **record)
            bar.update(number)
    file.sync()


def drawn(
    models: Models, engine: Engine, prompts: Sequence[Prompt], config: DrawnConfig, batch: int
) -> list[dict[str, Any]]:
    """The records of a batch of prompts."""
    count = config.responses
    queries = [prompt for prompt in prompts for _ in range(count)]
    seeds = [seed_of(config.seed, batch, row) for row in range(len(queries))]
    replies = answers(models, engine, queries, seeds, config.drawing)
    rewards = modelled_rewards(models, replies, config.micro_rows)
    return [
        {
            "line": prompt.line,
            "messages": prompt.item["messages"],
            "replies": [reply.text for reply in replies[at : at + count]],
            "rewards": rewards[at : at + count],
        }
        for at, prompt in zip(range(0, len(replies), count), prompts)
    ]


def answers(
    models: Models, engine: Engine, queries: Sequence[Prompt], seeds: Sequence[int], drawing: DrawingConfig
) -> list[Reply]:
    """One reply to each query. Without supports: nothing here compares probabilities of what was drawn."""
    # Compiled decoding has a number format of its own.
    with nullcontext() if engine.compiled else models.autocast():
        return sample_replies(
            engine,
            queries,
            models.tokenizer.im_end_id,
            seeds=seeds,
            temperature=drawing.temperature,
            top_p=drawing.top_p,
            max_new_tokens=drawing.max_new_tokens,
            support=False,
        )


def best_place(rewards: Sequence[float | None]) -> int:
    """Where the highest reward stands, the first of equals; a reply that was cut off has none and loses."""
    return max(range(len(rewards)), key=lambda i: -math.inf if (r := rewards[i]) is None else r)


def ranked(replies: Sequence[str], rewards: Sequence[float | None]) -> dict[str, float]:
    """Reward by reply, the highest first, each text once; one that was cut off or is empty is left out."""
    found: dict[str, float] = {}
    scored = [(reward, text) for reward, text in zip(rewards, replies) if reward is not None and text.strip()]
    for reward, text in sorted(scored, key=lambda pair: -pair[0]):  # stable: of equals the one drawn first
        found.setdefault(text, reward)
    return found


def best(replies: Sequence[str], rewards: Sequence[float | None], keep: int) -> list[str]:
    """The replies of the highest rewards."""
    return list(ranked(replies, rewards))[:keep]


def chosen(
    records: Sequence[Mapping[str, Any]], config: RFTConfig, tokenizer: Tokenizer
) -> tuple[list[Sample], list[Skipped]]:
    """Conversations to train on, and the prompts that have none."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for record in records:
        texts = best(record["replies"], record["rewards"], config.keep)
        if not texts:
            skipped.append(Skipped("prompts", record["line"], "no reply that ended by itself"))
        for text in texts:
            messages = [*record["messages"], {"role": "assistant", "content": text}]
            ids, trained = chatml.render(messages, tokenizer, mask=config.mask)
            if len(ids) <= config.max_length:
                samples.append(Sample("prompts", record["line"], messages, ids, trained))
            else:
                skipped.append(
                    Skipped("prompts", record["line"], f"longer than max_length {config.max_length}")
                )
    return samples, skipped
