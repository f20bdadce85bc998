"""`openqwen show` and `openqwen runs`: artefacts and their family trees; conversations and their loss masks."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cyclopts import App
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.console import console, duration

app = App(name="show", help="Show an artefact's family tree, or a conversation with its loss mask.")


@app.default
def show(path: Path) -> int:
    """Prints what an artefact is, what came out of it, and the tree of what it was made from."""
    found = artifact.load(path, tuple(_KINDS))
    manifest = found.manifest
    console.print(f"[bold]{escape(str(path))}[/]  {found.kind}, made in {duration(manifest['seconds'])}")
    for key, value in manifest["facts"].items():
        console.print(f"  {escape(key)} = {escape(json.dumps(value, ensure_ascii=False))}")
    console.print(family(found))
    return 0


@app.command
def chat(file: Path, *, tokenizer: Path) -> int:
    """Prints the conversations of a JSONL file with the trained tokens in another colour."""
    from openqwen.chat.colour import colour
    from openqwen.tokenizer import load_tokenizer

    tok = load_tokenizer(tokenizer)
    for record in artifact.read_jsonl(file):
        console.print(colour(record["messages"], tok))
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
