"""Work that needs processes of its own: training on two of them, and a compiler that may take too long.

Ours. They are started first and read last, so that they work while the other checks do.

    python -m openqwen.selfcheck.background processes FOLDER      (twice, with the environment torchrun would give)
    python -m openqwen.selfcheck.background compile FOLDER
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openqwen.core.errors import OpenQwenError
from openqwen.selfcheck.bed import Bed
from openqwen.train import distributed

PROCESSES = 2
REPLICATE: dict[str, Any] = {
    "model": {"dropout": 0.1},
    "steps": 2,
    "micro_batch": 3,
    "parallel": {"shards": PROCESSES},
}
SHARD: dict[str, Any] = {"micro_batch": 3, "parallel": {"strategy": "shard"}}
WORKER: tuple[str, ...] = (sys.executable, "-m", "openqwen.selfcheck.background")
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # for gloo, which otherwise wants a host name that resolves


@dataclass
class Workers:
    """Processes at work. Their output is kept for the error message."""

    task: str
    folder: Path
    running: list[subprocess.Popen[bytes]]
    begun: float

    def wait(self, seconds: float) -> bool:
        """False if they are not done that long after their start; they are ended then. OpenQwenError if one failed."""
        try:
            for process in self.running:
                process.wait(max(0.0, self.begun + seconds - time.monotonic()))
                if process.returncode:
                    raise OpenQwenError(f"a process of '{self.task}' failed: {self._error()}")
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.stop()
        return True

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _error(self) -> str:
        """The last error each process printed."""
        found = []
        for path in sorted(self.folder.glob("*.txt")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [line for line in lines if re.search(r"\w(Error|Exception): ", line)][-1:]
        return "; ".join(found) or "they said nothing"


def start(task: str, folder: Path, count: int = 1) -> Workers:
    """Starts `count` processes on one task, as torchrun would, a thread each; several on the CPU."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
    }
    if count > 1:
        common["CUDA_VISIBLE_DEVICES"] = ""  # there may be one GPU only
    if sys.platform in LOOPBACK:
        common["GLOO_SOCKET_IFNAME"] = LOOPBACK[sys.platform]
    running = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"{rank}.txt").open("wb") as log:
            running.append(
                subprocess.Popen(
                    [*WORKER, task, str(folder)],
                    env={**os.environ, **common, **own},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return Workers(task, folder, running, time.monotonic())


def train_together(folder: Path) -> None:
    """One of the processes: pretraining with the model on each of them, then divided among them."""
    torch.set_num_threads(1)
    with distributed.join(60.0) as world:
        bed = Bed(folder, world)
        bed.pretrain("replicate", **REPLICATE)
        bed.pretrain("shard", **SHARD)


def compile_alone(folder: Path, backend: str = "inductor") -> None:
    """The compiled model's loss and gradients, written for the process that waits."""
    from safetensors.torch import save_file

    from openqwen.selfcheck.checks import compiled

    torch.set_num_threads(1)
    loss, gradients = compiled(Bed(folder), backend)
    save_file({"loss": torch.tensor(loss, dtype=torch.float64), **gradients}, folder / "compiled.safetensors")


if __name__ == "__main__":
    {"processes": train_together, "compile": compile_alone}[sys.argv[1]](Path(sys.argv[2]))
