"""Thousands of programs that want out: what is attempted, by which call, on which target, from what kind of process.

`programs` draws distinct ones. `BATCH` runs several in one sandbox, each in a process of its own: that start is no weaker
than one of its own, since nothing but the sandbox stands between any of them and the host, and what one leaves behind
(processes, files in memory) is removed before the next. A program that ends the batch is the last one of it.
"""

from __future__ import annotations

import itertools
import random
import signal
import textwrap
from collections.abc import Iterator

MARK = "openqwen-escape"  # in the name of all that a program tries to make
_HEAD = "import ctypes, os, socket, subprocess\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_PLACES = (
    "/etc", "/usr", "/usr/bin", "/usr/lib", "/usr/local/bin", "/root", "/home", "/var/tmp", "/var/run",
    "/run", "/boot", "/opt", "/srv", "/mnt", "/sys", "/proc", "/dev", "/dev/shm", "/", "/proc/1/root/tmp",
    "/proc/self/root/../etc", "/work/../../etc", "/tmp/../etc", "/lib", "/sbin", "/sys/fs/cgroup",
    "/sys/kernel/debug",
)  # fmt: skip
_WRITES = {
    "open": "open({path!r}, 'w').write('x')",
    "append": "open({path!r}, 'a').write('x')",
    "creat": "assert libc.creat({path!r}.encode(), 0o777) >= 0",
    "directory": "os.makedirs({path!r})",
    "link": "os.link('/usr/bin/env', {path!r})",
    "symbolic link": "os.symlink('/etc/passwd', {path!r})",
    "rename": "open('/tmp/x', 'w').close(); os.rename('/tmp/x', {path!r})",
    "shell": "subprocess.run(['/bin/sh', '-c', 'echo x > ' + {path!r}], check=True)",
    "pipe file": "os.mkfifo({path!r})",
    "through a link": "os.symlink({path!r}, '/work/l'); open('/work/l', 'w').write('x')",
    "by a folder": "os.open({name!r}, os.O_CREAT | os.O_WRONLY, dir_fd=os.open({folder!r}, os.O_PATH))",
}  # fmt: skip
KEPT = (
    "/etc/passwd", "/etc/hosts", "/usr/bin/env", "/usr/bin/python3", "/root/.bashrc", "/bin/sh", "{canary}",
)  # fmt: skip
_SPOILS = {
    "empty": "os.truncate({path!r}, 0)",
    "remove": "os.unlink({path!r})",
    "mode": "os.chmod({path!r}, 0o4777)",
    "owner": "os.chown({path!r}, 0, 0)",
    "times": "os.utime({path!r}, (0, 0))",
    "move": "os.rename({path!r}, {path!r} + '.x')",
    "attribute": "os.setxattr({path!r}, 'user.x', b'x')",
    "open": "open({path!r}, 'r+').write('x')",
    "cover": "assert libc.mount(b'/tmp', {path!r}.encode(), b'none', 4096, None) == 0",
}
_SECRETS = (
    "{canary}", "{folder}", "/etc/shadow", "/root/.ssh", "/root/.bashrc", "/proc/1/environ", "/proc/1/maps",
    "/proc/1/mem", "/proc/1/cwd", "/proc/1/root", "/proc/1/exe", "/proc/kcore", "/proc/kmsg", "/proc/keys",
    "/proc/sched_debug", "/dev/mem", "/dev/kmem", "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/kmsg",
    "/sys/kernel/debug", "/proc/self/root/root", "/proc/self/cwd/../root", "/var/log",
    "/var/run/docker.sock", "/run/containerd", "/proc/{caller}/environ", "/proc/{caller}/root",
)  # fmt: skip
_READS = {
    "open": "print(open({path!r}, 'rb').read(200))",
    "list": "print(os.listdir({path!r}))",
    "shell": "print(subprocess.run(['/bin/cat', {path!r}], capture_output=True).stdout[:200])",
    "map": "import mmap; print(mmap.mmap(os.open({path!r}, os.O_RDONLY), 100, prot=mmap.PROT_READ)[:99])",
    "through a link": "os.symlink({path!r}, '/work/l'); print(open('/work/l', 'rb').read(200))",
    "through a hard link": "os.link({path!r}, '/work/h'); print(open('/work/h', 'rb').read(200))",
    "by handle": "h = bytes(208)\nassert libc.name_to_handle_at(-100, {path!r}.encode(), h, bytes(8), 0) == 0",
    "sent to itself": "os.sendfile(1, os.open({path!r}, os.O_RDONLY), 0, 200)",
}  # fmt: skip
_FAMILIES = (
    "AF_INET", "AF_INET6", "AF_PACKET", "AF_NETLINK", "AF_VSOCK", "AF_UNIX", "AF_ALG", "AF_BLUETOOTH",
    "AF_CAN", "AF_TIPC", "AF_QIPCRTR", "AF_RDS",
)  # fmt: skip
_TYPES = (
    "SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_SEQPACKET", "SOCK_RDM",
)  # fmt: skip
_ADDRESSES = (
    "('127.0.0.1', {port})", "('0.0.0.0', {port})", "('::1', {port})", "('10.0.0.1', 53)", "('169.254.169.254', 80)",
    "('8.8.8.8', 53)",
    "'\\0{ear}'", "'/run/{ear}'", "'/dev/log'", "'/run/docker.sock'", "(0, 0)", "('lo', 0)", "(2, {port})", "b'\\0{ear}'",
)  # fmt: skip
_SENDS = ("s.connect({address}); s.send(b'x')", "s.sendto(b'x', {address})", "s.bind({address}); s.listen()")
_VICTIMS = (
    "1", "2", "3", "-1", "0", "os.getppid()", "{caller}", "{caller}-1", "{victim}", "300", "4242",
)  # fmt: skip
_SIGNALS = [
    signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGSEGV,
]  # fmt: skip
_KILLS = (
    "os.kill({pid}, {signal})", "os.killpg(abs({pid}), {signal})", "libc.syscall(200, {pid}, {signal})",
    "libc.syscall(424, libc.syscall(434, {pid}, 0), {signal}, 0, 0)", "libc.syscall(129, {pid}, {signal}, bytes(128))",
    "os.sched_setaffinity({pid}, [0]); os.setpriority(0, {pid}, 19)",
    "print(libc.syscall(310, {pid}, 0, 0, 0, 0, {signal}))",
    "assert libc.ptrace(16, {pid}, 0, {signal}) == 0", "import resource; resource.prlimit({pid}, {signal}, (1, 1))",
)  # fmt: skip
_NAMESPACES = [1 << bit for bit in (7, 17, 25, 26, 27, 28, 29, 30)]
_SPACES = ("user", "pid", "net", "ipc", "uts", "cgroup", "mnt", "time")
_MOUNTS = (
    "proc", "sysfs", "tmpfs", "cgroup2", "overlay", "devtmpfs", "debugfs", "bpf", "fuse", "ext4",
    "securityfs", "mqueue",
)  # fmt: skip
SETTINGS = (
    "kernel/core_pattern", "kernel/hostname", "kernel/panic", "kernel/sysrq", "kernel/modprobe",
    "kernel/pid_max", "kernel/randomize_va_space", "kernel/shmmax", "kernel/unprivileged_bpf_disabled",
    "kernel/yama/ptrace_scope", "vm/drop_caches", "vm/overcommit_memory", "vm/panic_on_oom", "vm/swappiness",
    "fs/file-max", "fs/suid_dumpable", "fs/binfmt_misc/register", "net/ipv4/ip_forward",
    "net/core/somaxconn", "user/max_user_namespaces",
)  # fmt: skip
_BELOW = (
    "/proc/sys/{}", "/proc/1/root/proc/sys/{}", "/proc/self/root/proc/sys/{}",
    "/proc/thread-self/root/proc/sys/{}",
)  # fmt: skip
OTHER = (
    "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/proc/1/setgroups", "/proc/1/uid_map",
    "/proc/self/loginuid", "/sys/power/state", "/sys/kernel/mm/ksm/run",
)  # fmt: skip
_NUMBERS = (
    "0", "1", "-1", "3", "1000", "65534", "64000", "2**31", "2**32-1", "2**64-1",
)  # fmt: skip
_BECOMES = (
    "os.setuid({0})",
    "os.setgid({0})",
    "os.setresuid({0}, {1}, {0})",
    "os.setresgid({0}, {1}, {1})",
    "os.setgroups([{0}, {1}])",
    "os.setfsuid({0})",
    "libc.capset(ctypes.byref(ctypes.c_uint64(0x20080522)), b'\\xff' * 24)",
    "assert libc.prctl({0}, {1}, 0, 0, 0) == 0",
    "import resource as r; r.setrlimit({0} % 16, ({1}, {1}))",
    "libc.ioctl({0}, 0x5412, b'x')",
    "libc.ioctl({0}, {1}, bytes(64))",
)
_CALLS = range(462)  # of x86-64; elsewhere the numbers mean others, or none
_ARGUMENTS = (
    "0, 0, 0, 0, 0, 0",
    "-1, -1, -1, -1, -1, -1",
    "1, buffer, 4096, 0, 0, 0",
    "buffer, buffer, buffer, buffer, buffer, buffer",
    "path, 0o102, 0o777, 0, 0, 0",
    "-100, path, 0o102, 0o777, 0, 0",
    "path, path, path, 0xC0ED0000, path, 0",
    "2, 2**31, 2**63, 7, -1, 0",
    "0x10000000, 0, 0, 0, 0, 0",
)
_PROCESSES = {
    "itself": "{act}",
    "its orphan": "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n{inner}\n    os._exit(0)\n"
    "import time; time.sleep(0.02)",
    "its thread": "import threading\ndef act():\n{one}\nt = threading.Thread(target=act); t.start(); t.join(0.5)",
    "a child with files open": "held = [os.dup(0) for _ in range(50)]\nif os.fork() == 0:\n{one}\nelse: os.wait()",
}


