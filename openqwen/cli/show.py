"""`openqwen show` and `openqwen runs`: artefacts and their family trees; conversations and their loss masks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.console import console, duration, note
from openqwen.core.errors import DataError, UsageError

app = App(name="show", help="Show an artefact's family tree, or a conversation with its loss mask.")


@app.default
def show(
    path: Path,
    *,
    verify: Annotated[
        bool, Parameter(negative="", help="Compare every file with its checksum first.")
    ] = False,
) -> int:
    """Prints what an artefact is, what came out of it, and the tree of what it was made from."""
    found = artifact.load(path, tuple(_KINDS))
    if verify and (damaged := artifact.damage(found)):
        files = ", ".join(f"{name} ({what})" for name, what in damaged.items())
        raise DataError(f"not what its stage wrote: {files}", where=str(path), fix="run its stage again")
    manifest = found.manifest
    console.print(f"[bold]{escape(str(path))}[/]  {found.kind}, made in {duration(manifest['seconds'])}")
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
        Literal["report", "released-script"], Parameter(help="Which tokens are trained.")
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


_KINDS = (
    "primer",
    "corpus",
    "tokenizer",
    "tokens",
    "model",
    "context",
    "reward",
    "agent-eval",
    "evals",
    "report",
)


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
