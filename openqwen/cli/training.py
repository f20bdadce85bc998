"""One command per stage of the report, all of one grammar (see cli/common.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, dotted, run_stage
from openqwen.cli.settings import settings_of
from openqwen.core.console import note
from openqwen.core.errors import UsageError


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
    *settings: Settings,
    model: Path,
    out: Out,
    tokens: Annotated[Path | None, Parameter(help="Packed text; its valid split is read.")] = None,
    documents: Annotated[
        Path | None,
        Parameter(
            help="Long documents instead: a corpus artefact (its valid split), or a file or folder of text, "
            "JSON lines or Parquet (also .gz, .zst). Packed into OUT-tokens."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, Parameter(help="With --documents, where the model's folder holds no tokenizer.")
    ] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Perplexity against length, plain and with each context extension (report §2.5, Table 3)."""
    if (tokens is None) == (documents is None):
        raise UsageError(
            "extend reads either packed tokens or documents", fix="--tokens ARTEFACT or --documents PATH"
        )
    if documents is None and tokenizer is not None:
        raise UsageError("packed tokens need no tokenizer", where="--tokenizer", fix="leave it out")
    inputs = {"model": model, "tokens": tokens, "documents": documents, "tokenizer": tokenizer}
    if documents is not None and not plan:
        from openqwen.tokenizer.held import pack_documents

        settings_of("extend", recipe or (), dotted(settings))  # errors before the work
        packed = pack_documents(documents, tokenizer or model, out.with_name(f"{out.name}-tokens"))
        note(f"{packed.kind}: {packed.path}")
        inputs = {"model": model, "tokens": packed.path}
    return run_stage("extend", inputs, out, settings, recipe, plan)


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
