"""The sandbox contains what it claims to contain, and refuses where it cannot."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from escapes import ABSENT, EFFECTS, ESCAPES, HARMFUL, WENT, hold, lacking, outside

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


# Each of 1 GB, written to or at least looked at, so that it is really there, but for the table bomb.
_LOOK = "\nfor place in range(0, len(m), 4096): m[place]\nprint('all of it')"
_MAP = "import mmap; m = mmap.mmap(-1, 1 << 30, flags={flags})" + _LOOK
MEMORY_BOMBS = {
    "heap": "m = bytearray(1 << 30)" + _LOOK,
    "private map": _MAP.format(flags="mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS"),
    "shared map": _MAP.format(flags="mmap.MAP_SHARED | mmap.MAP_ANONYMOUS"),
    "map that grows as a stack": _MAP.format(flags="mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100"),
    "map of zeros": "import mmap, os; m = mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 30)" + _LOOK,
    "map of zeros that are read": "import mmap, os\n"
    "m = mmap.mmap(os.open('/dev/zero', os.O_RDONLY), 1 << 30, prot=mmap.PROT_READ)" + _LOOK,
    "page tables": "import mmap\n"
    "m = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)\n"
    "print('all of it')",
    "stack of a thread": "import threading; threading.stack_size(1 << 30)\n"
    "threading.Thread(target=print, args=['all of it']).start()",
    "stack": "import resource as r; r.setrlimit(r.RLIMIT_STACK, (1 << 30, 1 << 30)); print('all of it')",
    "pipes": "import fcntl, os\n"
    "for _ in range(1024):\n    fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 1 << 20)\nprint('all of it')",
}


@pytest.mark.fault(
    "sandbox", "a memory bomb: heap, stack, private and shared maps, page tables, pipes", "ended at its limit"
)
@needs_sandbox
@pytest.mark.parametrize("name", MEMORY_BOMBS)
def test_memory_limit_is_kept(name: str) -> None:
    result = run_program(MEMORY_BOMBS[name], memory_mb=200)
    assert result.reason == "error" and "all of it" not in result.stdout
    assert re.search("MemoryError|Error: .*(12|19|24)]|not allowed to raise|new thread", result.stderr), (
        result
    )


@needs_sandbox
def test_zeros_can_be_read() -> None:
    """What stands for /dev/zero cannot be mapped."""
    assert run_program("print(open('/dev/zero', 'rb').read(3))").stdout == "b'\\x00\\x00\\x00'\n"


PROCESS_BOMBS = {
    "fork": ("import os\nwhile True: os.fork()", "BlockingIOError"),
    "vfork": (
        "import subprocess\nassert subprocess._USE_VFORK\nwhile True: subprocess.Popen(['/bin/sleep', '9'])",
        "BlockingIOError",
    ),
    "threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=[9], daemon=True).start()",
        "can't start new thread",
    ),
}


@pytest.mark.fault("sandbox", "a bomb of fork, vfork or threads", "stops at the limit of processes")
@needs_sandbox
@pytest.mark.parametrize("name", PROCESS_BOMBS)
def test_fork_bomb_stops_by_itself(name: str) -> None:
    code, said = PROCESS_BOMBS[name]
    result = run_program(code, time_limit=5)
    assert result.reason in ("error", "timeout", "output-limit")
    assert said in result.stderr  # each of them comes to the limit
    assert run_program("print(1)").stdout == "1\n"


@pytest.mark.fault(
    "sandbox",
    "a program makes files without end, or files of no bytes on the disk",
    "ended; the disk is as it was",
)
@needs_sandbox
def test_files_without_end_are_none_of_the_disks() -> None:
    code = "import os\nos.truncate(os.open('hole', 66), 32 << 20)\nnumber = 0\n"
    code += "while True:\n    open(f'{number}', 'w').close(); number += 1\n"
    code += "    if number == 1000: print('thousands', flush=True)"
    places = [Path("/"), Path(tempfile.gettempdir())]
    before = [os.statvfs(place).f_ffree for place in places]
    result = run_program(code, time_limit=1.5)
    assert result.timed_out and result.stdout == "thousands\n"
    after = [os.statvfs(place).f_ffree for place in places]
    assert all(was - now < 500 for was, now in zip(before, after)), (before, after)


@pytest.mark.fault("sandbox", "the caller's LD_* and PYTHON* are hostile", "none of them comes in")
@needs_sandbox
def test_variables_of_the_caller_do_not_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("print('hostile')")
    (tmp_path / "sitecustomize.py").write_text("print('hostile')")
    for name in ("PATH", "STARTUP", "HOME", "USERBASE", "PLATLIBDIR"):
        monkeypatch.setenv(f"PYTHON{name}", str(tmp_path))
    for name in ("PYTHONINSPECT", "PYTHONVERBOSE", "PYTHONDEVMODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONBREAKPOINT", "os.abort")
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "hostile.so"))  # the loader complains where it sees this
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("LD_DEBUG", "all")
    seen = subprocess.run(["/bin/true"], capture_output=True, text=True)
    assert seen.stderr != ""  # it does
    result = run_program("import json, os; print(json.dumps(sorted(os.environ)))")
    assert (result.stdout, result.stderr) == ('["HOME", "LANG", "PATH", "PWD"]\n', "")


@pytest.mark.fault("sandbox", "two hundred programs at once", "each has its own whole result")
@needs_sandbox
def test_two_hundred_at_once() -> None:
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        results = list(pool.map(lambda n: run_program(f"print({n})", time_limit=60.0), range(200)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(200)]


def _left() -> dict[str, object]:
    """What runs could leave behind: open files, mounts, temporary files, children."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    temporary = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("openqwen")]
    return {"files": os.listdir("/proc/self/fd"), "mounts": mounts, "of": temporary, "children": children}


