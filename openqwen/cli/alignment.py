"""`openqwen dpo`, `rft`, `rrhf`, `compare` and `ablate`: PPO's alternatives and what each is worth (report §3.2.2, §6.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, dotted, run_resolved, run_stage
from openqwen.cli.settings import settings_of
from openqwen.cli.training import command_of
from openqwen.core import artifact
from openqwen.core.artifact import write_json
from openqwen.core.console import note
from openqwen.core.errors import UsageError
from openqwen.stages import STAGES

Questions = Annotated[
    Path | None, Parameter(help="Questions in the primer's form, answered greedily: what alignment costs.")
]

dpo = command_of("dpo")
rft = command_of("rft")
rrhf = command_of("rrhf")


def compare(
    *settings: Settings,
    model: Annotated[
        list[str],
        Parameter(help="NAME=ARTEFACT, or an artefact; may be repeated. The first is the reference."),
    ],
    reward: Path,
    prompts: Annotated[Path, Parameter(help="Prompts that none of the models was trained on.")],
    tokens: Annotated[Path, Parameter(help="Packed text; its valid split shows the alignment tax.")],
    out: Out,
    questions: Questions = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Puts policies, and best-of-n of the first, side by side: rewards, wins, KL, alignment tax."""
    from openqwen.rlhf.comparison import TABLE

    inputs = {**models(model), "reward": reward, "prompts": prompts, "tokens": tokens, "questions": questions}
    code = run_stage("compare", inputs, out, settings, recipe, plan)
    if not plan:
        show(out / TABLE)
    return code


def ablate(
    stage: Annotated[Literal["ppo"], Parameter(help="Whose tricks.")],
    *settings: Settings,
    policy: Path,
    reward: Path,
    prompts: Annotated[Path, Parameter(help="Prompts to train on.")],
    heldout: Annotated[Path, Parameter(help="Prompts to compare on, none of them trained on.")],
    tokens: Path,
    out: Out,
    questions: Questions = None,
    seeds: Annotated[int, Parameter(help="Runs of each variant, with seeds 1, 2, ...")] = 5,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """PPO without each of its tricks, on one table. Runs that are finished are not run again.

    Settings are those of PPO; those of the comparison come from the recipe's table `compare`.
    """
    from openqwen.rlhf.ablation import folder_of, table, variants
    from openqwen.rlhf.comparison import MODEL, TABLE

    words = (
        "policy",
        "reward",
        "prompts",
        "heldout",
        "tokens",
        "questions",
        "seeds",
        "recipe",
        "out",
        "plan",
    )
    flags = dotted(settings)
    inputs = {"policy": policy, "reward": reward, "prompts": prompts, "tokens": tokens}
    base = settings_of(stage, recipe or (), flags, also=words)
    names = variants(base.config)
    judge = settings_of("compare", recipe or (), {"best_of": []})
    shared = {"reward": reward, "prompts": heldout, "tokens": tokens, "questions": questions}
    code, by_seed = 0, []
    for seed in range(1, seeds + 1):  # a table of fewer seeds stands before the next one begins
        compared = {f"{MODEL}chat": policy}
        for name, changes in names.items():
            folder = out / folder_of(name, seed)
            note(f"{name}, seed {seed}: {folder}")
            resolved = settings_of(stage, recipe or (), {**flags, **changes, "seed": seed})
            code = max(code, run_resolved(STAGES[stage], resolved, inputs, folder, plan))
            compared[MODEL + name] = folder
        if not plan:
            folder = out / folder_of("comparison", seed)
            run_resolved(STAGES["compare"], judge, {**compared, **shared}, folder)
            by_seed.append(artifact.load(folder, "comparison"))
            write_json(out / TABLE, table(by_seed))
    if plan:
        return code
    show(out / TABLE)
    return code


def models(words: Sequence[str]) -> dict[str, Path]:
    """Inputs of a comparison: `["chat=out/a", "out/ppo"]` -> `{"model-chat": out/a, "model-ppo": out/ppo}`."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals:
            name, path = Path(word).name, word
        if f"model-{name}" in found:
            raise UsageError(f"two models are called {name}", where="--model", fix="--model NAME=ARTEFACT")
        found[f"model-{name}"] = Path(path)
    return found


def show(path: Path) -> None:
    """Prints a table file."""
    from openqwen.cli.table import write

    write(json.loads(path.read_text(encoding="utf-8")), "terminal", None)
    note(f"table: {path}")
