"""The interpreter of a conversation: it remembers, it is bounded, and what it answers is not believed."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from openqwen.core.errors import DataError, UsageError
from openqwen.sandbox import Kernel, Limits, NoSandbox, Pool, backend
from openqwen.sandbox.run import failures

pytestmark = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(Limits(seconds=0.5, output=4096, picture_bytes=1 << 16, file_bytes=1 << 20)) as made:
        yield made


def test_variables_last_and_the_last_value_is_shown(kernel: Kernel) -> None:
    assert kernel.run("x = 41\nprint('set')").text == "set\n"
    assert kernel.run("x + 1").text == "42\n"


def test_an_error_is_told_and_harms_nothing(kernel: Kernel) -> None:
    kernel.run("kept = 7")
    for code, seen in {
        "1 / 0": "ZeroDivisionError",
        "def f(:": "SyntaxError",
        "raise SystemExit(3)": "SystemExit: 3",
        "(" * 5000: "Error",
        "raise BaseException('b')": "BaseException: b",
    }.items():
        cell = kernel.run(code)
        assert cell.error is not None and seen in cell.error and not cell.restarted
    assert kernel.run("kept").text == "7\n"


def test_programs_it_starts_are_heard_too(kernel: Kernel) -> None:
    assert kernel.run("import os; _ = os.system('echo out; echo err >&2')").text == "out\nerr\n"


def test_the_time_limit_keeps_variables(kernel: Kernel) -> None:
    kernel.run("kept = 8")
    cell = kernel.run("try:\n    while True: pass\nexcept Exception: pass")
    assert cell.error is not None and "longer than 0.5 s" in cell.error and cell.seconds < 1.5
    assert kernel.run("kept").text == "8\n"


@pytest.mark.fault(
    "sandbox", "the thread that started an interpreter ends", "the interpreter stays, with its variables"
)
def test_an_interpreter_outlives_the_thread_that_started_it() -> None:
    """To the kernel the parent of a process is a thread: what dies with its parent would die with a tool's call."""
    made: list[Kernel] = []

    def call() -> None:
        made.append(Kernel())
        made[0].run("x = 5")  # it has started, so that its end would be seen

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    time.sleep(0.3)
    with made[0] as kernel:
        cell = kernel.run("x")
        assert (cell.text, cell.error) == ("5\n", None)


def test_an_interpreter_starts_in_a_forked_process_too() -> None:
    """Its thread for starting is the other process's, which does not exist there."""
    with Kernel() as kernel:
        assert kernel.run("1").text == "1\n"
    child = os.fork()
    if child == 0:
        right = False
        try:
            with Kernel() as kernel:
                right = kernel.run("2").text == "2\n"
        finally:
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


STUBBORN = {
    "ignores the alarm": "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass",
    "blocks signals": "import signal; signal.pthread_sigmask(0, range(1, 65))\nwhile True: pass",
    "catches everything": "import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass",
    "stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "ends itself": "import os; os._exit(0)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "closes the channel": "import os; os.closerange(0, 100)",
}
# Descriptor 4 is the channel of answers: the code may find it, and may write what it likes.
FORGED = {
    "no JSON": "import os; os.write(4, b'hello\\n')",
    "no object": "import os; os.write(4, b'[1]\\n')",
    "deep nesting": "import os; os.write(4, b'[' * 60000 + b'\\n')",
    "wrong kinds": "import os; os.write(4, b'{\"text\": 1}\\n')",
    "a picture that is none": 'import os; os.write(4, b\'{"pictures": ["AAAA"]}\\n\')',
    "a picture that is no base64": 'import os; os.write(4, b\'{"pictures": ["AA A"]}\\n\')',
    "a picture of another form": 'import os; os.write(4, b\'{"pictures": ["PHN2Zz48L3N2Zz4="]}\\n\')',  # <svg>
    "a picture's data of another kind": "import os; os.write(4, b'{\"figures\": [1]}\\n')",
    "endless": "import os\nwhile True: os.write(4, b'x' * 65536)",
}


