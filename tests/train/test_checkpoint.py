"""Checkpoints: exact, whole or absent, checked before use."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from openqwen.core.errors import DataError, OpenQwenError
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
    return checkpoint.save(folder, step, {"model": model}, {"adam": optimizer}, state)


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


def damage_flip(path: Path, where: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[where.randrange(len(raw))] ^= 1 << where.randrange(8)
    path.write_bytes(raw)


def damage_truncate(path: Path, where: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: where.randrange(path.stat().st_size)])


def damage_remove(path: Path, where: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_remove])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "adam.optimizer.safetensors", "rng.safetensors", "state.json", "checkpoint.json"],
)
def test_a_damaged_newest_falls_back_and_says_so(
    tmp_path: Path, name: str, damage: object, capsys: pytest.CaptureFixture[str]
) -> None:
    model, optimizer = model_and_optimizer()
    save(tmp_path, 1, model, optimizer, note="good")
    train(model, optimizer, 1)
    newest = save(tmp_path, 2, model, optimizer, note="bad")
    damage(newest / name, random.Random(name))  # type: ignore[operator]
    other, other_optimizer = model_and_optimizer()
    if name == "checkpoint.json" and damage is damage_flip:
        # A flipped bit in the list of hashes may hit white space: then nothing is lost and nothing need be said.
        assert load(tmp_path, other, other_optimizer)["step"] in (1, 2)
        return
    assert load(tmp_path, other, other_optimizer) == {"step": 1, "note": "good"}
    assert "step-00000002 is damaged" in capsys.readouterr().out
    train(other, other_optimizer, 1)  # the run reaches the damaged step again and replaces it
    save(tmp_path, 2, other, other_optimizer, note="again")
    assert load(tmp_path, other, other_optimizer) == {"step": 2, "note": "again"}
    assert len(list(tmp_path.iterdir())) == 2


def test_every_single_bit_flip_is_found(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    path = save(tmp_path, 1, model, optimizer)
    where = random.Random(0)
    for name in ("model.safetensors", "adam.optimizer.safetensors", "rng.safetensors", "state.json"):
        original = (path / name).read_bytes()
        for _ in range(50):
            damage_flip(path / name, where)
            with pytest.raises(DataError, match="no checkpoint is sound"):
                load(tmp_path, model, optimizer)
            (path / name).write_bytes(original)
    assert load(tmp_path, model, optimizer) == {"step": 1}


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


def test_full_disk_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = model_and_optimizer()
    save(tmp_path, 1, model, optimizer)

    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("openqwen.train.checkpoint._save_json", full)
        with pytest.raises(OpenQwenError, match="the disk is full"):
            save(tmp_path, 2, model, optimizer)
    assert load(tmp_path, model, optimizer) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_another_shape_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, *model_and_optimizer(width=5))
    with pytest.raises(DataError, match="of another model"):
        load(tmp_path, *model_and_optimizer(width=7))


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, 1, *model_and_optimizer())
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    assert json.loads((path / "checkpoint.json").read_text())["format"] == 2
