"""Formulas equal by algebra: what sympy decides, and what would never end."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from openqwen.evals import algebra


@pytest.fixture(autouse=True, scope="module")
def process() -> Iterator[None]:
    if find_spec("antlr4") is None:
        pytest.skip(f"antlr4 is not installed: {algebra.INSTALL}")
    yield
    algebra._stop()


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("(x+1)^{2}", "x^{2}+2x+1", True), ("\\frac{1}{2}", "0.5", True), ("\\sqrt{12}", "2\\sqrt{3}", True),
        ("x", "y", False), ("[2,5)", "[2,5)", True), ("", "", False), ("\\frac{", "1", False), ("a\nb", "\\n", False),
        ("1/0", "2/0", False),
    ],
)  # fmt: skip
def test_equal_by_algebra(a: str, b: str, equal: bool) -> None:
    assert algebra.same(a, b) == equal


def test_what_takes_for_ever_is_not_equal_and_the_next_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert algebra.same("2", "1+1")
    monkeypatch.setattr(algebra, "SECONDS", 0.5)
    assert not algebra.same("9^{9^{9^{9}}}", "1")
    monkeypatch.setattr(algebra, "SECONDS", 20.0)
    assert algebra.same("2", "1+1")
    algebra._running[0].kill()
    algebra._running[0].wait()
    assert algebra.same("3", "1+2")
