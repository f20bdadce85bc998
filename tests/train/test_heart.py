"""Processes that fail: all end soon, each says in a line whose fault it was, and nothing that was saved is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny_artefacts as tiny
from torch.distributed import TCPStore

from openqwen.core.artifact import find
from openqwen.core.errors import DataError, UsageError
from openqwen.pretrain import loop as pretrain
from openqwen.train import checkpoint, distributed, heart

SETTINGS = {
    "model.hidden_size": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.ffn_size": 32,
    "schedule.warmup_steps": 2,
    "context": 32,
    "batch_tokens": 128,
    "eval_tokens": 64,
    "steps": 8,
    "checkpoint_interval": 2,
    "sample_tokens": 2,
    "ngram_order": "none",
    "precision": "fp32",
    "parallel.shards": 2,
    "parallel.timeout": 60,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny.tokenizer_artefact(folder / "tokenizer")
    tokens = tiny.tokens_artefact(folder / "tokens", tiny.sums(0, 100), tiny.sums(1, 10))
    return ["--tokens", str(tokens), "--tokenizer", str(tokenizer)]


class Two:
    """A run on two processes, in which one may be prepared to fail."""

    def __init__(
        self, inputs: list[str], out: Path, prepare: Any = None, port: int | None = None, **changes: object
    ) -> None:
        settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self.out, self.logs = out, out.with_suffix(".logs")
        command = ["pretrain", *inputs, "--out", str(out), *words]
        self.running = forked.together(2, command, self.logs, prepare, port)
        self.begun = time.monotonic()

    def end(self) -> tuple[list[int | None], str, str]:
        """Exit codes, and what each said on standard error."""
        # a main process that waits at the store hears of a death by the time limit, and may need the grace after it
        codes = forked.end(self.running, SETTINGS["parallel.timeout"] + heart.GRACE + 30)
        self.seconds = time.monotonic() - self.begun
        first, second = ((self.logs / f"{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1))
        return codes, first, second


# ---- the main process works alone ---------------------------------------------------------------------------------


def slow_ngrams() -> None:
    real = pretrain.ngram_bits_per_byte

    def slow(*arguments: Any) -> Any:
        time.sleep(4)
        return real(*arguments)

    pretrain.ngram_bits_per_byte = slow


def test_work_of_the_main_process_alone_may_take_longer_than_the_limit(
    inputs: list[str], tmp_path: Path
) -> None:
    """Which is for processes that do not live."""
    two = Two(inputs, tmp_path / "base", {0: slow_ngrams}, parallel__timeout=2)
    codes, first, second = two.end()
    assert codes == [0, 0], first + second
    assert two.seconds > 4 and find(two.out) is not None
    assert not (two.out / "checkpoints").exists()


# ---- a process has an error of its own ----------------------------------------------------------------------------


def test_an_error_of_the_main_process_before_all_meet(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "base"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        codes, first, second = Two(inputs, out).end()
    assert codes == [2, 2]
    assert first.startswith("error: another process is writing this folder\n") and first.count("\n") == 3
    assert second == f"error: rank 0 ended: another process is writing this folder ({out})\n"


def no_sound_checkpoint() -> None:
    def none(folder: Path) -> None:
        raise DataError("no checkpoint is sound", where="there", fix="begin again")

    checkpoint._newest_sound = none  # type: ignore[assignment]


def test_an_error_while_others_wait_for_what_the_main_process_says(inputs: list[str], tmp_path: Path) -> None:
    codes, first, second = Two(inputs, tmp_path / "base", {0: no_sound_checkpoint}).end()
    assert codes == [4, 4]
    assert first.count("error:") == 1 and "fix:   begin again" in first
    assert second == "error: rank 0 ended: no checkpoint is sound (there)\n"


def bad_evaluation() -> None:
    def bad(*arguments: Any) -> float:
        raise ZeroDivisionError("of nothing")

    pretrain.bits_per_byte = bad  # type: ignore[assignment]


@pytest.mark.fault(
    "training", "one process has an error of its own", "shown once, all end with its exit code"
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_bug_shows_its_traceback_once(rank: int, inputs: list[str], tmp_path: Path) -> None:
    """Also in a process that is quiet otherwise."""
    codes, *said = Two(inputs, tmp_path / "base", {rank: bad_evaluation}).end()
    assert codes == [1, 1]
    assert said[rank].count("Traceback") == 1 and "ZeroDivisionError: of nothing" in said[rank]
    assert said[1 - rank] == f"error: rank {rank} ended: ZeroDivisionError: of nothing\n"


# ---- a process is silent ------------------------------------------------------------------------------------------


@pytest.mark.fault("training", "the process that all talk through is killed", "named by the others")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_main_process_that_holds_the_store_is_named(
    number: signal.Signals, inputs: list[str], tmp_path: Path
) -> None:
    """Without torchrun, all that processes hear of each other goes through it."""
    two = Two(inputs, tmp_path / "base", steps=5000, parallel__timeout=3)
    forked.until_step(two.out, 3, two.running)
    os.kill(two.running[0].pid, number)
    codes = forked.end(two.running[1:], 20)
    two.running[0].kill()
    assert codes == [1]
    _, _, second = two.end()
    what, where, fix = second.splitlines()[-3:]  # PyTorch's C++ may say something too
    assert what.startswith("error: rank 0 does not answer: ") and where.startswith("  where: rank 1 of 2")
    assert fix.endswith("the same command continues from the last checkpoint")
    assert "Traceback" not in second


def wait_for_ever() -> None:
    """Collectives as NCCL's: they do not return while another is silent, and raise nothing."""
    distributed.timedelta = lambda seconds: timedelta(hours=1)  # type: ignore[misc,assignment]
    heart.GRACE = 2.0


