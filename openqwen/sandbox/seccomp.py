"""The system-call filter of the sandbox, assembled as classic BPF in pure Python.

Ours. Denied calls fail with EPERM; a foreign architecture (and x32 on x86-64) is killed. The list holds what
kernel exploits and escapes have been made of and no ordinary program needs: tracing, namespaces, mounts, modules,
keyrings, io_uring, userfaultfd, SysV IPC, memfd, clocks, and sockets of any family but AF_UNIX. Memory that no
limit of a process counts, shared or growing as a stack does, is not to be had: it ends with ENOMEM.
"""

from __future__ import annotations

import platform
import struct

from openqwen.core.errors import MissingTool

# name -> (x86-64, aarch64) system-call number; None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "personality": (135, 92),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "iopl": (172, None),
    "ioperm": (173, None),
    "fanotify_init": (300, 262),
    "vmsplice": (278, 75),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mbind": (237, 235),
}
_SOCKET, _CLONE, _CLONE3, _MMAP = (41, 198), (56, 220), (435, 435), (9, 222)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_*
_NEW_NAMESPACES = 0x7E020000 | 0x00000080  # CLONE_NEW{USER,PID,NET,IPC,UTS,CGROUP,NS} and CLONE_NEWTIME
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN = 0x01, 0x20, 0x100
_AF_UNIX, _EPERM, _ENOMEM, _ENOSYS = 1, 1, 12, 38
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG0, _ARG3 = 0, 4, 16, 40  # offsets in struct seccomp_data; the low words of arguments 0 and 3


def program(machine: str | None = None) -> bytes:
    """The filter as an array of struct sock_filter, ready for bubblewrap's --seccomp."""
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise MissingTool(
            f"the sandbox has no system-call filter for {machine}", fix="run on x86_64 or aarch64"
        )
    column, audit = _ARCHITECTURES[machine]
    code = [_op(_LOAD, _ARCH), _op(_JEQ, audit, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NR)]
    if machine == "x86_64":
        code += [_op(_JGE, 0x40000000, 0, 1), _op(_RETURN, _KILL)]  # x32 numbers would slip past the table
    for numbers in _DENIED.values():
        if (number := numbers[column]) is not None:
            code += [_op(_JEQ, number, 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    # glibc falls back to clone when clone3 is "not implemented"; clone3's flags lie in memory a filter cannot read.
    code += [_op(_JEQ, _CLONE3[column], 0, 1), _op(_RETURN, _ERRNO | _ENOSYS)]
    code += [_op(_JEQ, _CLONE[column], 0, 4), _op(_LOAD, _ARG0)]
    code += [_op(_JSET, _NEW_NAMESPACES, 0, 1), _op(_RETURN, _ERRNO | _EPERM), _op(_RETURN, _ALLOW)]
    code += [_op(_JEQ, _MMAP[column], 0, 6), _op(_LOAD, _ARG3), _op(_JSET, _MAP_GROWSDOWN, 2, 0)]
    code += [_op(_JSET, _MAP_ANONYMOUS, 0, 2), _op(_JSET, _MAP_SHARED, 0, 1)]
    code += [_op(_RETURN, _ERRNO | _ENOMEM), _op(_RETURN, _ALLOW)]
    code += [_op(_JEQ, _SOCKET[column], 0, 3), _op(_LOAD, _ARG0)]
    code += [_op(_JEQ, _AF_UNIX, 1, 0), _op(_RETURN, _ERRNO | _EPERM), _op(_RETURN, _ALLOW)]
    return b"".join(code)


def _op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)
