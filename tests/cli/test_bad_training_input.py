"""Training commands refuse what cannot work before anything is trained: a line of what, one of where, one of what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_artefacts as tiny

from openqwen.cli import main
from openqwen.core.artifact import stage_run
from openqwen.core.config import Resolved, resolve
from openqwen.core.errors import Interrupted
from openqwen.pretrain.config import PretrainConfig
from openqwen.sft.config import SFTConfig
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.tokenizer.train import byte_ranks

RECIPE = """
[pretrain]
context = 32
batch_tokens = 128
steps = 4
[pretrain.model]
hidden_size = 32
num_layers = 2
num_heads = 2
[pretrain.schedule]
warmup_steps = 1
[sft]
steps = 4
[sft.schedule]
warmup_steps = 1
"""
LONG = "one two three four five six seven eight nine ten. " * 2  # 100 tokens and an end


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artefacts that fit each other, some that do not, and a recipe."""
    folder = tmp_path_factory.mktemp("bad")
    tiny.tokenizer_artefact(folder / "tokenizer")
    with stage_run(folder / "other-tokenizer", "tokenizer", Resolved(tiny.NoSettings(), {}), {}):
        Tokenizer(byte_ranks() | {b"he": 256}).save(folder / "other-tokenizer")
    documents = tiny.sums(0, 60)
    tiny.tokens_artefact(folder / "tokens", documents, [LONG, LONG])
    shutil.copytree(folder / "tokens", folder / "no-valid")
    shards = json.loads((folder / "no-valid" / "shards.json").read_text())
    shards["splits"]["valid"] = {"files": [], "tokens": 0, "documents": 0, "bytes": 0}
    (folder / "no-valid" / "shards.json").write_text(json.dumps(shards))
    tiny.tokens_artefact(folder / "short-tokens", documents, tiny.sums(1, 20))
    for name, count in (("tokens", 2), ("short-tokens", 20)):
        lines = [json.dumps({"id": str(i), "source": "ab"[i % 2]}) + "\n" for i in range(count)]
        (folder / name / "documents.valid.jsonl").write_text("".join(lines))
    tiny.model_artefact(folder / "model")
    tiny.model_artefact(folder / "other-model", tokenizer=Tokenizer(byte_ranks() | {b"he": 256}))
    tiny.conversations(folder / "chat.jsonl", 0, 30)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


PRETRAIN = "pretrain --tokens tokens --tokenizer tokenizer --recipe tiny.toml --out out"
EXTEND = "extend --model model --tokens tokens --out out"
SFT = "sft --model model --data chat.jsonl --recipe tiny.toml --out out"
# what is wrong: command, exit code, what is said, where
WRONG = {
    "another tokenizer's shards": (
        "pretrain --tokens tokens --tokenizer other-tokenizer --recipe tiny.toml --out out",
        4,
        "made with another tokenizer than other-tokenizer",
        "tokens",
    ),
    "a model of another tokenizer": (
        "pretrain --tokens tokens --tokenizer tokenizer --model other-model --recipe tiny.toml --out out",
        4,
        "this model has another tokenizer than tokenizer",
        "other-model",
    ),
    "an artefact of another kind": (f"{PRETRAIN} --model tokens", 4, "this is 'tokens'", "tokens"),
    "unknown setting": (f"{PRETRAIN} --stepz 3", 2, "Did you mean 'steps'?", "flag --stepz"),
    "unknown setting of a table": (f"{PRETRAIN} --optim.lrr 3", 2, "Did you mean 'optim.lr'?", "--optim.lrr"),
    "another trainer's name": (
        f"{SFT} --max_seq_length 64",
        2,
        "Did you mean 'max_length'?",
        "flag --max_seq",
    ),
    "unknown flag": (f"{PRETRAIN} --modell model", 2, "Did you mean 'model'?", "flag --modell"),
    "a value for a table": (f"{PRETRAIN} --optim 3", 2, "'optim' is a table of settings", "flag --optim"),
    "batch that the context does not divide": (
        f"{PRETRAIN} --batch_tokens 100",
        2,
        "batch_tokens 100 is not a multiple of context 32, as 96 or 128 would be",
        "tiny.toml:3; flag --batch_tokens",
    ),
    "batch that shards do not divide": (
        f"{PRETRAIN} --parallel.shards 8",
        2,
        "4 sequences a step (batch_tokens over context) do not divide into parallel.shards 8",
        "tiny.toml:3; tiny.toml:4; flag --parallel.shards",
    ),
    "no micro-batch": (f"{PRETRAIN} --micro_batch 0", 2, "micro_batch = 0", "flag --micro_batch"),
    "heads that do not divide": (
        f"{PRETRAIN} --model.num_heads 5",
        2,
        "hidden_size 32 does not split into 5 even heads",
        "tiny.toml:7; flag --model.num_heads",
    ),
    "warm-up without an end": (f"{SFT} --schedule.warmup_steps 4", 2, "leaves none of 4", "tiny.toml:13"),
    "context longer than the text": (
        f"{PRETRAIN} --context 1280 --batch_tokens 1280",
        4,
        "a context of 1,280 needs 1,281 tokens, the train split has 929",
        "tokens",
    ),
    "nothing held out": (
        "pretrain --tokens no-valid --tokenizer tokenizer --recipe tiny.toml --out out",
        4,
        "the valid split holds no document",
        "no-valid",
    ),
    "length that no source reaches": (
        f"{EXTEND} --multiples [1,4]",
        4,
        "a length of 192 needs 193 held-out tokens of one source, there are 101",
        "flag --multiples; tokens",
    ),
    "model of another shape": (
        f"{PRETRAIN} --model model --model.num_layers 3",
        2,
        "model.num_layers is 3, the model to go on from has 2",
        "flag --model.num_layers; model",
    ),
    "adapters beside nothing": (f"{PRETRAIN} --lora.rank 4", 2, "need a model", "flag --lora.rank"),
}


