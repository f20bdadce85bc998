"""The order of a repository's files: what is imported stands before what imports it.

Ours, as DeepSeek-Coder (Guo et al. 2024, §2.2) does it. Imports are read by their words, not by a compiler; a name that
is no file of the repository is a library's. Files that import each other come in the order of their paths, the one
with the fewest imports still missing first.
"""

from __future__ import annotations

import heapq
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

_PYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*[\w.]*)[ \t]+import[ \t]+(\(?[\w., \t*]*)|import[ \t]+([\w., \t]+))", re.M
)
_SCRIPT = re.compile(r"(?:\bfrom\s+|\bimport\s*\(?\s*|\brequire\s*\(\s*)[\"'](\.{1,2}/[^\"'\n]*)[\"']")
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*\"([^\"\n]+)\"", re.M)
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+)", re.M)
_RUST = re.compile(
    r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;|\buse[ \t]+crate::(\w+(?:::\w+)*)", re.M
)
_GO = re.compile(r"^[ \t]*(?:import[ \t]+)?(?:[\w.]+[ \t]+)?\"([^\"\n]+)\"", re.M)
_RUBY = re.compile(r"^[ \t]*require_relative[ \t(]*[\"']([^\"'\n]+)[\"']", re.M)
_SCRIPT_ENDINGS = ("", ".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", "/index.ts", "/index.tsx", "/index.js")


def in_order(files: Mapping[str, tuple[str, str]]) -> list[str]:
    """Paths of {path: (language, text)}, what is imported first."""
    needs = imports(files)
    users: dict[str, list[str]] = {path: [] for path in files}
    for path, used in needs.items():
        for other in used:
            users[other].append(path)
    missing = {path: len(used) for path, used in needs.items()}
    heap = [(count, path) for path, count in missing.items()]
    heapq.heapify(heap)
    order: list[str] = []
    done: set[str] = set()
    while heap:
        count, path = heapq.heappop(heap)
        if path in done or count != missing[path]:
            continue  # an entry from before some import of it was placed
        done.add(path)
        order.append(path)
        for user in users[path]:
            if user not in done:
                missing[user] -= 1
                heapq.heappush(heap, (missing[user], user))
    return order


def imports(files: Mapping[str, tuple[str, str]]) -> dict[str, set[str]]:
    """For each path the other paths that it imports."""
    tails = _tails(files)
    folders: dict[str, list[str]] = {}
    for path in files:
        folders.setdefault(posixpath.dirname(path), []).append(path)
    found = {}
    for path, (language, text) in files.items():
        named = _READERS.get(language, _nothing)(path, text, files, tails, folders)
        found[path] = {other for other in named if other != path}
    return found


Files = Mapping[str, tuple[str, str]]
Tails = Mapping[str, str]
Folders = Mapping[str, list[str]]


def _tails(files: Files) -> dict[str, str]:
    """Path by each of its ends: of src/a/b.py also a/b.py and b.py. One that two files share is nobody's."""
    found: dict[str, str] = {}
    twice = set()
    for path in files:
        parts = path.split("/")
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if found.setdefault(tail, path) != path:
                twice.add(tail)
    return {tail: path for tail, path in found.items() if tail not in twice or tail == path}


def _nothing(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    return iter(())


def _python(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    here = posixpath.dirname(path)
    for match in _PYTHON.finditer(text):
        module, names, plain = match.groups()
        if plain is not None:
            modules = [word.split(" as ")[0].strip().replace(".", "/") for word in plain.split(",")]
            yield from _modules(modules, tails)
            continue
        dots = len(module) - len(module.lstrip("."))
        base = module.lstrip(".").replace(".", "/")
        wanted = [word.split(" as ")[0].strip(" \t(") for word in names.split(",")]
        modules = [base, *(posixpath.join(base, word) for word in wanted if word.isidentifier())]
        if dots:
            up = posixpath.normpath(posixpath.join(here, *[".."] * (dots - 1)))
            for name in modules:
                place = posixpath.normpath(posixpath.join(up, name))
                yield from (p for p in (f"{place}.py", f"{place}.pyi", f"{place}/__init__.py") if p in files)
        else:
            yield from _modules(modules, tails)


def _modules(modules: list[str], tails: Tails) -> Iterator[str]:
    for name in filter(None, modules):
        for tail in (f"{name}.py", f"{name}/__init__.py"):
            if tail in tails:
                yield tails[tail]


def _script(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    for name in _SCRIPT.findall(text):
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        found = next((place + ending for ending in _SCRIPT_ENDINGS if place + ending in files), None)
        if found is not None:
            yield found


def _include(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    for name in _INCLUDE.findall(text):
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        found = beside if beside in files else tails.get(posixpath.normpath(name))
        if found is not None:
            yield found


def _java(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    for name in _JAVA.findall(text):
        place = name.replace(".", "/")
        for tail in (f"{place}.java", f"{place}.kt", f"{posixpath.dirname(place)}.java"):
            if tail in tails:
                yield tails[tail]


def _rust(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    name = PurePosixPath(path)
    own = str(name.parent) if name.stem in ("mod", "lib", "main") else str(name.with_suffix(""))
    for child, used in _RUST.findall(text):
        if child:
            place = posixpath.normpath(posixpath.join(own, child))
            yield from (p for p in (f"{place}.rs", f"{place}/mod.rs") if p in files)
        parts = used.split("::") if used else []
        for length in range(len(parts), 0, -1):
            place = "/".join(("src", *parts[:length]))
            found = next((tails[t] for t in (f"{place}.rs", f"{place}/mod.rs") if t in tails), None)
            if found is not None:
                yield found
                break


def _go(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    """A package is a folder: the longest end of its name that is one of the repository's, tests left out."""
    for name in _GO.findall(text):
        parts = name.split("/")
        if "." not in parts[0]:
            continue  # the standard library
        for start in range(1, len(parts)):
            folder = "/".join(parts[start:])
            if folder in folders:
                yield from (p for p in folders[folder] if p.endswith(".go") and not p.endswith("_test.go"))
                break


def _ruby(path: str, text: str, files: Files, tails: Tails, folders: Folders) -> Iterator[str]:
    for name in _RUBY.findall(text):
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        yield from (p for p in (place, f"{place}.rb") if p in files)


_READERS = {
    "python": _python,
    "javascript": _script,
    "typescript": _script,
    "c": _include,
    "cpp": _include,
    "objective-c": _include,
    "java": _java,
    "kotlin": _java,
    "rust": _rust,
    "go": _go,
    "ruby": _ruby,
}
