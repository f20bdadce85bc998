"""Blocks of a model through torch.compile.

Ours. One block is compiled and serves all of them, since they differ in their weights only: seconds instead of a
minute for a deep model. Evaluation, samples and whatever holds a cache stay with the plain code, whose shapes change
from call to call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from openqwen.core.errors import MissingTool

# Of a block that may be compiled: with gradients or without, first of one shape and then of any, the last block, rows
# with their padding or packed. torch's own limit is 8, beyond which plain code would run in silence.
VARIANTS = 64


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Lets the training passes of blocks (model/qwen.py) run as generated code, before they are divided or recomputed.

    Raises MissingTool where torch finds no compiler that works.
    """
    _try_compiler()
    for block in blocks:
        block.forward = _in_training(block.forward)


@contextmanager
def compiled_blocks(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Lets passes of blocks without a cache run as generated code for a while, those without gradients, too.

    Raises MissingTool as `compile_blocks`.
    """
    _try_compiler()
    changed = list(blocks)
    for block in changed:
        block.forward = _without_cache(block.forward)
    try:
        with torch._dynamo.config.patch(recompile_limit=VARIANTS):
            yield
    finally:
        for block in changed:
            del block.forward  # the class's own is seen again


def _in_training(plain: Any) -> Any:
    fast = _without_cache(plain)

    def forward(x: Any, context: Any, rows: Any, layer: int) -> Any:
        return (fast if torch.is_grad_enabled() else plain)(x, context, rows, layer)

    return forward


def _without_cache(plain: Any) -> Any:
    fast = torch.compile(plain)

    def forward(x: Any, context: Any, rows: Any, layer: int) -> Any:
        return (fast if rows is None else plain)(x, context, rows, layer)

    return forward


def _try_compiler() -> None:
    """Compiles a trifle, so that a missing compiler is an error before the run."""
    from torch._dynamo.exc import BackendCompilerFailed

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except BackendCompilerFailed as error:
        raise MissingTool(
            f"torch.compile does not work here: {str(error).splitlines()[0]}",
            where="compile",
            fix="install a C++ compiler (Debian, Ubuntu: apt install g++), or leave --compile out",
        ) from error
