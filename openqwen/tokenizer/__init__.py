"""Text to ids and back: the report's byte-level BPE, its training, its files, its compression. No torch.

Report §2.2 and Figure 3. Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]

_HOME = {
    "Tokenizer": "openqwen.tokenizer.tokenizer",
    "load_tokenizer": "openqwen.tokenizer.load",
    "StreamDecoder": "openqwen.tokenizer.stream",
}

if TYPE_CHECKING:
    from openqwen.tokenizer.load import load_tokenizer
    from openqwen.tokenizer.stream import StreamDecoder
    from openqwen.tokenizer.tokenizer import Tokenizer


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'openqwen.tokenizer' has no attribute {name!r}")
