"""Runs generated programs where they can do no harm, or refuses.

Report §3.4 and §4.3 need generated code to run; how to contain it is ours. A backend is chosen by probing
what it really contains, never by a binary's presence; when none passes, nothing is executed.
"""

from openqwen.sandbox.judge import passes_tests
from openqwen.sandbox.kernel import Cell, Kernel, Limits, Pool
from openqwen.sandbox.languages import LANGUAGES, missing_tool
from openqwen.sandbox.run import NoSandbox, Result, backend, run_program

__all__ = [
    "LANGUAGES",
    "Cell",
    "Kernel",
    "Limits",
    "NoSandbox",
    "Pool",
    "Result",
    "backend",
    "missing_tool",
    "passes_tests",
    "run_program",
]
