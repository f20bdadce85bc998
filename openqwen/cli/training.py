"""One command per stage of the report, all of one grammar (see cli/common.py)."""

from __future__ import annotations

from pathlib import Path

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage


def pack(
    *settings: Settings, corpus: Path, tokenizer: Path, out: Out, recipe: Recipes = None, plan: Plan = False
) -> int:
    """Corpus and vocabulary to memory-mapped token shards (report §2.4)."""
    return run_stage("pack", {"corpus": corpus, "tokenizer": tokenizer}, out, settings, recipe, plan)


def pretrain(
    *settings: Settings,
    tokens: Path,
    tokenizer: Path,
    out: Out,
    model: Path | None = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Trains a base model on token shards (report §2.4). --model continues from one."""
    inputs = {"tokens": tokens, "tokenizer": tokenizer, "model": model}
    return run_stage("pretrain", inputs, out, settings, recipe, plan)


def extend(
    *settings: Settings, model: Path, tokens: Path, out: Out, recipe: Recipes = None, plan: Plan = False
) -> int:
    """Perplexity against length, plain and with each context extension (report §2.5, Table 3)."""
    return run_stage("extend", {"model": model, "tokens": tokens}, out, settings, recipe, plan)


def sft(
    *settings: Settings,
    model: Path,
    data: Path,
    out: Out,
    tools: Path | None = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Finetunes a base model on conversations (report §3.1)."""
    return run_stage("sft", {"model": model, "data": data, "tools": tools}, out, settings, recipe, plan)


def pmp(
    *settings: Settings,
    model: Path,
    pairs: Path,
    heldout: Path,
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Pretrains a preference model on many rough comparisons (report §3.2.1)."""
    return run_stage("pmp", {"model": model, "pairs": pairs, "heldout": heldout}, out, settings, recipe, plan)


def reward(
    *settings: Settings,
    model: Path,
    pairs: Path,
    heldout: Path,
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Finetunes a preference model to a reward model (report §3.2.1, Table 4)."""
    return run_stage(
        "reward", {"model": model, "pairs": pairs, "heldout": heldout}, out, settings, recipe, plan
    )


def ppo(
    *settings: Settings,
    policy: Path,
    reward: Path,
    prompts: Path,
    tokens: Path,
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Raises a chat model's reward with PPO (report §3.2.2)."""
    inputs = {"policy": policy, "reward": reward, "prompts": prompts, "tokens": tokens}
    return run_stage("ppo", inputs, out, settings, recipe, plan)


def agent(
    *settings: Settings, model: Path, tools: Path, out: Out, recipe: Recipes = None, plan: Plan = False
) -> int:
    """Scores a chat model's tool use on held-out questions (report §3.4, Table 6)."""
    return run_stage("agent", {"model": model, "tools": tools}, out, settings, recipe, plan)


def evaluate(
    *settings: Settings,
    base: Path,
    chat: Path,
    rlhf: Path,
    reward: Path,
    primer: Path,
    tokens: Path,
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Fills Tables 2, 5, 10, 12 and Figure 4 for a family of models (report §2.6, §3.3)."""
    inputs = {"base": base, "chat": chat, "rlhf": rlhf, "reward": reward, "primer": primer, "tokens": tokens}
    return run_stage("evals", inputs, out, settings, recipe, plan)
