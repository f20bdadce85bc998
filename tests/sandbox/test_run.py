"""The sandbox contains what it claims to contain, and refuses where it cannot."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import socket
import struct
import time
from pathlib import Path

import pytest

from openqwen.core.errors import MissingTool, UsageError
from openqwen.sandbox import backend, run, run_program, seccomp
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")


@needs_sandbox
def test_a_program_runs_and_is_heard() -> None:
    result = run_program("import sys; print(input() + '!'); sys.exit(3)", stdin="hello\n")
    assert (result.exit_code, result.stdout, result.reason) == (3, "hello!\n", "error")
    assert run_program("print(sum(range(10)))").stdout == "45\n"


@pytest.mark.fault("sandbox", "an endless loop", "ended within a second of its limit")
@needs_sandbox
def test_time_limit_is_kept() -> None:
    began = time.monotonic()
    result = run_program("while True: pass", time_limit=0.5)
    assert result.timed_out and result.exit_code is None and time.monotonic() - began < 1.5


@pytest.mark.fault("sandbox", "a child closes its output and stays", "ended with its parent")
@needs_sandbox
def test_silent_child_does_not_outlive_the_limit() -> None:
    code = "import os, time\nif os.fork() == 0:\n    os.setsid(); os.close(0); os.close(1); os.close(2); time.sleep(60)\n"
    began = time.monotonic()
    run_program(code, time_limit=1.0)
    assert time.monotonic() - began < 2


@pytest.mark.fault("sandbox", "endless output", "cut at its limit")
@needs_sandbox
def test_endless_output_is_cut() -> None:
    result = run_program("while True: print('x' * 1000)")
    assert result.reason == "output-limit" and len(result.stdout) == run.OUTPUT_LIMIT


@pytest.mark.fault("sandbox", "a memory bomb", "ended at its limit")
@needs_sandbox
def test_memory_limit_is_kept() -> None:
    result = run_program("x = bytearray(1 << 30)", memory_mb=200)
    assert result.reason == "error" and "MemoryError" in result.stderr


@pytest.mark.fault("sandbox", "a fork bomb", "stops at the limit of processes")
@needs_sandbox
def test_fork_bomb_stops_by_itself() -> None:
    result = run_program("import os\nwhile True: os.fork()", time_limit=5)
    assert result.reason in ("error", "timeout", "output-limit")
    assert run_program("print(1)").stdout == "1\n"


@pytest.mark.fault("sandbox", "a fork bomb runs beside others", "they can still start processes")
@needs_sandbox
def test_a_fork_bomb_leaves_processes_to_its_neighbours() -> None:
    bomb = """
import os, time
for _ in range(200):
    try:
        if os.fork() == 0: time.sleep(9)
    except OSError: time.sleep(9)
