"""Fixtures of the agent tests."""

from __future__ import annotations

import pytest

from openqwen.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)})
