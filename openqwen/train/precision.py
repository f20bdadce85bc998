"""Which device, which number format, how many threads, and bits that repeat.

Report §2.4: BFloat16 mixed precision (fp32 weights and optimizer, bf16 matrix products). The choices made on a machine
without it are ours.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from openqwen.train.config import Precision


def pick_device() -> torch.device:
    """CUDA if there is a device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products. `auto` takes bf16 where the hardware multiplies it faster than fp32."""
    if precision == "auto":
        return torch.bfloat16 if _fast_bf16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Emulated bf16 products are slower than fp32 on processors without the instructions.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(dtype: torch.dtype, device: torch.device | str = "cpu") -> AbstractContextManager[object]:
    """Mixed precision for the forward pass; nothing at all for fp32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def deterministic(seed: int) -> None:
    """Seeds torch and refuses algorithms whose bits vary from run to run.

    Bits still depend on the number of threads and on the processor: a run repeats on the same machine.
    """
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # cuBLAS refuses deterministic mode without it
    torch.manual_seed(seed)
    torch.set_deterministic_debug_mode(
        "error"
    )  # use_deterministic_algorithms would import the compiler: seconds
    # Filling fresh memory guards against reads of it; it costs a pass over every temporary.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
