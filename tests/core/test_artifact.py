"""Artefact directories: DONE last, skipping, resuming, refusing; nothing half-written is taken for finished."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest

from openqwen.cli import main
from openqwen.core import artifact
from openqwen.core.artifact import (
    current,
    find,
    input_content,
    load,
    read_jsonl,
    stage_run,
    write_atomic,
    write_jsonl,
)
from openqwen.core.config import Config, Resolved, setting
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.model import Qwen, save_model
from openqwen.model.config import ModelConfig


class Small(Config):
    seed: int = setting(0, source="ours")
    size: int = setting(3, source="ours")


class Reader(Config):
    files: tuple[str, ...] = setting((), source="ours", reads=True)
    models: dict[str, str] = setting({}, source="ours", reads=True)
    label: str = setting("", source="ours")


class Nested(Config):
    reader: Reader = setting(Reader(), source="ours")


SMALL = Resolved(Small(), {})


def make(
    path: Path, text: str = "hello", config: Small | None = None, inputs: dict | None = None
) -> artifact.Artifact:
    with stage_run(path, "thing", Resolved(config or Small(), {"size": "flag --size"}), inputs or {}) as run:
        write_atomic(run.path / "result.txt", text)
        metrics = run.open_metrics()
        metrics.write(1, loss=2.5)
        run.fact(answer=42)
    return load(path, "thing")


def test_a_finished_artifact_tells_its_story(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    manifest = made.manifest
    assert manifest["facts"] == {"answer": 42} and manifest["seed"] == 0
    assert list(manifest["outputs"]) == ["config.toml", "result.txt"]
    assert json.loads((made.path / "origin.json").read_text()) == {"size": "flag --size"}
    assert made.metrics == [{"step": 1, "loss": 2.5}]


def test_content_follows_results_not_settings_or_time(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b", config=Small(size=4))
    assert first.content == second.content and first.fingerprint != second.fingerprint
    assert make(tmp_path / "c", "other").content != first.content


def test_what_settings_name_is_known_by_what_it_holds(tmp_path: Path) -> None:
    """An artefact wherever it is; a file or folder with its name; a label that happens to be a path is a label."""
    file, model = tmp_path / "items.jsonl", make(tmp_path / "model")
    file.write_text("one")

    def mark() -> str:
        reader = Reader(files=(str(file), "s3://bucket/x"), models={"spam": str(model.path)}, label=str(file))
        return artifact.fingerprint("thing", Nested(reader=reader), {})

    first = mark()
    assert mark() == first
    make(tmp_path / "model", config=Small(size=4))  # the same result in other ways
    assert mark() == first
    make(tmp_path / "model", "retrained")
    retrained = mark()
    assert retrained != first
    model = load((tmp_path / "model").rename(tmp_path / "elsewhere"), "thing")
    assert mark() == retrained
    file.write_text("two")
    assert mark() != retrained
    only_label = [Reader(label=str(file)), Reader(label=str(tmp_path / "elsewhere"))]
    before = [artifact.fingerprint("thing", config, {}) for config in only_label]
    file.write_text("three")
    assert [artifact.fingerprint("thing", config, {}) for config in only_label] == before


def test_an_unfinished_run_tells_what_it_reads(tmp_path: Path) -> None:
    """So a checkpoint can be asked for its inputs, and what is told at the end is what it began with."""
    given = tmp_path / "given.txt"
    given.write_text("one")
    inputs = {"given": given}
    with stage_run(tmp_path / "a", "thing", Resolved(Small(), {}), inputs) as run:
        begun = json.loads((run.path / "manifest.json").read_text())
        given.write_text("two")
    assert begun["inputs"]["given"]["path"] == "../given.txt" and find(tmp_path / "a") is not None
    assert load(tmp_path / "a", "thing").manifest["inputs"] == begun["inputs"]


def test_current_follows_settings_and_inputs(tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    made = make(tmp_path / "made", inputs={"source": source})
    assert current(made.path, "thing", Small(), {"source": source})
    assert not current(made.path, "thing", Small(size=4), {"source": source})
    changed = make(tmp_path / "source", "changed")
    assert not current(made.path, "thing", Small(), {"source": changed})


@pytest.mark.fault("artefacts", "a stage fails", "nothing that looks finished is left")
def test_a_failed_run_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage_run(tmp_path / "a", "thing", Resolved(Small(), {}), {}):
        raise ZeroDivisionError
    assert find(tmp_path / "a") is None
    with pytest.raises(DataError, match="not finished"):
        load(tmp_path / "a", "thing")


def test_unfinished_run_of_the_same_settings_is_continued(tmp_path: Path) -> None:
    for config, expected in (
        (Small(), (False, False)),
        (Small(), (True, True)),
        (Small(size=9), (False, False)),
    ):
        with (
            pytest.raises(KeyboardInterrupt),
            stage_run(tmp_path / "a", "thing", Resolved(config, {}), {}) as run,
        ):
            assert (run.resumed, (run.path / "part.txt").exists()) == expected
            write_atomic(run.path / "part.txt", "x")
            raise KeyboardInterrupt


@pytest.mark.fault("artefacts", "the output folder holds files of somebody else", "refused, none is touched")
@pytest.mark.parametrize("name", ["thesis.txt", "config.toml", "photos/one.jpg"])
def test_files_of_somebody_else_are_not_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match=f"no stage has written, such as {name.split('/')[0]}"):
        make(tmp_path)
    assert (tmp_path / name).read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", name.split("/")[0]])


@pytest.mark.fault("artefacts", "a folder is half deleted", "neither finished nor continued")
def test_a_folder_cleared_by_half_is_neither_finished_nor_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "a")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        (made.path / "aside").mkdir()
        during.setattr(artifact.shutil, "rmtree", killed)
        make(made.path, config=Small(size=4))
    assert find(made.path) is None and (made.path / "aside").exists()
    for _ in range(2):  # the first settings again: begun anew; then as any finished one
        with stage_run(made.path, "thing", Resolved(Small(), {}), {}) as run:
            assert not run.resumed and not (run.path / "aside").exists()
            assert not (run.path / "result.txt").exists()


def test_what_a_kill_leaves_before_a_folder_is_marked_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".STARTED.123.tmp").write_text("")
    (tmp_path / ".lock").write_text("")
    assert make(tmp_path)


@pytest.mark.fault("artefacts", "an artefact is damaged, missing or of another kind", "said which")
def test_wrong_kind_missing_and_damaged(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    with pytest.raises(DataError, match="is needed"):
        load(made.path, "model")
    with pytest.raises(DataError, match="no model artefact there"):
        load(tmp_path / "nowhere", "model")
    (made.path / "DONE").write_text("{torn")
    with pytest.raises(DataError, match="damaged"):
        find(made.path)


def test_inputs_are_read_before_a_stage_begins(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    make(tmp_path / "b", inputs={"whole": made, "part": made.file("result.txt")})
    (made.path / "notes.txt").write_text("beside the results, of no concern")
    (made.path / "result.txt").write_text("hullo")
    for name, value in {"whole": made, "part": made.path / "result.txt"}.items():
        with pytest.raises(DataError, match=r"changed since it was finished") as error:
            make(tmp_path / "c", inputs={name: value})
        assert error.value.where == str(made.path / "result.txt") and not (tmp_path / "c").exists()
    (made.path / "result.txt").unlink()
    with pytest.raises(DataError, match="missing since"):
        make(tmp_path / "c", inputs={"whole": made})


def test_an_artefact_of_before_done_held_a_hash_is_judged_by_its_results(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    old = {
        key: value for key, value in json.loads((made.path / "DONE").read_text()).items() if key != "manifest"
    }
    (made.path / "DONE").write_text(json.dumps(old))
    make(tmp_path / "b", inputs={"it": load(made.path, "thing")})
    (made.path / "result.txt").write_text("hullo")
    with pytest.raises(DataError, match="changed since"):
        make(tmp_path / "c", inputs={"it": load(made.path, "thing")})


def test_what_a_killed_writer_left_is_gone_at_the_end(tmp_path: Path) -> None:
    with stage_run(tmp_path, "thing", Resolved(Small(), {}), {}) as run:
        (run.path / "adapter").mkdir()
        for place in (run.path, run.path / "adapter"):
            (place / ".result.txt.4711.tmp").write_text("half")
    assert sorted(path.name for path in tmp_path.rglob("*.tmp")) == []


def _hold(path: str, ready: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with stage_run(Path(path), "thing", Resolved(Small(), {}), {}):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(30)


@pytest.mark.fault(
    "artefacts", "two processes write one folder", "the second is refused; a killed one blocks nobody"
)
def test_two_writers_refuse_each_other_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path / "a"), ready))
    holder.start()
    assert ready.wait(10)
    with (
        pytest.raises(UsageError, match="another process"),
        stage_run(tmp_path / "a", "thing", Resolved(Small(), {}), {}),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert find(tmp_path / "a") is None
    assert make(tmp_path / "a")


@pytest.mark.fault("artefacts", "the place cannot be written", "one clear error")
def test_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OpenQwenError, match="cannot write"),
        stage_run(tmp_path / "file" / "a", "t", Resolved(Small(), {}), {}),
    ):
        pass


@pytest.mark.fault("artefacts", "the disk is full", "one clear error")
def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    import errno

    with (
        pytest.raises(OpenQwenError, match="disk is full"),
        stage_run(tmp_path / "a", "t", Resolved(Small(), {}), {}),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert find(tmp_path / "a") is None


@pytest.mark.fault("artefacts", "the result will not fit on the disk", "refused before work begins")
def test_too_little_disk_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the whole recipe nothing begins, of a corpus nor its folder, of a model no file."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(artifact.shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1 << 10))
    (tmp_path / "a.txt").write_text("A page about a river.")
    out = tmp_path / "not" / "there"
    for words in (["tour", "--no-chat"], ["data", "build", "--input", str(tmp_path / "a.txt")]):
        assert main([*words, "--out", str(out)]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: too little disk: ") and str(out) in said and not out.parent.exists()
    with pytest.raises(OpenQwenError, match="too little disk"), stage_run(out, "t", SMALL, {}) as run:
        save_model(Qwen(ModelConfig(vocab_size=16, hidden_size=8, num_layers=1, num_heads=1)), run.path)
    assert find(out) is None and not list(out.glob("*.safetensors"))


def test_a_folder_that_is_removed_while_a_stage_writes_is_not_finished(tmp_path: Path) -> None:
    """Not even where what the stage writes has made it anew, or another stage has."""
    for made_anew in (lambda out: None, lambda out: (out / "checkpoints").mkdir(parents=True), make):
        out = tmp_path / "out"
        with (
            pytest.raises(OpenQwenError, match="the folder was removed") as caught,
            stage_run(out, "other", SMALL, {}),
        ):
            shutil.rmtree(out)
            made_anew(out)
        assert caught.value.where == str(out) and "run it again" in (caught.value.fix or "")
        found = find(out)
        assert found is None or found.kind == "thing"  # the other stage's, untouched
        shutil.rmtree(out, ignore_errors=True)


def test_an_input_that_is_removed_while_a_stage_reads_is_named(tmp_path: Path) -> None:
    source, page = make(tmp_path / "source"), tmp_path / "page.txt"
    page.write_text("a page")
    for name, value, place in (("source", source, source.path), ("page", page, page)):
        with (
            pytest.raises(DataError, match=f"input '{name}' was removed") as caught,
            stage_run(tmp_path / "out", "t", SMALL, {name: value}),
        ):
            place.rename(tmp_path / "away")
            if place is page:
                raise DataError("not readable JSON")  # what a reader makes of it
            source.file("result.txt").read_text()
        assert caught.value.where == str(place) and find(tmp_path / "out") is None
        (tmp_path / "away").rename(place)
    with (  # an error of something else stays what it is
        pytest.raises(FileNotFoundError),
        stage_run(tmp_path / "out", "t", SMALL, {"page": page}),
    ):
        (tmp_path / "nowhere").read_text()


def test_jsonl_keeps_odd_separators_and_names_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    records = [{"t": "a\u2028b\u0085c"}, {"t": "二"}]
    assert write_jsonl(path, records) == 2
    assert list(read_jsonl(path)) == records
    path.write_bytes(path.read_bytes() + b"{torn\n")
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert caught.value.where == f"{path}:3"


def test_a_folder_input_is_known_by_its_listing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    before = input_content(tmp_path / "in")
    assert input_content(tmp_path / "in") == before
    (tmp_path / "in" / "b.txt").write_text("b")
    assert input_content(tmp_path / "in") != before
