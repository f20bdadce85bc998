"""`openqwen report`: finished artefacts on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, run_stage
from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.config import load_saved
from openqwen.core.errors import DataError, UsageError
from openqwen.report.stage import FILLED
from openqwen.reward.config import RewardConfig

# kind of an artefact -> the place on the page that only it can have
_PLACES = {
    "primer": "primer",
    "corpus": "corpus",
    "tokenizer": "tokenizer",
    "tokens": "tokens",
    "context": "context",
    "comparison": "comparison",
    "agent-eval": "agent",
    "agent-bench": "agentbench",
    "evals": "evals",
    "human-eval": "people",
}
Words = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="Artefacts, folders that `openqwen table --out` wrote, or folders that hold some, such as a tour's; then "
        "settings: --title TEXT and so on.",
    ),
]


def report(*words: Words, out: Out, recipe: Recipes = None, plan: Plan = False) -> int:
    """Writes report.html: curves of training runs, tables and figures, of whatever artefacts are given.

    Beside the page: exhibits/, the report's tables and Figures 2 and 4 as Markdown, LaTeX, PNG and SVG.
    """
    first = next((number for number, word in enumerate(words) if word.startswith("--")), len(words))
    return run_stage("report", inputs_of(words[:first]), out, words[first:], recipe, plan)


def inputs_of(paths: Sequence[str]) -> dict[str, Path | None]:
    """Place on the page -> folder. UsageError for two that would have the same, DataError for none."""
    found: dict[str, Path | None] = {}
    for path in map(Path, paths):
        for place, one in placed(path):
            if place in found and found[place] != one:
                raise UsageError(
                    f"two artefacts for one place on the page ({place}): {found[place]} and {one}",
                    fix="give one of them",
                )
            found[place] = one
    if not found:
        raise DataError(
            "no artefact that a page could show",
            where=", ".join(paths) or "openqwen report",
            fix="give folders that stages wrote, such as out/tour or out/base",
        )
    return found


def placed(path: Path) -> Iterator[tuple[str, Path]]:
    """(place, folder) of the artefact or the filled tables at a path, or of those in it. DataError if it is no folder."""
    if not path.is_dir():
        raise DataError("no such folder", where=str(path), fix="give the folder a stage wrote")
    if begun(path):
        one = artifact.load(path, (*_PLACES, "model", "reward", "report"))
        yield from ((place, one.path) for place in [place_of(one)] if place)
    elif filled(path):
        yield FILLED + path.resolve().name, path
    else:
        for child in sorted(path.iterdir()):
            if child.is_dir() and (made := artifact.find(child)) and (place := place_of(made)):
                yield place, made.path
            elif child.is_dir() and not begun(child) and filled(child):
                yield FILLED + child.name, child


def begun(path: Path) -> bool:
    """Whether a stage has written here, finished or not."""
    return (path / "DONE").exists() or (path / "STARTED").exists()


def filled(path: Path) -> bool:
    """Whether `openqwen table --out` has written here."""
    return any(path.glob("table_*.json"))


def place_of(found: Artifact) -> str | None:
    """What an artefact is to the page: of a model, the stage it came from. None: nothing is shown of it."""
    if found.kind == "model":
        inputs = found.manifest["inputs"]
        if "policy" in inputs:
            drawn = "rrhf" if "heldout_rank_loss" in found.manifest["facts"] else "rft"
            return "dpo" if "pairs" in inputs else "rlhf" if "tokens" in inputs else drawn
        return "chat" if "data" in inputs else "base"
    if found.kind == "reward":
        label = load_saved(RewardConfig, found.file("config.toml")).label
        return {"PMP": "preference", "RM": "reward"}[label]
    return _PLACES.get(found.kind)
