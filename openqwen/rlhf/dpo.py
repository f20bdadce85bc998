"""Direct preference optimisation: the policy learns from comparison pairs, without a reward model and without sampling.

Report §6.2 names it among the alternatives to PPO. Ours: everything else. The loss is that of Rafailov et al. 2023; the
pairs are those of the reward model (reward/data.py), the loop is train/trainer.py. The reference is the policy as it
was at the start: its log-probabilities are computed once, before the first step, so it takes no memory afterwards.

Shapes: B replies, T tokens of prompt and reply, N reply tokens of a batch end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openqwen.chat import chatml
from openqwen.core.artifact import Artifact, Run, open_inputs
from openqwen.core.config import Resolved
from openqwen.model.qwen import Qwen
from openqwen.model.stored import open_checkpoint
from openqwen.reward.data import Pair, Pairs, batch_at, read_pairs, refuse_shared, steps_per_epoch
from openqwen.rlhf import ppo
from openqwen.rlhf.config import DPOConfig
from openqwen.sft.loop import greedy_reply
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train import lora
from openqwen.train.distributed import World
from openqwen.train.flops import flops_of_rows
from openqwen.train.padding import right_pad
from openqwen.train.precision import autocast, pick_dtype
from openqwen.train.trainer import Batch, fit, run_stage, write_model

KINDS: dict[str, str | tuple[str, ...]] = {"policy": "model"}


def run(resolved: Resolved[DPOConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "policy" (model), "pairs" and "heldout" (files that openqwen.reward reads) to a model artefact."""
    config = resolved.config
    opened = open_inputs(inputs, KINDS)
    tokenizer = load_tokenizer(inputs["policy"])
    length = min(config.max_length, open_checkpoint(inputs["policy"]).config.max_length)
    pairs, heldout = (
        read_pairs(inputs[name], tokenizer, length, config.max_skipped) for name in ("pairs", "heldout")
    )
    refuse_shared(pairs, heldout)
    return run_stage(
        resolved, opened, out, "model", partial(train, config, pairs, heldout, tokenizer, inputs["policy"])
    )


# ---- mathematics -------------------------------------------------------------------------------------------------
def dpo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Loss and margin (B,) of each pair, from the summed log-probabilities of whole replies.

    margin: beta times the log-ratio of the chosen reply to the reference minus that of the rejected one, the difference
    of the two implicit rewards. label_smoothing: the share of pairs that is taken to be the wrong way round.
    """
    margin_B = beta * ((chosen_B - reference_chosen_B) - (rejected_B - reference_rejected_B))
    right, wrong = F.logsigmoid(margin_B), F.logsigmoid(-margin_B)
    return -(1 - label_smoothing) * right - label_smoothing * wrong, margin_B


def reply_logp(model: Qwen, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """Log-probability (B,) in fp32 of each row from its token `starts[b]` on, the end token included."""
    device = model.head.weight.device
    ids_BT, real_BT = right_pad(rows, device)
    place_T = torch.arange(1, ids_BT.shape[1], device=device)
    reply_BT = real_BT[:, 1:] & (place_T >= torch.tensor(starts, device=device)[:, None])
    hidden_NC = model.hidden(ids_BT, real_BT)[:, :-1][reply_BT]  # only these go through the vocabulary head
    logp_N = ppo.token_logp(model.head(hidden_NC).float(), ids_BT[:, 1:][reply_BT])
    return ppo.unflatten(logp_N, reply_BT).sum(1)


def common_start(pair: Pair) -> int:
    """How many tokens both sides begin with: the prompt, and what the replies share.

    A model gives them one probability, so they cancel in the margin and are not computed.
    """
    both = zip(pair.chosen_ids, pair.rejected_ids)
    return next(place for place, (one, other) in enumerate(both) if one != other)


# ---- the run -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Choice:
    """A pair with what the reference gives it: log-probabilities of the chosen and of the rejected reply."""

    pair: Pair
    start: int
    reference: tuple[float, float]


@dataclass(frozen=True)
class Preferences:
    """What direct preference optimisation gives the loop. Items are pairs, those of like length side by side."""

    config: DPOConfig
    model: Qwen
    choices: Sequence[Choice]
    heldout: Sequence[Choice]
    tokenizer: Tokenizer
    dtype: torch.dtype
    label: str = "dpo"
    measures: tuple[str, ...] = ("accuracy", "margin", "chosen_reward")
    sample_interval: int | None = None

    @property
    def steps(self) -> int:
        return self.config.epochs * steps_per_epoch(len(self.choices), self.config.batch_size)

    def batch(self, step: int) -> Batch:
        choices = batch_at(self.choices, step, self.config.batch_size, self.config.seed)
        choices.sort(key=lambda choice: (max(choice.pair.lengths), choice.pair.where))
        lengths = [length for choice in choices for length in choice.pair.lengths]
        trained = sum(lengths) - 2 * sum(choice.start for choice in choices)
        flops = flops_of_rows(self.model.config, lengths, trained)
        return Batch(choices, counted=len(choices), tokens=sum(lengths), flops=flops)

    def losses(self, choices: Sequence[Choice]) -> list[Tensor]:
        loss_B, margin_B, chosen_B = pair_losses(self.model, choices, self.config)
        right = (margin_B > 0).sum() + 0.5 * (margin_B == 0).sum()
        return [loss_B.sum(), right, margin_B.sum(), chosen_B.sum()]

    def names(self, choices: Sequence[Choice]) -> Iterator[str]:
        for choice in choices:
            yield choice.pair.where

    def evaluate(self) -> dict[str, float]:
        means = heldout_means(self.model, self.heldout, self.losses, self.config.micro_batch, self.dtype)
        return dict(zip(("heldout_loss", "heldout_accuracy", "heldout_margin"), means))

    def samples(self, label: str) -> list[dict[str, Any]]:
        """Greedy replies to the prompts of the first held-out pairs."""
        found = []
        for pair in (choice.pair for choice in self.heldout[: self.config.num_samples]):
            messages = chatml.parse(pair.chosen_ids, self.tokenizer)[:-1]
            text, _ = greedy_reply(self.model, messages, self.tokenizer, self.config.sample_tokens)
            found.append({"label": label, "prompt": pair.prompt, "text": text})
        return found


@torch.no_grad()
def heldout_means(
    model: Qwen,
    items: Sequence[Any],
    losses: Callable[[Any], Sequence[Tensor]],
    micro_batch: int,
    dtype: torch.dtype,
) -> list[float]:
    """Means over held-out items of what a task's `losses` sums. Leaves the model in training mode."""
    model.eval()
    sums = []
    for start in range(0, len(items), micro_batch):
        with autocast(dtype, model.head.weight.device):
            sums.append(torch.stack([*losses(items[start : start + micro_batch])]).cpu())
    model.train()
    return (torch.stack(sums).sum(0) / len(items)).tolist()


