"""Attempts to get out of the sandbox, and a place without one where they work.

An attempt ends without an error only if it got what it wanted. `hold` makes what it wants to reach, for it alone: a
file, a process, sockets. `outside` runs it as root where nothing holds it back but that nothing of the machine is in
its reach to be spoiled: a mount namespace of its own (in which the folders that it writes to are copies), a host name
and a terminal of its own. What fails there as well proves nothing about the sandbox.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shutil
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SECRET = "canary-71d0e"
WENT = "went well"  # printed behind each attempt
_C = "import ctypes, os; c = ctypes.CDLL(None, use_errno=True)\n"
_CHECK = """
import ctypes
def check(result):  # of a call of C's: an error is said by its name
    if result < 0: raise OSError(ctypes.get_errno(), "refused")
"""
# {file} {port} {log} {victim}: of the host, see Held. {other}: the other process that is seen, the sandbox's own there.
# The current folder is /work in the sandbox.
ESCAPES = {
    "read the password file": "open('/etc/passwd').read()",
    "read the checkout": f"open({__file__!r}).read()",
    "read a file of the caller": f"assert {SECRET!r} in open({{file!r}}).read()",
    "write a file of the caller": "open({file!r}, 'a').write('x')",
    "replace a file of the caller": "import os; open({file!r} + '.x', 'w').close(); os.replace({file!r} + '.x', {file!r})",
    "remove a file of the caller": "import os; os.unlink({file!r})",
    "write beside the interpreter": "import os; open(os.path.join(os.path.dirname(os.__file__), 'this.py'), 'a').write('#')",
    "internet socket": "import socket; socket.socket(socket.AF_INET)",
    "IPv6 socket": "import socket; socket.socket(socket.AF_INET6)",
    "packet socket": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "a server of the host": "import socket; socket.create_connection(('127.0.0.1', {port}), 1).send(b'x')",
    "signal to the parent": "import os, time; first = os.getppid(); os.kill(first, 9); time.sleep(0.5)\n"
    "assert os.getppid() != first",
    "signal to a process of the host": "import os; os.kill({victim}, 9)",
    "the host's processes": "import os; os.kill({victim}, 0)",
    "processes are listed": "import os; assert sum(name.isdigit() for name in os.listdir('/proc')) > 8",
    "trace": f"{_C}check(c.ptrace(0, 0, 0, 0))",
    "trace another process": f"{_C}check(c.ptrace(16, {{other}}, 0, 0))",
    "user namespace": f"{_C}check(c.unshare(0x10000000))",
    "user namespace by a process": f"{_C}pid = c.syscall(56, 0x10000011, 0, 0, 0, 0); pid or os._exit(0); assert pid > 0",
    "mount namespace": f"{_C}check(c.unshare(0x20000))",
    "mount": f"{_C}check(c.mount(b'none', os.getcwd().encode(), b'tmpfs', 0, None))",
    "anonymous executable": "import os; os.memfd_create('x')",
    "device": "import os; os.mknod('d', 0o60666, os.makedev(8, 0))",
    "become root": "import os; os.setuid(0)",
    "become another user": "import os; os.setuid(12345)",
    "kernel settings": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
    "fill the disk": "for name in range(100): open(str(name), 'wb').write(bytes(1 << 20))",
    "fill the folder of temporary files": "import tempfile\n"
    "for name in range(100): open(tempfile.mktemp(), 'wb').write(bytes(1 << 20))",
    "shared memory": "f = open('/dev/shm/x', 'wb')\nfor _ in range(30): f.write(bytes(1 << 20)); f.flush()",
    "one large file": "f = open('x', 'wb')\nfor _ in range(40): f.write(bytes(1 << 20)); f.flush()",
    "one huge file": "import os; os.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 1 << 40)",
    "more memory than its own": "x = bytearray(400 << 20)",
    "many processes": "import os, time\nfor _ in range(80):\n    if os.fork() == 0: time.sleep(1); os._exit(0)",
    "too many open files": "import os; [os.dup(0) for _ in range(1000)]",
    "the environment": "import os; os.environ['OPENQWEN_SECRET']",
    "another process' environment": "import glob, os\nfound = 0\nfor path in glob.glob('/proc/[0-9]*/environ'):\n"
    "    try: found += path != f'/proc/{{os.getpid()}}/environ' and b'OPENQWEN_SECRET' in open(path, 'rb').read()\n"
    "    except OSError: pass\nassert found",
    "packages outside the standard library": "import numpy",
    "name look-up": "import socket; socket.gethostbyname('localhost')",
    "unix datagram to the system log": "import socket as s; s.socket(s.AF_UNIX, s.SOCK_DGRAM).connect({log!r})",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "vsock": "import socket; socket.socket(socket.AF_VSOCK)",
    "abstract socket of the host": "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + {ear!r})",
    "another process' memory": "at = int(open('/proc/{other}/maps').read().split('-')[0], 16)\n"
    "f = open('/proc/{other}/mem', 'rb'); f.seek(at); assert f.read(1)",
    "another process' memory by a call": f"{_C}at = int(open('/proc/{{other}}/maps').read().split('-')[0], 16)\n"
    "to = ctypes.create_string_buffer(1)\nlocal = (ctypes.c_uint64 * 2)(ctypes.addressof(to), 1)\n"
    "far = (ctypes.c_uint64 * 2)(at, 1)\n"
    "assert c.process_vm_readv({other}, local, 1, far, 1, 0) == 1",
    "another process' folder": "import os; os.listdir('/proc/{other}/root')",
    "another process' files": "import os; os.listdir('/proc/{other}/fd')",
    "another process' open file": f"{_C}fd = c.syscall(434, {{other}}, 0); check(c.syscall(438, fd, 0, 0))",
    "link out of the folder": "import os; os.symlink('/etc/shadow', 'l'); open('l').read()",
    "climb out of the folder": "import os; open(os.getcwd() + '/..' * 20 + '/etc/shadow').read()",
    "hard link to a program": "import os; os.link('/usr/bin/env', '/usr/bin/openqwen-attempt')",
    "write to the system's programs": "open('/usr/bin/openqwen-attempt', 'w')",
    "mark a program set-user-id root": "import os; os.chmod('/usr/bin/env', 0o4755)",
    "take a file for root": "import os; open('x', 'w'); os.chown('x', 0, 0)",
    "change the root": "import os; os.chroot('.')",
    "join a namespace": f"{_C}check(c.setns(os.open('/proc/{{other}}/ns/net', 0), 0))",
    "kernel ring": f"{_C}check(c.syscall(425, 8, ctypes.create_string_buffer(256)))",
    "page faults in user space": f"{_C}check(c.syscall(323, 0))",
    "kernel programs": f"{_C}import struct; check(c.syscall(321, 0, struct.pack('5I', 2, 4, 4, 1, 0), 20))",
    "performance counters": f"{_C}import struct\n"
    "check(c.syscall(298, struct.pack('2IQ', 1, 128, 0) + bytes(112), 0, -1, -1, 0))",
    "keyring": f"{_C}check(c.syscall(250, 0, -3, 1, 0, 0))",
    "a key": f"{_C}check(c.syscall(248, b'user', b'openqwen', b'x', 1, -2))",
    "kernel messages": f"{_C}check(c.klogctl(3, ctypes.create_string_buffer(64), 64))",
    "shared memory of the old kind": f"{_C}at = c.shmget(0, 4096, 0o1600); assert at >= 0 and c.shmctl(at, 0, None) == 0",
    "files by handle": f"{_C}h = ctypes.create_string_buffer(b'\\x80' + bytes(200)); m = ctypes.c_int()\n"
    "check(c.name_to_handle_at(-100, b'/usr', h, ctypes.byref(m), 0))",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "swap": f"{_C}check(c.swapoff(b'/none'))",
    "reboot": f"{_C}check(c.reboot(0x89ABCDEF))",
    "load a module": f"{_C}check(c.syscall(175, b'', 0, b''))",
    "host name": "import socket; socket.sethostname('x')",
    "raise a limit": "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (1 << 16, 1 << 16))",
    "higher priority": "import os; os.nice(-5)",
    "real-time priority": "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))",
    "raw disk": "import os\nopened = 0\nfor name in os.listdir('/dev'):\n    try:\n"
    "        if name.startswith(('sd', 'vd', 'nvme', 'loop')): opened += os.open('/dev/' + name, os.O_RDONLY) > 0\n"
    "    except OSError: pass\nassert opened",
    "kernel memory": "open('/dev/mem', 'rb')",
    "control groups": "import os; os.mkdir('{groups}/openqwen-attempt'); os.rmdir('{groups}/openqwen-attempt')",
    "type into the terminal": "import fcntl, termios; fcntl.ioctl(open('/dev/tty', 'wb'), termios.TIOCSTI, b'x')",
}  # fmt: skip

# Never run outside: each would change the machine itself, and no copy of it can be put in its place.
HARMFUL = {
    "kernel settings": "they are one for the whole machine",
    "set the clock": "it is one for the whole machine",
    "swap": "it is the whole machine's",
    "reboot": "it is the whole machine's",
    "load a module": "it would be the whole machine's kernel",
}
# What not every machine has: there the attempt fails outside, too, and with one of these words.
_LACKING = ("[Errno 38]", "[Errno 97]", "No such file or directory: '/dev/mem'")
ABSENT = {
    "IPv6 socket": "a kernel without IPv6",
    "vsock": "a kernel without virtual sockets",
    "kernel ring": "a kernel without io_uring",
    "page faults in user space": "a kernel without userfaultfd",
    "kernel programs": "a kernel without BPF",
    "performance counters": "a kernel without performance counters",
    "kernel memory": "a kernel that shows nobody its memory",
}
# What is seen of an attempt that works, beyond its own word for it.
EFFECTS = {
    "write a file of the caller": ["file"],
    "replace a file of the caller": ["file"],
    "remove a file of the caller": ["file"],
    "signal to a process of the host": ["process"],
    "a server of the host": ["AF_INET"],
    "abstract socket of the host": ["AF_UNIX"],
}


def lacking(name: str, error: str) -> bool:
    """Whether this machine has nothing that the attempt could reach."""
    return name in ABSENT and any(word in error for word in _LACKING)


@dataclass
class Held:
    """What the attempts want to reach, made for one of them."""

    folder: Path
    victim: subprocess.Popen[bytes] = field(init=False)
    heard: list[socket.socket] = field(default_factory=list)

    def names(self) -> dict[str, object]:
        groups = [f"/sys/fs/cgroup/{name}" for name in ("unified", "memory", "pids", "")]
        return {
            "file": str(self.folder / "secret"),
            "log": str(self.folder / "log"),
            "ear": f"openqwen-attempt-{os.getpid()}",
            "port": self.heard[0].getsockname()[1],
            "victim": self.victim.pid,
            "groups": next(path for path in groups if os.path.isdir(path)),
        }

    def text(self, name: str, other: int) -> str:
        """The attempt's program. other: the process that it takes for its victim where it sees one."""
        return _CHECK + ESCAPES[name].format(**self.names(), other=other) + f"\nprint({WENT!r}, flush=True)\n"

    def touched(self) -> list[str]:
        """What of it is no longer as it was made."""
        found = [] if self.victim.poll() is None else ["process"]
        names = sorted(path.name for path in self.folder.iterdir())
        # in this order: what was removed cannot be read
        if names != ["log", "secret"] or (self.folder / "secret").read_text() != SECRET:
            found.append("file")
        return found + [ear.family.name for ear in self.heard if _called(ear)]


