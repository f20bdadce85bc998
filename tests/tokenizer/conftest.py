"""A small trained vocabulary and the released one."""

from __future__ import annotations

from pathlib import Path

import pytest

from openqwen.tokenizer import Tokenizer, load_tokenizer
from openqwen.tokenizer.count import count_pieces
from openqwen.tokenizer.train import byte_ranks, extended, train

TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't.\n" * 3,
    "通义千问是一个语言模型。语言模型可以回答问题，也可以写故事。\n" * 3,
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 23))\n" * 3,
    "Größe, café, naïve, Ελληνικά, русский язык, हिन्दी, العربية, 😀😀\n" * 3,
]


@pytest.fixture(scope="session")
def small() -> Tokenizer:
    """About 400 ranks learnt from TEXTS, and the 208 special tokens."""
    return Tokenizer(extended(byte_ranks(), train(count_pieces(TEXTS), 150)))


@pytest.fixture(scope="session")
def qwen_file(shared: Path) -> Path:
    return shared / "vocab/qwen.tiktoken"


@pytest.fixture(scope="session")
def qwen(qwen_file: Path) -> Tokenizer:
    """The released vocabulary."""
    return load_tokenizer(qwen_file)
