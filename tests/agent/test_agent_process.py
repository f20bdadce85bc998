"""Functions of a Python file in a process of their own, and calls that are stopped from another thread."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from openqwen.agent import interpreter, process, tools
from openqwen.agent.process import FileProcess, set_apart
from openqwen.agent.sources import open_tools
from openqwen.agent.tools import CallError, Toolbox, from_function
from openqwen.sandbox import Kernel, Limits, backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")
FILE = """
import os, sys, time
kept = []
def keep(word: str) -> list:
    "Keeps words."
    print("not the answer")
    kept.append(word)
    return kept
def wait(path: str) -> str:
    "Waits for a file."
    while not os.path.exists(path): time.sleep(0.02)
    return "there"
def read() -> str:
    "Reads what nobody wrote."
    return sys.stdin.readline()
def fail(how: str) -> str:
    "Does not answer."
    if how == "exits": sys.exit("no")
    if how == "dies": os._exit(1)
    if how == "floods": return "x" * 3_000_000
    if how == "hands out bytes": return b"\\x00"
    while True: pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def apart(file: Path) -> Iterator[Callable[[], Toolbox]]:
    """Toolboxes of the file's functions; all of one process."""
    with ExitStack() as stack:
        found = open_tools([str(file)], 1.0, stack)
        own = set_apart([*found, from_function(here)], 1.0, stack)
        yield lambda: Toolbox(own, 1.0, 200)


def here() -> str:
    """Says which process it is in."""
    return str(os.getpid())


def test_a_process_keeps_its_state_and_its_own_input_and_output(apart: Callable[[], Toolbox]) -> None:
    assert apart().call("keep", '{"word": "a"}') == ('["a"]', None)
    assert apart().call("read", "{}") == ("", None)
    assert apart().call("keep", '{"word": "b"}') == ('["a", "b"]', None)
    assert apart().call("here", "{}") == (str(os.getpid()), None)
    assert apart().call("keep", '{"word": "é\\n巴黎 🦜"}') == ('["a", "b", "é\\n巴黎 🦜"]', None)


@pytest.mark.fault(
    "agent",
    "a function of a file hangs, exits, floods or kills its process",
    "an observation; the next call finds a fresh process",
)
@pytest.mark.parametrize(
    ("how", "told", "fresh"),
    [
        ("exits", "SystemExit: no", False),
        ("dies", "the process of this tool has ended", True),
        ("floods", "more than 1048576 bytes", True),
        ("hands out bytes", "1 bytes that are not text", False),
        ("hangs", "no result after 1 seconds", True),
    ],
)
def test_what_goes_wrong_is_told(apart: Callable[[], Toolbox], how: str, told: str, fresh: bool) -> None:
    apart().call("keep", '{"word": "a"}')
    assert told in str(apart().call("fail", f'{{"how": "{how}"}}')[1])
    assert apart().call("keep", '{"word": "b"}')[0] == ('["b"]' if fresh else '["a", "b"]')


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process holds more files than select() can tell apart."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("this shell allows no 2,000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_tools_work_in_a_server_with_a_thousand_connections(
    many_files: None, apart: Callable[[], Toolbox]
) -> None:
    assert apart().call("keep", '{"word": "a"}') == ('["a"]', None)


@needs_sandbox
def test_cells_run_in_a_server_with_a_thousand_connections(many_files: None, tmp_path: Path) -> None:
    with interpreter.start(Limits(), tmp_path) as python:
        assert python.run("print(1 + 1)") == "2"


def test_a_process_that_died_between_two_calls_is_told_once(apart: Callable[[], Toolbox]) -> None:
    apart().call("keep", '{"word": "a"}')
    own = apart().tools["keep"].function.func.__self__._process  # type: ignore[attr-defined]
    own.kill()
    own.wait()
    long = '{"word": "' + "b" * 100_000 + '"}'
    assert apart().call("keep", long)[1] == "the process of this tool has ended"
    assert apart().call("keep", '{"word": "c"}')[0] == '["c"]'


def test_a_file_that_no_longer_runs_is_told(file: Path) -> None:
    own = FileProcess(file, 1.0)
    file.write_text("1 / 0")
    box = Toolbox([from_function(here)])
    box.tools["here"] = type(box.tools["here"])(from_function(here).declaration, lambda: own.call("here"))
    assert box.call("here", "{}")[1] == "the process of this tool has ended"


def stopped(box: Toolbox, name: str, arguments: str, after: float = 0.3) -> tuple[str, float]:
    """What a call that is stopped from another thread told, and how long it took."""
    timer = threading.Timer(after, box.stop)
    begun = time.monotonic()
    timer.start()
    error = box.call(name, arguments)[1]
    timer.join()
    return str(error), time.monotonic() - begun