@pytest.mark.fault("sandbox", "an interpreter is lost", "replaced, and said")
@pytest.mark.fault("sandbox", "pictures and answers that come out are malformed", "not shown, and said")
@pytest.mark.parametrize("name", [*STUBBORN, *FORGED])
def test_a_lost_interpreter_is_replaced_within_a_second_of_its_limit(kernel: Kernel, name: str) -> None:
    kernel.put("given", b"1")
    old = kernel._process.pid
    began = time.monotonic()
    cell = kernel.run({**STUBBORN, **FORGED}[name])
    assert cell.restarted and cell.error is not None and "started anew" in cell.error
    assert time.monotonic() - began < 2.0 and (name != "endless" or "too long" in cell.error)
    with pytest.raises(ProcessLookupError):
        os.killpg(old, 0)
    assert kernel.run("open('given').read()").text == "'1'\n"


@pytest.mark.fault("sandbox", "code forges the interpreter's answer", "not taken for one")
def test_an_answer_nobody_asked_for_is_not_taken_for_the_next(kernel: Kernel) -> None:
    first = kernel.run('import os; os.write(4, b\'{"text": "forged"}\\n\'); x = 1')
    time.sleep(0.1)
    second = kernel.run("print('honest')")
    # Both lines may come in one read, or the true answer only after the forged one was taken.
    assert first.restarted or (second.restarted and "unasked" in str(second.error))
    assert second.text in ("honest\n", "") and kernel.run("print('honest')").text == "honest\n"


def test_a_start_that_fails_leaves_no_descriptor_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "no descriptor is left")

    ours, theirs = socket.socketpair()
    with ours, theirs, Kernel(Limits(seconds=0.5)) as own:
        theirs.setblocking(False)
        own.run("kept = 1")
        freed = own._in, own._out
        with monkeypatch.context() as failing:
            failing.setattr("openqwen.sandbox.kernel.launch", fail)
            with pytest.raises(OSError, match="no descriptor is left"):
                own.run("import os; os._exit(0)")
        for number in freed:
            os.dup2(ours.fileno(), number)
        try:
            cell = own.run("kept")
            assert cell.restarted and "its variables are gone" in str(cell.error)
            assert own.run("'kept' in globals()").text == "False\n"
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
        finally:
            for number in freed:
                os.close(number)


def test_an_interpreter_that_ended_under_the_killers_eyes_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Kernel() as own:
        os.killpg(own._process.pid, signal.SIGKILL)
        own._process.wait()
        monkeypatch.setattr(own._process, "poll", lambda: None)  # what it was a moment ago
        own.kill()
        own.close()


def test_children_do_not_outlive_the_time_limit(kernel: Kernel) -> None:
    child = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: open('beat', 'w').close()"
    kernel.run(child + "\nwhile True: pass")
    assert kernel.run("import os; os.remove('beat')").error is None
    time.sleep(0.1)
    assert kernel.run("os.path.exists('beat')").text == "False\n"


def test_output_is_bounded_and_says_so(kernel: Kernel) -> None:
    cell = kernel.run("print('x' * 100000, end='')")
    assert cell.text == "x" * 4096 and cell.left_out == 100000 - 4096
    assert kernel.run("print(1)").text == "1\n"
    assert "�" in kernel.run("import os; _ = os.write(1, bytes([255, 0, 7]))").text


def test_files_go_in_and_out(kernel: Kernel) -> None:
    kernel.put("in.bin", bytes(range(256)))
    cell = kernel.run("data = open('in.bin', 'rb').read(); _ = open('out.bin', 'wb').write(data[::-1])")
    assert cell.files == ("out.bin",)
    assert kernel.get("out.bin") == bytes(reversed(range(256)))


@pytest.mark.parametrize("name", ["", "..", "../x", "/etc/x", "a/b", "a\0b"])
def test_file_names_hold_no_folders(kernel: Kernel, name: str) -> None:
    with pytest.raises(UsageError, match="file name"):
        kernel.put(name, b"")


