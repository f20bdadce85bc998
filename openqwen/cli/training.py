"""One command per stage of the report, all of one grammar (see cli/common.py)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, dotted, run_resolved, run_stage
from openqwen.cli.settings import settings_of
from openqwen.core.console import note
from openqwen.core.errors import UsageError
from openqwen.stages import STAGES


def command_of(name: str) -> Callable[..., int]:
    """The command of a stage that has an option for each of its inputs (stages.py) and none of its own."""
    stage = STAGES[name]
    names = (*stage.inputs, *stage.optional)

    def command(
        *settings: str, out: Path, recipe: list[str] | None = None, plan: bool = False, **inputs: Path
    ) -> int:
        return run_stage(name, {key: inputs.get(key) for key in names}, out, settings, recipe, plan)

    # What the command line shows and reads.
    kind, anything = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL
    shown = [
        inspect.Parameter("settings", anything, annotation=Settings),
        *(inspect.Parameter(key, kind, annotation=Path) for key in stage.inputs),
        inspect.Parameter("out", kind, annotation=Out),
        *(inspect.Parameter(key, kind, annotation=Path | None, default=None) for key in stage.optional),
        inspect.Parameter("recipe", kind, annotation=Recipes, default=None),
        inspect.Parameter("plan", kind, annotation=Plan, default=False),
    ]
    command.__signature__ = inspect.Signature(shown, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return command


pack = command_of("pack")
pretrain = command_of("pretrain")
pmp = command_of("pmp")
reward = command_of("reward")
ppo = command_of("ppo")
evaluate = command_of("evals")
long_code = command_of("long_code")


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
