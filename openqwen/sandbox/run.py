"""One program, one sandbox: bubblewrap with a system-call filter, resource limits and a watchdog.

Ours. The program sees a read-only /usr and interpreter, an empty /work and /tmp in memory, no network, no
other process, no environment. Run as root, bubblewrap's user namespace would leave the kernel's user at 0, so
there the program becomes an unprivileged user for real (setpriv) before it starts.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from openqwen.core.errors import MissingTool, UsageError
from openqwen.sandbox import seccomp
from openqwen.sandbox.languages import LANGUAGES, inside, missing_tool, outside
from openqwen.sandbox.languages import python as python

Reason = Literal["ok", "error", "timeout", "output-limit"]
OUTPUT_LIMIT = 1 << 20  # bytes of stdout, and of stderr, that are kept; more ends the program
_FILE_LIMIT = 32 << 20  # bytes of any one file
_TMPFS_LIMIT = 64 << 20  # bytes of /work and of /tmp
_PROCESSES = 64
_STACK = 8 << 20  # bytes, as usual; without a limit it may grow beyond that of data
_ADDRESSES = 64 << 30  # bytes, more than runtimes reserve; the tables of more are memory that nothing counts
_USERS = range(64000, 65000)  # unprivileged users for runs as root; no account has these numbers
_RUNS = itertools.count()
# bubblewrap, and the file in which it tells its child's number; filled in the first process of a container only.
_FIRST: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
_REAPING = threading.Lock()


@dataclass(frozen=True)
class Result:
    """What a program did. exit_code is None when it was stopped."""

    exit_code: int | None
    stdout: str
    stderr: str
    reason: Reason
    seconds: float

    @property
    def timed_out(self) -> bool:
        return self.reason == "timeout"


class NoSandbox(MissingTool):
    """Generated code was to run and nothing here contains it; 78 is sysexits' EX_CONFIG."""

    exit_code = 78


def run_program(
    code: str,
    *,
    language: str = "python",
    stdin: str = "",
    time_limit: float = 5.0,
    memory_mb: int = 512,
) -> Result:
    """Runs a program to its end or its limit and returns what it printed.

    time_limit: wall-clock seconds. memory_mb: data of any one process. Raises NoSandbox (exit code 78) when
    no sandbox of this machine passes the probes, UsageError for a language that is not in LANGUAGES, MissingTool
    for one whose compiler is not installed.
    """
    return _run(required(), code, language, stdin, time_limit, memory_mb)


def required() -> str:
    """The proven backend; NoSandbox (exit code 78) says what is wrong and what to install."""
    name = backend()
    if name is None:
        raise NoSandbox(
            "no sandbox of this machine passes the probes, so generated code is not run",
            where="; ".join(failures()),
            fix="apt install bubblewrap (Linux); check with openqwen sandbox doctor",
        )
    return name


@functools.cache
def backend() -> str | None:
    """The backend whose containment was just proven by probes: "bwrap", "bwrap-root", or None."""
    return None if failures() else _candidate()


@functools.cache
def failures() -> tuple[str, ...]:
    """What the probes found wrong, in words; empty if everything is contained."""
    if sys.platform != "linux":
        return (f"no sandbox for {sys.platform} yet",)
    wanted = ("bwrap", "prlimit", *(("setpriv",) if os.geteuid() == 0 else ()))
    if missing := [tool for tool in wanted if shutil.which(tool) is None]:
        return tuple(f"{tool} is not installed" for tool in missing)
    return _probe(_candidate())


def _candidate() -> str:
    return "bwrap-root" if os.geteuid() == 0 else "bwrap"


_PROBE_PROGRAM = """
import ctypes, json, os, socket
secret, port = json.loads(input())
found = {}
def attempt(name, action):
    try:
        found[name] = bool(action())
    except OSError:
        found[name] = False
def connect():
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True
def write(path):
    with open(path, "w") as file:
        file.write("x")
    return True
attempt("reads a file of the host", lambda: open(secret).read())
attempt("writes to the system", lambda: write("/usr/probe"))
attempt("writes to the interpreter's folder", lambda: write(os.path.join(os.path.dirname(os.__file__), "probe")))
attempt("reaches the network", connect)
attempt("sees the caller's environment", lambda: b"OPENQWEN_PROBE" in open("/proc/1/environ", "rb").read())
attempt("is root", lambda: os.getuid() == 0)
attempt("sees other processes", lambda: sum(n.isdigit() for n in os.listdir("/proc")) > 8)
attempt("writes kernel settings", lambda: os.access("/proc/sys/kernel/core_pattern", os.W_OK))
attempt("makes a namespace", lambda: ctypes.CDLL(None).unshare(0x10000000) == 0)
attempt("fails to write its own folder", lambda: not write("/work/probe"))
print(json.dumps([name for name, yes in found.items() if yes]))
"""

