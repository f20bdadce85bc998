"""A prompt made of a repository: the files that matter for a place in one of them, then that file up to the place.

Ours. Each file stands under the comment that names it, as in the documents Code-Qwen is trained on (stage.py), what is
imported before what imports it, the target last. Chosen are first its imports, then files of its folder, then what these
import, then files that import the target, then the rest, nearest folders first; whole files only, as many as fit.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from openqwen.code_qwen.config import RepositoriesConfig
from openqwen.code_qwen.find import Repository, path_within
from openqwen.code_qwen.languages import comment, language_of
from openqwen.code_qwen.order import imports, in_order
from openqwen.code_qwen.stage import File, read_repository, text_of, with_path
from openqwen.core.errors import DataError, UsageError
from openqwen.data.documents import Bad
from openqwen.data.sources.files import binary_reason

# The user's own code: no licence is asked for, and what training would drop as a copy is left in.
CONFIG = RepositoriesConfig(licences=())
_LEAST = 16  # tokens; with less room left no further file is tried


@dataclass(frozen=True)
class Target:
    """A file and a place in it. path: within the repository; before: its text up to the place."""

    path: str
    language: str
    before: str


@dataclass(frozen=True)
class Prompt:
    """What the model reads. files: paths of the others in their order; left_out: (path, reason), what mattered most
    first; cut: characters of the target's beginning for which there was no room."""

    text: str
    tokens: int
    files: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    cut: int = 0


def read_target(
    file: Path,
    root: Path,
    line: int | None = None,
    column: int | None = None,
    config: RepositoriesConfig = CONFIG,
) -> Target:
    """A file up to the end of a line (1 is the first), or up to `column` characters of it; None: to its end.

    UsageError for a place that it has not, or a link or a file that leads out of the repository. DataError for what is no
    program, binary or too large.
    """
    if not file.is_file():
        raise UsageError("no such file", where=str(file), fix="give FILE, FILE:LINE or FILE:LINE:COLUMN")
    if file.is_symlink() or not file.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            "the file is a link, or lies outside of the repository",
            where=str(file),
            fix=f"give a file in {root}",
        )
    path = path_within(root.resolve(), file.resolve())
    language = language_of(path)
    if language is None:
        raise DataError("no program: its ending is that of no known language", where=str(file))
    if (size := file.stat().st_size) > config.max_file_bytes:
        raise DataError(f"{size:,} bytes: more than {config.max_file_bytes:,} are not read", where=str(file))
    data = file.read_bytes()
    if why := binary_reason(data):
        raise DataError(why, where=str(file), fix="give a file of text")
    return Target(path, language, _until(text_of(data), line, column, file))


def _until(text: str, line: int | None, column: int | None, file: Path) -> str:
    if line is None:
        return text
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise UsageError(f"line {line} of {len(lines)}", where=str(file), fix="give a line that the file has")
    if column is None:
        return "\n".join(lines[:line]) + ("\n" if line < len(lines) else "")
    if not 0 <= column <= len(lines[line - 1]):
        raise UsageError(
            f"column {column} of {len(lines[line - 1])} in line {line}",
            where=str(file),
            fix="give a place in the line",
        )
    return "\n".join([*lines[: line - 1], lines[line - 1][:column]])


def make_prompt(target: Target, others: Mapping[str, File], room: int, count: Callable[[str], int]) -> Prompt:
    """The prompt of at most `room` tokens. others: files by path, those with a reason are left out with it.

    count: tokens of a text. The target's text stands whole, but for its first lines where even it has no room;
    UsageError where that leaves nothing.
    """
    before = _fitting(target, room, count)
    own = f"{comment(target.language, target.path)}\n{before}"
    tokens = count(own)
    cut = len(target.before) - len(before)
    chosen, left_out = choose_files(target, others, 0 if cut else room - tokens, count)
    while True:
        order = ordered(chosen, others)
        text = joined(order, others) + own
        tokens = count(text)
        if tokens <= room or not chosen:  # letters of two files may be one token less or more together
            break
        left_out[chosen.pop()] = "no room"
    left_out |= {
        path: f"{file.reason}: {file.detail}"
        for path, file in others.items()
        if file.reason and path != target.path
    }
    return Prompt(text, tokens, tuple(order), tuple(left_out.items()), cut)


def choose_files(
    target: Target, others: Mapping[str, File], room: int, count: Callable[[str], int]
) -> tuple[list[str], dict[str, str]]:
    """Paths of the files that matter most and fit into `room` tokens together, the first matters most; and the rest."""
    usable = {path: file for path, file in others.items() if not file.reason and path != target.path}
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for path in _ranked(target, usable):
        size = count(_place(usable[path])) if room >= _LEAST else room + 1
        if size <= room:
            chosen.append(path)
            room -= size
        else:
            left_out[path] = "no room"
    return chosen, left_out


def ordered(paths: Iterable[str], files: Mapping[str, File]) -> list[str]:
    """Paths, what is imported first."""
    return in_order({path: (files[path].language, files[path].text) for path in paths})


def joined(paths: Iterable[str], files: Mapping[str, File]) -> str:
    """Files as they stand before a target, each under its name."""
    return "".join(_place(files[path]) for path in paths)


def _place(file: File) -> str:
    """A file as it stands before another one."""
    return with_path(file) + "\n"


def _fitting(target: Target, room: int, count: Callable[[str], int]) -> str:
    """The target's text, or as many of its last lines as there is room for."""
    head = f"{comment(target.language, target.path)}\n"
    if count(head + target.before) <= room:
        return target.before
    lines = target.before.splitlines(keepends=True)
    fewest, most = 1, len(lines)  # lines left away
    while fewest < most:
        middle = (fewest + most) // 2
        if count(head + "".join(lines[middle:])) <= room:
            most = middle
        else:
            fewest = middle + 1
    left = "".join(lines[fewest:])
    if not left:
        raise UsageError(
            f"the last line before the cursor has more than the {room} tokens that there is room for",
            where=target.path,
            fix="ask for fewer new tokens, or give a larger --context",
        )
    return left


def _ranked(target: Target, files: Mapping[str, File]) -> list[str]:
    """Paths, what matters most for the target first."""
    texts = {path: (file.language, file.text) for path, file in files.items()}
    needs = imports({**texts, target.path: (target.language, target.before)})
    depth, level, at = {target.path: 0}, {target.path}, 0
    while level:
        at += 1
        level = {other for path in level for other in needs[path]} - depth.keys()
        depth |= dict.fromkeys(level, at)
    folder = posixpath.dirname(target.path)

    def rank(path: str) -> tuple[int, int, int, str]:
        near = len(posixpath.relpath(posixpath.dirname(path) or ".", folder or ".").split("/"))
        foreign = int(files[path].language != target.language)
        if depth.get(path) == 1:
            return 0, 0, near, path
        if posixpath.dirname(path) == folder and not foreign:
            return 1, 0, 0, path
        if path in depth:
            return 2, depth[path], near, path
        return (3 if target.path in needs[path] else 4 + foreign), 0, near, path

    return sorted(files, key=rank)


def read_others(root: Path, config: RepositoriesConfig = CONFIG) -> tuple[dict[str, File], dict[str, str]]:
    """The programs of a repository by path, those not to be shown with their reason; and what could not be read at all."""
    bad = Bad(1.0)
    files = {file.path: file for file in read_repository(Repository(root.name, root), config, bad)}
    for path, file in files.items():
        if (root / path).is_symlink():
            file.reason, file.detail = "link", "to a file that stands there itself"
    return files, {record["where"]: record["reason"] for record in [*bad.records, *bad.odd]}
