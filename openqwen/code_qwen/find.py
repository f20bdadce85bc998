"""Finds repositories in a folder and their files. Links never lead out nor round, submodules that are absent are named.

Ours. A repository is a folder with .git in it. Where no folder has one (archives that were unpacked), it is the folder
itself if it holds a program or a licence, else each folder in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openqwen.code_qwen.languages import language_of
from openqwen.code_qwen.licences import is_licence_file
from openqwen.core.errors import DataError
from openqwen.data.documents import Bad, printable
from openqwen.data.sources.files import walk

_SUBMODULE = re.compile(r"^\s*path\s*=\s*(.+?)\s*$", re.M)


@dataclass(frozen=True)
class Repository:
    """A folder of programs that belong together. name: the folder's within the input; inner: other ones below it."""

    name: str
    root: Path
    inner: frozenset[Path] = frozenset()

    def files(self, bad: Bad) -> Iterator[tuple[str, Path]]:
        """(path within it, path on disk) of each regular file, sorted; other repositories inside are left out."""
        self._look_for_submodules(bad)
        for path in walk(self.root, bad):
            if not self.inner.intersection(path.parents):
                yield path_within(self.root, path), path

    def _look_for_submodules(self, bad: Bad) -> None:
        listed = self.root / ".gitmodules"
        if not listed.is_file() or listed.is_symlink():
            return
        for name in _SUBMODULE.findall(listed.read_text(encoding="utf-8", errors="replace")):
            folder = self.root / name
            leads_out = ".." in Path(name).parts or Path(name).is_absolute()
            if leads_out or not folder.is_dir() or not any(folder.iterdir()):
                bad.note(folder, "submodule that is not checked out")


def path_within(root: Path, path: Path) -> str:
    """A file's name in documents: one line of UTF-8, whatever letters it has."""
    name = printable(path.relative_to(root).as_posix())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def repositories(root: Path) -> list[Repository]:
    """The repositories of a folder by name. DataError where there is nothing."""
    if not root.is_dir():
        raise DataError("no folder of programs", where=str(root), fix="give a checkout, or a folder of them")
    found = sorted({path.parent for path in root.rglob(".git") if not path.is_symlink()})
    if not found:
        entries = sorted(path for path in root.iterdir() if not path.is_symlink())
        own = any(
            path.is_file() and (language_of(path.name) or is_licence_file(path.name)) for path in entries
        )
        found = [root] if own else [path for path in entries if path.is_dir()]
    if not found:
        raise DataError("the folder is empty", where=str(root), fix="give a checkout, or a folder of them")
    return [
        Repository(
            printable(root.name if path == root else path.relative_to(root).as_posix()),
            path,
            frozenset(other for other in found if path in other.parents),
        )
        for path in found
    ]