@pytest.mark.fault(
    "sandbox",
    "code leaves links, pipes, devices, sockets, folders and huge files to be fetched",
    "none comes out or is waited for",
)
def test_links_and_large_files_do_not_come_out(kernel: Kernel) -> None:
    made = kernel.run(
        "import os, socket; os.symlink('/proc/self/environ', 'link'); os.mkdir('folder')\n"
        "os.truncate(os.open('big', 66, 0o600), 1 << 24); os.symlink('/dev/zero', 'endless')\n"
        "socket.socket(socket.AF_UNIX).bind('socket')\n"
    )
    assert made.error is None and made.files == ("big",)
    for make in (
        "mkfifo('pipe')",
        "mknod('device', 0o20666, os.makedev(1, 5))",
        "link('/kernel.py', 'hard')",
    ):
        assert kernel.run("os." + make).error is not None  # never there
    began = time.monotonic()
    for name in (
        "link",
        "big",
        "absent",
        "pipe",
        "device",
        "hard",
        "socket",
        "folder",
        "endless",
    ):
        with pytest.raises(DataError, match="file"):
            kernel.get(name)
    assert time.monotonic() - began < 2
    with pytest.raises(UsageError, match="at most"):
        kernel.put("large", bytes((1 << 20) + 1))


@pytest.mark.fault("sandbox", "two conversations run code", "neither sees the other")
def test_two_conversations_share_nothing(kernel: Kernel) -> None:
    kernel.run("secret = 1; _ = open('secret', 'w').write('1')")
    with Kernel() as other:
        assert (
            other.run("import os; 'secret' in globals(), os.path.exists('secret')").text == "(False, False)\n"
        )


def test_memory_and_disk_are_bounded() -> None:
    with Kernel(Limits(memory_mb=256)) as small:
        assert "MemoryError" in str(small.run("x = bytearray(1 << 30)").error)
        full = "for i in range(9):\n    with open(f'f{i}', 'wb') as f: f.write(bytes(30 << 20))"
        assert "No space left" in str(small.run(full).error)


def test_pictures_and_packages() -> None:
    pytest.importorskip("matplotlib")
    with Kernel(Limits(seconds=30)) as drawing:
        cell = drawing.run(
            "import numpy, matplotlib.pyplot as plt\n_ = plt.plot(numpy.arange(3)); plt.figure()"
        )
        assert cell.error is None and len(cell.pictures) == 2
        assert all(picture.startswith(b"\x89PNG") for picture in cell.pictures)
        assert drawing.run("plt.get_fignums()").text == "[]\n"


def test_started_ahead_is_at_hand() -> None:
    began = time.monotonic()
    Kernel().close()
    assert time.monotonic() - began < 1.5
    pool = Pool(1, warm="import json")
    try:
        began = time.monotonic()
        with pool.take() as ready:
            assert ready.run("json.dumps(1)").text == "'1'\n"
            assert time.monotonic() - began < 0.1
            times = []
            for _ in range(20):
                began = time.monotonic()
                ready.run("1")
                times.append(time.monotonic() - began)
            assert sorted(times)[10] < 0.01
    finally:
        pool.close()


@pytest.mark.fault("sandbox", "no sandbox, and a model wants to run code", "refused, nothing runs")
def test_no_sandbox_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openqwen.sandbox.run.backend", lambda: None)
    with pytest.raises(NoSandbox) as refusal:
        Kernel()
    assert refusal.value.exit_code == 78


@pytest.mark.fault(
    "sandbox",
    "files that Python would run by their name lie in the folder",
    "no later start or import runs them",
)
def test_files_named_like_modules_are_not_run() -> None:
    hostile = b"open('/work/ran', 'w').close()\n"
    names = ("sitecustomize.py", "usercustomize.py", "json.py", "csv.py", "_sitebuiltins.py", "encodings.py")
    with Kernel(Limits(seconds=5)) as made:
        for name in names:
            made.put(name, hostile)
        made.put("hostile.pth", b"import os; " + hostile)
        compiled = "import os, py_compile\nos.makedirs('__pycache__', exist_ok=True)\n"
        compiled += "py_compile.compile('csv.py', '__pycache__/csv.cpython-%d%d.pyc' % __import__('sys').version_info[:2])"
        program = "import sys, subprocess, csv, json\n"
        program += (
            "subprocess.run([sys.executable, '-I', '-S', '-c', 'import csv, json, encodings'], check=True)\n"
        )
        program += "import os; csv.__file__, os.path.exists('/work/ran')"
        for _ in range(2):
            assert made.run(compiled).error is None
            seen = made.run(program)
            assert seen.error is None and seen.text.endswith("/csv.py', False)\n"), seen
            assert "/work/csv.py" not in seen.text
            made.restart()  # with the files that were given
        assert made.run(f"exec(open('/work/csv.py').read())\n{program}").text.endswith("True)\n")
