"""openqwen: the system of the Qwen Technical Report (2023) as software.

The names below are the stable surface; each loads its subject (and torch) on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "Sampling", "__version__", "load_model", "load_tokenizer"]

_HOME = {
    "load_tokenizer": "openqwen.tokenizer",
    "load_model": "openqwen.model",
    "Engine": "openqwen.engine",
    "Sampling": "openqwen.engine",
}

if TYPE_CHECKING:
    from openqwen.engine import Engine, Sampling
    from openqwen.model import load_model
    from openqwen.tokenizer import load_tokenizer


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'openqwen' has no attribute {name!r}")
