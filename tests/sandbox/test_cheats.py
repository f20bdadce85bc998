"""Completions that try to fake a pass: each fails, in the sandbox where there is one and at the checker's own level.

A wrong solution of the task `double` stands before the tests; the cheat is in the completion. The honest solutions beside
them pass, so a checker that refuses everything fails here too.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from openqwen import sandbox
from openqwen.evals import code
from openqwen.evals.tasks import TASKS, humaneval
from openqwen.sandbox import run

ITEM = {
    "id": "double",
    "prompt": "def double(x):\n",
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == -6\n"
    "    assert candidate('ab') == 'abab'\n",
    "answer": "    return 2 * x\n",
}
BODY = "    return 0\n"
MARK = "mark = open(sys.argv[0]).read().rsplit(\"print('\", 1)[-1].split(\"'\")[0].replace('\\\\n', '')\n"
FORGED = "    class Always({}):\n        def __eq__(self, other): return True\n    return Always()"
CHEATS = {
    "equal to anything": FORGED.format("object"),
    "a number equal to anything": FORGED.format("int"),
    "a text equal to anything": FORGED.format("str"),
    "sys.exit(0)": BODY + "import sys; sys.exit(0)",
    "os._exit(0)": BODY + "import os; os._exit(0)",
    "raise SystemExit": BODY + "raise SystemExit(0)",
    "quit": BODY + "quit(0)",
    "exit inside the function": "    import os; os._exit(0)",
    "exit after printing ok": "    print('ok', flush=True); import os; os._exit(0)",
    "kill itself": BODY + "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "become /bin/true": BODY + "import os; os.execv('/bin/true', ['true'])",
    "fork, parent leaves": BODY + "import os\nif os.fork(): os._exit(0)",
    "prints what it reads after the tests": BODY
    + "import sys\nlast = open(sys.argv[0]).read().rsplit(\"print('\", 1)[-1].split(\"'\")[0]\n"
    + "print(last.encode().decode('unicode_escape'), flush=True)\nimport os; os._exit(0)",
    "prints the last literal of its source": BODY
    + "import ast, sys, os\n"
    + "nodes = ast.walk(ast.parse(open(sys.argv[0]).read()))\n"
    + "found = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]\n"
    + "print(found[-1], flush=True); os._exit(0)",
    "atexit exits with 0": BODY + "import atexit, os\natexit.register(os._exit, 0)",
    "atexit prints the mark": BODY
    + "import atexit, sys, os\n"
    + MARK
    + "atexit.register(lambda: (print(), print(mark, flush=True), os._exit(0)))",
    "excepthook exits with 0": BODY + "import sys, os\nsys.excepthook = lambda *a: os._exit(0)",
    "excepthook prints the mark": BODY
    + "import sys, os\n"
    + MARK
    + "sys.excepthook = lambda *a: (print(), print(mark, flush=True), os._exit(0))",
    "thread exits first": "    import threading, os, time\n"
    + "    threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(1)",
    "signal handler exits": BODY
    + "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
    + "signal.setitimer(signal.ITIMER_REAL, 0.001)\nwhile True: pass",
    "settrace exits at check": BODY
    + "import sys, os\nsys.settrace(lambda frame, event, arg: os._exit(0) if frame.f_code.co_name == 'check' else None)",
    "setprofile exits at check": BODY
    + "import sys, os\nsys.setprofile(lambda frame, event, arg: os._exit(0) if frame.f_code.co_name == 'check' else None)",
    "AssertionError rebound": BODY
    + "import builtins, os\nclass AssertionError(SystemExit): code = 0\n"
    + "builtins.AssertionError = AssertionError",
    "stdout closed and exit 0": BODY + "import os; os.close(1); os._exit(0)",
    "writes to every descriptor": BODY
    + "import os\nfor fd in range(1, 64):\n    try: os.write(fd, b'passed\\n')\n    except OSError: pass\nos._exit(0)",
    "writes a result file": BODY + "open('result.json', 'w').write('{\"passed\": true}')\nimport os; os._exit(0)",
    "print redefined": BODY + "import builtins, os\nbuiltins.print = lambda *a, **k: os._exit(0)\nprint()",
    "unittest patched": BODY + "import unittest\nunittest.TestCase.assertEqual = lambda *a: None",
    "allclose patched": BODY + "import math\nmath.isclose = lambda *a, **k: True",
    "isinstance patched": BODY + "import builtins\nbuiltins.isinstance = lambda *a: True",
    "check defined before": BODY + "def check(candidate): pass",
    "optimised away": BODY
    + "import sys, os\nif not sys.flags.optimize:"
    + " os.execv(sys.executable, [sys.executable, '-c', 'pass'])",
}  # fmt: skip
HONEST = ("    return 2 * x", "    return x + x", "    print('noise'); return x * 2")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Programs of this file run in plain processes: the checker's rule is under test, not the containment."""

    def launch(name: str, program: str, *_: Any, **pipes: int) -> subprocess.Popen[bytes]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        path = folder / "apart.py"
        path.write_text(program, encoding="utf-8")
        command = [sys.executable, "-I", "-S", str(path)]
        return subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes)

    monkeypatch.setattr(run, "required", lambda: "plain")
    monkeypatch.setattr(run, "launch", launch)


def passed(completion: str, seconds: float = 1.5) -> bool:
    return code.passes([humaneval.harness_program(completion, ITEM)], seconds) == [True]


def test_there_are_enough() -> None:
    assert len(CHEATS) >= 25


@pytest.mark.fault(
    "evaluation", "a program leaves early, overrides equality, patches what judges it", "fails"
)
@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_fails_by_the_checkers_rule(name: str, plain: None) -> None:
    assert not passed(CHEATS[name])


@pytest.mark.parametrize("completion", HONEST)
def test_an_honest_solution_passes_by_the_same_rule(completion: str, plain: None) -> None:
    assert passed(completion, 5.0)


@pytest.mark.skipif(sandbox.backend() is None, reason="no sandbox on this machine")
def test_cheats_fail_and_honest_solutions_pass_in_the_sandbox() -> None:
    assert [name for name, cheat in CHEATS.items() if passed(cheat)] == []
    assert all(passed(completion, 5.0) for completion in HONEST)


@pytest.mark.shared
@pytest.mark.skipif(sandbox.backend() is None, reason="no sandbox on this machine")
@pytest.mark.parametrize(("task", "file"), [("humaneval", "HumanEval.jsonl.gz"), ("mbpp", "test.jsonl.gz")])
def test_canonical_solutions_pass(task: str, file: str, shared: Path) -> None:
    items = TASKS[task].read(shared / "data" / "eval" / task / file)[::9]
    programs = [
        humaneval.harness_program(i["answer"], i)
        if task == "humaneval"
        else TASKS[task].base.program(i["answer"], i)
        for i in items
    ]
    right = code.passes(programs)
    assert [item["id"] for item, ok in zip(items, right, strict=True) if not ok] == []