@pytest.mark.fault("training", "inputs do not fit each other", "refused before anything is written")
@pytest.mark.parametrize("name", WRONG)
def test_refused_before_anything_is_written(
    name: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, code, what, where = WRONG[name]
    monkeypatch.chdir(world)
    before = sorted(Path().iterdir())
    assert main(command.split()) == code
    error = capsys.readouterr().err
    lines = error.splitlines()
    assert lines[0].startswith("error: ") and what in lines[0]
    assert lines[1].startswith("  where: ") and where in lines[1]
    assert len(lines) <= 3 and sorted(Path().iterdir()) == before


@pytest.mark.parametrize("name", [name for name in WRONG if "of another" in name or "context" in name])
def test_the_plan_finds_it_too(
    name: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _, what, _ = WRONG[name]
    monkeypatch.chdir(world)
    assert main([*command.split(), "--plan"]) == 2
    seen = capsys.readouterr()
    assert what in seen.out + seen.err


def test_what_fits_is_let_through(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    for command in (
        PRETRAIN,
        f"{PRETRAIN} --model model --micro_batch 3",  # parts of three and one: no influence on the result
        f"{PRETRAIN} --model model --lora.rank 4 --model.init_std 0.1",
        f"{EXTEND} --multiples [1,2]",
        EXTEND,  # the default lengths are cut to the text there is
        SFT,
    ):
        assert main([*command.split(), "--plan"]) == 0, capsys.readouterr().out
    assert "documents are joined" not in capsys.readouterr().out
    short = "extend --model model --tokens short-tokens --multiples [1,2] --out out --plan"
    assert main(short.split()) == 0
    assert (
        "the longest held-out document has 16 tokens: for 96 documents are joined" in capsys.readouterr().out
    )


def interrupted(out: Path, resolved: Resolved[PretrainConfig], inputs: dict[str, Path]) -> None:
    """A run that was stopped after its fourth step."""
    from openqwen.core.artifact import open_inputs

    opened = open_inputs(inputs, {"tokens": "tokens", "tokenizer": "tokenizer"})
    with pytest.raises(Interrupted), stage_run(out, "model", resolved, opened) as run:
        (run.checkpoints / "step-00000004").mkdir()
        raise Interrupted("stopped")


@pytest.mark.fault(
    "training", "an unfinished run and other settings in one folder", "refused, its checkpoints stay"
)
def test_an_interrupted_run_is_not_overwritten_by_other_settings(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    out = tmp_path / "out"
    inputs = {"tokens": Path("tokens"), "tokenizer": Path("tokenizer")}
    interrupted(out, resolve(PretrainConfig, "pretrain", ["tiny.toml"], environ={}), inputs)
    command = [*PRETRAIN.split()[:-1], str(out), "--plan"]
    assert main(command) == 0, "with the same settings it goes on"
    assert main([*command, "--model.num_layers", "3", "--context", "64"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "interrupted run with context 32 (now 64), model.num_layers 2 (now 3) (step-00000004)" in shown
    assert main([*PRETRAIN.split()[:-1], str(out), "--steps", "9"]) == 2
    error = capsys.readouterr().err
    assert "steps 4 (now 9)" in error and f"where: {out}" in error and "another --out" in error
    assert (out / "checkpoints" / "step-00000004").is_dir()
    assert main([*command, "--model", "model"]) == 2
    assert "other inputs" in capsys.readouterr().out


def test_a_folder_without_checkpoints_is_begun_anew(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    out = tmp_path / "out"
    resolved = resolve(SFTConfig, "sft", ["tiny.toml"], environ={})
    with pytest.raises(Interrupted), stage_run(out, "model", resolved, {}):
        raise Interrupted("at once")
    assert main([*SFT.split()[:-1], str(out), "--steps", "9", "--plan"]) == 0
