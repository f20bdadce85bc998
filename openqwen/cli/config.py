"""`openqwen config`: settings with value, source and origin."""

from __future__ import annotations

from cyclopts import App

from openqwen.cli.common import AsJson, Changed, Recipes, Settings, dotted
from openqwen.cli.settings import print_json, print_settings, settings_of, settings_record

app = App(name="config", help="Show settings with value, source and origin.")


@app.command
def show(
    stage: str, *settings: Settings, recipe: Recipes = None, changed: Changed = False, as_json: AsJson = False
) -> int:
    """Every setting of a stage: value, where the value comes from, who set it."""
    resolved = settings_of(stage, recipe or (), dotted(settings))
    if as_json:
        print_json({stage: settings_record(resolved, changed)})
    else:
        print_settings({stage: resolved}, changed)
    return 0
