"""`openqwen tokenizer`: vocabularies (report §2.2)."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage

app = App(name="tokenizer", help="§2.2  Train a vocabulary; compare compression (Figure 3).")


@app.command
def train(
    *settings: Settings,
    corpus: Path,
    out: Out,
    base: Path | None = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Learns a byte-level BPE vocabulary from a corpus artefact; --base FILE.tiktoken augments that one."""
    return run_stage("tokenizer", {"corpus": corpus, "base": base}, out, settings, recipe, plan)
