"""How a program of each language is compiled and run inside the sandbox, and which compilers this machine has.

Report §4.3 (HumanEvalPack's six languages). A tool under /usr is there inside too; one that lives elsewhere (rustup's, a
Go of one's own) is shown read-only as /packages, its whole folder. Nothing is fetched: a crate or module that is not part
of the language's standard library does not exist inside.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACKAGES = "/packages"


@dataclass(frozen=True)
class Language:
    """file: the program's name inside. tools: what must be installed. command: of (path, where a tool is inside)."""

    file: str
    tools: tuple[str, ...]
    command: Callable[[str, Callable[[str], str]], list[str]]


def python(path: str) -> list[str]:
    """The command that runs a Python file inside, with the standard library only."""
    # -I: no user site, no environment, no script folder on the path. -S: only the standard library.
    # A virtual environment may hold a copy of the interpreter, which would not be visible inside.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [os.path.realpath(Path(sys.base_prefix, "bin", version)), "-I", "-S", path]


def _shell(*steps: str) -> list[str]:
    return ["/bin/sh", "-c", " && ".join(steps)]


# A few threads each: the sandbox allows 64 processes and threads together.
_JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:CICompilerCount=1 -Xmx512m"
LANGUAGES: dict[str, Language] = {
    "python": Language("program.py", (), lambda path, tool: python(path)),
    "js": Language(
        "program.js",
        ("node",),
        lambda path, tool: ["/usr/bin/env", "OPENSSL_CONF=/dev/null", tool("node"), "--v8-pool-size=1", path],
    ),
    "java": Language(
        "Main.java",
        ("javac", "java"),
        lambda path, tool: _shell(
            f"{tool('javac')} {' '.join('-J' + flag for flag in _JVM.split())} -nowarn -d /tmp/classes {path}",
            f"exec {tool('java')} {_JVM} -cp /tmp/classes Finish",
        ),
    ),
    "go": Language(
        "program.go",
        ("go",),
        lambda path, tool: _shell(
            "export GOMAXPROCS=1 GOFLAGS=-p=1 GOCACHE=/work/cache GOPATH=/tmp/go GOTOOLCHAIN=local CGO_ENABLED=0",
            f"{tool('go')} build -ldflags=-s -o /tmp/program {path}",
            "exec /tmp/program",
        ),
    ),
    "cpp": Language(
        "program.cpp",
        ("g++",),
        lambda path, tool: _shell(f"{tool('g++')} -std=c++17 -w -o /tmp/program {path}", "exec /tmp/program"),
    ),
    "rust": Language(
        "program.rs",
        ("rustc", "cc"),
        lambda path, tool: _shell(
            f"{tool('rustc')} --edition 2021 -A warnings -C codegen-units=1 -C linker={tool('cc')}"
            f" -o /tmp/program {path}",
            "exec /tmp/program",
        ),
    ),
}


def missing_tool(language: str) -> str | None:
    """Which compiler this machine lacks for a language, in words; None if it can run there."""
    for tool in LANGUAGES[language].tools:
        if _found(tool) is None:
            return f"{tool} is not installed"
    return None


def outside(language: str) -> Path | None:
    """The folder that must be shown as /packages, for a compiler that is not under /usr."""
    for tool in LANGUAGES[language].tools:
        path = _found(tool)
        if path is not None and Path("/usr") not in path.parents:
            return path.parent.parent
    return None


def inside(tool: str) -> str:
    """Where an installed tool is inside the sandbox."""
    path = _found(tool)
    assert path is not None, f"{tool} vanished after it was looked for"
    return str(path) if Path("/usr") in path.parents else f"{PACKAGES}/bin/{path.name}"


@functools.cache
def _found(tool: str) -> Path | None:
    """The tool itself: links are followed, and rustup's stand-in is asked for the compiler it would start."""
    name = shutil.which(tool)
    if name is None:
        return None
    path = Path(os.path.realpath(name))
    if path.name != "rustup":
        return path
    asked = subprocess.run([name, "--print", "sysroot"], capture_output=True, text=True)
    real = Path(asked.stdout.strip(), "bin", tool)
    return real if asked.returncode == 0 and real.is_file() else None