def train(
    config: DPOConfig,
    pairs: Pairs,
    heldout: Pairs,
    tokenizer: Tokenizer,
    policy: Path,
    stage: Run,
    world: World,
) -> None:
    """The run: everything between the inputs and the files of the artefact."""
    for some in (pairs, heldout):
        if some.skipped:
            stage.log(f"{some.path}: skipped {some.summary()}")
    model = lora.load_base(policy, config.lora, config.seed, 0.0, world.device)
    dtype = pick_dtype(config.precision, world.device)
    # Before a checkpoint is loaded: here the weights are the reference's, in a continued run too.
    trained_on, kept = (
        with_reference(model, some, config, dtype)
        for some in (pairs.items[: config.max_pairs], heldout.items)
    )
    task = Preferences(config, model.train(), trained_on, kept, tokenizer, dtype)
    found = fit(task, model, model.blocks, config, stage, world)

    if not write_model(model, stage, world, [tokenizer.im_end_id, tokenizer.eos_id]):
        return
    tokenizer.save(stage.path)
    stage.fact(
        steps=task.steps,
        pairs=len(task.choices),
        heldout_pairs=len(kept),
        **found.last,
        skipped_pairs={reason: len(places) for reason, places in pairs.skipped.items()},
    )


@torch.no_grad()
def with_reference(model: Qwen, pairs: Sequence[Pair], config: DPOConfig, dtype: torch.dtype) -> list[Choice]:
    """The pairs in their order, with the log-probabilities that a model gives them."""
    model.eval()
    found: dict[int, Choice] = {}
    places = sorted(range(len(pairs)), key=lambda i: max(pairs[i].lengths))
    for at in range(0, len(places), config.micro_batch):
        few = places[at : at + config.micro_batch]
        starts = [common_start(pairs[i]) for i in few]
        with autocast(dtype, model.head.weight.device):
            chosen, rejected = both_logp(model, [pairs[i] for i in few], starts)
        for i, start, two in zip(few, starts, zip(chosen.tolist(), rejected.tolist())):
            found[i] = Choice(pairs[i], start, two)
    return [found[i] for i in range(len(pairs))]


def both_logp(model: Qwen, pairs: Sequence[Pair], starts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B,) of the chosen and of the rejected replies, in one pass."""
    rows = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    chosen_B, rejected_B = reply_logp(model, rows, [*starts, *starts]).chunk(2)
    return chosen_B, rejected_B


def pair_losses(model: Qwen, choices: Sequence[Choice], config: DPOConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, margin and implicit reward of the chosen reply (B,) of some pairs; the last two without gradient."""
    starts = [choice.start for choice in choices]
    chosen_B, rejected_B = both_logp(model, [choice.pair for choice in choices], starts)
    old_chosen_B, old_rejected_B = chosen_B.new_tensor([choice.reference for choice in choices]).unbind(1)
    loss_B, margin_B = dpo_loss(
        chosen_B, rejected_B, old_chosen_B, old_rejected_B, config.beta, config.label_smoothing
    )
    return loss_B, margin_B.detach(), config.beta * (chosen_B - old_chosen_B).detach()
