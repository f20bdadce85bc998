"""`openqwen report`: finished artefacts on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, run_stage
from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.config import load_saved
from openqwen.core.errors import DataError, UsageError
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
    "evals": "evals",
}
Words = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="Artefacts, or folders that hold some, such as a tour's; then settings: --title TEXT and so on.",
    ),
]


def report(*words: Words, out: Out, recipe: Recipes = None, plan: Plan = False) -> int:
    """Writes report.html: curves of training runs, tables and figures, of whatever artefacts are given."""
    first = next((number for number, word in enumerate(words) if word.startswith("--")), len(words))
    return run_stage("report", inputs_of(words[:first]), out, words[first:], recipe, plan)


def inputs_of(paths: Sequence[str]) -> dict[str, Path | None]:
    """Place on the page -> artefact. UsageError for two that would have the same, DataError for none."""
    found: dict[str, Path | None] = {}
    for path in map(Path, paths):
        for one in artefacts_in(path):
            place = place_of(one)
            if place is None:
                continue
            if place in found and found[place] != one.path:
                raise UsageError(
                    f"two artefacts for one place on the page ({place}): {found[place]} and {one.path}",
                    fix="give one of them",
                )
            found[place] = one.path
    if not found:
        raise DataError(
            "no artefact that a page could show",
            where=", ".join(paths) or "openqwen report",
            fix="give folders that stages wrote, such as out/tour or out/base",
        )
    return found


def artefacts_in(path: Path) -> list[Artifact]:
    """The artefact at a path, or those that lie in the folder. DataError if there is no such folder."""
    if not path.is_dir():
        raise DataError("no such folder", where=str(path), fix="give the folder a stage wrote")
    if (path / "DONE").exists() or (path / "STARTED").exists():
        return [artifact.load(path, (*_PLACES, "model", "reward", "report"))]
    return [one for child in sorted(path.iterdir()) if child.is_dir() and (one := artifact.find(child))]


def place_of(found: Artifact) -> str | None:
    """What an artefact is to the page: of a model, the stage it came from. None: nothing is shown of it."""
    if found.kind == "model":
        inputs = found.manifest["inputs"]
        if "policy" in inputs:
            return "dpo" if "pairs" in inputs else "rlhf" if "tokens" in inputs else "rft"
        return "chat" if "data" in inputs else "base"
    if found.kind == "reward":
        label = load_saved(RewardConfig, found.file("config.toml")).label
        return {"PMP": "preference", "RM": "reward"}[label]
    return _PLACES.get(found.kind)