def _acts() -> Iterator[str]:
    """Attempts, as one or two lines each; {canary}, {folder}, {port}, {ear}, {caller} and {victim} are of the host."""
    for folder, (number, way) in itertools.product(_PLACES, enumerate(_WRITES.values())):
        name = f"{MARK}-{number}"
        yield way.format(path=f"{folder.rstrip('/')}/{name}", name=name, folder=folder)
    for path, way in itertools.product(KEPT, _SPOILS.values()):
        yield way.format(path=path)
    for path, way in itertools.product(_SECRETS, _READS.values()):
        yield way.format(path=path)
    for family, kind, address, way in itertools.product(_FAMILIES, _TYPES, _ADDRESSES, _SENDS):
        opened = f"s = socket.socket(socket.{family}, socket.{kind}); s.settimeout(0.2)\n"
        yield opened + way.replace("{address}", address)
    for pid, number, way in itertools.product(_VICTIMS, _SIGNALS, _KILLS):
        yield way.replace("{pid}", pid).replace("{signal}", str(int(number)))
    for flags in itertools.chain.from_iterable(itertools.combinations(_NAMESPACES, n) for n in (1, 2, 3)):
        yield f"assert libc.unshare({sum(flags)}) == 0; print('OUT')"
        yield f"assert libc.syscall(56, {sum(flags) | 17}, 0, 0, 0, 0) > 0; print('OUT')"
    for kind, target in itertools.product(_MOUNTS, ("/work", "/tmp", "/etc", "/proc", "/usr", "/")):
        yield f"assert libc.mount(b'none', b'{target}', b'{kind}', 0, None) == 0; print('OUT')"
        yield f"assert libc.syscall(430, b'{kind}', 0) >= 0; print('OUT')"
    for space, pid in itertools.product(_SPACES, ("1", "self", "{caller}")):
        yield f"assert libc.setns(os.open('/proc/{pid}/ns/{space}', 0), 0) == 0; print('OUT')"
    for setting, below in itertools.product(SETTINGS, _BELOW):
        yield f"open({below.format(setting)!r}, 'w').write('1')"
    for path, value in itertools.product(OTHER, ("0", "1", "b", "-1000", "0 0 1")):
        yield f"open({path!r}, 'w').write({value!r})"
    for way, first, second in itertools.product(_BECOMES, _NUMBERS, _NUMBERS):
        yield way.format(first, second)
    for major, minor in itertools.product((1, 4, 5, 7, 8, 10, 202, 253, 254, 259), range(8)):
        yield f"os.mknod('/work/d', 0o60666, os.makedev({major}, {minor})); os.open('/work/d', os.O_RDWR); print('OUT')"
    prepared = f"buffer = ctypes.create_string_buffer(4096); path = ctypes.create_string_buffer(b'/tmp/../etc/{MARK}')\n"
    for number, arguments in itertools.product(_CALLS, _ARGUMENTS):
        yield f"{prepared}libc.syscall({number}, {arguments})"


