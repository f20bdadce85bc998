"""Checkpoints: exact, whole or absent, checked before use."""

from __future__ import annotations

import _thread
import errno
import io
import json
import random
import shutil
import threading
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from openqwen.core.errors import DataError, Interrupted, OpenQwenError
from openqwen.train import checkpoint
from openqwen.train.config import OptimConfig
from openqwen.train.optimizer import make_optimizer


def model_and_optimizer(width: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 2))
    return model, make_optimizer(model, OptimConfig())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def bits(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    tensors = dict(model.state_dict()) | checkpoint.optimizer_tensors(optimizer)
    return {name: t.numpy().tobytes() for name, t in tensors.items()}


def save(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, **state: object
) -> Path:
    with checkpoint.Saver(folder, {"model": model}, {"adam": optimizer}) as saver:
        return saver.save(step, state)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    return checkpoint.load_latest(folder, {"model": model}, {"adam": optimizer})


def test_continues_in_the_same_bits(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    train(model, optimizer, 3)
    save(tmp_path, 3, model, optimizer, loss=0.1 + 0.2)
    train(model, optimizer, 4)  # dropout and data both draw from torch's generator
    expected = bits(model, optimizer)

    other, other_optimizer = model_and_optimizer()
    torch.manual_seed(99)
    state = load(tmp_path, other, other_optimizer)
    assert state == {"step": 3, "loss": 0.1 + 0.2}
    train(other, other_optimizer, 4)
    assert bits(other, other_optimizer) == expected


def test_none_when_nothing_was_saved(tmp_path: Path) -> None:
    assert load(tmp_path / "absent", *model_and_optimizer()) is None
    assert load(tmp_path, *model_and_optimizer()) is None


def test_keeps_two(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    for step in (1, 2, 3):
        save(tmp_path, step, model, optimizer)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


# ---- damage -------------------------------------------------------------------------------------------------------

FILES = (
    "model.safetensors",
    "adam.optimizer.safetensors",
    "rng.safetensors",
    "state.json",
    "checkpoint.json",
)
HARMLESS = (
    "a flipped bit in the list of hashes may hit white space: then nothing is lost and nothing need be said"
)


@dataclass(frozen=True)
class Damage:
    """What happens to a file of a checkpoint. place: where in the file, as a share; bit: which bit of that byte."""

    file: str
    kind: str
    place: float
    bit: int

    def do(self, folder: Path) -> None:
        path = folder / self.file
        other = folder / FILES[self.bit % len(FILES)]
        if not path.exists() or not other.exists():  # removed by the damage before
            return
        raw = path.read_bytes()
        at = int(self.place * len(raw))
        match self.kind:
            case "flip" if raw:
                path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << self.bit]) + raw[at + 1 :])
            case "truncate":
                path.write_bytes(raw[:at])
            case "remove":
                path.unlink()
            case "empty table":
                path.write_text(json.dumps({"format": 2, "sha256": {}}))
            case "other JSON":
                path.write_text(
                    ("{}", "[]", "null", "0", '""', '{"sha256": {}}', '{"format": 2}', "[[]]")[self.bit]
                )
            case "another's":
                path.write_bytes(other.read_bytes())


damages = st.builds(
    Damage,
    file=st.sampled_from(FILES),
    kind=st.sampled_from(["flip", "truncate", "remove", "empty table", "other JSON", "another's"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, bytes]]]:
    """A folder with the checkpoints of steps 1 and 2, and what they hold."""
    folder, held = tmp_path_factory.mktemp("pair"), []
    model, optimizer = model_and_optimizer()
    for step in (1, 2):
        train(model, optimizer, 1)
        save(folder, step, model, optimizer, note=f"step {step}")
        held.append(bits(model, optimizer))
    return folder, held


def copy_of(pair: tuple[Path, list[dict[str, bytes]]], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pair[0], folder)
    return folder


