"""Fixtures of the agent tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from openqwen.tokenizer import Tokenizer

sys.path.append(
    str(Path(__file__).parents[1] / "annotate")
)  # chat_api, the server that answers as a test wants


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)})
