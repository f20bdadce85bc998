"""`openqwen data`: a corpus from raw documents (report §2.1)."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage

app = App(name="data", help="§2.1  Build a corpus from raw documents.")


@app.command
def build(
    *settings: Settings,
    out: Out,
    input: Path | None = None,
    primer: Path | None = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Documents to a clean corpus: a file or folder of HTML, text, JSONL, Parquet or WARC with --input."""
    return run_stage("data", {"input": input, "primer": primer}, out, settings, recipe, plan)


@app.command
def primer(*settings: Settings, out: Out, recipe: Recipes = None, plan: Plan = False) -> int:
    """Writes the primer: a small bilingual world with known truth."""
    return run_stage("primer", {}, out, settings, recipe, plan)
