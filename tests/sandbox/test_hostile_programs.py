"""Ten thousand hostile programs, and the host is as it was: files, processes, network, kernel.

OPENQWEN_HOSTILE: how many.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
import re
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults.record import record
from hostile import BATCH, KEPT, MARK, OTHER, SETTINGS, programs

from openqwen import sandbox
from openqwen.sandbox import run

COUNT = int(os.environ.get("OPENQWEN_HOSTILE", "10000"))
IN_A_SANDBOX = 50
SECRET = "canary-3f9c1"
# Folders whose every entry counts; nothing else on the machine should write there while a test runs.
WATCHED: tuple[str, ...] = (
    "/etc", "/boot", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local", "/opt", "/srv", "/home",
    "/var/tmp", "/var/spool", "/var/mail", "/var/local", "/var/opt",
)  # fmt: skip
WATCHED += (f"{sys.base_prefix}/lib/python3.{sys.version_info.minor}",)
LISTED = ("/", "/run", "/mnt", "/var", "/sys/fs/cgroup", "/sys/class/net")  # others change what is in them
# A home folder changes all the time, but for what a shell or a login reads. One that is missing may not come.
AT_HOME = (
    ".bashrc",
    ".profile",
    ".bash_profile",
    ".bash_login",
    ".gitconfig",
    ".ssh",
    ".ssh/authorized_keys",
)
# Some can only be written; what was written to them cannot be seen.
COMPARED = [f"/proc/sys/{name}" for name in SETTINGS] + list(OTHER)


@dataclass
class Host:
    """What a program could have changed, and ears for those that get through."""

    folder: Path
    heard: list[socket.socket] = field(default_factory=list)
    canaries: list[subprocess.Popen[bytes]] = field(default_factory=list)

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
        users: list[int | None] = [None]
        if os.geteuid() == 0:  # and one of the very user that the next sandbox takes, who may signal it
            users.insert(0, run._USERS[(37 * os.getpid() + next(copy.copy(run._RUNS))) % len(run._USERS)])
        for user in users:
            self.canaries.append(subprocess.Popen(["sleep", "7200"], user=user, start_new_session=True))

    def close(self) -> None:
        for ear in self.heard:
            ear.close()
        for canary in self.canaries:
            canary.kill()
            canary.wait()

    @property
    def ear(self) -> str:
        return f"{MARK}-{os.getpid()}"

    @property
    def port(self) -> int:
        return int(self.heard[0].getsockname()[1])

    def state(self) -> dict[str, object]:
        """Everything that is compared before and after."""
        spaces = {f"ipc {name}": read(f"/proc/sysvipc/{name}").count("\n") for name in ("shm", "sem", "msg")}
        mounts = re.sub(r"^\d+ \d+ ", "", Path("/proc/self/mountinfo").read_text(), flags=re.MULTILINE)
        return {
            "files": dict(self._files()), "mounts": mounts, "host name": platform.node(),
            "processes": self._processes(), "canaries": [_process(canary.pid) for canary in self.canaries],
            "shared memory": sorted(n for n in os.listdir("/dev/shm") if MARK in n),
            "heard": len(select.select(self.heard, [], [], 0)[0]), "clock": time.time() - time.monotonic(),
            "lasting": lasting(), **{path: read(path) for path in (*COMPARED, "/proc/modules", "/proc/swaps")},
            **{f"in {top}": sorted(os.listdir(top)) for top in LISTED}, **spaces,
        }  # fmt: skip

    def _files(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        for top in (*WATCHED, str(self.folder)):
            for folder, folders, files in os.walk(top):
                folders[:] = [name for name in folders if name != "__pycache__"]
                for name in (*folders, *files):
                    yield (path := os.path.join(folder, name)), _file(path)
        kept = [path.format(canary=self.folder / "secret") for path in KEPT]
        for path in (*kept, *(str(Path.home() / name) for name in AT_HOME)):
            yield f"{path}, all of it", (*_file(path), _content(path))

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
            ours = int(told["PPid"][0]) == os.getpid()
            if (out or ours) and int(number) not in [canary.pid for canary in self.canaries]:
                found.append(f"{number} {told['Name']}")
        return sorted(found)

    def marked(self) -> list[str]:
        """Files anywhere on the machine's own disks that only a program can have made."""
        tops = ["/", "/run", "/dev", "/dev/shm", "/sys"]  # file systems of their own, but for the first
        command = ["find", *tops, "-xdev", "-path", "/proc", "-prune", "-o", "-not", "-path", "*/.git/*"]
        command += ["-name", f"*{MARK}*", "-print"]
        return sorted(set(subprocess.run(command, capture_output=True, text=True).stdout.splitlines()))


