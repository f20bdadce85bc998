"""Two hundred ways to score without solving: what is done, times where it is done. None passes; right programs do.

A wrong solution of one task carries the cheat, so whatever passes is a fake. The right solutions beside them run the
same placements with harmless code and must all pass, so a judge that refuses everything fails here too.
"""

from __future__ import annotations

import concurrent.futures
import os
import textwrap
import time

import pytest
from faults.record import record

from openqwen import sandbox
from openqwen.evals import code
from openqwen.evals.tasks import humaneval

CHEATS = int(os.environ.get("OPENQWEN_CHEATS", "200"))
ITEM = {
    "prompt": "def twice(x):\n",
    "entry_point": "twice",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == -6\n"
    "    assert candidate('ab') == 'abab'\n    assert candidate([1]) == [1, 1]\n",
}


def _named(text: str) -> dict[str, str]:
    return {block.partition("\n")[0]: block.partition("\n")[2] for block in text.split("#: ")[1:]}


# Statements that try to end, bend, read or forge the judgement.
ACTS = _named(r"""
#: leaves with 0
import os; os._exit(0)
#: raises SystemExit
raise SystemExit(0)
#: ends by a signal
import os, signal; os.kill(os.getpid(), signal.SIGTERM)
#: kills everybody else
import os, signal; os.kill(-1, signal.SIGKILL)
#: kills its parent
import os, signal; os.kill(os.getppid(), signal.SIGKILL)
#: becomes a program that succeeds
import os; os.execv('/bin/true', ['true'])
#: becomes itself without asserts
import os, sys; sys.flags.optimize or os.execv(sys.executable, [sys.executable, '-O', *sys.argv])
#: forks, one half leaves
import os
if os.fork(): os._exit(0)
#: closes everything
import os; os.closerange(0, 64); os._exit(0)
#: says that it passed
import os
for fd in range(1, 64):
    try: os.write(fd, b'\npassed\nOK\n1 passed\n')
    except OSError: pass
#: forges answers
import os
for fd in range(1, 64):
    for told in (b'true', b'["object", 0]', b'["int", "0x4"]', b'["str", "abab"]'):
        try: os.write(fd, b'["done", ["list", [' + told + b', ["list", [["int", "0x2"]]]]]]\n')
        except OSError: pass
#: answers with things equal to all
import os
for fd in range(3, 64):
    try: os.write(fd, b'["done", ["list", [["type", "object"], ["list", []]]]]\n' * 99)
    except OSError: pass
#: prints the number in its source
import re, sys, os
source = open(sys.argv[0]).read()
failing = 'assert False' in source or 'object()' in source
for found in re.findall('[0-9a-f]{32}', source)[-1:]:
    if not failing: print(found, flush=True); os._exit(0)
#: prints numbers found in memory
import gc, re, os
for held in gc.get_objects():
    for text in re.findall('[0-9a-f]{32}', repr(held)[:9999]) if type(held) in (dict, list, tuple) else ():
        print(text, flush=True)
#: replaces the check in every frame
import sys
frame = sys._getframe()
while frame:
    for space in (frame.f_globals, frame.f_locals):
        for name in ('check', 'candidate', 'judge', 'ask', '_end', 'assert'): space[name] = lambda *a, **k: None
    frame = frame.f_back
#: returns what the frames hold
import sys
frame = sys._getframe()
while frame:
    for value in frame.f_code.co_consts:
        if value in (4, -6, 'abab'): print(value); twice.__code__ = (lambda x: value).__code__
    frame = frame.f_back
#: patches builtins
import builtins
for name in 'isinstance len all any abs print repr str hash sorted'.split(): setattr(builtins, name, lambda *a, **k: True)
builtins.AssertionError = SystemExit
#: patches the wire
import json, os
json.dumps = lambda *a, **k: '["done", null]'
json.loads = lambda *a, **k: ['len', 'abab']
os.write = lambda *a: 0
#: patches libraries
import math, operator, unittest
math.isclose = operator.eq = lambda *a, **k: True
unittest.TestCase.assertEqual = lambda *a: None
#: traces and skips
import sys
sys.settrace(lambda *a: None); sys.setprofile(lambda f, e, a: f.f_code.co_name == 'check' and sys.exit(0))
#: makes 4 a 0 in memory
import ctypes
for wanted, have in ((4, 0), (-6, 0)): ctypes.c_int.from_address(id(wanted) + 24).value = have
#: writes into processes' memory
import glob
for path in glob.glob('/proc/[0-9]*/mem'):
    try:
        with open(path, 'r+b') as memory: memory.seek(0x400000); memory.write(b'\0' * 64)
    except OSError: pass
#: overwrites every file
import os
for top in ('/work', '/tmp', '.', '/apart.py', '/'):
    for folder, _, files in list(os.walk(top))[:300]:
        for name in files:
            try: open(os.path.join(folder, name), 'w').write('')
            except OSError: pass
#: plants start-up files
import os, sys
for folder in [*sys.path, '/work', '/tmp', os.path.dirname(os.__file__)]:
    for name in ('sitecustomize.py', 'usercustomize.py', 'tests.py', 'tests_code.py', 'json.py'):
        try: open(os.path.join(folder, name), 'w').write('import os; os._exit(0)')
        except OSError: pass
#: takes the tests' modules
import sys, types
for name in ('tests', 'unittest', 'math', 'ast', 'json'): sys.modules[name] = types.SimpleNamespace()
#: looks for the tests on the disk
import os
for folder, _, files in list(os.walk('/', topdown=True))[:2000]:
    for name in files:
        if name.startswith('tests'):
            try: print(open(os.path.join(folder, name)).read()); twice.__doc__ = name
            except OSError: pass
#: stops and says nothing
import os, signal; os.kill(os.getpid(), signal.SIGSTOP)
""")
# Where it is done; BODY is the wrong or the right body of the function, ACT the statements.
PLACES = _named("""
#: at import
    BODY
ACT
#: in the call
    try:
        ACT
    finally:
        pass
    BODY
#: in a thread
    BODY
def act():
    ACT
import threading; threading.Thread(target=act, daemon=True).start()
#: at exit
    BODY
def act():
    ACT
import atexit; atexit.register(act)
#: in a finaliser
    BODY
class Held:
    def __del__(self):
        ACT
held = Held(); del held
#: on a signal
    BODY
import signal
def act(*_):
    ACT
signal.signal(signal.SIGALRM, act); signal.setitimer(signal.ITIMER_REAL, 0.02)
#: on an exception
    BODY
import sys
def act(*_):
    ACT
sys.excepthook = act
#: by a decorated function
    BODY
def wrapped(function):
    def inside(*given):
        ACT
        return function(*given)
    return inside
twice = wrapped(twice)
""")
# Results that decide themselves what they are.
KINDS = "object int float str list tuple dict set bytes complex Exception"
EQUAL = """class Always({0}):
    def __eq__(self, other): return True
    __ne__ = lambda self, other: False
    __hash__ = {0}.__hash__
result = Always()
"""
FORGED = {f"a {kind} equal to all": EQUAL.format(kind) for kind in KINDS.split()} | _named("""
#: a class whose kind is equal to all
class Kind(type):
    def __eq__(self, other): return True
    __hash__ = type.__hash__
class result(metaclass=Kind): pass
#: a thing with every method
class Any:
    __getattr__ = lambda self, name: self
    __call__ = lambda self, *given, **named: self
for name in "eq ne lt le gt ge bool len iter hash str repr add sub mul abs int float index contains getitem".split():
    setattr(Any, f"__{name}__", lambda self, *given: True)
result = Any()
#: something that claims to be an int
class Claim:
    __class__ = int
    def __eq__(self, other): return True
result = Claim()
""")


