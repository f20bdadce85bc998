"""`openqwen import`, and published models wherever a command takes one: the same model, or one clear line."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_hub
import pytest
import tiny_artefacts as tiny
import torch
from fake_hub import COMMIT, Hub
from safetensors.torch import load_file, save_file

import openqwen
from openqwen.cli import main
from openqwen.cli.imports import with_imported
from openqwen.core import artifact
from openqwen.core.artifact import stage_run
from openqwen.core.config import Resolved
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.model import ModelConfig, Qwen, load_model, save_model
from openqwen.serve import terminal
from openqwen.tokenizer import load_tokenizer
from openqwen.tokenizer.ranks import write_ranks

EARLY_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "ffn_hidden_size",
    "vocab_size": "padded_vocab_size",
    "max_position_embeddings": "n_positions",
}
KINDS = ("early", "later", "qwen2", "transformers")
CHAT = {"chat_format": "chatml", "eos_token_id": 256, "pad_token_id": 256, "max_window_size": 6144}


def random_model() -> Qwen:
    config = ModelConfig(
        vocab_size=512,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        ffn_size=48,
        max_length=160,
        logn=False,
        dynamic_ntk=False,
    )
    model = Qwen(config)
    model.init_weights(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)  # logits that another model would not have by chance
    return model.eval()


def published(folder: Path, kind: str = "later", shards: bool = False) -> Path:
    """A model as others publish it. transformers: written by that library itself."""
    model, tok = random_model(), tiny.byte_tokenizer()
    layout = "qwen1" if kind in ("early", "later") else "qwen2"
    save_model(model, folder, layout=layout, shard_bytes=30_000 if shards else 10**9)
    config = json.loads((folder / "config.json").read_text())
    del config["openqwen"]
    if kind == "early":
        config = {EARLY_NAMES.get(key, key): value for key, value in config.items()}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(CHAT))
    if layout == "qwen1":
        write_ranks(folder / "qwen.tiktoken", tok.ranks)
        (folder / "modeling_qwen.py").write_text("raise SystemExit('run')")
    else:
        tok.save(folder)
        for name in ("vocab.tiktoken", "special.json", "merges.txt"):
            (folder / name).unlink()
    if kind == "transformers":
        from transformers import AutoModelForCausalLM, AutoTokenizer

        again = folder.with_name(f"{folder.name}-again")
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(again)
        AutoTokenizer.from_pretrained(folder).save_pretrained(again)
        return again
    return folder


def import_(*words: object) -> int:
    return main(["import", *map(str, words)])


def logits(model: Path | str) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(model)(torch.arange(24).view(2, 12) * 7 % 464)


@pytest.mark.parametrize("kind", KINDS)
def test_an_import_is_the_same_model(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "theirs", kind, shards=kind == "later")
    assert import_(source, "--out", tmp_path / "ours") == 0
    assert "parameters = " in capsys.readouterr().out
    found = artifact.load(tmp_path / "ours", "model")
    for path in (*source.glob("*.safetensors"), source / "config.json"):
        assert (found.path / path.name).read_bytes() == path.read_bytes()
    assert torch.equal(logits(found.path), logits(source))
    with torch.inference_mode():
        assert torch.equal(logits(source), random_model()(torch.arange(24).view(2, 12) * 7 % 464))
    tok = load_tokenizer(found.path)
    assert tok.content == load_tokenizer(source).content == tiny.byte_tokenizer().content
    facts, inputs = found.manifest["facts"], found.manifest["inputs"]
    assert facts["source"] == str(source) and facts["revision"] is None and facts["dtype"] == "float32"
    assert facts["layout"] == ("qwen1" if kind in ("early", "later") else "qwen2")
    assert inputs["config.json"]["content"] == artifact.sha256_file(source / "config.json")
    read = (".json", ".tiktoken", ".safetensors")
    assert set(inputs) == {path.name for path in source.iterdir() if path.suffix in read}
    assert not list(found.path.glob("*.py"))


def test_an_import_is_made_once(tmp_path: Path) -> None:
    source = published(tmp_path / "theirs")
    assert import_(source, "--out", tmp_path / "ours") == 0
    assert artifact.load(tmp_path / "ours", "model").manifest["facts"]["chat"]
    before = (tmp_path / "ours/DONE").stat().st_mtime_ns
    assert import_(source, "--out", tmp_path / "ours") == 0
    assert (tmp_path / "ours/DONE").stat().st_mtime_ns == before
    assert import_(source, "--dtype", "bf16", "--no-chat", "--out", tmp_path / "ours") == 0
    found = artifact.load(tmp_path / "ours", "model")
    assert found.manifest["facts"]["dtype"] == "bfloat16" and not found.manifest["facts"]["chat"]
    assert main(["show", str(found.path), "--verify"]) == 0


def test_a_finetuning_takes_a_folder_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through what was imported beside it, in the layout of the release; then our artefact is exported again."""
    source, data = published(tmp_path / "theirs"), tiny.conversations(tmp_path / "talk.jsonl", 0, 40)
    sft = ["sft", "--model", str(source), "--data", str(data), "--out", str(tmp_path / "sft")]
    small = ["--steps", "2", "--batch_size", "2", "--max_length", "160", "--schedule.warmup_steps", "1"]
    assert main([*sft, *small, "--plan"]) == 2
    error = capsys.readouterr().err
    assert f"openqwen import {source}" in error and not (tmp_path / "sft-model").exists()
    assert main([*sft, *small]) == 0
    made = artifact.load(tmp_path / "sft", "model")
    parent = artifact.load(tmp_path / "sft-model", "model")
    assert made.manifest["inputs"]["model"]["content"] == parent.content
    assert main([*sft, *small]) == 0 and "already made" in capsys.readouterr().out
    assert main(["export", str(made.path), "--format", "qwen", "--out", str(tmp_path / "back")]) == 0
    assert torch.equal(logits(tmp_path / "back"), logits(made.path))


