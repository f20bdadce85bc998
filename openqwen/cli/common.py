"""What stage commands share: recipes, dotted settings, the plan, the run.

Ours. `openqwen STAGE --INPUT PATH ... --out DIR [--recipe NAME]... [--plan] [--SETTING.NAME VALUE]...`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from openqwen.cli.settings import print_settings, settings_of
from openqwen.core import artifact
from openqwen.core.config import Resolved
from openqwen.core.console import note
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.stages import STAGES, Stage

Tools = Annotated[
    list[str] | None,
    Parameter(help="FILE.py, FILE.json, or mcp: and a server's address or command; may be repeated."),
]
Settings = Annotated[str, Parameter(allow_leading_hyphen=True, help="Settings: --optim.lr 2e-4 and so on.")]
Recipes = Annotated[
    list[str] | None, Parameter(name="--recipe", help="Recipe name or TOML file; may be repeated.")
]
Out = Annotated[Path, Parameter(help="Folder of the new artefact.")]
Changed = Annotated[bool, Parameter(negative="", help="Only settings that are not at their default.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Plan = Annotated[bool, Parameter(name="--plan", negative="", help="Show settings and checks, run nothing.")]


def dotted(words: Sequence[str]) -> dict[str, Any]:
    """`["--optim.lr", "2e-4", "--steps=10"]` -> `{"optim.lr": "2e-4", "steps": "10"}`."""
    flags: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UsageError(
                f"unexpected word {word!r}", where="command line", fix="settings look like --name value"
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"--{key} needs a value", where="command line", fix=f"--{key} VALUE")
            value = rest.pop(0)
        flags[key.replace("-", "_")] = value
    return flags


def run_stage(
    name: str,
    inputs: Mapping[str, Path | None],
    out: Path,
    settings: Sequence[str] = (),
    recipes: Sequence[str] | None = None,
    plan: bool = False,
) -> int:
    """Resolves the settings of a stage, then shows the plan or runs it."""
    resolved = settings_of(name, recipes or (), dotted(settings), also=("recipe", "out", "plan", *inputs))
    return run_resolved(STAGES[name], resolved, inputs, out, plan)


def run_resolved(
    stage: Stage, resolved: Resolved[Any], inputs: Mapping[str, Path | None], out: Path, plan: bool = False
) -> int:
    """Shows the plan of a stage whose settings are known, or runs it; models of others are imported first."""
    from openqwen.cli.checks import check  # needs numpy
    from openqwen.cli.imports import with_imported

    given = {key: path for key, path in inputs.items() if path is not None}
    given = with_imported(stage.name, given, out, plan)
    if plan:
        return show_plan(stage, resolved, given, out)
    opened = {key: artifact.find(path) or path for key, path in given.items() if path.exists()}
    done = artifact.current(out, stage.kind, resolved.config, opened) if len(opened) == len(given) else None
    if done is not None:
        artifact.drop_checkpoints(done)
        note(f"{out} is already made with these settings and inputs")
        return 0
    check(stage, resolved, given, out)
    made = stage.run(resolved, given, out)
    note(f"{stage.kind}: {made.path}")
    for key, value in made.manifest["facts"].items():
        if isinstance(value, (int, float, str)):
            note(f"  {key} = {value:.4g}" if isinstance(value, float) else f"  {key} = {value}")
    return 0


def show_plan(stage: Stage, resolved: Resolved[Any], inputs: Mapping[str, Path], out: Path) -> int:
    """Prints every setting with source and origin, and checks the inputs. 0 if it could run, else 2."""
    from openqwen.cli.checks import check

    print_settings({stage.name: resolved})
    problems = [f"input {key}: nothing at {path}" for key, path in inputs.items() if not path.exists()]
    try:
        for key, path in inputs.items():
            if path.exists():
                found = artifact.find(path) if path.is_dir() else None
                note(f"input {key}: {path}" + (f" ({found.kind})" if found else ""))
        if not problems:
            check(stage, resolved, inputs, out)
    except OpenQwenError as error:
        problems += error.render().split("\n")
    note(f"output: {out} ({stage.kind})")
    for problem in problems:
        note(problem if problem.startswith(" ") else f"problem: {problem}")
    return 2 if problems else 0
