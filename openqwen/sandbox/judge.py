"""Python programs are judged by tests in another sandbox, which the program cannot see or reach. Report §2.6, §4.3.

Ours: two sandboxes, each other's input and output (apart.py). The tests' one alone says whether they ran to their end.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from openqwen.core.errors import DataError
from openqwen.sandbox import run
from openqwen.sandbox.languages import python

_HALVES = Path(__file__).with_name("apart.py")
_PATH = "/apart.py"
_NO_DATA = 3


def passes_tests(program: str, tests: str, *, time_limit: float = 10.0, memory_mb: int = 512) -> bool:
    """Whether the tests, given the program's functions, run to their end within `time_limit` seconds.

    NoSandbox (exit code 78) where none is proven; DataError where a test hands over what cannot be told as data.
    """
    name, deadline = run.required(), time.monotonic() + time_limit
    asked, asking = os.pipe()
    answers, answering = os.pipe()
    ends, running = [asked, asking, answers, answering], []
    with tempfile.TemporaryFile() as told:
        try:
            for last, stdin, stdout, stderr in (
                (f"answer_for({program!r})", asked, answering, subprocess.DEVNULL),
                (f"judge({tests!r})", answers, asking, told.fileno()),
            ):
                code = f"{_HALVES.read_text('utf-8')}\n{last}\n"
                running.append(
                    run.launch(
                        name, code, _PATH, python(_PATH), int(time_limit) + 1, memory_mb,
                        stdin=stdin, stdout=stdout, stderr=stderr,
                    )
                )  # fmt: skip
            while ends:
                os.close(ends.pop())  # the two hold them: when one ends, the other is told
            exit_code = running[1].wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        finally:
            for end in ends:
                os.close(end)
            for process in running:
                run.kill_group(process)
                process.wait()
        if exit_code == _NO_DATA:
            told.seek(0)
            raise DataError(
                told.read(1000).decode("utf-8", "replace").strip(),
                fix="tests may hand over numbers, texts, lists and the like, and what the program returned",
            )
        return exit_code == 0
