"""One command per stage of the report, all of one grammar (see cli/common.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, dotted, run_resolved, run_stage
from openqwen.cli.settings import settings_of
from openqwen.core.console import note
from openqwen.core.errors import UsageError
from openqwen.stages import STAGES


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
        from openqwen.cli.imports import with_imported
        from openqwen.tokenizer.held import pack_documents

        settings_of("extend", recipe or (), dotted(settings))  # errors before the work
        model = with_imported("extend", {"model": model}, out, plan)["model"]
        packed = pack_documents(documents, tokenizer or model, out.with_name(f"{out.name}-tokens"))
        note(f"{packed.kind}: {packed.path}")
        inputs = {"model": model, "tokens": packed.path}
    return run_stage("extend", inputs, out, settings, recipe, plan)


def sft(
    *settings: Settings,
    model: Path,
    data: Annotated[
        list[str],
        Parameter(help="Conversations; NAME=FILE for each of a recipe's several finetunings."),
    ],
    out: Out,
    tools: Annotated[Path | None, Parameter(help="Tool conversations to mix in.")] = None,
    safety: Annotated[
        Path | None, Parameter(help="Conversations about safety to mix in, counted and measured apart.")
    ] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Finetunes a base model on conversations (report §3.1).

    Where a recipe lists several finetunings (report §4.2), each goes on from the one before. The last is in OUT, the
    others beside it in OUT-NAME; tools and safety are mixed into all.
    """
    from openqwen.sft.config import stages_of

    names = ("model", "data", "tools", "safety", "recipe", "out", "plan")
    resolved = settings_of("sft", recipe or (), dotted(settings), also=names)
    more = {"tools": tools, "safety": safety}
    stages = stages_of(resolved)
    files = _data_files(data, [name for name, _ in stages])
    if not stages:
        return run_resolved(STAGES["sft"], resolved, {"model": model, "data": files[""], **more}, out, plan)
    code, last = 0, stages[-1][0]
    source: Path | None = model
    for name, settled in stages:
        folder = out if name == last else out.with_name(f"{out.name}-{name}")
        note(f"finetuning {name}: {folder}")
        inputs = {"model": source, "data": files[name], **more}
        code = max(code, run_resolved(STAGES["sft"], settled, inputs, folder, plan))
        source = None if plan else folder  # a plan has nothing to go on from
    return code


def _data_files(words: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """The file of each finetuning by its name; of the only one by "". UsageError for one too many or too few."""
    if not names:
        if len(words) > 1:
            raise UsageError(
                "one finetuning reads one file",
                where="--data",
                fix="join the files, or list several finetunings in a recipe's sft.stages",
            )
        return {"": Path(words[0])}
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or name not in names or name in found:
            raise UsageError(
                f"{word!r} is the file of none of the recipe's finetunings, or of one that has a file",
                where="--data",
                fix=" ".join(f"--data {name}=FILE" for name in names),
            )
        found[name] = Path(path)
    if missing := [name for name in names if name not in found]:
        raise UsageError(
            f"no file for {', '.join(missing)}",
            where="--data",
            fix=" ".join(f"--data {name}=FILE" for name in missing),
        )
    return found


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
