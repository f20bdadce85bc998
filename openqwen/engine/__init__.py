"""Continuous-batching generation from a live model: rollouts, evaluation, agents and the server share it.

Ours; the report does not describe its inference engine. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openqwen.engine.constraint import Constraint
from openqwen.engine.sampling import Sampling

if TYPE_CHECKING:
    from openqwen.engine.engine import Engine
    from openqwen.engine.sequence import Completion, Update

__all__ = ["Completion", "Constraint", "Engine", "Sampling", "Update"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from openqwen.engine.engine import Engine

        return Engine
    if name in ("Completion", "Update"):
        from openqwen.engine import sequence

        return getattr(sequence, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
