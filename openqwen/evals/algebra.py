"""Whether two formulas are equal by algebra, decided by sympy in a process of its own.

Ours. Formulas come from models: one may take for ever or all memory to simplify (9^{9^{9^9}}), which nothing can stop
from inside. The process has limits; a pair that exceeds them is not equal, and the next pair gets a new process.
"""

from __future__ import annotations

import atexit
import json
import selectors
import subprocess
import sys
from collections.abc import Iterable
from typing import IO

from openqwen.core.errors import MissingTool

INSTALL = "pip install sympy 'antlr4-python3-runtime==4.11.*'"  # the version that sympy's grammar is made for
SECONDS = 5.0  # for one pair, as in lm-evaluation-harness
START_SECONDS = 60.0
MEMORY = 2 << 30
_running: list[subprocess.Popen[str]] = []


def same(a: str, b: str) -> bool:
    """Whether a and b, as LaTeX, differ by nothing. Not those that sympy cannot read, nor what takes it too long."""
    if a == b:
        return a != ""
    if _running and _running[0].poll() is not None:
        _stop()
    process = _running[0] if _running else _start()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([a, b]) + "\n")
    process.stdin.flush()
    said = _line(process.stdout, SECONDS)
    if said is None:
        _stop()
    return said == "True"


def _start() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "openqwen.evals.algebra"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
    )  # fmt: skip
    _running.append(process)
    assert process.stdout is not None
    if _line(process.stdout, START_SECONDS) != "ready":
        _stop()
        raise MissingTool("the process that compares formulas does not start", fix=INSTALL)
    return process


@atexit.register
def _stop() -> None:
    while _running:
        process = _running.pop()
        process.kill()
        process.communicate()


def _line(stream: IO[str], seconds: float) -> str | None:
    """The next line, None if there is none in time or the process is gone. One is asked for at a time: none waits."""
    with selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        return (stream.readline().strip() or None) if ready.select(seconds) else None


# ------------------------------------------------------------------------------------------------ the process
def main(lines: Iterable[str]) -> None:
    """Answers True or False, a line for each pair."""
    import resource

    import sympy
    from sympy.parsing.latex import parse_latex

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    parse_latex("1")  # loads the grammar
    print("ready", flush=True)
    for line in lines:
        a, b = json.loads(line)
        try:
            found = sympy.simplify(parse_latex(a) - parse_latex(b)) == 0
        except (
            Exception
        ):  # sympy raises whatever it likes for what is no formula: then it is not an equal one
            found = False
        print(bool(found), flush=True)


if __name__ == "__main__":
    main(sys.stdin)
