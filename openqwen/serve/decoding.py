"""How the server and the terminal chat decode: by compiled code (engine/native.py) or not, and with how many bits.

Ours. Compiled code is the faster way on a CPU, so it is taken where it can be; where it cannot be, a line says why.
"""

from __future__ import annotations

from rich.markup import escape

from openqwen.core.console import error_console, note
from openqwen.core.errors import OpenQwenError, UsageError
from openqwen.engine import native
from openqwen.model.config import CacheFormat, Quantisation, WeightBits
from openqwen.model.quantise import is_quantised, quantise, weight_bytes
from openqwen.model.qwen import Qwen


def use_bits(model: Qwen, weights: WeightBits | None) -> None:
    """Quantises the model in place if that is asked for, and says what it saves."""
    if weights is not None:
        before = weight_bytes(model)
        quantise(model, Quantisation(weights=weights))
        note(f"weights in {weights}: {weight_bytes(model) / 2**20:.1f} MiB instead of {before / 2**20:.1f}")


def use_compiled(model: Qwen, wanted: bool | None, cache: CacheFormat | None = None) -> bool:
    """What to give Engine as `compiled`. wanted: None: yes where it can be, or a line on stderr says why not.

    True: an OpenQwenError where it cannot be.
    """
    weight = model.embed.weight
    if wanted is False or (wanted is None and weight.device.type != "cpu"):
        return False
    try:
        _check(model, cache)
    except OpenQwenError as error:
        if wanted:
            raise
        fix = f" ({error.fix})" if error.fix else ""
        error_console.print(f"  decoding without compiled code, which is slower: {escape(error.what + fix)}")
        return False
    return True


def _check(model: Qwen, cache: CacheFormat | None) -> None:
    weight = model.embed.weight
    if is_quantised(model) and not native.reads_weights(model):
        raise UsageError("compiled decoding reads no int4 weights")
    if cache is not None:
        raise UsageError(f"compiled decoding reads no {cache} cache")
    if weight.device.type != "cpu":
        raise UsageError(f"compiled decoding is for CPUs, the model is on {weight.device}")
    if weight.dtype not in native.NAMES:
        raise UsageError(f"compiled decoding reads float32 and bfloat16 weights, these are {weight.dtype}")
    native.library()
