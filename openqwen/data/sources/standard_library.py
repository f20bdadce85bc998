"""The HTML pages pydoc renders for the user's standard library, and the library's own source files.

Report §2.1 lists encyclopedia, books, code and web pages as sources; that a Python installation already holds
real HTML documentation and real code is ours: it is what makes a tour without downloads possible.

Rendering means importing modules, so it happens in one isolated child process with an empty environment, an
empty working directory and a hard time limit. Modules that do something when imported are never touched.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

from openqwen.core.errors import OpenQwenError
from openqwen.data.config import SourcesConfig
from openqwen.data.documents import Raw

# antigravity opens a browser, this prints, idlelib and turtledemo open windows, test holds crashers; the others
# need a platform, a display or a database, or show the machine's own paths and settings.
NEVER = frozenset(
    [
        "antigravity",
        "this",
        "idlelib",
        "turtledemo",
        "turtle",
        "test",
        "lib2to3",
        "msilib",
        "msvcrt",
        "winreg",
        "winsound",
        "_winapi",
        "tkinter",
        "ensurepip",
        "venv",
        "site",
        "sitecustomize",
        "usercustomize",
        "sys",
        "sysconfig",
        "posix",
        "nt",
        "dbm",
        "curses",
        "readline",
        "rlcompleter",
        "distutils",
        "pip",
        "setuptools",
        "pkg_resources",
        "wheel",
        "crypt",
        "ossaudiodev",
        "spwd",
        "nis",
        "audioop",
        "imp",
        "asyncore",
        "asynchat",
        "smtpd",
        "xxlimited",
        "xxlimited_35",
        "xxsubtype",
        "pydoc_data",
    ]
)
SKIPPED_FOLDERS = frozenset(
    [
        "__pycache__",
        "test",
        "tests",
        "idlelib",
        "turtledemo",
        "lib2to3",
        "msilib",
        "site-packages",
        "dist-packages",
        "ensurepip",
        "encodings",
        "pydoc_data",
        "idle_test",
        "distutils",
        "config",
        "lib-dynload",
    ]
)

# Runs with -I -S: no user site, no PYTHON* variables, no site-packages. Modules arrive on stdin, pages leave on
# the original stdout, one JSON line each; whatever a module prints while imported goes nowhere.
_CHILD = r"""
import importlib, json, os, re, sys, warnings
warnings.simplefilter("ignore")
sys.setrecursionlimit(3000)
request = json.load(sys.stdin)
pages = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
quiet = os.open(os.devnull, os.O_WRONLY)
os.dup2(quiet, 1)
os.dup2(quiet, 2)
import pydoc
size = 0
for name in request["modules"]:
    if size >= request["bytes"]:
        break
    try:
        module = importlib.import_module(name)
        body = pydoc.html.document(module, name)
        page = pydoc.html.page(pydoc.describe(module), body)
    except BaseException as error:
        pages.write(json.dumps({"name": name, "error": type(error).__name__}) + "\n")
        continue
    for folder in request["hide"]:
        page = page.replace(folder, "")
    page = re.sub(" at 0x[0-9a-fA-F]{6,}", "", page)  # addresses differ between runs
    size += len(page)
    pages.write(json.dumps({"name": name, "html": page}) + "\n")
pages.flush()
os._exit(0)
"""


def stdlib_folder() -> Path:
    """Where the standard library's .py files are."""
    return Path(sysconfig.get_path("stdlib"))


def _shuffled(names: list[str]) -> list[str]:
    """A fixed order that does not favour the beginning of the alphabet, the same on every machine."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def module_names() -> list[str]:
    """Public standard library modules that may be imported, packages' public submodules included."""
    names = [n for n in sys.stdlib_module_names if not n.startswith("_") and n not in NEVER]
    for package in ("asyncio", "collections", "concurrent", "email", "html", "http", "importlib", "json"):
        for path in sorted((stdlib_folder() / package).glob("*.py")):
            if not path.stem.startswith("_"):
                names.append(f"{package}.{path.stem}")
    return _shuffled(sorted(names))


def pydoc_pages(config: SourcesConfig, modules: list[str] | None = None) -> Iterator[Raw]:
    """Rendered pages as source "docs". OpenQwenError if the child dies or exceeds its time."""
    request = {
        "modules": (modules if modules is not None else module_names())[: config.pydoc_modules],
        "bytes": config.pydoc_bytes,
        "hide": [str(stdlib_folder()), sys.prefix, sys.base_prefix],
    }
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for line in _render(request, config.pydoc_seconds).split(b"\n"):
        if line and (page := json.loads(line)).get("html"):
            name = f"pydoc/{version}/{page['name']}.html"
            yield Raw(name, "docs", html=page["html"].encode(), charset="utf-8", file=name, lang="en")


def _render(request: dict[str, object], seconds: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="openqwen-pydoc-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-c", _CHILD],
                input=json.dumps(request).encode(),
                capture_output=True,
                timeout=seconds,
                cwd=folder,
                # Nothing of the user's environment may end in a corpus (pydoc prints os.environ).
                env={"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/nonexistent", "TZ": "UTC"},
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OpenQwenError(
                f"rendering the standard library's documentation took more than {seconds:g} s",
                where="pydoc child process",
                fix="raise --sources.pydoc_seconds, or leave it out with --sources.pydoc false",
            ) from error
    if done.returncode != 0:
        raise OpenQwenError(
            f"rendering the standard library's documentation failed with exit status {done.returncode}",
            where=done.stderr.decode("utf-8", "replace").strip().split("\n")[-1] or "pydoc child process",
            fix="leave it out with --sources.pydoc false",
        )
    return done.stdout


def stdlib_sources(config: SourcesConfig) -> Iterator[Raw]:
    """The standard library's own .py files as source "code", in a fixed order, up to the byte budget."""
    folder = stdlib_folder()
    paths = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith(("config-", "."))]
        for name in files:
            if name.endswith(".py") and name not in ("this.py", "antigravity.py"):
                paths[str(Path(root, name).relative_to(folder))] = Path(root, name)
    size = 0
    for relative in _shuffled(sorted(paths)):
        path = paths[relative]
        if not 200 <= path.stat().st_size <= config.stdlib_file_bytes:
            continue
        try:
            with tokenize.open(path) as file:
                text = file.read()
            ast.parse(text)
        except (
            OSError,
            SyntaxError,
            ValueError,
        ):  # templates and deliberately broken files are no code to learn
            continue
        name = f"stdlib/{relative}"
        yield Raw(name, "code", text=text, file=name, lang="code")
        size += len(text.encode())
        if size >= config.stdlib_bytes:
            break