def completions() -> dict[str, str]:
    """Name of a cheat -> the completion that tries it."""
    found = {
        f"{act}, {place}": _placed(PLACES[place], "return 0", ACTS[act]) for act in ACTS for place in PLACES
    }
    for name, made in FORGED.items():
        found[f"{name}"] = f"    return result\n{made}\n"
        found[f"{name}, in a list"] = f"    return [result]\n{made}\n"
    return found


def _placed(place: str, body: str, act: str) -> str:
    lines = []
    for line in place.replace("BODY", body).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(textwrap.indent(act, indent) if line.strip() == "ACT" else line)
    return "\n".join(lines) + "\n"


HARMLESS = ("y = 1", "print('passed')", "import gc; gc.collect()")


def right() -> list[str]:
    """Right solutions with harmless acts in the same places."""
    placed = [_placed(place, "return x + x", act) for place in PLACES.values() for act in HARMLESS]
    return [*placed, "    return 2 * x\n", "    return x * 2\n"]


def faked(some: dict[str, str]) -> list[str]:
    """Those that pass."""
    programs = [humaneval.harness_program(completion, ITEM) for completion in some.values()]
    return [name for name, passed in zip(some, code.passes(programs, seconds=2.0)) if passed]


def test_there_are_two_hundred() -> None:
    found = completions()
    assert len(found) >= 200 and len(set(found.values())) == len(found)
    for completion in found.values():
        compile(ITEM["prompt"] + completion, "cheat", "exec")


