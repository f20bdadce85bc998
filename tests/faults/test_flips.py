"""One bit of a checkpoint or a finished artefact flips: whatever would read it refuses.

Every file is judged but logs and metrics, from which nothing is trained or computed. What reads: a run that goes on
from a checkpoint, any stage that takes an artefact as its input, and the functions by which chat, server and export
open a model or a tokenizer. OPENQWEN_FLIPS: how many flips.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from faults.record import record
from tiny_artefacts import NoSettings

from openqwen.core.artifact import find, open_inputs, stage_run
from openqwen.core.config import Resolved
from openqwen.core.console import console
from openqwen.core.errors import DataError
from openqwen.model.weights import load_model, load_scalar
from openqwen.tokenizer import load_tokenizer
from openqwen.train import checkpoint
from openqwen.train.config import OptimConfig
from openqwen.train.optimizer import make_optimizer

FLIPS = int(os.environ.get("OPENQWEN_FLIPS", "10000"))
SEED = 12
ARTEFACTS = ("primer", "corpus", "tokenizer", "tokens", "chat", "reward")  # names in a tour
LOADED: dict[str, Callable[[Path], object]] = {"chat": load_model, "reward": load_scalar}

Reader = Callable[[], object]


def as_input(path: Path, kind: str, out: Path) -> None:
    """What every stage does with an artefact before its own work."""
    with stage_run(out, "probe", Resolved(NoSettings(), {}), open_inputs({"it": path}, {"it": kind})):
        pass


def readers_of(path: Path, out: Path) -> dict[Path, list[Reader]]:
    """An artefact's files that are judged, each with those who would read it."""
    found = find(path)
    assert found is not None
    files = [path / name for name in (*found.manifest["outputs"], "manifest.json", "DONE")]
    every: list[Reader] = [partial(as_input, path, found.kind, out)]
    if path.name in LOADED:
        every.append(partial(LOADED[path.name], path))
    readers = {file: list(every) for file in files if file.stat().st_size}
    if path.name == "tokenizer":
        for name in ("vocab.tiktoken", "special.json"):
            readers[path / name].append(partial(load_tokenizer, path))
    return readers


def readers_of_a_checkpoint(model_path: Path, folder: Path) -> dict[Path, list[Reader]]:
    """The files of a checkpoint with the resumption that would read them."""
    model = load_model(model_path)
    optimizer = make_optimizer(model, OptimConfig())
    model(torch.tensor([[1, 2, 3]])).square().mean().backward()
    optimizer.step()
    with checkpoint.Saver(folder, {"model": model}, {"adam": optimizer}) as saver:
        saved = saver.save(1, {"note": "one"})
    resume = partial(checkpoint.load_latest, folder, {"model": model}, {"adam": optimizer})
    return {file: [resume] for file in sorted(saved.iterdir())}


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def refusal(reader: Reader) -> str | None:
    """What a reader says that refuses, on the screen too."""
    said = None
    with console.capture() as printed:
        try:
            reader()
        except DataError as error:
            said = str(error)
    return None if said is None else f"{said}\n{printed.get()}"


def names(path: Path, said: str | None) -> bool:
    """Whether a refusal names the file; of one that holds what others are, such a one or the folder."""
    if said is None:
        return False
    return path.name in said or (path.name in ("DONE", "checkpoint.json") and path.parent.name in said)


def place_in(path: Path, rng: random.Random) -> int:
    """Anywhere in a file; half the time in its beginning, where headers are."""
    size = path.stat().st_size
    return rng.randrange(size if rng.random() < 0.5 else min(size, 2048))


def undetected(groups: dict[str, dict[Path, list[Reader]]], flips: int, rng: random.Random) -> list[str]:
    """Flips so many bits, one at a time, in each group in turn; those that some reader did not see, or not name."""
    found, every = [], list(groups)
    for number in range(flips):
        readers = groups[every[number % len(every)]]
        path = rng.choice(list(readers))
        place, bit = place_in(path, rng), rng.randrange(8)
        flip(path, place, bit)
        seen = [refusal(reader) for reader in readers[path]]
        flip(path, place, bit)
        if not all(names(path, said) for said in seen):
            found.append(f"{path.parent.name}/{path.name} byte {place} bit {bit}: {seen}")
    return found


@pytest.fixture
def groups(finished_tour: Path, tmp_path: Path) -> dict[str, dict[Path, list[Reader]]]:
    """Copies of artefacts and a checkpoint; the files of each, and who reads them."""
    for name in ARTEFACTS:
        shutil.copytree(finished_tour / name, tmp_path / name)
    found = {name: readers_of(tmp_path / name, tmp_path / "out" / name) for name in ARTEFACTS}
    found["checkpoint"] = readers_of_a_checkpoint(tmp_path / "chat", tmp_path / "checkpoints")
    for readers in found.values():
        assert not any(refusal(reader) for group in readers.values() for reader in group)
    return found


@pytest.mark.fault(
    "artefacts",
    "a bit flips in a finished artefact or a checkpoint",
    "whatever would read it refuses and names the file, or the folder whose record it is",
)
def test_flipped_bits_are_found(groups: dict[str, dict[Path, list[Reader]]]) -> None:
    assert undetected(groups, 350, random.Random(SEED)) == []


@pytest.mark.long
def test_ten_thousand_flipped_bits_are_found(groups: dict[str, dict[Path, list[Reader]]]) -> None:
    begun = time.monotonic()
    found = undetected(groups, FLIPS, random.Random(SEED))
    print(Counter(line.split(" byte")[0] for line in found), found[:20])
    record(
        "Bit flips in checkpoints, models, tokenizers, token and corpus shards",
        flips=FLIPS,
        undetected=len(found),
        files=sum(map(len, groups.values())),
        seconds=round(time.monotonic() - begun),
        seed=SEED,
    )
    assert found == []
