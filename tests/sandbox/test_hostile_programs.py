"""Ten thousand hostile programs, and the host is as it was: files, processes, network, kernel.

OPENQWEN_HOSTILE: how many.
"""

from __future__ import annotations

import json
import os
import platform
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults.record import record
from hostile import BATCH, MARK, programs

from openqwen import sandbox
from openqwen.sandbox import run

pytestmark = pytest.mark.alone  # what others start and write would be taken for its programs' doing
COUNT = int(os.environ.get("OPENQWEN_HOSTILE", "10000"))
IN_A_SANDBOX = 50
SECRET = "canary-3f9c1"
# Folders whose every entry counts; nothing else on the machine should write there while a test runs.
WATCHED = ("/etc", "/boot", "/usr/bin", "/usr/sbin", "/usr/local", "/opt", "/srv", "/home", "/lib/modules")


@dataclass
class Host:
    """What a program could have changed, and ears for those that get through."""

    folder: Path
    heard: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "secret").write_text(SECRET)
        os.chmod(self.folder, 0o777)
        os.chmod(self.folder / "secret", 0o666)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            ear = socket.socket(socket.AF_INET, kind)
            ear.bind(("127.0.0.1", self.heard[0].getsockname()[1] if self.heard else 0))
            self.heard.append(ear)
        self.heard.append(socket.socket(socket.AF_UNIX))
        self.heard[-1].bind(f"\0{self.ear}")
        for ear in self.heard[::2]:
            ear.listen()

    @property
    def ear(self) -> str:
        return f"{MARK}-{os.getpid()}"

    @property
    def port(self) -> int:
        return int(self.heard[0].getsockname()[1])

    def state(self) -> dict[str, object]:
        """Everything that is compared before and after."""
        proc = {name: read(f"/proc/{name}") for name in ("modules", "swaps", "sys/kernel/core_pattern")}
        spaces = {f"ipc {name}": read(f"/proc/sysvipc/{name}").count("\n") for name in ("shm", "sem", "msg")}
        mounts = re.sub(r"^\d+ \d+ ", "", Path("/proc/self/mountinfo").read_text(), flags=re.MULTILINE)
        return {
            "files": dict(self._files()), "mounts": mounts, "host name": platform.node(),
            "links": os.listdir("/sys/class/net"),
            "processes": self._processes(), "shared memory": sorted(n for n in os.listdir("/dev/shm") if MARK in n),
            "root": sorted(os.listdir("/")), "groups": sorted(os.listdir("/sys/fs/cgroup")),
            "heard": len(select.select(self.heard, [], [], 0)[0]), "clock": round((time.time() - time.monotonic()) / 10),
            **proc, **spaces,
        }  # fmt: skip

    def _files(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        library = Path(sys.base_prefix, "lib", f"python3.{sys.version_info.minor}")
        for top in (*WATCHED, str(self.folder), str(library)):
            for folder, folders, files in os.walk(top):
                if folder.startswith(str(library)):
                    folders[:] = [name for name in folders if name != "__pycache__"]
                for name in (*folders, *files):
                    path = os.path.join(folder, name)
                    if name == "__pycache__":
                        continue
                    seen = os.lstat(path)
                    yield (
                        path,
                        (seen.st_mode, seen.st_uid, seen.st_size, 0 if name in folders else seen.st_mtime_ns),
                    )

    def _processes(self) -> list[str]:
        """Our children, and who runs as a program's user but in no process namespace of its own, which is out."""
        found = []
        for number in filter(str.isdigit, os.listdir("/proc")):
            try:
                state = Path("/proc", number, "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            told = {line.split(":")[0]: line.split()[1:] for line in state.splitlines()}
            out = int(told["Uid"][0]) in run._USERS and len(told["NSpid"]) == 1
            if out or int(told["PPid"][0]) == os.getpid():
                found.append(f"{number} {told['Name']}")
        return sorted(found)

    def marked(self) -> list[str]:
        """Files anywhere on the machine's own disks that only a program can have made."""
        command = [
            "find",
            "/",
            "-xdev",
            "-not",
            "-path",
            "/proc/*",
            "-name",
            f"*{MARK}*",
            "-not",
            "-path",
            "*/.git/*",
        ]
        return subprocess.run(command, capture_output=True, text=True).stdout.split()


def read(path: str) -> str:
    """A file of the kernel's; some are not there in every kernel."""
    return Path(path).read_text() if os.path.exists(path) else ""


def run_all(every: list[str]) -> tuple[int, list[str]]:
    """Runs each; how many sandboxes that took, and what the programs printed. Each program began, or this fails."""
    starts, said, done = 0, [], 0
    while done < len(every):
        batch = json.dumps(every[done : done + IN_A_SANDBOX])
        result = sandbox.run_program(BATCH.format(programs=batch), time_limit=200.0, memory_mb=256)
        began = result.stdout.count("began ")
        assert began, result
        starts, done = starts + 1, done + began
        said += [line for line in result.stdout.splitlines() if line.startswith("said ")]
    return starts, said


@pytest.mark.fault(
    "sandbox",
    "thousands of generated programs try files, signals, sockets, system calls",
    "the host is as it was",
)
@pytest.mark.skipif(sandbox.backend() is None, reason="no sandbox on this machine")
@pytest.mark.parametrize("count", [40, pytest.param(COUNT, marks=pytest.mark.long)], ids=["few", "many"])
def test_hostile_programs_leave_the_host_as_it_was(tmp_path: Path, count: int) -> None:
    host, began = Host(tmp_path), time.monotonic()
    before, marked = host.state(), host.marked()
    known = {
        "canary": tmp_path / "secret",
        "folder": tmp_path,
        "port": host.port,
        "ear": host.ear,
        "caller": os.getpid(),
    }
    every = programs(count, 12, **known)
    assert len(set(every)) == count
    starts, said = run_all(every)
    after = host.state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert changed == {} and host.marked() == marked
    told = [line for line in said if SECRET in line or "OUT" in line]
    assert told == []
    if count == COUNT:
        seconds = round(time.monotonic() - began)
        record(
            "hostile programs",
            programs=count,
            sandboxes=starts,
            effects_on_the_host=len(changed),
            seconds=seconds,
        )
