"""Every claim of SECURITY.md names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = [
    line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
]


def test_every_claim_names_tests_that_exist() -> None:
    assert CLAIMS[0] == "| Against | How | Test |" and len(CLAIMS) > 15
    for claim in CLAIMS[1:]:
        named = re.findall(r"`(tests/[^`]+)`", claim.split("|")[3])
        assert named, claim
        for test in named:
            path, name = test.split("::")
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
