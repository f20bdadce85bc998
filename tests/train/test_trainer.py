"""One loop for pretraining, finetuning and reward models: processes, bad steps with their documents, exact restarts."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import letters
import pytest
import tiny_artefacts as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.modules.module import register_module_forward_hook

from openqwen.core.artifact import Artifact, find
from openqwen.core.config import Config, Resolved, resolve
from openqwen.core.console import console, error_console
from openqwen.core.errors import DataError, Interrupted, OpenQwenError, UsageError
from openqwen.core.metrics import Metrics, read_metrics
from openqwen.model.weights import load_model, load_scalar
from openqwen.pretrain import loop as pretrain
from openqwen.pretrain.config import PretrainConfig
from openqwen.reward import loop as reward
from openqwen.reward.config import RewardConfig
from openqwen.sft import loop as sft
from openqwen.sft.config import SFTConfig
from openqwen.train import compiled
from openqwen.train.trainer import by_loss, micro_batches

COMMON = {
    "optim.lr": 3e-3,
    "schedule.warmup_steps": 2,
    "micro_batch": 3,
    "precision": "fp32",
    "parallel.timeout": 60,
    "checkpoint_interval": 5,
    "spikes.window": 8,
}
PRETRAIN = {
    **COMMON,
    "model.dropout": 0.1,
    "context": 32,
    "batch_tokens": 256,
    "steps": 20,
    "eval_interval": 10,
    "prompts": ["1 plus 2"],
    "sample_tokens": 4,
    "ngram_order": "none",
}
SFT = {
    **COMMON,
    "max_length": 160,
    "batch_size": 8,
    "steps": 20,
    "heldout_samples": 8,
    "eval_interval": 8,
    "num_samples": 2,
    "sample_tokens": 4,
}
REWARD = {**COMMON, "batch_size": 8, "max_length": 64, "eval_interval": 4, "num_samples": 2, "epochs": 2}
BAD = "\x01"  # what `poison` makes not a number
ODD = "\x0e\x0f\x10\x11\x12\x13" * 8  # what nothing else says
SETTINGS: dict[str, dict[str, Any]] = {"pretrain": PRETRAIN, "sft": SFT, "reward": REWARD}
CONFIGS: dict[str, type[Config]] = {"pretrain": PretrainConfig, "sft": SFTConfig, "reward": RewardConfig}
RUNS: dict[str, Callable[..., Artifact]] = {"pretrain": pretrain.run, "sft": sft.run, "reward": reward.run}


@dataclass(frozen=True)
class Job:
    """A stage with its settings and inputs; pickled for the processes that run it."""

    stage: str
    inputs: dict[str, Path]
    changes: dict[str, Any]
    poisoned: bool = False

    @property
    def resolved(self) -> Resolved[Any]:
        flags = SETTINGS[self.stage] | self.changes
        return resolve(CONFIGS[self.stage], self.stage, flags=flags, environ={})

    def run(self, out: Path) -> Artifact:
        with poison() if self.poisoned else nullcontext():
            return RUNS[self.stage](self.resolved, self.inputs, out)


@contextmanager
def poison() -> Iterator[None]:
    """Whatever embeds BAD meanwhile gets no number for it, and for nothing that comes after it."""

    def spoil(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if isinstance(module, nn.Embedding):
            return out.masked_fill((args[0] == ord(BAD))[..., None], torch.nan)  # (B, T, C)
        return None

    hook = register_module_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


# ---- processes: forked from one that has imported everything ------------------------------------------------------

_server = multiprocessing.get_context("forkserver")
_IMPORTED = ["torch._dynamo", "torch.distributed.fsdp", "gigatoken", "pytest", "hypothesis"]
_LOOPS = ["openqwen.cli.training", *(f"openqwen.{stage}.loop" for stage in ("pretrain", "sft", "reward"))]
_server.set_forkserver_preload(_IMPORTED + _LOOPS)


def _member(job: Job, out: Path, rank: int, size: int, port: int) -> None:
    torch.set_num_threads(1)
    if size > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    try:
        job.run(out)
    except OpenQwenError as error:
        out.with_suffix(f".{rank}.txt").write_text(str(error), encoding="utf-8")
        os._exit(error.exit_code)


def start(job: Job, out: Path, size: int) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = [_server.Process(target=_member, args=(job, out, rank, size, port)) for rank in range(size)]
    for process in running:
        process.start()
    return running


def codes(running: list[Any]) -> list[int | None]:
    for process in running:
        process.join(60)
    found = [process.exitcode for process in running]
    for process in running:
        process.kill()
    return found


def together(job: Job, out: Path, size: int) -> Artifact:
    assert codes(start(job, out, size)) == [0] * size
    found = find(out)
    assert found is not None
    return found


# ---- inputs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """By stage. A document, a conversation and a pair each hold BAD; a document and a conversation are ODD."""
    folder = tmp_path_factory.mktemp("trainer")
    texts = tiny.sums(0, 300)
    texts[44] = f"4 plus 4{BAD} is 8."
    texts[77] = ODD
    chat = tiny.conversations(folder / "chat.jsonl", 0, 120)
    lines = [json.loads(line) for line in chat.read_text().splitlines()]
    lines[90]["messages"][0]["content"] += BAD
    chat.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = letters.pairs(folder / "pairs.jsonl", 0, 29)  # 3 batches of 8 and one of 5
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    lines[20]["chosen"] += BAD
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = tiny.model_artefact(folder / "model")
    shards = tiny.tokens_artefact(folder / "tokens", texts, tiny.sums(1, 20))
    return {
        "pretrain": {
            "tokens": shards,
            "tokenizer": tiny.tokenizer_artefact(folder / "tok"),
            "model": model,
        },
        "sft": {"data": chat, "model": model},
        "reward": {
            "pairs": pairs,
            "heldout": letters.pairs(folder / "held.jsonl", 1, 20),
            "model": letters.policy(folder / "letters", steps=3),
        },
    }


def losses(found: Artifact) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in found.metrics if "loss" in record}


def incidents(found: Artifact) -> list[dict[str, Any]]:
    return read_metrics(found.path / "incidents.jsonl")


def same_files(one: Path, other: Path) -> None:
    """All records but those of speed, and everything that a checkpoint held."""
    for name in ("metrics", "incidents", "samples"):
        assert (one / f"{name}.jsonl").read_bytes() == (other / f"{name}.jsonl").read_bytes(), name
    a, b = (find(path) for path in (one, other))
    assert a is not None and b is not None and a.content == b.content
    assert a.manifest["facts"]["checkpoint"] == b.manifest["facts"]["checkpoint"]


# ---- several processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_one_two_and_four_processes_give_the_same_bits(
    stage: str, inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    """With dropout, a bad step, a short last batch and evaluations."""
    steps = {"steps": 5} if stage == "sft" else {}
    job = Job(stage, inputs[stage], {"parallel.shards": 4, **steps}, poisoned=True)
    for size in (1, 2, 4):
        together(job, tmp_path / str(size), size)
    for size in (2, 4):
        same_files(tmp_path / "1", tmp_path / str(size))


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sft", {"parallel.strategy": "hybrid", "parallel.group_size": 1}),
        ("reward", {"parallel.strategy": "shard", "parallel.checkpoint_activations": True}),
    ],
    ids=["sft-hybrid", "reward-shard"],
)
def test_divided_weights_give_the_curve_of_one_process(
    stage: str, changes: dict[str, Any], inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    """Also where one process has fewer rows in the last batch of an epoch than the other."""
    # Calm steps: at a rate of 3e-3 other micro-batches in one process move the loss of pairs by 3e-5, by rounding alone.
    steady = {"sft": {"dropout": 0.0, "steps": 8}, "reward": {"micro_batch": 1, "optim.lr": 1e-3}}[stage]
    alone = Job(stage, inputs[stage], steady).run(tmp_path / "alone")
    divided = together(Job(stage, inputs[stage], {**steady, **changes}), tmp_path / "divided", 2)
    assert losses(divided) == pytest.approx(losses(alone), rel=1e-5)
    # The wrong share of a batch would move scores by 0.1 and more.
    one, other = (load_file(found.path / "model.safetensors") for found in (alone, divided))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4)
    (load_scalar if stage == "reward" else load_model)(divided.path)


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_a_signal_to_one_process_saves_and_stops_all(
    stage: str, inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    long = {"sft": {"steps": 5000}, "reward": {"epochs": 2000}}[stage]
    running = start(Job(stage, inputs[stage], {"parallel.shards": 2, **long}), out, 2)
    tiny.wait_for_step(out, running[0], 3)
    os.kill(running[1].pid, signal.SIGTERM)
    assert codes(running) == [130, 130]
    last = read_metrics(out / "metrics.jsonl")[-1]["step"]
    assert (out / f"checkpoints/step-{last:08d}/checkpoint.json").is_file()
    assert "stopped by SIGTERM; its state is saved" in out.with_suffix(".1.txt").read_text()


def test_a_signal_after_the_last_step_is_said_and_costs_no_step(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, real = Job("sft", inputs["sft"], {"steps": 4}), sft.Conversations.samples

    def late(task: sft.Conversations, label: str) -> list[dict[str, Any]]:
        if label == "after":
            signal.raise_signal(signal.SIGINT)
        return real(task, label)

    monkeypatch.setattr(sft.Conversations, "samples", late)
    with pytest.raises(Interrupted, match="sft after its last step stopped by SIGINT; its state is saved"):
        job.run(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(sft.Conversations, "losses", None)  # nothing is trained again
    job.run(tmp_path / "out")
    monkeypatch.undo()
    job.run(tmp_path / "whole")
    same_files(tmp_path / "whole", tmp_path / "out")


def test_adapters_and_divided_weights_are_refused(inputs: dict[str, dict[str, Path]]) -> None:
    with pytest.raises(UsageError, match="adapters cannot be divided among processes"):
        Job("sft", inputs["sft"], {"lora.rank": 4, "parallel.strategy": "shard"}).resolved  # noqa: B018
    for stage in ("sft", "reward"):
        with pytest.raises(UsageError, match=r"do not divide into parallel\.shards 16"):
            Job(stage, inputs[stage], {"parallel.shards": 16}).resolved  # noqa: B018


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 9))
def test_every_row_counts_once_and_all_make_as_many_passes(count: int, shards: int, size: int) -> None:
    dealt = [list(micro_batches(range(count), shard, shards, size)) for shard in range(shards)]
    counting = [item for parts in dealt for items, share in parts if share == 1 for item in items]
    assert sorted(counting) == list(range(count))
    assert len({len(parts) for parts in dealt}) == 1
    assert all(len(items) <= size and share in (0, 1) for parts in dealt for items, share in parts)


# ---- steps that do not go well ------------------------------------------------------------------------------------

POISON = {"pretrain": "documents.train.jsonl:45", "sft": "chat.jsonl:91", "reward": "pairs.jsonl:21"}


@pytest.mark.fault("training", "a document gives no finite loss", "its steps are skipped, its id is named")
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_a_bad_document_costs_its_steps_alone_and_is_named(
    stage: str, inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    job = Job(stage, inputs[stage], {"precision": "bf16"}, poisoned=True)
    found = job.run(tmp_path / "out")
    bad = [record for record in incidents(found) if record["kind"] == "not finite"]
    curve = losses(found)
    assert 1 <= len(bad) <= 4 < len(curve)
    assert [record["step"] for record in bad] == [step for step, loss in curve.items() if loss is None]
    assert found.manifest["facts"]["skipped_steps"] == len(bad) == found.metrics[-2]["skipped"]
    for record in bad:
        assert record["loss"] is None and record["grad_norm"] is None
        names = [Path(name).name for name in record["documents"]]
        # Those of the micro-batch without a loss come first: at most three rows with their documents.
        rows = {"pretrain": 3 * 6, "sft": 3 * 2, "reward": 3}[stage]
        assert POISON[stage] in names[:rows] and len(set(names)) == len(names) == record["num_documents"]
    said = (found.path / "log.txt").read_text()
    assert said.count("skipped, not finite") == len(bad)
    (load_scalar if stage == "reward" else load_model)(found.path)  # refuses what is not finite


@pytest.mark.fault("training", "the loss jumps", "recorded with the documents of the step")
def test_a_row_nobody_learnt_is_a_spike_with_its_document(
    inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    job = Job("pretrain", inputs["pretrain"], {"optim.lr": 1e-2, "steps": 70, "model.dropout": 0.0})
    found = job.run(tmp_path / "out")
    spikes = incidents(found)
    assert spikes and {record["kind"] for record in spikes} == {"spike"}
    curve = losses(found)
    for record in spikes:
        before = [curve[step] for step in range(record["step"] - 8, record["step"])]
        assert record["loss"] == curve[record["step"]] > max(before)
        assert "documents.train.jsonl:78" in record["documents"][:18]
    assert "standard deviations high" in (found.path / "log.txt").read_text()
    assert found.manifest["facts"]["skipped_steps"] == 0


def test_too_many_bad_steps_end_the_run_with_their_documents(
    inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    data = tmp_path / "bad.jsonl"
    turns = [{"role": "user", "content": f"Say it{BAD}"}, {"role": "assistant", "content": "No."}]
    data.write_text((json.dumps({"messages": turns}) + "\n") * 10)
    good = json.loads(inputs["sft"]["data"].read_text().splitlines()[0])
    held = json.dumps(good) + "\n"
    data.write_text(data.read_text() + held)
    job = Job("sft", {**inputs["sft"], "data": data}, {"optim.max_bad_steps": 3}, poisoned=True)
    with pytest.raises(OpenQwenError, match="3 steps in a row"):
        job.run(tmp_path / "out")
    bad = read_metrics(tmp_path / "out" / "incidents.jsonl")
    assert [record["step"] for record in bad] == [1, 2, 3]
    assert all(name.startswith(f"{data}:") for record in bad for name in record["documents"])


def test_documents_come_in_the_order_of_the_loss_of_their_micro_batch() -> None:
    class Letters:
        def names(self, items: str) -> list[str]:
            return list(items)

    sums = torch.tensor([[1.0], [5.0], [torch.nan], [2.0]])  # two shards of two micro-batches: ae, ia; bf, j
    assert "".join(by_loss(Letters(), "abefija", 2, 2, sums)) == "bfiaje"  # type: ignore[arg-type]


# ---- the same after a restart -------------------------------------------------------------------------------------


@pytest.mark.fault("training", "a run is killed between saves", "redone steps write the same records")
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_killed_and_restarted_all_records_are_the_same(
    stage: str, inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    changes = {} if stage == "reward" else {"sample_interval": 6}
    if stage == "sft":
        changes["stop_prompts"] = 1  # as many replies after as before
    restless = {"optim.lr": 0.05, "spikes.window": 2, "spikes.deviations": 1.0}  # many spikes
    job = Job(stage, inputs[stage], {**changes, **restless, "checkpoint_interval": 3}, poisoned=True)
    whole, out, rng = job.run(tmp_path / "whole"), tmp_path / "killed", random.Random(5)
    assert {record["kind"] for record in incidents(whole)} == {"not finite", "spike"}
    (process,) = start(job, out, 1)
    tiny.wait_for_step(out, process, 5)
    time.sleep(rng.random() * 0.02)
    process.kill()
    process.join()
    assert find(out) is None
    together(job, out, 1)
    same_files(whole.path, out)
    steps = [record["step"] for record in read_metrics(out / "throughput.jsonl")]
    assert steps == [record["step"] for record in whole.metrics if "loss" in record]
    labels = [record["label"] for record in read_metrics(out / "samples.jsonl")]
    if stage == "reward":
        assert len(labels) == 2
    else:
        each = 1 if stage == "pretrain" else 2
        expected = ["before", "step 6", "step 12", "step 18", "after"]
        assert labels == [label for label in expected for _ in range(each)]


@pytest.fixture(scope="module")
def whole(inputs: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that nothing happens to."""
    return Job("pretrain", inputs["pretrain"], SHORT).run(tmp_path_factory.mktemp("whole") / "out").path