PROBES = tuple(re.findall(r'attempt\("(.+?)"', _PROBE_PROGRAM))


def _probe(name: str) -> tuple[str, ...]:
    """Runs the probes inside the backend; every probe that succeeds is an escape."""
    with (
        tempfile.NamedTemporaryFile("w", prefix="openqwen-probe-") as secret,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        secret.write("secret")
        secret.flush()
        os.chmod(secret.name, 0o644)
        question = json.dumps([secret.name, server.getsockname()[1]]) + "\n"
        result = _run(name, _PROBE_PROGRAM, "python", question, 10.0, 256)
    if result.exit_code != 0:
        last = (result.stderr.strip() or result.reason).split("\n")[-1]
        return (f"{name} does not start: {last}",)
    return tuple(f"{name}: {escape}" for escape in json.loads(result.stdout))


def _run(name: str, code: str, language: str, stdin: str, time_limit: float, memory_mb: int) -> Result:
    if language not in LANGUAGES:
        raise UsageError(f"no interpreter for {language!r}", fix=f"use one of: {', '.join(LANGUAGES)}")
    if lacking := missing_tool(language):
        raise MissingTool(
            f"programs in {language} are not run: {lacking}", fix="install it, or leave them out"
        )
    path = f"/work/{LANGUAGES[language].file}"
    command = LANGUAGES[language].command(path, inside)
    began = time.monotonic()
    process = launch(name, code, path, command, int(time_limit) + 1, memory_mb, outside(language))
    with process:
        out, err, reason = _watch(process, stdin.encode("utf-8", "replace"), began + time_limit)
        exit_code = process.wait()
    seconds = time.monotonic() - began
    if reason == "ok" and exit_code != 0:
        reason = "error"
    stopped = reason in ("timeout", "output-limit")
    return Result(None if stopped else exit_code, out, err, reason, seconds)


def launch(
    name: str,
    code: str,
    path: str,
    command: Sequence[str],
    cpu: int,
    memory_mb: int,
    packages: Path | None = None,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Starts `command` inside backend `name` with `code` readable at `path`; its pipes belong to the caller.

    cpu: seconds of processor time of any one process. packages: a folder shown read-only as /packages.
    """
    _reap()
    with _unlinked(code.encode("utf-8", "replace")) as program, _unlinked(seccomp.program()) as rules:
        told = _unlinked(b"") if os.getpid() == 1 else None
        arguments = [
            *_isolation(name),
            *(("--info-fd", str(told.fileno())) if told else ()),
            *(("--ro-bind", str(packages), "/packages") if packages else ()),
            *("--perms", "0444", "--ro-bind-data", str(program.fileno()), path),
            *("--seccomp", str(rules.fileno()), "--"),
            *_demotion(name),
            *_limits(cpu, memory_mb),
            *command,
        ]
        process = subprocess.Popen(
            arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={},  # bubblewrap's own environment would be readable in /proc/1/environ
            pass_fds=[file.fileno() for file in (program, rules, told) if file],
            start_new_session=True,
        )
        if told:
            _FIRST.append((process, told))
        return process


def _reap() -> None:
    """Waits for the first processes of sandboxes that have ended, where this one is the first of a container.

    bubblewrap does not wait for them, and what has lost its parent falls to the first process of all.
    """
    with _REAPING:
        for process, told in list(_FIRST):
            number = re.search(rb'"child-pid": (\d+)', os.pread(told.fileno(), 1 << 12, 0))
            gone = process.returncode is not None
            if number:
                with contextlib.suppress(ChildProcessError):  # bubblewrap's still, or it did wait
                    gone = os.waitpid(int(number[1]), os.WNOHANG)[0] != 0
            if gone:
                _FIRST.remove((process, told))
                told.close()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a group of its own, with all of the group (of bwrap the PID namespace with it).

    One that has ended is no error, nor one that another thread waits for at this moment.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read, or an end, within so many seconds. By poll: select knows 1,024 descriptors."""
    with selectors.PollSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _unlinked(data: bytes) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the caller, who closes it
    file.write(data)
    file.seek(0)
    return file


def _isolation(name: str) -> list[str]:
    """bubblewrap's arguments up to the program's own file."""
    arguments = [_tool("bwrap"), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    arguments += [
        "--unshare-cgroup-try",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--cap-drop",
        "ALL",
    ]
    if name == "bwrap":
        arguments += ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    else:  # only what setpriv needs to give everything up
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            arguments += ["--cap-add", capability]
    arguments += [
        "--setenv",
        "PATH",
        "/usr/bin:/bin",
        "--setenv",
        "HOME",
        "/work",
        "--setenv",
        "LANG",
        "C.UTF-8",
    ]
    arguments += ["--ro-bind", "/usr", "/usr"]
    for link in ("lib", "lib64", "bin", "sbin"):
        if Path("/", link).is_symlink():
            arguments += ["--symlink", f"usr/{link}", f"/{link}"]
        elif Path("/", link).is_dir():
            arguments += ["--ro-bind", f"/{link}", f"/{link}"]
    arguments += [
        "--perms",
        "0755",
        "--dir",
        "/etc",
    ]  # made on the way it would be closed to a demoted program
    arguments += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for settings in sorted(Path("/etc").glob("java-*-openjdk")):  # Debian's JDKs under /usr point there
        arguments += ["--ro-bind", str(settings), str(settings)]
    arguments += _interpreter()
    arguments += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--dev-bind",  # zeros as well, but they cannot be mapped, which would be memory beyond the limits
        "/dev/full",
        "/dev/zero",
        "--size",
        str(16 << 20),
        "--tmpfs",
        "/dev/shm",
        "--remount-ro",
        "/dev",
    ]
    for folder in ("/tmp", "/work"):
        arguments += ["--perms", "1777", "--size", str(_TMPFS_LIMIT), "--tmpfs", folder]
    return [*arguments, "--chdir", "/work"]


def _interpreter() -> list[str]:
    """Binds the running Python at its own path, with parents that any user may pass."""
    prefix = Path(os.path.realpath(sys.base_prefix))
    if prefix == Path("/usr") or Path("/usr") in prefix.parents:
        return []
    arguments: list[str] = []
    for parent in reversed(prefix.parents[:-1]):
        arguments += ["--perms", "0755", "--dir", str(parent)]
    return [*arguments, "--ro-bind", str(prefix), str(prefix)]


def _demotion(name: str) -> list[str]:
    """As root: becomes a user without name, groups or capabilities.

    Each run is another user: the kernel counts processes by user, so that a fork bomb would leave none to others
    that run beside it.
    """
    if name == "bwrap":
        return []
    user = str(_USERS[(37 * os.getpid() + next(_RUNS)) % len(_USERS)])
    gone = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    return [_tool("setpriv"), "--reuid", user, "--regid", user, *gone]


def _limits(cpu: int, memory_mb: int) -> list[str]:
    return [
        _tool("prlimit"),
        f"--nproc={_PROCESSES}",
        f"--data={memory_mb << 20}",
        f"--fsize={_FILE_LIMIT}",
        f"--stack={_STACK}",
        f"--as={_ADDRESSES}",
        "--nofile=128",
        f"--cpu={cpu}",
        "--core=0",
        "--",
    ]


def _tool(name: str) -> str:
    path = shutil.which(name)
    assert path is not None, f"{name} vanished after the probes"
    return path


def _watch(process: subprocess.Popen[bytes], stdin: bytes, deadline: float) -> tuple[str, str, Reason]:
    """Feeds and drains the program until it closes its output, floods it, or the time is up; then nothing of it is left."""
    assert process.stdin and process.stdout and process.stderr
    kept: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    reason: Reason = "ok"
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        rest = memoryview(stdin)
        while (
            any(stream in {k.fileobj for k in selector.get_map().values()} for stream in kept)
            and reason == "ok"
        ):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                reason = "timeout"
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    rest = _feed(process.stdin, rest)
                    if not rest:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                elif chunk := os.read(key.fd, 1 << 16):
                    buffer = kept[key.fileobj]  # type: ignore[index]
                    buffer += chunk
                    reason = "output-limit" if len(buffer) > OUTPUT_LIMIT else reason
                else:
                    selector.unregister(key.fileobj)
    if reason == "ok":
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            reason = "timeout"
    if reason != "ok":
        os.killpg(process.pid, signal.SIGKILL)  # bwrap dies, and the PID namespace with it
    out, err = (bytes(b[:OUTPUT_LIMIT]).decode("utf-8", "replace") for b in kept.values())
    return out, err, reason


def _feed(pipe: IO[bytes], rest: memoryview) -> memoryview:
    try:
        return rest[os.write(pipe.fileno(), rest) :] if rest else rest
    except BrokenPipeError:  # the program does not read its input: its right
        return rest[:0]
