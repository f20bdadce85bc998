"""`openqwen data classifier`: models that tell good text, spam or abuse, from a user's examples (report §2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage

app = App(name="classifier", help="Models of text quality and of offensive content, from examples.")


@app.command
def train(
    *settings: Settings,
    examples: Annotated[Path, Parameter(help='JSON lines of {"text", "label"}.')],
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Trains a classifier of --label and measures it on examples that it has not seen.

    Use it with: openqwen data build --quality.models '{"spam": "DIR"}' --quality.spam THRESHOLD
    """
    return run_stage("classifier", {"examples": examples}, out, settings, recipe, plan)