@pytest.mark.fault(
    "sandbox",
    "many runs in a row, some stopped",
    "no process, zombie, open file, mount or temporary file is left",
)
@needs_sandbox
def test_many_runs_leave_nothing() -> None:
    orphan = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(60)\n"
    before = _left()
    for number in range(30):
        assert run_program(orphan, time_limit=0.1 if number % 10 == 0 else 5.0).reason in ("ok", "timeout")
    assert _left() == before


_FIRST = """
import os
from pathlib import Path
from openqwen.sandbox import run_program
assert os.getpid() == 1
code = "import os, time\\nif os.fork() == 0: os.setsid(); time.sleep(60)\\n"
for number in range(12):
    result = run_program(code + "time.sleep(60)" * (number % 4 == 0), time_limit=0.3 if number % 4 == 0 else 5.0)
    assert result.reason == ("timeout" if number % 4 == 0 else "ok"), result
print(len(os.listdir("/proc/self/fd")), [p.name for p in Path("/proc").glob("[0-9]*") if p.name != "1"])
"""


@pytest.mark.fault(
    "sandbox",
    "programs are run by the first process of a container",
    "no zombies gather but those of the last few",
)
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can make such a place"
)
@needs_sandbox
def test_the_first_process_gathers_no_zombies() -> None:
    place = ["unshare", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run([*place, sys.executable, "-c", _FIRST], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    files, _, left = done.stdout.partition(" ")
    assert len(json.loads(left.replace("'", '"'))) <= 3 and int(files) <= 6, done.stdout


_LAUNCHER = """
from openqwen.sandbox import run_program
code = "import os, time\\nfor _ in range(3):\\n    if os.fork() == 0: os.setsid()\\ntime.sleep(600)"
run_program(code, time_limit=600.0)
"""


def _below(pid: int) -> set[int]:
    """A process's children, and theirs."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child, *_below(child)}
    return found


@pytest.mark.fault(
    "sandbox", "who runs a program is killed by SIGKILL", "no process and no file is left of it"
)
@needs_sandbox
def test_nothing_outlives_a_killed_launcher(tmp_path: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        end = time.monotonic() + 20
        while len(below := _below(launcher.pid)) < 10:  # bubblewrap twice, and 2 ** 3 of the program
            assert time.monotonic() < end and launcher.poll() is None
            time.sleep(0.01)
    finally:
        launcher.kill()
        launcher.wait()
    end = time.monotonic() + 5
    while alive := [pid for pid in below if _lives(pid)]:
        assert time.monotonic() < end, alive
        time.sleep(0.01)
    assert os.listdir(tmp_path) == []


def _lives(pid: int) -> bool:
    """A zombie does not; whoever has adopted it may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


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


@pytest.mark.fault(
    "sandbox", "a program tries to get out: network, files, processes, kernel", "every attempt fails"
)
@needs_sandbox
@pytest.mark.parametrize("name", ESCAPES)
def test_escape_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENQWEN_SECRET", "1")
    with hold(tmp_path / "held") as held:
        for other in (1, held.victim.pid) if "{other}" in ESCAPES[name] else (1,):
            result = run_program(held.text(name, other), memory_mb=256)
            assert result.reason == "error" and WENT not in result.stdout, result
            if name in HARMFUL:  # nothing else shows that it asks for the right thing
                assert re.search(r"PermissionError|\[Errno 30\]", result.stderr), result
        assert held.touched() == []


# Runs as another user: who started it owns what the attempts want to reach, as in the test above.
_AS_A_USER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from escapes import ESCAPES, WENT, hold
from openqwen.sandbox import backend, run_program
def went(name):  # with a victim of the host: process 1 is of its own user here, under the same filter
    result = run_program(held.text(name, held.victim.pid), memory_mb=256, time_limit=30.0)
    return None if result.reason == "error" and WENT not in result.stdout else result.stdout + result.stderr
with hold(Path(sys.argv[2], "held")) as held, ThreadPoolExecutor(8) as pool:
    out = {name: said for name, said in zip(ESCAPES, pool.map(went, ESCAPES)) if said is not None}
    out.update({name: "touched" for name in held.touched()})
print(json.dumps([backend(), len(ESCAPES), out]))
"""


@pytest.mark.fault(
    "sandbox", "the same attempts in the other mode, of an ordinary user", "every attempt fails"
)
@pytest.mark.skipif(os.geteuid() != 0, reason="then the test above is of an ordinary user")
@needs_sandbox
def test_escapes_fail_for_an_ordinary_user_too(tmp_path: Path) -> None:
    assert backend() == "bwrap-root"
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o777)
        done = subprocess.run(
            [*_as_a_user(), sys.executable, "-c", _AS_A_USER, str(Path(__file__).parent), folder],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "OPENQWEN_SECRET": "1"},
        )
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == ["bwrap", len(ESCAPES), {}]


def _as_a_user() -> list[str]:
    """The beginning of a command that an ordinary user runs. Python may lie in root's own folder, closed to others."""
    command = ["bwrap", "--dev-bind", "/", "/", "--cap-add", "ALL"]
    prefix = Path(os.path.realpath(sys.base_prefix))
    closed = [folder for folder in reversed(prefix.parents) if not folder.stat().st_mode & 0o001]
    if closed:
        command += ["--perms", "0755", "--tmpfs", str(closed[0])]
        for folder in reversed(prefix.parents):
            if closed[0] in folder.parents:
                command += ["--perms", "0755", "--dir", str(folder)]
        command += ["--ro-bind", str(prefix), str(prefix)]
    return [*command, "setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel itself holds back all but root")
@pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="there is no bubblewrap to keep the machine from harm"
)
@pytest.mark.parametrize("name", [name for name in ESCAPES if name not in HARMFUL])
def test_escape_works_where_nothing_holds_it(name: str, tmp_path: Path) -> None:
    with hold(tmp_path / "held") as held:
        done = outside(name, held, tmp_path / "outside")
        if lacking(name, done.stderr):
            pytest.skip(f"not here: {ABSENT[name]}")
        assert done.stdout == WENT + "\n", done.stderr
        assert held.touched() == EFFECTS.get(name, [])


def test_few_escapes_cannot_be_shown() -> None:
    assert len(ESCAPES) >= 75 and len(HARMFUL) <= 5 and len(ABSENT) <= 7
    assert {*HARMFUL, *ABSENT, *EFFECTS} <= set(ESCAPES)


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