@pytest.mark.fault("training", "a process hangs inside a collective", "it says why and is ended")
def test_a_process_that_cannot_get_out_of_a_collective_says_why_and_is_ended(
    inputs: list[str], tmp_path: Path
) -> None:
    prepare = dict.fromkeys((0, 1), wait_for_ever)
    two = Two(inputs, tmp_path / "base", prepare, steps=5000, parallel__timeout=3)
    forked.until_step(two.out, 3, two.running)
    os.kill(two.running[1].pid, signal.SIGSTOP)
    codes = forked.end(two.running[:1], 30)
    two.running[1].kill()
    assert codes == [1]
    _, first, _ = two.end()
    assert first.startswith("error: rank 1 does not answer\n  where: rank 0 of 2")


def before_they_meet() -> None:
    def killed(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    distributed._agree = killed


@pytest.mark.fault(
    "training", "a launcher restarts processes with the store of the last ones", "nothing old is believed"
)
def test_torchrun_may_start_them_again(inputs: list[str], tmp_path: Path) -> None:
    """Its store keeps what the last ones told: their addresses, and that their run has failed."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    out, port = tmp_path / "base", store.port
    two = Two(inputs, out, None, port, steps=5000)
    forked.until_saved(out, two.running)
    two.running[1].kill()
    codes, first, _ = two.end()
    assert codes == [1, -signal.SIGKILL] and "rank 1 does not answer" in first
    lone = Two(inputs, tmp_path / "lone", {1: before_they_meet}, port, steps=5000, parallel__timeout=2)
    codes, first, _ = lone.end()
    assert codes == [1, -signal.SIGKILL] and "rank 1 did not come in 2 s" in first
    again = Two(inputs, out, None, port, steps=5000)
    forked.until_step(out, 20, again.running)
    again.running[0].terminate()
    codes, first, second = again.end()
    assert codes == [130, 130], first + second


# ---- a process cannot write ---------------------------------------------------------------------------------------


def full_disk() -> None:
    """From the third checkpoint on."""
    real = checkpoint._save_tensors

    def save(path: Path, *arguments: Any) -> Any:
        if path.parent.name == ".step-00000006.tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments)

    checkpoint._save_tensors = save


@pytest.mark.fault(
    "checkpoints",
    "one of several processes cannot write its part",
    "all end, it is named, the last whole save is used",
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_process_ends_all_and_is_named(
    rank: int, inputs: list[str], tmp_path: Path
) -> None:
    out, changes = tmp_path / "base", {"parallel__strategy": "shard"}
    codes, *said = Two(inputs, out, {rank: full_disk}, **changes).end()
    assert codes == [1, 1]
    assert said[rank].startswith("error: the disk is full\n")
    assert said[1 - rank].startswith(
        f"error: rank {rank} could not write its part of a checkpoint: the disk is full\n"
    )
    left = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000004"]
    codes, first, second = Two(inputs, out, **changes).end()
    assert codes == [0, 0], first + second


# ---- how processes find each other --------------------------------------------------------------------------------

PLACE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.fault("training", "half of a launcher's environment is set", "refused with what is missing")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {name: None for name in PLACE if name != "WORLD_SIZE"},
            "no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT",
        ),
        ({"MASTER_PORT": None}, "no MASTER_PORT"),
        ({"RANK": ""}, "no RANK"),
        ({"RANK": "first"}, "RANK is 'first'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'"),
        ({"RANK": "2"}, "RANK is 2, of 2"),
    ],
)
def test_half_an_environment_is_refused(
    changes: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**PLACE, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message) as refused, distributed.join(1.0):
        pass
    assert "torchrun" in str(refused.value)


@pytest.mark.fault("training", "the main process never comes", "said within the limit")
def test_a_process_whose_main_one_never_comes_says_so(inputs: list[str], tmp_path: Path) -> None:
    settings = {**SETTINGS, "parallel.timeout": 1}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    log = tmp_path / "log.txt"
    process = forked.start(["pretrain", *inputs, "--out", str(tmp_path / "base"), *words], log, PLACE)
    assert forked.end([process]) == [1]
    said = log.read_text(encoding="utf-8")
    assert "error: the processes did not find each other" in said and "rank 1 of 2, 127.0.0.1:1" in said
