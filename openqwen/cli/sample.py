"""`openqwen sample` and `openqwen pairs`: replies to annotate, and the comparison pairs of scored ones (report §3.2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage


def sample(
    *settings: Settings,
    prompts: Annotated[Path, Parameter(help="What `openqwen tags` chose, or any file that it reads.")],
    out: Out,
    model: Annotated[
        list[Path] | None, Parameter(help="A model artefact; may be repeated. Others: --addresses.")
    ] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Draws replies to each prompt from each model with each sampling setting; goes on where it was stopped."""
    models = {f"model-{number}": path for number, path in enumerate(model or (), 1)}
    return run_stage("sample", {"prompts": prompts, **models}, out, settings, recipe, plan)


def pairs(
    *settings: Settings,
    replies: Annotated[Path, Parameter(help="What `openqwen sample` made.")],
    out: Out,
    scores: Annotated[
        Path | None,
        Parameter(
            help='People\'s scores: JSON lines of {"reply", "annotator", "score"}, or SQLite with a table scores.'
        ),
    ] = None,
    model: Annotated[Path | None, Parameter(help="With --judge model: the artefact that judges.")] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Makes comparison pairs of replies that people, a rule or a judging model have scored.

    OUT/pairs.jsonl and OUT/heldout.jsonl are what `openqwen pmp` and `openqwen reward` read.
    """
    inputs = {"replies": replies, "scores": scores, "model": model}
    return run_stage("pairs", inputs, out, settings, recipe, plan)