@pytest.mark.fault("checkpoints", "the newest checkpoint is torn", "the one before is used, and that is said")
@given(found=st.lists(damages, min_size=1, max_size=3))
@example(found=[Damage("checkpoint.json", "empty table", 0, 0)])
@example(found=[Damage("checkpoint.json", "other JSON", 0, 5)])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_newest_falls_back_and_says_so(
    found: list[Damage], pair: tuple[Path, list[dict[str, bytes]]], tmp_path: Path
) -> None:
    folder = copy_of(pair, tmp_path / "copy")
    before = {name: (folder / "step-00000002" / name).read_bytes() for name in FILES}
    for damage in found:
        damage.do(folder / "step-00000002")
    after = {p.name: p.read_bytes() for p in (folder / "step-00000002").iterdir()}
    model, optimizer = model_and_optimizer()
    said = io.StringIO()
    with redirect_stdout(said):
        state = load(folder, model, optimizer)
    assert state is not None
    step = state["step"]
    assert state == {"step": step, "note": f"step {step}"} and bits(model, optimizer) == pair[1][step - 1]
    if step == 2:
        assert {k: v for k, v in before.items() if k != "checkpoint.json"} == {
            k: v for k, v in after.items() if k != "checkpoint.json"
        }, HARMLESS
        assert json.loads(after["checkpoint.json"]) == json.loads(before["checkpoint.json"]), HARMLESS
    assert ("step-00000002 is damaged" in said.getvalue()) == (step == 1)


@pytest.mark.fault("checkpoints", "all checkpoints are damaged", "an error; nothing is begun anew in silence")
@given(one=damages, other=damages)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_when_all_are_damaged_the_run_is_not_begun_again_in_silence(
    one: Damage, other: Damage, pair: tuple[Path, list[dict[str, bytes]]], tmp_path: Path
) -> None:
    folder = copy_of(pair, tmp_path / "copy")
    one.do(folder / "step-00000001")
    other.do(folder / "step-00000002")
    model, optimizer = model_and_optimizer()
    try:
        state = load(folder, model, optimizer)
    except DataError as error:
        assert "no checkpoint is sound" in str(error)
    else:
        assert state is not None and bits(model, optimizer) == pair[1][state["step"] - 1]


@pytest.mark.fault("checkpoints", "a file of another save lies in a checkpoint", "counted as damage")
def test_a_file_that_the_record_does_not_know_is_damage(tmp_path: Path) -> None:
    """A divided tensor's rows would be read from it."""
    model, optimizer = model_and_optimizer()
    path = save(tmp_path, 1, model, optimizer)
    shutil.copy(path / "model.safetensors", path / "model.00001.safetensors")
    with pytest.raises(DataError, match="no checkpoint is sound"):
        load(tmp_path, model, optimizer)