def _file(path: str) -> tuple[object, ...]:
    try:
        seen = os.lstat(path)
    except FileNotFoundError:
        return (None,)
    told = (seen.st_mode, seen.st_uid, seen.st_gid)
    # A folder's times say only that something came or went, which is seen by itself.
    return told if stat.S_ISDIR(seen.st_mode) else (*told, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _content(path: str) -> object:
    """What a file holds and is marked with; None for what is no file."""
    if not os.path.isfile(path):
        return None
    marks = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return hashlib.sha256(Path(path).read_bytes()).hexdigest(), marks


def _stat(pid: int) -> list[str]:
    """Of /proc/PID/stat from the state on: state, parent, ... and as the 20th the time of its start."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _process(pid: int) -> tuple[object, ...]:
    """What can be done to a process that only sleeps; that it is gone, too."""
    try:
        told = _stat(pid)
        limits = Path(f"/proc/{pid}/limits").read_text()
        return told[0], told[19], os.sched_getaffinity(pid), os.getpriority(os.PRIO_PROCESS, pid), limits
    except (FileNotFoundError, ProcessLookupError):
        return ("gone",)


def lasting() -> set[tuple[int, str]]:
    """Number and time of start of the processes that must stay: this one, those above it, and the first.

    Others end when their work is done, services too, and nobody could tell that from an end by a program's signal. The
    canaries stand for them. The kernel's own threads cannot be ended.
    """
    parents, starts = {}, {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            told = _stat(pid)
            parents[pid], starts[pid] = int(told[1]), told[19]
    found, above = set(), os.getpid()
    while above in parents:
        found.add(above)
        above = parents[above]
    return {(pid, starts[pid]) for pid in found | {1}}


def changes(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    """What differs. Clocks are set right by little, and what lasts now and did not before is none of a program's doing."""
    found: dict[str, object] = {}
    for name, was in before.items():
        now = after[name]
        if isinstance(was, float) and isinstance(now, float):
            differs = abs(was - now) > 5
        elif name == "lasting":
            differs = not was <= now  # type: ignore[operator]
        else:
            differs = was != now
        if differs and isinstance(was, dict) and isinstance(now, dict):
            every = {*was, *now}
            found[name] = {key: (was.get(key), now.get(key)) for key in every if was.get(key) != now.get(key)}
        elif differs:
            found[name] = (was, now)
    return found


def read(path: str) -> str:
    """A file of the kernel's; some are not there in every kernel, and some are not to be read."""
    try:
        return Path(path).read_text()
    except OSError as error:
        return f"errno {error.errno}"


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
    known = {
        "canary": tmp_path / "secret",
        "folder": tmp_path,
        "port": host.port,
        "ear": host.ear,
        "caller": os.getpid(),
        "victim": host.canaries[0].pid,
    }
    try:
        before, marked = host.state(), host.marked()
        every = programs(count, 12, **known)
        assert len(set(every)) == count
        starts, said = run_all(every)
        changed = changes(before, host.state())
        assert changed == {} and host.marked() == marked
    finally:
        host.close()
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


def _same_bytes(host: Host, _: Path) -> None:
    secret = host.folder / "secret"
    was = secret.stat()
    secret.write_text("x" * len(SECRET))
    os.utime(secret, ns=(was.st_atime_ns, was.st_mtime_ns))


# Harmless doings, each of a kind that the programs try, and what must tell of it.
DOINGS: dict[str, tuple[Callable[[Host, Path], object], str]] = {
    "a file": (lambda host, _: (host.folder / "new").write_text("x"), "files"),
    "other bytes, and the times as they were": (_same_bytes, "files"),
    "a mode": (lambda host, _: os.chmod(host.folder / "secret", 0o4666), "files"),
    "a mark": (lambda host, _: os.setxattr(host.folder / "secret", "user.x", b"x"), "files"),
    "a file at home": (lambda _, home: (home / ".bashrc").write_text("x"), "files"),
    "a folder at home": (lambda _, home: (home / ".ssh").mkdir(), "files"),
    "a setting": (lambda _, home: (home / "setting").write_text("1"), "setting"),
    "a signal": (lambda host, _: host.canaries[0].kill(), "canaries"),
    "a halt": (lambda host, _: host.canaries[-1].send_signal(signal.SIGSTOP), "canaries"),
    "a priority": (lambda host, _: os.setpriority(os.PRIO_PROCESS, host.canaries[0].pid, 19), "canaries"),
    "a limit": (
        lambda host, _: resource.prlimit(host.canaries[-1].pid, resource.RLIMIT_CPU, (99, 99)),
        "canaries",
    ),
    "a child": (lambda host, _: host.canaries.pop(), "processes"),
    "a connection": (lambda host, _: socket.create_connection(("127.0.0.1", host.port)).close(), "heard"),
    "the clock": (lambda _, home: (home / "clock").touch(), "clock"),
}


@pytest.mark.parametrize("name", DOINGS)
def test_what_is_done_to_the_host_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    (home / "setting").write_text("0")
    monkeypatch.setattr(sys.modules[__name__], "WATCHED", ())  # the machine's own are not needed here
    monkeypatch.setattr(sys.modules[__name__], "COMPARED", [str(home / "setting")])
    monkeypatch.setattr(Path, "home", lambda: home)
    host = Host(folder)
    every = list(host.canaries)
    try:
        before = host.state()
        assert changes(before, host.state()) == {}
        do, where = DOINGS[name]
        do(host, home)
        time.sleep(0.05)  # a signal takes a moment
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 9 * (home / "clock").exists())
        changed = changes(before, host.state())
        assert [place.rpartition("/")[2] for place in changed if place != "canaries" or where == place] == [
            where
        ]
    finally:
        host.canaries = every
        host.close()


def test_what_lasts_is_missed_and_what_comes_is_not() -> None:
    every = lasting()
    assert {os.getpid(), os.getppid(), 1} <= {pid for pid, _ in every}
    before: dict[str, object] = {"lasting": every, "clock": 0.49}
    assert changes(before, {"lasting": every | {(0, "1")}, "clock": 0.51}) == {}
    assert list(changes(before, {"lasting": every - {min(every)}, "clock": 6.0})) == ["lasting", "clock"]


def test_most_settings_can_be_compared() -> None:
    assert sum(not read(path).startswith("errno") for path in COMPARED) >= 15