def _called(ear: socket.socket) -> bool:
    try:
        ear.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Open to everybody, so that nothing but the sandbox keeps an attempt from it."""
    held = Held(folder)
    folder.mkdir()
    os.chmod(folder, 0o777)
    (folder / "secret").write_text(SECRET)
    os.chmod(folder / "secret", 0o666)
    with contextlib.ExitStack() as ears:
        for family, kind, place in (
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, f"\0openqwen-attempt-{os.getpid()}"),
        ):
            ear = ears.enter_context(socket.socket(family, kind))
            ear.bind(place)
            ear.listen()
            ear.setblocking(False)
            held.heard.append(ear)
        log = ears.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        log.bind(str(folder / "log"))
        os.chmod(folder / "log", 0o666)
        held.victim = subprocess.Popen(
            ["sleep", "100"], env={"OPENQWEN_SECRET": "1", "PATH": os.environ["PATH"]}, start_new_session=True
        )
        try:
            yield held
        finally:
            held.victim.kill()
            held.victim.wait()


# Between an attempt and the test: a parent that it may kill, and limits as a machine without any would have them.
_PARENT = """
import resource, signal, subprocess, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which an end of the parent would send, since the terminal is its own
for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_DATA):
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (hard, hard))
subprocess.run(sys.argv[1:])
"""


def outside(name: str, held: Held, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs an attempt as root in a new folder: nothing holds it, and there are copies where it would spoil the machine."""
    assert os.geteuid() == 0 and name not in HARMFUL
    copies, work, shared = folder / "copies", folder / "work", folder / "tmp"
    for made in (copies, work, shared):
        made.mkdir(parents=True)
    python = os.path.realpath(sys.executable)
    for program in {"/usr/bin/env", *((python,) if os.path.dirname(python) == "/usr/bin" else ())}:
        shutil.copy2(program, copies)
    beside = Path(os.__file__).with_name("this.py")
    shutil.copy2(beside, folder / "this.py")
    (folder / "attempt.py").write_text(held.text(name, held.victim.pid))
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    command = [bwrap, "--dev-bind", "/", "/", "--tmpfs", "/dev/shm", "--unshare-uts", "--unshare-ipc"]
    command += ["--bind", str(copies), "/usr/bin", "--bind", str(folder / "this.py"), str(beside)]
    command += ["--cap-add", "ALL", "--die-with-parent", "--chdir", str(work)]
    command += [python, "-c", _PARENT, python, str(folder / "attempt.py")]
    ours, theirs = pty.openpty()

    def terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            env={
                "OPENQWEN_SECRET": "1",
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.path.dirname(os.path.dirname(pytest.__file__)),
                "TMPDIR": str(shared),
            },
            start_new_session=True,
            preexec_fn=terminal,
        )
    finally:
        os.close(ours)
        os.close(theirs)
        for made in (copies, work, shared):
            shutil.rmtree(made)
