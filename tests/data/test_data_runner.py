"""Tasks and runners: the same result everywhere, whoever dies; records that are trusted only if they fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chaos
import pytest

from openqwen.core.errors import DataError, OpenQwenError
from openqwen.data import task as tasks_module
from openqwen.data.runner import Call, InProcess, Pipeline, Processes, Runner
from openqwen.data.store import Output, Store
from openqwen.data.task import Failure, Record, Task, code_of, done, execute, fingerprint

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    """Two processes that find this folder's modules."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), before]))
    runner = Processes(2, 2)
    yield runner
    runner.close()
    del os.environ["PYTHONPATH"]
    if before:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(params=["in-process", "processes"])
def runner(request: pytest.FixtureRequest) -> Runner:
    return InProcess() if request.param == "in-process" else request.getfixturevalue("pool")


def numbers(count: int, function: object = chaos.count, **settings: object) -> list[Task]:
    return [Task(f"sums/{i:05d}", function, {}, {"number": i, **settings}) for i in range(count)]  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    """Results in a store; records without how long it took."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps({k: v for k, v in json.loads(data).items() if k != "seconds"}).encode()
        found[str(path.relative_to(folder))] = data
    return found


def test_every_runner_gives_the_same_files(tmp_path: Path, pool: Processes) -> None:
    for name, runner in (("one", InProcess()), ("two", pool)):
        pipeline = Pipeline(Store(str(tmp_path / name)), runner)
        first = pipeline.run(numbers(5))
        inputs = {"numbers": [record.outputs["sum"] for record in first]}
        second = pipeline.run([Task("total/00000", chaos.count, inputs, {"number": 0})])
        assert [record.facts["total"] for record in [*first, *second]] == [0, 1, 2, 3, 4, 10]
        assert pipeline.counts == {"ran": 6}
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_fingerprint_covers_inputs_code_and_settings_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Output("a.txt", 3, "0" * 64)
    task = Task("sums/00001", chaos.count, {"numbers": [one]}, {"number": 1})
    mark = fingerprint(task)
    assert mark == fingerprint(replace(task, name="sums/00002", about="elsewhere"))
    assert mark == fingerprint(replace(task, inputs={"numbers": [replace(one, name="b.txt")]}))
    assert mark != fingerprint(replace(task, inputs={"numbers": [replace(one, sha256="1" * 64)]}))
    assert mark != fingerprint(replace(task, settings={"number": 2}))
    assert mark != fingerprint(replace(task, function=chaos.slow))
    real = tasks_module._source

    def changed(part: str) -> str:
        """The digest of the dedup steps' code if one module had another line."""
        code_of.cache_clear()
        monkeypatch.setattr(tasks_module, "_source", lambda name: real(name) + b"\n#" * (name == part))
        return code_of("openqwen.data.dedup")

    same = changed("openqwen.data.quality")  # not among what deduplication imports
    assert changed("openqwen.data.text") != same  # imported by an import, several steps away
    assert changed("openqwen.data.config") == same  # its values are in the settings
    assert changed("openqwen.data.dedup") != same
    monkeypatch.setattr(tasks_module, "_version", lambda library: "0")
    assert changed("") != same
    code_of.cache_clear()


@pytest.mark.fault("data", "settings or code change after a task was done", "its record no longer counts")
def test_done_tasks_stay_done_until_something_changes(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))

    def run(tasks: list[Task]) -> dict[str, int]:
        pipeline = Pipeline(store, InProcess())
        totals = [record.facts["total"] for record in pipeline.run(tasks)]
        assert totals == [task.settings["number"] for task in tasks]
        return dict(pipeline.counts)

    assert run(numbers(3)) == {"ran": 3}
    assert run(numbers(3)) == {"done_before": 3}
    assert run(numbers(4)) == {"ran": 1, "done_before": 3}
    record = Record.load(store, "sums/00001")
    assert record is not None
    changed = [*numbers(1), replace(numbers(2)[1], settings={"number": 11})]
    assert run(changed) == {"ran": 1, "done_before": 1}
    assert store.sizes([record.outputs["sum"].name]) == [None]  # what nobody will read any more is gone
    assert run(numbers(2)) == {"ran": 1, "done_before": 1}  # the record is of the other number: not trusted


