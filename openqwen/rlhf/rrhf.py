"""RRHF: the policy learns to find those of its replies more likely that the reward model likes better.

Report §6.2 names it among the alternatives to PPO. Ours: everything else. The loss is that of Yuan et al. 2023: replies to
a prompt are scored by their mean log-probability a token, each pair in another order than their rewards costs what the
scores differ by, and the best reply is finetuned on. They write that part as a sum over tokens; their script and we take
the mean. Replies are drawn and judged as rejection sampling's are (rft.py), once and beforehand; a run that was
killed goes on with the first batch that is missing, then with the loop's checkpoints (train/trainer.py).

Shapes: B prompts, K replies to a prompt, of those with fewer the last places are empty; N replies end to end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from openqwen.chat import chatml
from openqwen.chat.messages import Message
from openqwen.core.artifact import Artifact, Run, open_inputs, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.metrics import read_metrics
from openqwen.model.qwen import Qwen
from openqwen.reward.data import batch_at, render_pair_side, steps_per_epoch
from openqwen.rlhf import ppo
from openqwen.rlhf.config import RRHFConfig
from openqwen.rlhf.dpo import heldout_means, reply_logp
from openqwen.rlhf.rft import FILE, KINDS, draw, need_two, ranked
from openqwen.sft.data import Skipped, split_heldout
from openqwen.sft.loop import greedy_reply
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train import lora
from openqwen.train.distributed import World
from openqwen.train.flops import flops_of_rows
from openqwen.train.precision import pick_dtype
from openqwen.train.trainer import Batch, fit, run_stage, write_model


def run(resolved: Resolved[RRHFConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "policy" (model), "reward" (reward) and "prompts" (JSONL) to a model artefact."""
    opened = open_inputs(inputs, KINDS)
    return run_stage(resolved, opened, out, "model", partial(train, resolved.config, inputs))


