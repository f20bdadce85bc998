"""The architecture of section 2.3, context extension of section 2.5, weights in and out.

Light: nothing here imports torch until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "Extension",
    "KVCache",
    "ModelConfig",
    "Qwen",
    "ScalarModel",
    "load_model",
    "load_scalar",
    "save_model",
    "save_scalar",
]

_HOME = {
    "ModelConfig": "openqwen.model.config",
    "Extension": "openqwen.model.config",
    "Qwen": "openqwen.model.qwen",
    "KVCache": "openqwen.model.cache",
    "ScalarModel": "openqwen.model.heads",
    "load_model": "openqwen.model.weights",
    "save_model": "openqwen.model.weights",
    "load_scalar": "openqwen.model.weights",
    "save_scalar": "openqwen.model.weights",
}

if TYPE_CHECKING:
    from openqwen.model.cache import KVCache
    from openqwen.model.config import Extension, ModelConfig
    from openqwen.model.heads import ScalarModel
    from openqwen.model.qwen import Qwen
    from openqwen.model.weights import load_model, load_scalar, save_model, save_scalar


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'openqwen.model' has no attribute {name!r}")
