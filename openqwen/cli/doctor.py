"""`openqwen doctor`: what this machine offers, in a form that can be pasted into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from openqwen.core.console import console
from openqwen.core.memory import available_memory

_PACKAGES = (
    "openqwen",
    "torch",
    "numpy",
    "tiktoken",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "transformers",
    "openai",
    "tensorboard",
)


def doctor() -> int:
    """Versions, processors, memory, disk, accelerator and sandbox."""
    lines = [
        f"python      {platform.python_version()} on {platform.platform()}",
        f"processors  {os.cpu_count()}",
        f"memory      {_memory()}",
        f"disk free   {shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB here",
    ]
    for name in _PACKAGES:
        try:
            lines.append(f"{name:<11} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name:<11} not installed")
    lines += [f"accelerator {_accelerator()}", f"sandbox     {_sandbox()}"]
    console.print("\n".join(lines), markup=False)
    return 0


def _memory() -> str:
    free = available_memory()
    return "not known on this system" if free is None else f"{free / 2**30:.1f} GiB available to this process"


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "none; torch uses the processor"


def _sandbox() -> str:
    from openqwen.sandbox import backend

    return backend() or "none; generated code is not run on this machine"
