"""Finds repositories in a folder and their files. Links never lead out nor round, submodules that are absent are named.

Ours. A repository is a folder with .git in it. Where no folder has one (archives that were unpacked), it is the folder
itself if it holds a program or a licence, else each folder in it. Files of records (JSON lines) beside such folders hold
repositories, too; within a repository they are its data.
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
from openqwen.data.sources.files import kind_of, walk

_SUBMODULE = re.compile(r"^\s*path\s*=\s*(.+?)\s*$", re.M)
_LISTED = 1_000_000  # bytes of .gitmodules that are read
_GIVE = "give a checkout, or a folder of them; openqwen data code reads JSON lines of programs as well"


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
        try:
            with listed.open("rb") as opened:
                text = opened.read(_LISTED).decode("utf-8", "replace")
        except OSError as error:
            bad.skip(listed, f"unreadable: {error.__class__.__name__}")
            return
        for name in _SUBMODULE.findall(text):
            folder = self.root / name
            leads_out = ".." in Path(name).parts or Path(name).is_absolute()
            try:
                if leads_out or not folder.is_dir() or not any(folder.iterdir()):
                    bad.note(folder, "submodule that is not checked out")
            except (OSError, ValueError):
                # A name too long for any disk, or with NUL where Python minds; a folder that is closed to us.
                bad.note(folder, "submodule that cannot be looked at")


def path_within(root: Path, path: Path) -> str:
    """A file's name in documents: one line of UTF-8, whatever letters it has."""
    return one_line(path.relative_to(root).as_posix())


def one_line(name: str) -> str:
    """A name with escapes for what would end its line or is no character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in printable(name))


def _is_repository(folder: Path) -> bool:
    """Whether a folder itself is one: by .git, or by a program or licence right in it."""
    return (folder / ".git").exists() or any(
        not path.is_symlink() and path.is_file() and (language_of(path.name) or is_licence_file(path.name))
        for path in folder.iterdir()
    )


def record_files(root: Path) -> list[Path]:
    """Files of records: the input itself, or those right in a folder that is no repository."""
    if root.is_file():
        return [root] if kind_of(root)[0] == "jsonl" else []
    if not root.is_dir() or _is_repository(root):
        return []
    return sorted(
        path
        for path in root.iterdir()
        if kind_of(path)[0] == "jsonl" and path.is_file() and not path.is_symlink()
    )


def repositories(root: Path, records: bool = False) -> list[Repository]:
    """The repositories of a folder by name. DataError where there is nothing; none are needed beside `records`."""
    if records and root.is_file():
        return []
    if not root.is_dir():
        raise DataError("no folder of programs", where=str(root), fix=_GIVE)
    found = sorted({path.parent for path in root.rglob(".git") if not path.is_symlink()})
    if not found:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
        found = [root] if _is_repository(root) else folders
    if not found and not records:
        raise DataError("the folder is empty of repositories", where=str(root), fix=_GIVE)
    return [
        Repository(
            printable(root.name if path == root else path.relative_to(root).as_posix()),
            path,
            frozenset(other for other in found if path in other.parents),
        )
        for path in found
    ]
