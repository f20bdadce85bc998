"""Does a generated program pass its tests? Only ever decided inside the sandbox.

Report §2.6, §4.3 (pass@1). Ours: a Python program answers calls from its tests, which run in another sandbox: it sees
neither them nor what judges them, and its answers are plain data. In the other languages a program has passed only if
it ran past its tests and then printed a number drawn for this run; so leaving early counts for nothing. One that prints
that number although a failing test was put before it has read its own source, and fails too.
"""

from __future__ import annotations

import ast
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from openqwen import sandbox
from openqwen.evals.languages import LANGUAGES, SEAM


def available() -> str | None:
    """The sandbox in use, None if there is none: then code benchmarks give no number."""
    return sandbox.backend()


def missing(language: str = "python") -> str | None:
    """Why programs of this language are not run here, in words; None if they are."""
    if available() is None:
        return "no sandbox on this machine: generated code is not run"
    return sandbox.missing_tool(language)


def passes(programs: Sequence[str], seconds: float | None = None, language: str = "python") -> list[bool]:
    """For each program whether it runs through. MissingTool without a sandbox or the language's compiler.

    seconds: for compiling and running; None: what HumanEvalPack's own scorer gives the language.
    """
    limit = seconds or LANGUAGES[language].seconds
    with ThreadPoolExecutor(max_workers=1 if language == "go" else os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: _passes(program, limit, language), programs))


def _passes(program: str, seconds: float, language: str) -> bool:
    if language == "python":
        code, seam, tests = program.rpartition(SEAM)
        memory = LANGUAGES[language].memory_mb
        if not seam or not _compiles(code):
            return False
        return sandbox.passes_tests(code, tests, time_limit=seconds, memory_mb=memory)
    return _reaches_end(program, seconds, language, failing=False) and not _reaches_end(
        program, seconds, language, failing=True
    )


def _compiles(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _reaches_end(program: str, seconds: float, language: str, failing: bool) -> bool:
    mark = secrets.token_hex(16)
    form = LANGUAGES[language]
    assert form.finish is not None
    done = sandbox.run_program(
        form.finish(program, mark, failing), language=language, time_limit=seconds, memory_mb=form.memory_mb
    )
    return done.exit_code == 0 and done.stdout.rstrip("\n").rpartition("\n")[2] == mark
