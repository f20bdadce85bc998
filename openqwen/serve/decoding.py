"""Whether the server and the terminal chat decode by compiled code (engine/native.py).

Ours. It is the faster way on a CPU, so it is taken where it can be; where it cannot be, a line says why.
"""

from __future__ import annotations

from rich.markup import escape

from openqwen.core.console import error_console
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.engine import native
from openqwen.model.qwen import Qwen


def use_compiled(model: Qwen, wanted: bool | None) -> bool:
    """What to give Engine as `compiled`. wanted: None: yes where it can be, or a line on stderr says why not.

    True: an OpenQwenError where it cannot be.
    """
    weight = model.embed.weight
    if wanted is False or (wanted is None and weight.device.type != "cpu"):
        return False
    try:
        _check(model)
    except OpenQwenError as error:
        if wanted:
            raise
        fix = f" ({error.fix})" if error.fix else ""
        error_console.print(f"  decoding without compiled code, which is slower: {escape(error.what + fix)}")
        return False
    return True


def _check(model: Qwen) -> None:
    weight = model.embed.weight
    if weight.device.type != "cpu":
        raise UsageError(f"compiled decoding is for CPUs, the model is on {weight.device}")
    if weight.dtype not in native.NAMES:
        raise UsageError(f"compiled decoding reads float32 and bfloat16 weights, these are {weight.dtype}")
    try:
        native.library()
    except OSError as error:  # nowhere to keep the library, or it cannot be loaded from there
        raise UsageError(
            f"compiled decoding has no place for its library: {error}",
            fix="set XDG_CACHE_HOME to a folder that can be written",
        ) from error