SHORT = {"steps": 12, "checkpoint_interval": 4, "eval_interval": 6}


@pytest.mark.fault(
    "training",
    "a token shard disappears in the middle of an epoch",
    "what is mapped is read on; a restart names the shard and goes on in the same bits once it is back",
)
def test_a_shard_that_disappears(
    inputs: dict[str, dict[str, Path]], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, real, calls = tmp_path / "tokens", pretrain.rows_of, []
    shutil.copytree(inputs["pretrain"]["tokens"], tokens)
    shard = min(tokens.glob("train-*.bin"))
    job = Job("pretrain", {**inputs["pretrain"], "tokens": tokens}, SHORT)

    class Broken(Exception):
        pass

    def removing(*words: Any) -> Any:
        step = int(words[1][0]) // 8  # of 8 rows each
        first = step not in calls
        calls.append(step)
        if step == 6 and first:
            shard.rename(tmp_path / "away")
        if step == 10 and first:
            raise Broken
        return real(*words)

    monkeypatch.setattr(pretrain, "rows_of", removing)
    with pytest.raises(Broken):
        job.run(tmp_path / "out")
    with pytest.raises(DataError, match="shard is missing") as error:
        job.run(tmp_path / "out")
    assert error.value.where == str(shard) and find(tmp_path / "out") is None
    assert (tmp_path / "out" / "checkpoints" / "step-00000008").is_dir()
    (tmp_path / "away").rename(shard)
    job.run(tmp_path / "out")
    assert min(calls[calls.index(10) + 1 :]) == 8
    same_files(whole, tmp_path / "out")


@pytest.mark.fault(
    "training",
    "the disk of the records is full in the middle",
    "one clear error; run again, it goes on and the records miss nothing",
)
@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_full_disk_of_the_records(
    operation: str,
    inputs: dict[str, dict[str, Path]],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records are part of what repeats to the byte, so none is left out to train on."""
    job, real = Job("pretrain", inputs["pretrain"], SHORT), getattr(Metrics, operation)

    def full(metrics: Metrics, *words: Any, **values: Any) -> None:
        real(metrics, *words, **values)
        if list((tmp_path / "out" / "checkpoints").glob("step-*")):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, operation, full)
        with pytest.raises(OpenQwenError, match="the disk is full"):
            job.run(tmp_path / "out")
    assert find(tmp_path / "out") is None
    job.run(tmp_path / "out")
    same_files(whole, tmp_path / "out")


def _without_a_reader(job: Job, out: Path) -> None:
    """Standard output and error are pipes that nobody reads."""
    for descriptor in (1, 2):
        read, write = os.pipe()
        os.dup2(write, descriptor)
        os.close(write)
        os.close(read)
    torch.set_num_threads(1)
    for kind in (console, error_console):
        kind.print("for nobody")
    job.run(out)


@pytest.mark.fault("training", "whoever reads what a run says goes away (head, a terminal)", "it goes on")
def test_a_run_goes_on_without_a_reader(
    inputs: dict[str, dict[str, Path]], whole: Path, tmp_path: Path
) -> None:
    job = Job("pretrain", inputs["pretrain"], SHORT)
    process = _server.Process(target=_without_a_reader, args=(job, tmp_path / "out"))
    process.start()
    assert codes([process]) == [0]
    same_files(whole, tmp_path / "out")


def test_speed_is_recorded_beside_and_without_adapters_only(
    inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    for stage in ("sft", "reward"):
        found = Job(stage, inputs[stage], {}).run(tmp_path / stage)
        speed = read_metrics(found.path / "throughput.jsonl")
        assert all(r["tokens_per_second"] > 0 and 0 < r["mfu"] < 1 and r["memory"] > 50 << 20 for r in speed)
        assert not {"throughput.jsonl", "incidents.jsonl"} & set(found.manifest["outputs"])
    found = Job("sft", inputs["sft"], {"lora.rank": 4, "steps": 4}).run(tmp_path / "lora")
    assert [r["mfu"] for r in read_metrics(found.path / "throughput.jsonl")] == [None] * 4
    assert found.manifest["facts"]["flops_per_second"] is None


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_compiled_blocks_are_a_setting_of_every_stage(
    stage: str, inputs: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be generated runs as it is: rows of many lengths need few graphs, and give the same bits."""
    torch._dynamo.reset()
    counter, compiler = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend=counter))
    monkeypatch.setattr(compiled, "_try_compiler", lambda: None)
    steps = {"steps": 5, "dropout": 0.0} if stage == "sft" else {}
    plain = Job(stage, inputs[stage], steps).run(tmp_path / "plain")
    assert counter.frame_count == 0
    found = Job(stage, inputs[stage], {**steps, "compile": True}).run(tmp_path / "compiled")
    assert 1 <= counter.frame_count < torch._dynamo.config.recompile_limit
    assert losses(found) == pytest.approx(losses(plain), rel=1e-6)


# ---- TensorBoard --------------------------------------------------------------------------------------------------


def test_without_the_package_there_is_no_board(
    inputs: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openqwen.train.records.importlib.util.find_spec", lambda name: None)
    found = Job("sft", inputs["sft"], {"steps": 3}).run(tmp_path / "out")
    assert not (found.path / "tensorboard").exists()


def test_the_board_shows_every_step_once_after_a_kill(
    inputs: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    job, out = Job("sft", inputs["sft"], {"checkpoint_interval": 4}), tmp_path / "out"
    for step in (2, 7):
        (process,) = start(job, out, 1)
        tiny.wait_for_step(out, process, step)
        process.kill()
        process.join()
    found = together(job, out, 1)
    board = accumulator.EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    shown = {event.step: event.value for event in board.Scalars("metrics/loss")}
    assert shown == pytest.approx(losses(found), rel=1e-6)
    assert len(board.Scalars("metrics/loss")) == len(shown) == 20
    assert "metrics/heldout_loss" in board.Tags()["scalars"]
    assert "throughput/tokens_per_second" in board.Tags()["scalars"]
    assert not any(name.startswith("tensorboard") for name in found.manifest["outputs"])