@pytest.mark.fault(
    "data",
    "a completion record or the file it stands for is damaged",
    "found by its hash, the task is done again",
)
@pytest.mark.parametrize("damage", ["record cut", "record odd", "output gone", "output cut"])
def test_a_damaged_record_or_output_is_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(str(tmp_path))
    before = Pipeline(store, InProcess()).run(numbers(2))[1]
    path = tmp_path / ("sums/00001.json" if damage.startswith("record") else before.outputs["sum"].name)
    if damage == "output gone":
        path.unlink()
    else:
        path.write_bytes(b'["not a record"]' if damage == "record odd" else path.read_bytes()[:-1])
    pipeline = Pipeline(store, InProcess())
    assert replace(pipeline.run(numbers(2))[1], seconds=0) == replace(before, seconds=0)
    assert pipeline.counts == {"ran": 1, "done_before": 1}


@pytest.mark.fault("data", "an input shard changes while a run reads it", "the run stops and names it")
def test_an_input_that_changed_under_its_name_is_refused(tmp_path: Path) -> None:
    pipeline = Pipeline(Store(str(tmp_path)), InProcess())
    output = pipeline.run(numbers(2))[1].outputs["sum"]
    (tmp_path / output.name).write_bytes(b"7\n")
    task = Task("total/00000", chaos.count, {"numbers": [output]}, {"number": 0})
    with pytest.raises(DataError, match="not what was written") as error:
        pipeline.run([task])
    assert output.name in str(error.value.where)
    with pytest.raises(DataError, match="not what was written"):
        pipeline.store.fetch(output, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    (tmp_path / output.name).unlink()
    with pytest.raises(DataError, match="a shard is gone"):
        pipeline.run([task])
    assert Record.load(pipeline.store, "total/00000") is None


@pytest.mark.fault("data", "a task raises", "the run fails with the record that caused it")
def test_a_failed_task_fails_the_run_and_says_where(tmp_path: Path, runner: Runner) -> None:
    store = Store(str(tmp_path / "store"))
    tasks = numbers(4)
    tasks[2] = replace(tasks[2], function=chaos.refuse)
    with pytest.raises(DataError, match="this number is odd") as error:
        Pipeline(store, runner).run(tasks)
    assert (error.value.where, error.value.fix, error.value.exit_code) == (
        "numbers.txt:3",
        "give even ones",
        4,
    )
    assert "in refuse" in str(error.value.__cause__)  # the trace of the process in which it happened
    _until(lambda: Record.load(store, "sums/00000") is not None)  # it had begun before the one that failed
    assert Record.load(store, "sums/00002") is None
    pipeline = Pipeline(store, runner)
    assert [r.facts["total"] for r in pipeline.run(numbers(4))] == [0, 1, 2, 3]
    assert pipeline.counts["done_before"] >= 1 and pipeline.counts.total() == 4
    odd = [Task(f"odd/{i:05d}", chaos.stumble, {}, {"number": i}) for i in (1, 0)]
    with pytest.raises(OpenQwenError, match="task odd/00000 failed: ZeroDivisionError") as error:
        Pipeline(store, runner).run(odd)
    assert error.value.where == "document x/7"


@pytest.mark.fault("data", "a worker process is killed", "same bytes as without")
def test_a_killed_process_changes_nothing(tmp_path: Path, pool: Processes) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    for name, function, runner in (("calm", chaos.count, InProcess()), ("killed", chaos.die_once, pool)):
        tasks = numbers(4, marks=str(marks))
        tasks[1] = replace(tasks[1], function=function)
        pipeline = Pipeline(Store(str(tmp_path / name)), runner)
        assert [record.facts["total"] for record in pipeline.run(tasks)] == [0, 1, 2, 3]
    starts = list(marks.glob("sums-00001.*"))
    assert (marks / "died").exists() and len(starts) >= 3  # one calm, two of the one that was killed
    for name in ("calm", "killed"):
        sums = sorted(Path(tmp_path, name).glob("sums/*.sum.txt"))
        assert [path.read_bytes() for path in sums] == [b"0\n", b"1\n", b"2\n", b"3\n"]


@pytest.mark.fault("data", "two workers take the same task at once", "its files are those of one; same bytes")
def test_two_workers_of_one_task_leave_what_one_leaves(tmp_path: Path, pool: Processes) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    (task,) = numbers(1, chaos.together, marks=str(marks))
    mark, twice = fingerprint(task), str(tmp_path / "twice")
    found = list(pool.run([Call(twice, task, mark)] * 2))  # each waits for the other before it writes
    assert [type(record) for record in found] == [Record, Record]
    assert len({path.name.split(".")[1] for path in marks.iterdir()}) == 2  # in two processes
    assert isinstance(execute(str(tmp_path / "once"), task, mark), Record)
    assert files(tmp_path / "twice") == files(tmp_path / "once")
    assert done(Store(twice), task, mark) in found


@pytest.mark.fault("data", "a task kills each process that takes it", "it is named, all others are done")
def test_a_task_that_kills_every_process_is_named_and_the_others_are_done(
    tmp_path: Path, pool: Processes
) -> None:
    tasks = numbers(4)
    tasks[1] = replace(tasks[1], function=chaos.die_always, about="pages/7.html")
    with pytest.raises(OpenQwenError, match="task sums/00001 ended its process 3 times") as error:
        Pipeline(Store(str(tmp_path)), pool).run(tasks)
    assert error.value.where == "pages/7.html"
    assert Record.load(Store(str(tmp_path)), "sums/00000") is not None


@pytest.mark.fault("data", "a worker runs other code than its driver", "it refuses the task")
def test_a_process_with_other_code_refuses_the_task(tmp_path: Path) -> None:
    result = execute(str(tmp_path), numbers(1)[0], "0" * 64)
    assert isinstance(result, Failure) and "other code" in result.what
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("data", "the driver is killed", "its processes end, the next driver continues")
def test_processes_end_with_their_driver(tmp_path: Path) -> None:
    """A driver that is killed leaves nobody behind; the next one continues."""
    marks = tmp_path / "marks"
    marks.mkdir()
    code = (
        "import sys, chaos; from test_data_runner import numbers\n"
        "from openqwen.data.runner import Pipeline, Processes; from openqwen.data.store import Store\n"
        "if __name__ == '__main__':\n"
        f"    tasks = numbers(3, marks={str(marks)!r}) + numbers(6, chaos.slow, seconds=60, marks={str(marks)!r})[3:]\n"
        f"    Pipeline(Store({str(tmp_path / 'store')!r}), Processes(2, 1)).run(tasks)\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    driver = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": str(HERE)})
    _until(lambda: len(list(marks.glob("sums-0000[345].*"))) == 2)
    workers = {int(path.name.split(".")[1]) for path in marks.iterdir()}
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _until(lambda: all(map(_ended, workers)))
    pipeline = Pipeline(Store(str(tmp_path / "store")), InProcess())
    tasks = numbers(3, marks=str(marks)) + numbers(6, chaos.slow, seconds=0, marks=str(marks))[3:]
    assert [record.facts["total"] for record in pipeline.run(tasks)] == list(range(6))
    assert pipeline.counts == {"ran": 3, "done_before": 3}


def _ended(pid: int) -> bool:
    """Whether a process is gone, or dead and only not yet collected by its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _until(true: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