"""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        fallen = pool.submit(run_program, bomb, time_limit=3.0)
        while not fallen.done():
            result = run_program(
                "import os; child = os.fork(); print(child >= 0, flush=True); child and os.wait()"
            )
            assert result.stdout == "True\nTrue\n", result


ESCAPES = {
    "read the password file": "print(open('/etc/passwd').read())",
    "read the checkout": f"print(open({__file__!r}).read())",
    "write beside the interpreter": "import os; open(os.path.join(os.path.dirname(os.__file__), 'x'), 'w')",
    "internet socket": "import socket; socket.socket(socket.AF_INET)",
    "IPv6 socket": "import socket; socket.socket(socket.AF_INET6)",
    "packet socket": "import socket; socket.socket(socket.AF_PACKET)",
    "signal to the parent": "import os; os.kill(1, 9); os.kill(1, 0); raise OSError if os.getpid() != 1 else None",
    "trace": "import ctypes; c = ctypes.CDLL(None); assert c.ptrace(0, 0, 0, 0) == 0",
    "user namespace": "import ctypes; c = ctypes.CDLL(None); assert c.unshare(0x10000000) == 0",
    "mount": "import ctypes; c = ctypes.CDLL(None); assert c.mount(b'none', b'/work', b'tmpfs', 0, None) == 0",
    "anonymous executable": "import os; os.memfd_create('x')",
    "device": "import os; os.mknod('/work/d', 0o60666, os.makedev(8, 0))",
    "become root": "import os; os.setuid(0)",
    "kernel settings": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
    "fill the disk": "f = open('/work/x', 'wb')\nfor _ in range(100): f.write(bytes(1 << 20))",
    "shared memory": "f = open('/dev/shm/x', 'wb')\nfor _ in range(100): f.write(bytes(1 << 20)); f.flush()",
    "the environment": "import os; os.environ['OPENQWEN_SECRET']",
    "another process' environment": "print(open('/proc/1/environ').read().index('OPENQWEN_SECRET'))",
    "packages outside the standard library": "import numpy",
    "name look-up": "import socket; socket.gethostbyname('localhost.example.com')",
    "unix datagram to the system log": "import socket as s; s.socket(s.AF_UNIX, s.SOCK_DGRAM).connect('/dev/log')",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "vsock": "import socket; socket.socket(socket.AF_VSOCK)",
    "abstract socket of the host": "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + 'openqwen-escape')",
    "another process' memory": "open('/proc/1/mem', 'r+b').read(1)",
    "another process' folder": "import os; os.listdir('/proc/1/root')",
    "another process' files": "import os; os.listdir('/proc/1/fd')",
    "the host's processes": f"import os; os.kill({os.getpid()}, 0)",
    "link out of the folder": "import os; os.symlink('/etc/shadow', '/work/l'); open('/work/l').read()",
    "climb out of the folder": "open('/work/../../../etc/shadow').read()",
    "hard link to a program": "import os; os.link('/usr/bin/env', '/work/env')",
    "write to the system's programs": "open('/usr/bin/x', 'w')",
    "mark a program set-user-id root": "import os; os.chmod('/usr/bin/env', 0o4755)",
    "take a file for root": "import os; open('/work/x', 'w'); os.chown('/work/x', 0, 0)",
    "change the root": "import os; os.chroot('/work')",
    "join a namespace": "import ctypes, os; c = ctypes.CDLL(None); assert c.setns(os.open('/proc/1/ns/net', 0), 0) == 0",
    "kernel ring": "import ctypes; c = ctypes.CDLL(None); assert c.syscall(425, 8, ctypes.create_string_buffer(256)) >= 0",
    "page faults in user space": "import ctypes; c = ctypes.CDLL(None); assert c.syscall(323, 0) >= 0",
    "kernel programs": "import ctypes; c = ctypes.CDLL(None); assert c.syscall(321, 0, b'\\1\\0\\0\\0' * 18, 72) >= 0",
    "keyring": "import ctypes; c = ctypes.CDLL(None); assert c.syscall(250, 0, -3, 1) >= 0",
    "kernel messages": "import ctypes; c = ctypes.CDLL(None); assert c.klogctl(3, ctypes.create_string_buffer(64), 64) >= 0",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "host name": "import socket; socket.sethostname('x')",
    "raise a limit": "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (1 << 16, 1 << 16))",
    "higher priority": "import os; os.nice(-5)",
    "real-time priority": "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))",
    "raw disk": "import os; os.listdir('/dev/block'); open('/dev/sda', 'rb')",
    "kernel memory": "open('/dev/mem', 'rb')",
    "control groups": "import os; os.mkdir('/sys/fs/cgroup/x')",
    "too many open files": "import os; [os.dup(0) for _ in range(10000)]",
    "one huge file": "import os; os.truncate(os.open('/work/x', os.O_CREAT | os.O_RDWR), 1 << 40)",
    "type into the terminal": "import fcntl, termios; fcntl.ioctl(open('/dev/tty', 'wb'), termios.TIOCSTI, b'x')",
}


@pytest.mark.fault(
    "sandbox", "a program tries to get out: network, files, processes, kernel", "every attempt fails"
)
@needs_sandbox
@pytest.mark.parametrize("name", ESCAPES)
def test_escape_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENQWEN_SECRET", "1")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0openqwen-escape")
        listener.listen()
        result = run_program(ESCAPES[name], memory_mb=256)
    assert result.reason in ("error", "timeout"), result


@pytest.mark.fault("sandbox", "a program leaves files and processes", "gone at the next run")
@needs_sandbox
def test_nothing_stays_between_runs() -> None:
    assert run_program("open('/work/x', 'w').write('1'); open('/tmp/x', 'w').write('1')").reason == "ok"
    assert (
        run_program("import os; print(os.path.exists('/work/x'), os.path.exists('/tmp/x'))").stdout
        == "False False\n"
    )


@pytest.mark.fault("sandbox", "the caller has open files and secrets", "not visible inside")
@needs_sandbox
def test_inherited_files_are_not_visible(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    handle = os.open(tmp_path / "secret", os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        code = f"import os\ntry:\n    print(os.read({handle}, 1))\nexcept OSError:\n    print('closed')"
        assert run_program(code).stdout == "closed\n"
    finally:
        os.close(handle)


@pytest.mark.fault("sandbox", "there is no bubblewrap", "refused, nothing runs")
def test_refuses_when_a_tool_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(run.shutil, "which", lambda name: None if name == "bwrap" else real(name))
    failures.cache_clear()
    backend.cache_clear()
    try:
        with pytest.raises(MissingTool, match="not run"):
            run_program("print(1)")
    finally:
        failures.cache_clear()
        backend.cache_clear()


@needs_sandbox
def test_unknown_language() -> None:
    with pytest.raises(UsageError, match="cobol"):
        run_program("", language="cobol")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_jumps_stay_inside(machine: str) -> None:
    code = seccomp.program(machine)
    operations = [struct.unpack("=HBBI", code[i : i + 8]) for i in range(0, len(code), 8)]
    for place, (operation, when_true, when_false, _) in enumerate(operations):
        if operation & 7 == 5:  # a jump
            assert place + 1 + max(when_true, when_false) < len(operations)
    assert operations[-1][0] == 0x06 and len(operations) < 4096


def test_filter_refuses_unknown_machines() -> None:
    with pytest.raises(MissingTool, match="riscv"):
        seccomp.program("riscv64")