def programs(count: int, seed: int, **host: object) -> list[str]:
    """So many distinct programs. host: what {canary}, {folder}, {port}, {ear}, {caller}, {victim} stand for."""
    draw, found = random.Random(seed), []
    acts = list(dict.fromkeys(_acts()))
    pairs = list(itertools.product(range(len(acts)), _PROCESSES.values()))
    draw.shuffle(pairs)
    for number, process in pairs[:count]:
        act = acts[number]
        for name, value in host.items():
            act = act.replace("{" + name + "}", str(value))
        body = process.replace("{act}", act).replace("{inner}", textwrap.indent(act, " " * 8))
        found.append(_HEAD + body.replace("{one}", textwrap.indent(act, " " * 4)) + "\n")
    return found


# Runs inside. A line for each program when it begins and one with what it printed when it has ended.
BATCH = """
import ctypes, json, mmap, os, shutil, signal, socket, subprocess, sys, threading, time  # all that programs import
programs = json.loads({programs!r})
out = os.dup(1)
for number, program in enumerate(programs):
    os.write(out, b"began %d\\n" % number)
    said = os.open("/work/.said", os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
    child = os.fork()
    if child == 0:
        os.close(out)
        os.dup2(said, 1); os.dup2(said, 2); os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.alarm(2)
        exec(compile(program, "program", "exec"), {{"__name__": "__main__"}})
        sys.stdout.flush()
        os._exit(0)
    end = time.monotonic() + 3
    while os.waitpid(child, os.WNOHANG | os.WUNTRACED) == (0, 0) and time.monotonic() < end:
        time.sleep(0.001)
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        while True: os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    os.lseek(said, 0, 0)
    os.write(out, b"said " + repr(os.read(said, 2000)).encode() + b"\\n")
    os.close(said)
    for folder in ("/work", "/tmp", "/dev/shm"):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.path != "/work/program.py":  # this file
                os.unlink(entry.path)
"""
