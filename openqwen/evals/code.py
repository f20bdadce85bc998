"""Does a generated program pass its tests? Only ever decided inside the sandbox.

Report §2.6, §4.3 (pass@1). Ours: a program has passed only if it ran past its tests and then printed a number drawn for
this run; so leaving early counts for nothing. One that prints that number although a failing test was put before it has
read its own source, and fails too.
"""

from __future__ import annotations

import ast
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from openqwen import sandbox


def available() -> str | None:
    """The sandbox in use, None if there is none: then code benchmarks give no number."""
    return sandbox.backend()


def passes(programs: Sequence[str], seconds: float = 5.0) -> list[bool]:
    """For each program whether it runs through. MissingTool where there is no sandbox."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: _passes(program, seconds), programs))


def _passes(program: str, seconds: float) -> bool:
    if not _compiles(program):
        return False
    return _reaches_end(program, seconds) and not _reaches_end(f"{program}\nassert False\n", seconds)


def _compiles(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _reaches_end(program: str, seconds: float) -> bool:
    mark = secrets.token_hex(16)
    done = sandbox.run_program(f"{program}\nprint('\\n{mark}')\n", time_limit=seconds)
    return done.exit_code == 0 and done.stdout.rstrip("\n").rpartition("\n")[2] == mark
