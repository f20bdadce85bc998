"""`openqwen tokenizer`: vocabularies (report §2.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage

_TEXT = "File or folder of text, program sources, JSON lines or Parquet (also .gz, .zst); may be repeated."
app = App(name="tokenizer", help="§2.2  Train a vocabulary; compare compression (Figure 3).")


@app.command
def train(
    *settings: Settings,
    out: Out,
    corpus: Path | None = None,
    text: Annotated[list[Path] | None, Parameter(negative="", help=_TEXT)] = None,
    base: Annotated[Path | None, Parameter(help="Ranks file (.tiktoken) to augment.")] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Learns a byte-level BPE vocabulary from a corpus artefact or from files, from scratch or on top of --base."""
    named = {"text" if number == 1 else f"text-{number}": path for number, path in enumerate(text or (), 1)}
    return run_stage("tokenizer", {"corpus": corpus, **named, "base": base}, out, settings, recipe, plan)
