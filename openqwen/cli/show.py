"""`openqwen show` and `openqwen runs`: artefacts and their family trees, recipes, conversations and their loss masks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from openqwen.cli.common import AsJson, Changed
from openqwen.cli.settings import print_json, print_settings, settings_of, settings_record
from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.console import console, duration, note
from openqwen.core.errors import DataError, UsageError, did_you_mean
from openqwen.core.recipe import RECIPES, known_recipes, read_recipe
from openqwen.stages import STAGES

app = App(
    name="show",
    help="Show an artefact's family tree, a recipe's settings with their sources, or a conversation with its loss mask.",
)


@app.default
def show(
    what: Annotated[str, Parameter(help="An artefact's folder, or a recipe's name or file.")],
    *more: Annotated[str, Parameter(help="Recipes laid over the first one.")],
    verify: Annotated[
        bool, Parameter(negative="", help="Compare every file of an artefact with its checksum first.")
    ] = False,
    changed: Changed = False,
    as_json: AsJson = False,
) -> int:
    """Prints what an artefact is and was made from; or every setting a recipe makes, with its source.

    A recipe's stages are those it has tables for. An artefact's folder comes before a recipe of the same name.
    """
    path = Path(what)
    if (path / "DONE").exists() or (path / "STARTED").exists():
        if changed or more:
            only = "--changed is" if changed else "several names are"
            raise UsageError(f"{only} for recipes, this is an artefact", where=what, fix="leave it out")
        return show_artefact(artifact.load(path, tuple(_KINDS)), verify, as_json)
    recipes = [recipe_of(name) for name in (what, *more)]
    if verify:
        raise UsageError("--verify is for artefacts, this is a recipe", where=what, fix="leave it out")
    return show_recipes(recipes, changed, as_json)


def recipe_of(what: str) -> Path:
    """The recipe that is meant where no artefact stands. DataError if there is none, or a folder of its name."""
    path, named = Path(what), RECIPES / f"{what}.toml"
    if path.is_file() and path.suffix == ".toml":
        return path
    if named.is_file() and path.is_dir():
        raise UsageError(
            f"{what} is a recipe, and a folder that holds no artefact",
            where=str(path.resolve()),
            fix=f"openqwen show {_near(named)} for the recipe",
        )
    if named.is_file():
        return named
    if path.exists():
        kind = "folder" if path.is_dir() else "file"
        raise DataError(
            f"this {kind} is neither an artefact nor a recipe",
            where=what,
            fix="give the folder a stage wrote, or a .toml file",
        )
    known = known_recipes()
    raise DataError(
        f"there is no artefact and no recipe '{what}'.{did_you_mean(what, known)}",
        where=what,
        fix=f"give the folder a stage wrote, a .toml file, or one of: {', '.join(known)}",
    )


def _near(path: Path) -> str:
    """A path as one types it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def show_recipes(paths: Sequence[Path], changed: bool, as_json: bool) -> int:
    """Prints the settings of every stage that one of the recipes has a table for."""
    named = {stage for path in paths for stage in read_recipe(path, tuple(STAGES))}
    stages = {name: settings_of(name, paths) for name in STAGES if name in named}
    if not stages:
        where = ", ".join(map(str, paths))
        raise UsageError(
            "nothing is set there", where=where, fix="give it a stage's table, such as [pretrain]"
        )
    if as_json:
        record = {name: settings_record(resolved, changed) for name, resolved in stages.items()}
        print_json({"recipes": [str(path) for path in paths], "stages": record})
    else:
        print_settings(stages, changed)
    return 0


def show_artefact(found: Artifact, verify: bool, as_json: bool) -> int:
    """Prints an artefact's facts and its family tree; verify: DataError if a file is not what its stage wrote."""
    if verify and (damaged := artifact.damage(found)):
        files = ", ".join(f"{name} ({what})" for name, what in damaged.items())
        raise DataError(
            f"not what its stage wrote: {files}", where=str(found.path), fix="run its stage again"
        )
    manifest = found.manifest
    if as_json:
        print_json({"path": str(found.path), **manifest})
        return 0
    console.print(
        f"[bold]{escape(str(found.path))}[/]  {found.kind}, made in {duration(manifest['seconds'])}"
    )
    for key, value in manifest["facts"].items():
        console.print(f"  {escape(key)} = {escape(json.dumps(value, ensure_ascii=False))}")
    if verify:
        console.print(f"  {len(manifest['outputs'])} files are what their checksums say")
    console.print(family(found))
    return 0


@app.command
def chat(
    file: Path,
    *,
    tokenizer: Annotated[
        Path | None, Parameter(help="What counts as a token; without it every byte.")
    ] = None,
    mask: Annotated[
        Literal["report", "released-script", "everything"], Parameter(help="Which tokens are trained.")
    ] = "report",
    limit: Annotated[int | None, Parameter(help="How many conversations; without it all.")] = None,
) -> int:
    """Prints the conversations of a file as they are trained on, the trained tokens in another colour.

    The file is one that openqwen sft reads: messages, ShareGPT, Alpaca or tool use, as .jsonl or .json, also .gz.
    """
    from openqwen.chat.colour import show_chat
    from openqwen.tokenizer import Tokenizer, load_tokenizer
    from openqwen.tokenizer.train import byte_ranks

    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} shows nothing", fix="give a number from 1 on, or leave it out")
    tok = Tokenizer(byte_ranks()) if tokenizer is None else load_tokenizer(tokenizer)
    if tokenizer is None:
        note(
            "Tokens are bytes here; for those of a vocabulary: --tokenizer FILE.tiktoken (or a model's folder)"
        )
    show_chat(file, tok, mask, limit)
    return 0


_KINDS = tuple(dict.fromkeys(stage.kind for stage in STAGES.values()))


def family(found: Artifact) -> Tree:
    """The artefact and, below it, the artefacts it was made from, as far as they are still there."""
    tree = Tree(f"{escape(found.path.name)} [dim]{found.kind} {found.content[:12]}[/]")
    for name, source in found.manifest["inputs"].items():
        path = Path(os.path.normpath(found.path / source["path"]))
        parent = artifact.find(path) if path.is_dir() else None
        label = f"{escape(name)}: " if name != path.name else ""
        if parent is None:
            gone = "" if path.exists() else " (gone)"
            tree.add(f"{label}{escape(path.name)}[dim]{gone}[/]")
        else:
            changed = "" if parent.content == source["content"] else " [red](changed since)[/]"
            branch = family(parent)
            branch.label = f"{label}{branch.label}{changed}"
            tree.add(branch)
    return tree


def runs(folder: Path = Path("out")) -> int:
    """Lists the finished artefacts below a folder."""
    table = Table("path", "kind", "content", "finished", "took", box=None, pad_edge=False)
    for done in sorted(folder.rglob("DONE")):
        if found := artifact.find(done.parent):
            manifest = found.manifest
            row = (
                str(found.path),
                found.kind,
                found.content[:12],
                manifest["finished"],
                duration(manifest["seconds"]),
            )
            table.add_row(*row)
    console.print(table if table.row_count else f"no finished artefact below {folder}")
    return 0