def test_a_damaged_later_one_is_replaced(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    save(tmp_path, 1, model, optimizer, note="good")
    (save(tmp_path, 2, model, optimizer, note="bad") / "state.json").write_text("{}")
    assert load(tmp_path, model, optimizer) == {"step": 1, "note": "good"}
    save(tmp_path, 2, model, optimizer, note="again")  # the run reaches that step once more
    assert load(tmp_path, model, optimizer) == {"step": 2, "note": "again"}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.fault("checkpoints", "a bit flips anywhere in a checkpoint", "found before it is used")
def test_every_single_bit_flip_is_found(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    path = save(tmp_path, 1, model, optimizer)
    where = random.Random(0)
    for name in FILES[:-1]:
        original = (path / name).read_bytes()
        for _ in range(50):
            Damage(name, "flip", where.random(), where.randrange(8)).do(path)
            with pytest.raises(DataError, match="no checkpoint is sound"):
                load(tmp_path, model, optimizer)
            (path / name).write_bytes(original)
    assert load(tmp_path, model, optimizer) == {"step": 1}


# ---- saves that do not get to their end ---------------------------------------------------------------------------


@pytest.mark.fault(
    "checkpoints", "death at each flush and rename of a save", "the checkpoint before it loads"
)
def test_death_at_any_file_operation_leaves_a_sound_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every save is cut short at each of its flushes and renames in turn; the one before must load."""
    model, optimizer = model_and_optimizer()

    class Died(BaseException):
        pass

    for cut in range(40):
        folder = tmp_path / str(cut)
        save(folder, 1, model, optimizer, note="first")
        calls = 0

        def dying(real: object, limit: int = cut) -> object:
            def call(*arguments: object) -> object:
                nonlocal calls
                if calls == limit:
                    raise Died
                calls += 1
                return real(*arguments)  # type: ignore[operator]

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "rename"):
                patch.setattr(f"openqwen.train.checkpoint.os.{name}", dying(getattr(checkpoint.os, name)))
            try:
                save(folder, 2, model, optimizer, note="second")
            except Died:
                finished = False
            else:
                finished = True
        state = load(folder, model, optimizer)
        assert state == {"step": 2, "note": "second"} if finished else state["note"] in ("first", "second")
        save(folder, 3, model, optimizer, note="third")  # what the dead save left behind is in nobody's way
        assert [s for s, _ in checkpoint.steps(folder)][-1] == 3
        assert not list(folder.glob(".*"))
        if finished:
            assert cut == 8  # five files, two flushes of the folder, one rename
            return
    pytest.fail("a save never finished")


@pytest.mark.fault("checkpoints", "the disk is full during a save", "what was saved stays")
def test_full_disk_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = model_and_optimizer()
    save(tmp_path, 1, model, optimizer)

    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("openqwen.train.checkpoint._save_text", full)
        with pytest.raises(OpenQwenError, match="the disk is full"):
            save(tmp_path, 2, model, optimizer)
    assert load(tmp_path, model, optimizer) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.fault(
    "checkpoints",
    "old checkpoints are to be removed while the newest is damaged or cannot be written",
    "the only sound one stays until another stands",
)
def test_the_only_sound_checkpoint_is_never_removed(
    pair: tuple[Path, list[dict[str, bytes]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two, the newer is damaged; only one is to be kept."""
    folder = copy_of(pair, tmp_path / "copy")
    Damage("model.safetensors", "truncate", 0.5, 0).do(folder / "step-00000002")
    model, optimizer = model_and_optimizer()
    for name in ("_save_tensors", "_write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, lambda *_: (_ for _ in ()).throw(FULL))
            with (
                pytest.raises(OpenQwenError, match="the disk is full"),
                checkpoint.Saver(folder, {"model": model}, {"adam": optimizer}, keep=1) as saver,
            ):
                saver.save(3, {})
        state = load(folder, model, optimizer)
        assert state is not None and state["step"] == 1 and bits(model, optimizer) == pair[1][0]
    with checkpoint.Saver(folder, {"model": model}, {"adam": optimizer}, keep=1) as saver:
        saver.save(3, {})
    assert [step for step, _ in checkpoint.steps(folder)] == [3]
    assert load(folder, model, optimizer) == {"step": 3}


@pytest.mark.fault("checkpoints", "a file of a checkpoint, or the whole, is a link out of it", "refused")
@pytest.mark.parametrize("name", [*FILES, "step-00000002"])
def test_a_link_that_leads_out_is_damage(
    name: str, pair: tuple[Path, list[dict[str, bytes]]], tmp_path: Path
) -> None:
    """Although the bytes that it leads to have their hash."""
    folder, model_optimizer = copy_of(pair, tmp_path / "copy"), model_and_optimizer()
    place = folder / "step-00000002" / name if name in FILES else folder / name
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    said = io.StringIO()
    with redirect_stdout(said):
        assert load(folder, *model_optimizer) == {"step": 1, "note": "step 1"}
    assert f"step-00000002 is damaged ({name} is a link)" in " ".join(said.getvalue().split())
    save(folder, 2, *model_optimizer, note="again")  # in its place
    assert load(folder, *model_optimizer) == {"step": 2, "note": "again"}
    assert (tmp_path / "outside").exists()


# ---- in the background --------------------------------------------------------------------------------------------


class Slow:
    """Lets a save begin to write when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.go, self.error, self.real = threading.Event(), error, checkpoint._save_tensors
        monkeypatch.setattr(checkpoint, "_save_tensors", self.save)

    def save(self, *arguments: Any) -> str:
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return self.real(*arguments)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.fault(
    "checkpoints", "weights change while a save is written", "what is written is the moment of the save"
)
def test_training_goes_on_while_a_save_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is written is the state at the save, whatever happens to it meanwhile."""
    model, optimizer = model_and_optimizer()
    train(model, optimizer, 2)
    expected, slow = bits(model, optimizer), Slow(monkeypatch)
    state = {"losses": [1.0]}
    with checkpoint.Saver(tmp_path, {"model": model}, {"adam": optimizer}) as saver:
        path = saver.save(2, state)
        torch.manual_seed(5)
        train(model, optimizer, 3)
        state["losses"].append(2.0)
        assert not path.exists() and bits(model, optimizer) != expected
        assert [group.update(lr=7.0) for group in optimizer.param_groups]
        slow.go.set()
        saver.wait()
        assert path.exists()
    other, other_optimizer = model_and_optimizer()
    assert load(tmp_path, other, other_optimizer) == {"step": 2, "losses": [1.0]}
    assert bits(other, other_optimizer) == expected
    assert {group["lr"] for group in other_optimizer.param_groups} != {7.0}


@pytest.mark.fault("checkpoints", "a save in the background fails", "the run hears of it")
@pytest.mark.parametrize("following", ["save", "wait", "end", "interrupted"])
def test_an_error_in_the_background_shows_at_the_next_call(
    following: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = model_and_optimizer()
    save(tmp_path, 1, model, optimizer)
    slow = Slow(monkeypatch, FULL)
    saver = checkpoint.Saver(tmp_path, {"model": model}, {"adam": optimizer})
    with pytest.raises(OpenQwenError, match="the disk is full"), saver:
        saver.save(2, {})
        slow.go.set()
        match following:
            case "save":
                saver.save(3, {})
            case "wait":
                saver.wait()
            case "interrupted":
                raise Interrupted("stopped; its state is saved")
    saver.wait()  # it is raised once
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert load(tmp_path, model, optimizer) == {"step": 1}


def test_an_error_of_training_is_not_covered_by_one_of_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, optimizer = model_and_optimizer()
    slow = Slow(monkeypatch, FULL)
    with (
        pytest.raises(DataError, match="a bad document"),
        checkpoint.Saver(tmp_path, {"model": model}, {"adam": optimizer}) as saver,
    ):
        saver.save(2, {})
        slow.go.set()
        raise DataError("a bad document")
    assert "the last save failed too: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("error", [DataError("a bad document"), KeyboardInterrupt()])
def test_a_save_under_way_is_finished_before_a_run_ends(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = model_and_optimizer()
    slow = Slow(monkeypatch)
    with (
        pytest.raises(type(error)),
        checkpoint.Saver(tmp_path, {"model": model}, {"adam": optimizer}) as saver,
    ):
        saver.save(2, {})
        threading.Timer(0.2, slow.go.set).start()
        raise error
    assert load(tmp_path, model, optimizer) == {"step": 2}


@pytest.mark.fault("checkpoints", "Ctrl-C while the last save is written", "ends the wait, exit in order")
def test_ctrl_c_ends_the_wait_for_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = model_and_optimizer()
    slow = Slow(monkeypatch)
    with (
        pytest.raises(KeyboardInterrupt),
        checkpoint.Saver(tmp_path, {"model": model}, {"adam": optimizer}) as saver,
    ):
        saver.save(2, {})
        threading.Timer(0.2, _thread.interrupt_main).start()
        raise DataError("a bad document")
    assert not (tmp_path / "step-00000002").exists()
    slow.go.set()
    saver.wait()


# ---- other --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("checkpoints", "a checkpoint is of another shape", "refused")
def test_another_shape_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, *model_and_optimizer(width=5))
    with pytest.raises(DataError, match="of another model"):
        load(tmp_path, *model_and_optimizer(width=7))


@pytest.mark.fault("checkpoints", "state could be stored as code", "no pickle is written or read")
def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, 1, *model_and_optimizer())
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    assert json.loads((path / "checkpoint.json").read_text())["format"] == 2