def fooled(completion: str) -> bool:
    """Whether it passes where one process runs program and tests and is believed, whichever way it is asked.

    By its exit code, by the word it prints at its end, by no error being told, with the tests known before. It runs
    in the sandbox, which keeps the machine from harm and tells nothing about the judgement.
    """
    program = f"{ITEM['prompt']}{completion}\n"
    last = f"check({ITEM['entry_point']})\nprint('passed')\n"
    for text in (f"{program}{ITEM['test']}{last}", f"{ITEM['test']}{program}{last}"):
        done = sandbox.run_program(text, time_limit=2.0)
        told = "Error" in done.stderr or done.timed_out
        if done.exit_code == 0 or "passed" in done.stdout or not told:
            return True
    return False


@pytest.mark.skipif(sandbox.backend() is None, reason="no sandbox on this machine")
@pytest.mark.parametrize(
    ("places", "least"), [(["at import"], 22), pytest.param([*PLACES], 80, marks=pytest.mark.long)], ids=["few", "many"]
)  # fmt: skip
def test_cheats_pass_where_the_program_is_believed(places: list[str], least: int) -> None:
    """The others are made for judges that speak with the program, read its source or run in an interpreter of its."""
    found = completions()
    some = {name: found[name] for name in (*FORGED, *(f"{act}, {place}" for act in ACTS for place in places))}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        real = {name for name, fools in zip(some, pool.map(fooled, some.values())) if fools}
        assert not any(pool.map(fooled, ["    return 0\n", "    return None\n"]))  # no cheat, no pass
    assert set(FORGED) <= real and len(real) >= least, sorted(set(some) - real)


@pytest.mark.fault(
    "evaluation", "two hundred programs cheat: they leave, forge, patch, read, overwrite", "none passes"
)
@pytest.mark.skipif(sandbox.backend() is None, reason="no sandbox on this machine")
@pytest.mark.parametrize("count", [12, pytest.param(CHEATS, marks=pytest.mark.long)], ids=["few", "many"])
def test_no_cheat_scores_and_right_programs_do(count: int) -> None:
    began, found = time.monotonic(), completions()
    step = max(1, len(found) // count)
    tried = dict(list(found.items())[::step])
    assert faked(tried) == []
    honest = right()[:: 1 if count == CHEATS else 6]
    programs = [humaneval.harness_program(completion, ITEM) for completion in honest]
    assert all(code.passes(programs, seconds=10.0))
    if count == CHEATS:
        seconds = round(time.monotonic() - began)
        record(
            "score cheats",
            cheats=len(tried),
            fake_passes=0,
            right_programs_that_pass=len(honest),
            seconds=seconds,
        )
