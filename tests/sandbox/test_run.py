"""The sandbox contains what it claims to contain, and refuses where it cannot."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import struct
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
    assert "BlockingIOError" in result.stderr  # each of them comes to the limit
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
