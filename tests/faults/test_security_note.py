"""Every claim of SECURITY.md names tests; they exist, they assert something, and nothing skips them for good."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = [
    line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
]
NAMED = sorted({test for claim in CLAIMS[1:] for test in re.findall(r"`(tests/[^`]+)`", claim)})


def idle(text: str, name: str) -> str:
    """Why a test of a module never shows anything; empty where it does."""
    tree = ast.parse(text)
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not tests:
        return "absent"
    marks = {
        target.id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    used = [ast.unparse(mark) for mark in tests[-1].decorator_list]
    for mark in [*(marks.get(mark, mark) for mark in used), *_listed(marks.get("pytestmark", ""))]:
        if re.match(r"pytest\.mark\.(skip\b|xfail\b|skipif\((True|1)\b)", mark):
            return "skipped"
        if re.match(r"pytest\.mark\.long\b", mark):
            return "long only"
    first = next((node for node in tests[-1].body if not _is_text(node)), None)
    if isinstance(first, ast.Expr) and ast.unparse(first).startswith(("pytest.skip(", "pytest.xfail(")):
        return "skipped"
    return "" if first is not None and not isinstance(first, ast.Pass) else "empty"


def _listed(marks: str) -> list[str]:
    return (
        [ast.unparse(e) for e in ast.parse(marks, mode="eval").body.elts]
        if marks.startswith("[")
        else [marks]
    )  # type: ignore[attr-defined]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_every_claim_names_tests() -> None:
    assert CLAIMS[0] == "| Against | How | Test |" and len(CLAIMS) > 15
    for claim in CLAIMS[1:]:
        assert re.findall(r"`(tests/[^`]+)`", claim.split("|")[3]), claim


@pytest.mark.parametrize("test", NAMED)
def test_what_is_named_is_run(test: str) -> None:
    path, name = test.split("::")
    assert idle((ROOT / path).read_text(encoding="utf-8"), name) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def test_a(): assert x", ""),
        ("def test_b(): assert x", "absent"),
        ("@pytest.mark.skip(reason='later')\ndef test_a(): assert x", "skipped"),
        ("@pytest.mark.skipif(True, reason='later')\ndef test_a(): assert x", "skipped"),
        ("later = pytest.mark.skip(reason='later')\n@later\ndef test_a(): assert x", "skipped"),
        ("pytestmark = pytest.mark.skip\ndef test_a(): assert x", "skipped"),
        ("pytestmark = [pytest.mark.slow, pytest.mark.skip]\ndef test_a(): assert x", "skipped"),
        ("def test_a():\n    'says'\n    pytest.skip('later')", "skipped"),
        ("@pytest.mark.xfail\ndef test_a(): assert x", "skipped"),
        ("@pytest.mark.long\ndef test_a(): assert x", "long only"),
        ("def test_a(): pass", "empty"),
        ("@pytest.mark.skipif(backend() is None, reason='none')\ndef test_a(): assert x", ""),
    ],
)
def test_what_shows_nothing_is_found(text: str, why: str) -> None:
    assert idle(text, "test_a") == why