def test_pretraining_goes_on_from_an_import(tmp_path: Path) -> None:
    """Its folder is also the tokenizer: text is packed for it, and training goes on with both."""
    with stage_run(tmp_path / "corpus", "corpus", Resolved(tiny.NoSettings(), {}), {}) as run:
        for split, seed in (("train", 0), ("valid", 1)):
            (run.path / split).mkdir()
            records = [
                {"id": str(n), "text": text, "source": "sums"} for n, text in enumerate(tiny.sums(seed, 60))
            ]
            write_jsonl_zst(run.path / split / "part-00000.jsonl.zst", records)
    assert import_(published(tmp_path / "theirs"), "--out", tmp_path / "ours") == 0
    ours, tokens = str(tmp_path / "ours"), str(tmp_path / "tokens")
    pack = ["pack", "--corpus", str(tmp_path / "corpus"), "--tokenizer", ours, "--out", tokens]
    assert main(pack) == 0
    small = ["--context", "32", "--batch_tokens", "64", "--steps", "2", "--schedule.warmup_steps", "1"]
    given = ["--tokens", tokens, "--tokenizer", ours, "--model", ours, "--out", str(tmp_path / "more")]
    assert main(["pretrain", *given, *small]) == 0
    made = artifact.load(tmp_path / "more", "model")
    assert load_tokenizer(made.path).content == load_tokenizer(ours).content
    change = (logits(made.path) - logits(ours)).abs().max()
    assert 0 < change < 0.1 * logits(ours).abs().max()  # it began where the import ended


def test_several_processes_import_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    source, data = published(tmp_path / "theirs"), tiny.conversations(tmp_path / "talk.jsonl", 0, 4)
    assert main(["sft", "--model", str(source), "--data", str(data), "--out", str(tmp_path / "sft")]) == 2
    assert "only one process can import" in capsys.readouterr().err and not (tmp_path / "sft-model").exists()


