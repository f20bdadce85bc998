"""A Python program and its tests in two sandboxes: what they tell each other, and what they cannot."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.core.errors import DataError
from openqwen.sandbox import apart, backend, passes_tests
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")
numbers = (
    st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.booleans()
)
plain = numbers | st.none() | st.text() | st.binary() | st.sampled_from([int, str, list, range(3, 9, 2)])
data = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(plain)
        | st.frozensets(plain)
        | st.dictionaries(plain, inner)
    ),
    max_leaves=12,
)


def unexpected(*_: object) -> int:
    raise AssertionError("data was kept")


@given(data)
def test_data_comes_back_as_it_went(value: Any) -> None:
    back = apart.unpack(apart.pack(value, unexpected), unexpected)
    # A NaN is not equal to itself, and sets have no order of their own.
    assert back == value or ("nan" in repr(value).lower() and sorted(repr(back)) == sorted(repr(value)))


def test_odd_values_keep_their_kind() -> None:
    for value in (math.inf, -0.0, Decimal("1.50"), Fraction(-1, 3), 10**5000, "\ud800", True):
        back = apart.unpack(apart.pack(value, unexpected), unexpected)
        assert type(back) is type(value) and back == value
    assert math.copysign(1, apart.unpack(apart.pack(-0.0, unexpected), unexpected)) == -1


@pytest.mark.parametrize(
    "sent", [["type", "eval"], ["int"], ["nothing", []], [], 3, ["dict", [[["list", []], 1]]]]
)
def test_what_is_no_packed_value_is_no_value(sent: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017 - of any kind: the asker takes all of them as no answer
        apart.unpack(sent, unexpected)


def _named(text: str) -> dict[str, tuple[str, str]]:
    """Programs and their tests by name."""
    found = {}
    for block in text.split("#: ")[1:]:
        name, _, both = block.partition("\n")
        program, _, tests = both.partition("#= tests\n")
        found[name] = (program, tests)
    return found


RIGHT = _named("""
#: plain results
def f(x): return {'a': (x, [1.5])}
#= tests
assert f(2) == {'a': (2, [1.5])}
#: named arguments
def f(x, *, by=1): return x + by
#= tests
assert f(1, by=2) == 3 and f(1) == 2
#: lists changed in place
def f(x): x.sort()
#= tests
x = [2, 1]
assert f(x) is None and x == [1, 2]
#: dictionaries and sets changed in place
def f(x, y): x['a'] = 1; y.add(3)
#= tests
x, y = {}, {1}
f(x, y)
assert x == {'a': 1} and y == {1, 3}
#: objects of the program's classes
class Node:
    def __init__(self, n): self.number, self.left = n, None
def depth(node): return 1 + depth(node.left) if node else 0
#= tests
root = Node(1)
root.left = Node(2)
assert depth(root) == 2 and root.left.number == 2 and root.left.left is None
#: generators and the like
def f(n): yield from range(n)
#= tests
assert list(f(3)) == [0, 1, 2] and f(3) != [0, 1, 2] and bool(f(0))
#: functions that come back
def f(n): return lambda x: x + n
#= tests
assert f(1)(2) == 3
#: exceptions
def f(x): return 1 / x
#= tests
try:
    f(0)
except ZeroDivisionError as error:
    assert 'zero' in str(error)
else:
    assert False
#: exceptions of the program's own
class Own(Exception): pass
def f(): raise Own('x')
#= tests
try:
    f()
    assert False
except RuntimeError as error:
    assert 'Own: x' in str(error)
#: state from call to call
n = 0
def f():
    global n; n += 1; return n
#= tests
assert [f(), f()] == [1, 2]
#: modules that both name
import math
def f(): return math.pi
#= tests
assert math.isclose(f(), 3.14159, rel_tol=1e-5)
#: builtins under other names
list, str, type, len = 1, 2, 3, 4
def f(x): return [x]
#= tests
assert f(1) == [1]
#: names of ours
answer_for = judge = pack = json = 1
def ask(x): return x
#= tests
pack = unpack = 2
assert ask(3) == 3
#: noise
print('noise'); import sys; print('more', file=sys.stderr)
def f(): print('x'); return 1
#= tests
print('tests')
assert f() == 1
#: input that is empty
def f():
    try: return input()
    except EOFError: return 'end'
#= tests
assert f() == 'end'
#: a main of its own
def f(): return 1
if __name__ == '__main__': print(f())
#= tests
assert f() == 1
#: data classes
from dataclasses import dataclass
@dataclass
class P:
    x: int
def f(): return P(3)
#= tests
assert f().x == 3
""")
WRONG = _named("""
#: a test that fails
def f(): return 1
#= tests
assert f() == 2
#: a test after a right one
def f(x): return 1
#= tests
assert f(1) == 1
assert f(2) == 2
#: no such function
def g(): return 1
#= tests
assert f() == 1
#: a module the program does not import
def f(): return 1.0
#= tests
assert math.isclose(f(), 1)
#: a program that does not load
raise ValueError
#= tests
assert True
#: a program that leaves
import sys; sys.exit(0)
#= tests
assert True
#: a program that leaves in a call
def f(): raise SystemExit(0)
#= tests
try: f()
except BaseException: pass
#: a program that sleeps
import time
def f(): time.sleep(60)
#= tests
f()
#: a module of the program's own
class math: isclose = lambda *a, **k: True
def f(): return 1
#= tests
assert math.isclose(f(), 2)
#: nesting without end
def f():
    x = []
    x.append(x)
    return x
#= tests
assert f()
#: an answer without end
def f(): return 'x' * (1 << 25)
#= tests
assert f()
""")


@needs_sandbox
@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_pass(name: str) -> None:
    assert passes_tests(*RIGHT[name])


@pytest.mark.fault(
    "evaluation", "a program does not load, leaves, sleeps or answers without end", "fails in time"
)
@needs_sandbox
@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_fail(name: str) -> None:
    assert not passes_tests(*WRONG[name], time_limit=2.0)


@pytest.mark.fault("evaluation", "a program looks for its tests", "they are nowhere to be seen")
@needs_sandbox
def test_the_program_cannot_see_its_tests() -> None:
    looks = """
import gc, os
def f():
    seen = []
    for top in ("/work", "/tmp", "/dev/shm", "/etc"):
        for folder, _, files in os.walk(top):
            seen += [open(os.path.join(folder, name), errors="replace").read() for name in files]
    seen += [open(path).read() for path in ("/apart.py", "/proc/self/cmdline", "/proc/1/cmdline")]
    seen += [repr(held) for held in gc.get_objects() if type(held) in (list, tuple) and len(held) < 100]
    return "".join(["SECRET", "WORD"]) in " ".join(seen), any("def f" in text for text in seen)
"""
    assert passes_tests(looks, "assert f() == (False, True)\n'SECRETWORD'")


@needs_sandbox
def test_a_test_that_hands_over_no_data_is_an_error_and_no_verdict() -> None:
    with pytest.raises(DataError, match="a function cannot be handed"):
        passes_tests("def f(g): return g(1)", "assert f(lambda x: x + 1) == 2")