def test_stop_ends_a_function_a_program_and_what_knows_no_end(
    apart: Callable[[], Toolbox], tmp_path: Path
) -> None:
    box = apart()
    error, seconds = stopped(box, "fail", '{"how": "hangs"}')
    assert error == "the process of this tool has ended" and seconds < 0.9
    assert box.call("keep", '{"word": "a"}')[1] == "the call was stopped"  # and none begins after it
    assert apart().call("keep", '{"word": "a"}')[0] == '["a"]'
    declared = tmp_path / "tools.json"
    declared.write_text('[{"name": "sleep", "parameters": {}, "command": ["sleep", "30"]}]')
    with ExitStack() as stack:
        error, seconds = stopped(Toolbox(open_tools([str(declared)], 20.0, stack)), "sleep", "{}")
    assert "exit code -9" in error and seconds < 3

    def deaf() -> str:
        """Hears nothing."""
        time.sleep(2)
        return ""

    error, seconds = stopped(Toolbox([from_function(deaf)]), "deaf", "{}")
    assert error == "the call was stopped" and seconds < 1.5


def test_the_call_after_a_stopped_one_waits_for_its_end(
    apart: Callable[[], Toolbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    apart().call("keep", '{"word": "a"}')
    end = process._end
    monkeypatch.setattr(process, "_end", lambda own: (time.sleep(1), end(own)))
    box = apart()
    hanging = threading.Thread(target=box.call, args=("fail", '{"how": "hangs"}'))
    hanging.start()
    time.sleep(0.3)
    box.stop()
    assert apart().call("keep", '{"word": "b"}') == ('["b"]', None)
    hanging.join()


def test_a_call_that_is_stopped_while_it_waits_leaves_the_process_alone(file: Path, tmp_path: Path) -> None:
    call = tools.Call()

    def keep_within_call() -> str:
        tools._CALL.set(call)
        return own.call("keep", word="b")

    with closing(FileProcess(file, 20.0)) as own, ThreadPoolExecutor(2) as pool:
        own.call("keep", word="a")
        running = pool.submit(own.call, "wait", path=str(tmp_path / "go"))
        wait_until(own._one.locked)
        waiting = pool.submit(keep_within_call)
        call.stop()
        (tmp_path / "go").touch()
        assert running.result() == "there"
        with pytest.raises(CallError, match="the call was stopped"):
            waiting.result()
        assert own.call("keep", word="c") == '["a", "c"]'


def test_a_call_that_waits_while_it_is_closed_starts_nothing(file: Path, tmp_path: Path) -> None:
    own = FileProcess(file, 20.0)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(own.call, "wait", path=str(tmp_path / "never"))
        wait_until(own._one.locked)
        waiting = pool.submit(own.call, "keep", word="a")
        time.sleep(0.2)
        own.close()
        for call in (running, waiting):
            with pytest.raises(CallError, match="the process of this tool has ended"):
                call.result()
    assert own._process is None


def test_closing_does_not_wait_for_a_call_whose_process_just_starts(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = FileProcess(file, 20.0)
    start = own._start
    monkeypatch.setattr(own, "_start", lambda: (time.sleep(0.5), start())[1])
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(own.call, "wait", path=str(tmp_path / "never"))
        wait_until(own._one.locked)
        own.close()
        with pytest.raises(CallError, match="the process of this tool has ended"):
            starting.result()


def test_a_process_that_ended_under_the_killers_eyes_is_no_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = FileProcess(file, 20.0)
    own.call("keep", word="a")
    assert own._process is not None
    own._process.kill()
    own._process.wait()
    monkeypatch.setattr(own._process, "poll", lambda: None)  # what it was a moment ago
    own.close()
    assert own._process is None


@needs_sandbox
@pytest.mark.fault(
    "agent", "Ctrl-C in the middle of a cell", "the cell ends, the next one has an interpreter"
)
@pytest.mark.parametrize("slow", [0.0, 1.5])
def test_ctrl_c_ends_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    """slow: seconds that the fresh interpreter takes longer; the next cell comes before."""
    start = Kernel.restart
    monkeypatch.setattr(Kernel, "restart", lambda kernel: (time.sleep(slow), start(kernel)))
    with interpreter.start(Limits(seconds=20.0), tmp_path) as python:
        box = Toolbox([python.tool])
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            box.call(interpreter.NAME, "while True: pass")
        begun = time.monotonic()
        assert box.call(interpreter.NAME, "1 + 1") == (f"{interpreter.LOST}\n2", None)
        assert time.monotonic() - begun < 10  # the cell's limit is 20


@pytest.mark.fault("agent", "the process that runs a tool is killed during a call", "the tool ends, too")
def test_a_function_does_not_outlive_who_called_it(tmp_path: Path) -> None:
    file, mark = tmp_path / "busy.py", tmp_path / "pid"
    file.write_text(
        "import os\n"
        "def spin(mark: str) -> str:\n"
        "    'Never answers.'\n"
        "    with open(mark + '.part', 'w') as out: out.write(str(os.getpid()))\n"
        "    os.rename(mark + '.part', mark)\n"
        "    while True: pass\n"
    )
    calls = "import sys, pathlib, openqwen.agent.process as p; file, mark = sys.argv[1:]"
    calls += "; p.FileProcess(pathlib.Path(file), 60.0).call('spin', mark=mark)"
    caller = subprocess.Popen([sys.executable, "-c", calls, str(file), str(mark)])
    try:
        wait_until(mark.exists)
    finally:
        caller.kill()
        caller.wait()
    wait_until(lambda: not alive(int(mark.read_text())))


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether there is such a process that is more than its exit code."""
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