def test_only_models_are_imported(tmp_path: Path) -> None:
    """Each stage's inputs that are models of others; ours, and whatever else a stage reads, stay what they are."""
    source, ours = published(tmp_path / "theirs"), tiny.model_artefact(tmp_path / "ours")
    rest = {"reward": ours, "prompts": tmp_path / "no.jsonl", "tokens": Path("no/such")}
    found = with_imported("ppo", {"policy": source, **rest}, tmp_path / "ppo", plan=False)
    assert found == {"policy": tmp_path / "ppo-policy", **rest}
    models = {"base": source, "chat": ours, "rlhf": source}
    found = with_imported("evals", models, tmp_path / "e", plan=False)
    assert found == {"base": tmp_path / "e-base", "chat": ours, "rlhf": tmp_path / "e-rlhf"}
    assert artifact.load(found["base"], "model").content == artifact.load(found["rlhf"], "model").content
    for stage in ("tokenizer", "pack", "data"):
        assert with_imported(stage, {"base": source}, tmp_path / "t", plan=False) == {"base": source}


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub(
        {"Qwen/Qwen-1_8B": published(tmp_path / "one"), "Qwen/Tiny": published(tmp_path / "two", "qwen2")}
    )
    with fake_hub.serving(found) as address:
        fake_hub.use(monkeypatch, address, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        yield found


def test_names_of_the_hub_are_models(hub: Hub, tmp_path: Path) -> None:
    for name, folder in hub.repos.items():
        assert torch.equal(logits(f"{name}@v1"), logits(folder))
        prompts, sampling = ["a plus", "é"], openqwen.Sampling(temperature=0, max_tokens=8)
        ours, theirs = (
            openqwen.Engine(load_model(at), load_tokenizer(at)).generate(prompts, sampling)
            for at in (name, folder)
        )
        assert [one.ids for one in ours] == [one.ids for one in theirs]
    assert "modeling_qwen.py" not in hub.fetched()


def test_a_model_of_the_hub_is_imported(hub: Hub, tmp_path: Path) -> None:
    assert import_("Qwen/Qwen-1_8B@v1", "--out", tmp_path / "ours") == 0
    found = artifact.load(tmp_path / "ours", "model")
    facts, inputs = found.manifest["facts"], found.manifest["inputs"]
    assert facts["source"] == "Qwen/Qwen-1_8B@v1" and facts["revision"] == COMMIT
    weights = hub.repos["Qwen/Qwen-1_8B"] / "model.safetensors"
    assert inputs["model.safetensors"]["content"] == artifact.sha256_file(weights)
    assert torch.equal(logits(found.path), logits(hub.repos["Qwen/Qwen-1_8B"]))


@pytest.mark.fault("files from strangers", "a downloaded file is not the one the hub named", "refused")
def test_a_file_that_is_not_what_the_hub_said(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damaged.add("model.safetensors")
    assert import_("Qwen/Qwen-1_8B", "--out", tmp_path / "ours") == 4
    assert "model.safetensors is damaged: its sha256 is not the hub's" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_commands_take_names_of_the_hub(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = io.StringIO()
    terminal.chat(
        "Qwen/Qwen-1_8B", max_tokens=4, compiled=False, source=io.StringIO("hello\n/quit\n"), target=said
    )
    assert said.getvalue()
    assert main(["export", "Qwen/Qwen-1_8B", "--format", "qwen2", "--out", str(tmp_path / "q")]) == 0
    assert torch.equal(logits(tmp_path / "q"), logits(hub.repos["Qwen/Qwen-1_8B"]))
    card = (tmp_path / "q/README.md").read_text()
    assert f"from Qwen/Qwen-1_8B (commit {COMMIT})." in card and '\nbase_model: "Qwen/Qwen-1_8B"\n' in card
    data = tiny.conversations(tmp_path / "talk.jsonl", 0, 40)
    small = ["--steps", "2", "--batch_size", "2", "--max_length", "160", "--schedule.warmup_steps", "1"]
    words = ["sft", "--model", "Qwen/Tiny", "--data", str(data), "--out", str(tmp_path / "sft")]
    assert main([*words, *small]) == 0
    assert artifact.load(tmp_path / "sft-model", "model").manifest["facts"]["source"] == "Qwen/Tiny"
    assert main(["export", str(tmp_path / "sft"), "--format", "qwen2", "--out", str(tmp_path / "s")]) == 0
    card = (tmp_path / "s/README.md").read_text()
    assert f"imported from Qwen/Tiny (commit {COMMIT})" in card and '\nbase_model: "Qwen/Tiny"\n' in card
    capsys.readouterr()
    assert main(["serve", "Qwen/Nothing", "--port", "0"]) == 4
    error = capsys.readouterr().err
    assert error.startswith("error: there is no such folder here, and no public model of that name")


# Refusals


def drop(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def settings(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(said | values))

    return change


def cut_short(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-100])


def only_a_pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1228\n"
    sorted(folder.glob("*.safetensors"))[0].write_text(text)


def pickled(folder: Path) -> None:
    drop(*(path.name for path in folder.glob("model*")))(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK\3\4 harm")


def swap_a_tensor(folder: Path) -> None:
    file = next(
        path for path in folder.glob("*.safetensors") if "transformer.h.1.attn.c_attn.bias" in load_file(path)
    )
    held = {name: value.clone() for name, value in load_file(file).items()}
    held["transformer.h.1.attn.c_attn.bias"] = torch.zeros(95)
    save_file(held, file)


def larger_vocabulary(folder: Path) -> None:
    ranks = {bytes([b]): b for b in range(256)}
    write_ranks(folder / "qwen.tiktoken", ranks | {struct.pack(">H", 300 + i): 256 + i for i in range(100)})


def ends_elsewhere(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [151643, 151645]}))


FIRST = "model-00001-of-00005.safetensors"
BROKEN = {
    "no shards": (lambda folder: drop(*(p.name for p in folder.glob("*.safetensors")))(folder), "is missing (and "),
    "one shard less": (drop(FIRST), f"shard {FIRST} is missing\n"),
    "no index": (drop("model.safetensors.index.json"), "model.safetensors.index.json is not: the checkpoint is not"),
    "cut short": (cut_short, "truncated: tensor "),
    "a pointer": (only_a_pointer, "this is a Git LFS pointer"),
    "pickled": (pickled, "pytorch_model.bin is a pickle"),
    "misshapen": (swap_a_tensor, "transformer.h.1.attn.c_attn.bias is [95], config.json asks for [96]"),
    "no settings": (drop("config.json"), "no config.json there"),
    "no tokenizer": (drop("qwen.tiktoken"), "the folder holds no tokenizer"),
    "too large a tokenizer": (larger_vocabulary, "the tokenizer has 564 ids, the model 512 embedding rows"),
    "another tokenizer": (ends_elsewhere, "ends texts at 151643, 151645, the tokenizer has <|endoftext|> at 256"),
    "another architecture": (settings(model_type="llama", architectures=["LlamaForCausalLM"]), "model_type 'llama'"),
    "experts": (settings(model_type="qwen2_moe", architectures=["Qwen2MoeForCausalLM"]), "model_type 'qwen2_moe'"),
    "pictures": (settings(visual={"width": 1664}), "also reads pictures"),
    "quantised": (settings(quantization_config={"quant_method": "gptq", "bits": 4}), "these weights are quantised"),
    "another size": (settings(hidden_size=64, kv_channels=32), "config.json asks for [512, 64]"),
}  # fmt: skip


@pytest.mark.fault(
    "files from strangers",
    "a model of others cannot be computed as it is",
    "refused before anything is served",
)
@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_refused(broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By import, and before anything is served."""
    change, text = BROKEN[broken]
    source = published(tmp_path / "theirs", shards=True)
    change(source)
    for words in (
        ["import", str(source), "--out", str(tmp_path / "ours")],
        ["serve", str(source), "--port", "0"],
    ):
        if broken == "another tokenizer" and words[0] == "serve":
            continue  # the server reads no generation_config.json
        assert main(words) == 4
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and text in said.err and "Traceback" not in said.err
        assert "127.0.0.1" not in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_a_tokenizer_that_padding_does_not_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = random_model().config.model_copy(update={"vocab_size": 464 + 1024})
    save_model(Qwen(config), tmp_path / "theirs")
    assert (
        import_(
            tmp_path / "theirs",
            "--tokenizer",
            tiny.tokenizer_artefact(tmp_path / "tok"),
            "--out",
            tmp_path / "o",
        )
        == 4
    )
    assert "464 ids, the model 1488 embedding rows: padding does not explain that" in capsys.readouterr().err


def test_a_tokenizer_beside_the_model(tmp_path: Path) -> None:
    source = published(tmp_path / "theirs")
    shutil.move(source / "qwen.tiktoken", tmp_path / "qwen.tiktoken")
    assert import_(source, "--tokenizer", tmp_path / "qwen.tiktoken", "--out", tmp_path / "ours") == 0
    assert "tokenizer" in artifact.load(tmp_path / "ours", "model").manifest["inputs"]
    assert load_tokenizer(tmp_path / "ours").content == tiny.byte_tokenizer().content


def test_what_is_ours_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = tiny.model_artefact(tmp_path / "ours")
    assert import_(ours, "--out", tmp_path / "again") == 2
    assert "this is an artefact already" in capsys.readouterr().err
    (ours / "DONE").unlink()
    assert import_(ours, "--out", tmp_path / "again") == 4 and "not finished" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_not_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "theirs")
    assert import_(source, "--out", source) == 2
    assert "files that no stage has written" in capsys.readouterr().err
    assert torch.equal(logits(source), logits(published(tmp_path / "same")))
