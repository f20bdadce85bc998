"""`openqwen tags`: which prompts to annotate or to train on, by the tags they cover (report §3.2.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage
from openqwen.core.artifact import find, load
from openqwen.core.console import console, note

SHOWN = 12


def tags(
    *settings: Settings,
    prompts: Annotated[
        Path, Parameter(help="Conversations or bare questions: JSON lines, JSON or Parquet, also .gz.")
    ],
    out: Out,
    model: Annotated[Path | None, Parameter(help="With --tagger model: the artefact that tags.")] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Tags prompts and chooses --size of them that cover the most tags; shows coverage beside random choices.

    OUT/prompts.jsonl is what `openqwen sample` and `openqwen ppo` read as --prompts.
    """
    code = run_stage("tags", {"prompts": prompts, "model": model}, out, settings, recipe, plan)
    if not plan and find(out) is not None:
        show(out)
    return code


def show(out: Path) -> None:
    """Prints coverage by size, and the most frequent tags."""
    found = json.loads(load(out, "prompts").file("coverage.json").read_text(encoding="utf-8"))
    table = Table(
        "prompts", "tags covered", "random (95 %)", "tags a prompt", "random", box=None, pad_edge=False
    )
    for point in found["curve"]:
        table.add_row(
            f"{point['size']:,}",
            f"{point['balanced']:.1%}",
            f"{point['random']:.1%} ({point['low']:.1%} to {point['high']:.1%})",
            f"{point['tags_balanced']:.1f}",
            f"{point['tags_random']:.1f}",
        )
    console.print(table)
    shown = ", ".join(f"{t['tag']} {t['chosen']}/{t['prompts']}" for t in found["tags"][:SHOWN])
    note(f"chosen of all, by tag: {shown}")
    note(f"picture: {out / 'coverage.svg'}")
