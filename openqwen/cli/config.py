"""`openqwen config`: settings with value, source and origin."""

from __future__ import annotations

from cyclopts import App

from openqwen.cli.common import Recipes, Settings, dotted, settings_table
from openqwen.core.config import resolve
from openqwen.core.console import console
from openqwen.core.errors import UsageError, did_you_mean
from openqwen.stages import STAGES

app = App(name="config", help="Show settings with value, source and origin.")


@app.command
def show(stage: str, *settings: Settings, recipe: Recipes = None) -> int:
    """Every setting of a stage: value, where the default comes from, who set it."""
    if stage not in STAGES:
        raise UsageError(
            f"no stage '{stage}'.{did_you_mean(stage, STAGES)}",
            where="command line",
            fix=f"use one of: {', '.join(STAGES)}",
        )
    resolved = resolve(STAGES[stage].config, stage, recipe or (), dotted(settings))
    console.print(settings_table(resolved))
    return 0