# ---- mathematics -------------------------------------------------------------------------------------------------
def rank_loss(score_BK: Tensor, reward_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Hinge loss and share of pairs in the right order, both (B,), over each prompt's pairs of unequal rewards.

    A pair costs as much as the reply with the lower reward is scored above the other. Reward nan: no reply stands there.
    The share is nan where a prompt has no such pair.
    """
    better_BKK = reward_BK[:, :, None] > reward_BK[:, None, :]  # never true of nan
    ahead_BKK = score_BK[:, :, None] - score_BK[:, None, :]
    loss_B = torch.where(better_BKK, (-ahead_BKK).relu(), 0.0).sum((1, 2))
    right_BKK = (ahead_BKK > 0) + 0.5 * (ahead_BKK == 0)
    return loss_B, torch.where(better_BKK, right_BKK, 0.0).sum((1, 2)) / better_BKK.sum((1, 2))


def best_loss(score_BK: Tensor, reward_BK: Tensor) -> Tensor:
    """Cross-entropy (B,) a token of the reply with the highest reward, the first of equals."""
    best_B1 = reward_BK.nan_to_num(-math.inf).argmax(1, keepdim=True)
    return -score_BK.gather(1, best_B1).squeeze(1)


# ---- what is ranked ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ranking:
    """Replies to one prompt, the best first. rows: prompt and reply, up to and with the end-of-turn token."""

    line: int
    messages: Sequence[Message]
    start: int  # where replies begin in the rows
    rows: list[list[int]]
    rewards: list[float]


def rankings(
    records: Sequence[Mapping[str, Any]], max_length: int, tokenizer: Tokenizer
) -> tuple[list[Ranking], list[Skipped]]:
    """The prompts with two replies or more that differ in reward and are at most `max_length` long; and the others."""
    found: list[Ranking] = []
    skipped: list[Skipped] = []
    for record in records:
        messages = record["messages"]
        worth = ranked(record["replies"], record["rewards"])
        rows = [(render_pair_side(messages, text, tokenizer), reward) for text, reward in worth.items()]
        kept = [(ids, reward) for ids, reward in rows if len(ids) <= max_length]
        if len({reward for _, reward in kept}) > 1:
            start = len(chatml.render_prompt(messages, tokenizer))
            ids, rewards = zip(*kept)
            found.append(Ranking(record["line"], messages, start, list(ids), list(rewards)))
        else:
            skipped.append(Skipped("prompts", record["line"], "without two replies that differ in reward"))
    return found, skipped


# ---- the run -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rankings:
    """What RRHF gives the loop. Items are prompts with their replies, those of like length side by side."""

    config: RRHFConfig
    model: Qwen
    training: Sequence[Ranking]
    heldout: Sequence[Ranking]
    tokenizer: Tokenizer
    dtype: torch.dtype
    prompts: Path
    label: str = "rrhf"
    measures: tuple[str, ...] = ("rank_loss", "best_loss", "accuracy")
    sample_interval: int | None = None

    @property
    def steps(self) -> int:
        return self.config.epochs * steps_per_epoch(len(self.training), self.config.batch_size)

    def batch(self, step: int) -> Batch:
        items = batch_at(self.training, step, self.config.batch_size, self.config.seed)
        items.sort(key=lambda item: (max(map(len, item.rows)), item.line))
        lengths = [len(row) for item in items for row in item.rows]
        trained = sum(lengths) - sum(item.start * len(item.rows) for item in items)
        flops = flops_of_rows(self.model.config, lengths, trained)
        return Batch(items, counted=len(items), tokens=sum(lengths), flops=flops)

    def losses(self, items: Sequence[Ranking]) -> list[Tensor]:
        score_BK, reward_BK = scores(self.model, items)
        rank_B, right_B = rank_loss(score_BK, reward_BK)
        best_B = best_loss(score_BK, reward_BK)
        loss = (self.config.rank_weight * rank_B + best_B).sum()
        return [loss, rank_B.detach().sum(), best_B.detach().sum(), right_B.sum()]

    def names(self, items: Sequence[Ranking]) -> Iterator[str]:
        for item in items:
            yield f"{self.prompts}:{item.line}"

    def evaluate(self) -> dict[str, float]:
        means = heldout_means(self.model, self.heldout, self.losses, self.config.micro_batch, self.dtype)
        return dict(zip([f"heldout_{name}" for name in ("loss", *self.measures)], means, strict=True))

    def samples(self, label: str) -> list[dict[str, Any]]:
        """Greedy replies to the first held-out prompts."""
        found = []
        for item in self.heldout[: self.config.num_samples]:
            text, _ = greedy_reply(self.model, item.messages, self.tokenizer, self.config.sample_tokens)
            found.append({"label": label, "prompt": item.messages[-1]["content"], "text": text})
        return found


def train(config: RRHFConfig, inputs: Mapping[str, Path], stage: Run, world: World) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    if world.main:
        draw(config, inputs, stage)
    world.barrier("drawing replies")
    tokenizer = load_tokenizer(inputs["policy"])
    model = lora.load_base(inputs["policy"], config.lora, config.seed, 0.0, world.device).train()
    length = min(config.max_length, model.config.max_length)
    usable, skipped = rankings(read_metrics(stage.path / FILE), length, tokenizer)
    need_two(len(usable), len(skipped), "replies to rank", inputs["prompts"])
    training, heldout = split_heldout(usable, config.heldout_prompts, config.seed)
    dtype = pick_dtype(config.precision, world.device)
    task = Rankings(config, model, training, heldout, tokenizer, dtype, inputs["prompts"])
    found = fit(task, model, model.blocks, config, stage, world)

    if not write_model(model, stage, world, [tokenizer.im_end_id, tokenizer.eos_id]):
        return
    tokenizer.save(stage.path)
    write_jsonl(stage.path / "skipped.jsonl", [asdict(record) for record in skipped])
    stage.fact(
        steps=task.steps,
        prompts=len(training),
        replies=sum(len(item.rows) for item in training),
        heldout_prompts=len(heldout),
        **found.last,
        heldout_accuracy_before=found.first["heldout_accuracy"],
        skipped=dict(Counter(record.reason for record in skipped)),
    )


def scores(model: Qwen, items: Sequence[Ranking]) -> tuple[Tensor, Tensor]:
    """Mean log-probability a token of each reply, end token included, and its reward: (B, K) and (B, K), fp32.

    Where a prompt has no reply of that number the score is 0 and the reward nan.
    """
    rows = [row for item in items for row in item.rows]
    starts = [item.start for item in items for _ in item.rows]
    logp_N = reply_logp(model, rows, starts)
    lengths_N = logp_N.new_tensor([len(row) - start for row, start in zip(rows, starts)])
    rewards = [logp_N.new_tensor(item.rewards) for item in items]
    reward_BK = pad_sequence(rewards, batch_first=True, padding_value=math.nan)
    return ppo.unflatten(logp_N / lengths_N, ~reward_BK.isnan()), reward_BK
