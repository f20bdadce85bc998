"""`openqwen export`: what other programs make of the result, and every way in which it refuses."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import tiny_artefacts as tiny
import torch
from safetensors.torch import load_file, save_file

import openqwen
from openqwen.chat import chatml
from openqwen.cli import main
from openqwen.cli.export import size_of
from openqwen.core.artifact import stage_run
from openqwen.core.config import Resolved
from openqwen.core.errors import UsageError
from openqwen.model import ModelConfig, Qwen, ScalarModel, load_model, save_model, save_scalar
from openqwen.tokenizer import Tokenizer, load_tokenizer
from openqwen.tokenizer.pattern import normalise, split
from openqwen.tokenizer.train import byte_ranks, extended, train

TEXT = (
    "The quick brown fox jumps over the lazy dog, and 12 geese watch it; 敏捷的棕色狐狸跳过了懒狗。 "
    "Then the fox sleeps under the old oak, dreaming of rivers."
)
TALK = [{"role": "user", "content": "Who sleeps?"}, {"role": "assistant", "content": "The fox 🦊 sleeps."}]
PROMPTS = ["The quick", "敏捷的", "Then the", " watch", "geese\n\n 12", "x", "é ﬁ 7"]


def tokenizer() -> Tokenizer:
    counts = Counter(piece.encode() for piece in split(TEXT * 3))
    return Tokenizer(extended(byte_ranks(), train(counts, 60)))


def memorised(tok: Tokenizer, kv_heads: int | None) -> Qwen:
    """A model that knows a text and a conversation by heart."""
    config = ModelConfig(
        vocab_size=tok.vocab_size + 20,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=kv_heads,
        ffn_size=96,
        max_length=128,
    )
    model = Qwen(config)
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [torch.tensor([[*tok.encode(TEXT), tok.eos_id]]), torch.tensor([chatml.render(TALK, tok)[0]])]
    for _ in range(120):
        for ids in rows:
            torch.nn.functional.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module", params=[None, 2], ids=["heads", "fewer kv heads"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model's artefact."""
    folder = tmp_path_factory.mktemp("model") / "m"
    tok = tokenizer()
    with stage_run(folder, "model", Resolved(tiny.NoSettings(), {}), {}):
        save_model(memorised(tok, request.param), folder, eos_ids=[tok.im_end_id, tok.eos_id])
        tok.save(folder)
    return folder


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    return tiny.model_artefact(tmp_path / "m")


def export(*words: object) -> int:
    return main(["export", *map(str, words)])


def greedy(model: Path, prompts: list[str], count: int = 32) -> list[openqwen.engine.Completion]:
    tok = load_tokenizer(model)
    ends = (tok.im_end_id, tok.eos_id)  # what the file names; our engine would also end at <|im_start|>
    sampling = openqwen.Sampling(temperature=0, max_tokens=count, stop_ids=ends)
    return openqwen.Engine(load_model(model), tok).generate(prompts, sampling)


# llama.cpp


class LlamaCpp:
    """llama.cpp's own server in this process, on a port that only this machine sees."""

    def __init__(self, path: Path) -> None:
        module = pytest.importorskip("xllamacpp", reason="llama.cpp's Python binding is not installed")
        params = module.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 256, 1, 1, False
        # Its cache is fp16 by default and its flash attention rounds; the comparison is about the file.
        params.flash_attn_type = module.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = module.ggml_type.GGML_TYPE_F32
        self.server = module.Server(params)

    def ask(self, path: str, **body: object) -> dict:
        request = urllib.request.Request(
            self.server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def greedy(self, prompt: str, count: int = 32) -> dict:
        return self.ask(
            "/completion", prompt=prompt, n_predict=count, temperature=0, return_tokens=True, n_probs=5
        )

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        return self.ask("/tokenize", content=text, parse_special=special)["tokens"]


@pytest.fixture(scope="module")
def llama(model: Path, tmp_path_factory: pytest.TempPathFactory) -> LlamaCpp:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    out = tmp_path_factory.mktemp("gguf") / "m.gguf"
    assert export(model, "--format", "gguf", "--dtype", "fp32", "--out", out) == 0
    return LlamaCpp(out)


def test_llama_cpp_decodes_the_same_text(model, llama):
    ours = greedy(model, PROMPTS)
    assert ours[0].text.startswith(" brown fox jumps over")
    for prompt, completion in zip(PROMPTS, ours):
        theirs = llama.greedy(prompt)
        assert theirs["tokens_evaluated"] == len(load_tokenizer(model).encode(prompt))
        if completion.finish_reason == "stop":
            assert theirs["content"] == completion.text
        else:
            assert theirs["tokens"] == completion.ids and len(completion.ids) == 32


def test_llama_cpp_gives_the_same_probabilities(model, llama):
    ids = load_tokenizer(model).encode("The quick brown fox")
    with torch.inference_mode():
        ours = load_model(model)(torch.tensor([ids]))[0, -1].log_softmax(-1)
    theirs = llama.greedy("The quick brown fox", 1)["completion_probabilities"][0]["top_logprobs"]
    assert len(theirs) == 5
    for entry in theirs:
        assert abs(entry["logprob"] - float(ours[entry["id"]])) < 2e-5


def test_llama_cpp_reads_the_chat_template(model, llama):
    tok = load_tokenizer(model)
    messages = TALK[:1]
    prompt = llama.ask("/apply-template", messages=messages)["prompt"]
    ids, _ = chatml.render(messages, tok, add_generation_prompt=True)
    assert prompt == tok.decode(ids)
    reply = llama.ask("/v1/chat/completions", messages=messages, temperature=0, max_tokens=32)
    assert reply["choices"][0]["message"]["content"] == TALK[1]["content"]
    assert reply["choices"][0]["finish_reason"] == "stop" and reply["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_llama_cpp_loads_half_precision(model, tmp_path, dtype):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    assert export(model, "--format", "gguf", "--dtype", dtype, "--out", tmp_path / "m.gguf") == 0
    assert LlamaCpp(tmp_path / "m.gguf").greedy("The quick", 12)["content"].startswith(" brown fox")


@pytest.mark.slow
@pytest.mark.shared
def test_llama_cpp_cuts_text_as_the_released_tokenizer(shared, tmp_path):
    """The released vocabulary through GGUF. llama.cpp does no NFC, so texts that NFC changes are left out."""
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    config = ModelConfig(vocab_size=151936, hidden_size=16, num_layers=1, num_heads=1, ffn_size=16)
    save_model(Qwen(config), tmp_path / "m")
    ranks = shared / "vocab/qwen.tiktoken"
    words = ("--format", "gguf", "--dtype", "fp16", "--tokenizer", ranks, "--out", tmp_path / "m.gguf")
    assert export(tmp_path / "m", *words) == 0
    llama = LlamaCpp(tmp_path / "m.gguf")
    checked = 0
    for line in (shared / "oracle/tokenizer/tokenizer_oracle.jsonl").read_text("utf-8").splitlines():
        case = json.loads(line)
        text = case["text"]
        if text and normalise(text) == text and len(text) < 20_000 and text.isprintable():
            assert llama.tokenize(text, special=True) == case["ids"], text
            checked += 1
    assert checked > 200


# transformers


def test_transformers_decodes_the_same_text(model, tmp_path):
    """From our artefact, and from the released layout that transformers itself no longer reads."""
    check_in_transformers(model, model, tmp_path / "one")
    if load_model(model).config.num_kv_heads is None:
        words = ("--format", "qwen", "--out", tmp_path / "q", "--max-shard-size", "50KB")
        assert export(model, *words) == 0 and len(list((tmp_path / "q").glob("model-*"))) > 3
        check_in_transformers(tmp_path / "q", model, tmp_path / "two")


def check_in_transformers(source: Path, model: Path, out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert export(source, "--format", "qwen2", "--out", out) == 0
    theirs, tok = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    said = theirs.generation_config
    assert (said.top_p, said.repetition_penalty, said.eos_token_id[0]) == (
        0.8,
        1.1,
        tok.encode("<|im_end|>")[0],
    )
    ids = tok.apply_chat_template(TALK[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    done = theirs.generate(**ids, max_new_tokens=32, do_sample=False, repetition_penalty=1.0)
    text = tok.decode(done[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == TALK[1]["content"]
    for prompt, completion in zip(PROMPTS, greedy(model, PROMPTS)):
        ids = tok(prompt, return_tensors="pt")
        done = theirs.generate(**ids, max_new_tokens=32, do_sample=False, repetition_penalty=1.0)
        assert done[0, ids["input_ids"].shape[1] :][: len(completion.ids)].tolist() == completion.ids


def test_mlx_decodes_the_same_text(model, tmp_path):
    mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (pip install 'mlx[cpu]' mlx-lm)")
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    assert export(model, "--format", "qwen2", "--out", tmp_path / "q") == 0
    theirs, tok = mlx_lm.load(str(tmp_path / "q"))
    ours = load_tokenizer(model)
    assert tok.eos_token_ids == {ours.im_end_id, ours.eos_id}
    for prompt, completion in zip(PROMPTS, greedy(model, PROMPTS)):
        steps = generate_step(mx.array(tok.encode(prompt)), theirs, max_tokens=max(1, len(completion.ids)))
        assert [int(token) for token, _ in steps][: len(completion.ids)] == completion.ids
    text = tok.apply_chat_template(TALK[:1], add_generation_prompt=True, tokenize=False)
    assert mlx_lm.generate(theirs, tok, prompt=text, max_tokens=32) == TALK[1]["content"]


# Our own reading


def test_the_released_layout_comes_with_its_vocabulary(model, tmp_path, capsys):
    if load_model(model).config.num_kv_heads:
        assert export(model, "--format", "qwen", "--out", tmp_path / "q") == 2
        assert "no fewer key/value heads" in capsys.readouterr().err and not list(tmp_path.iterdir())
        return
    assert export(model, "--format", "qwen", "--out", tmp_path / "q") == 0
    shown = capsys.readouterr().out
    assert "released Python files" in shown and "NTK" not in shown
    assert (tmp_path / "q/qwen.tiktoken").read_bytes() == (model / "vocab.tiktoken").read_bytes()
    assert json.loads((tmp_path / "q/config.json").read_text())["model_type"] == "qwen"
    assert load_tokenizer(tmp_path / "q").content == load_tokenizer(model).content
    assert greedy(tmp_path / "q", PROMPTS) == greedy(model, PROMPTS)


def test_an_export_exports_to_itself(model, tmp_path):
    assert export(model, "--format", "qwen2", "--out", tmp_path / "a") == 0
    assert export(tmp_path / "a", "--format", "qwen2", "--out", tmp_path / "b") == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab")
    assert one.keys() == two.keys() and len(one) == 10
    assert {name for name in one if one[name] != two[name]} == {"README.md"}  # of another name and source


def test_what_is_lost_is_said(untrained, tmp_path, capsys):
    save_model(Qwen(load_model(untrained).config.model_copy(update={"dynamic_ntk": True})), untrained)
    assert export(untrained, "--format", "qwen2", "--out", tmp_path / "q", "--strict") == 2
    assert "no dynamic NTK, no LogN" in capsys.readouterr().err and not (tmp_path / "q").exists()
    assert export(untrained, "--format", "qwen2", "--out", tmp_path / "q") == 0
    said = capsys.readouterr().out
    assert "exactly up to 48 tokens, not beyond" in said
    assert load_model(tmp_path / "q").config.dynamic_ntk
    assert export(untrained, "--format", "qwen", "--out", tmp_path / "q1", "--strict") == 0


def test_chat_may_be_said(untrained, tmp_path):
    tok = tiny.byte_tokenizer()
    for flag, ends in (("--chat", [tok.im_end_id, tok.eos_id]), ("--no-chat", tok.eos_id)):
        assert export(untrained, "--format", "qwen2", "--out", tmp_path / flag, flag) == 0
        values = json.loads((tmp_path / flag / "generation_config.json").read_text())
        assert values["eos_token_id"] == ends


# Refusals


def refused(capsys: pytest.CaptureFixture[str], code: int, text: str, *words: object) -> None:
    assert export(*words) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and "Traceback" not in error


def test_a_reward_model_is_refused(tmp_path, capsys):
    path = tmp_path / "rm"
    with stage_run(path, "reward", Resolved(tiny.NoSettings(), {}), {}):
        config = ModelConfig(vocab_size=464, hidden_size=16, num_layers=1, num_heads=1)
        save_scalar(ScalarModel(config), path)
        tiny.byte_tokenizer().save(path)
    for name in ("qwen2", "qwen", "gguf"):
        refused(capsys, 4, "this is a reward model", path, "--format", name, "--out", tmp_path / "o")
    assert [p.name for p in tmp_path.iterdir()] == ["rm"]


@pytest.mark.fault("artefacts", "an export would overwrite something", "refused")
@pytest.mark.parametrize("name", ["qwen2", "qwen", "gguf"])
def test_nothing_is_overwritten(untrained, tmp_path, capsys, name):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    refused(capsys, 2, "choose another --out", untrained, "--format", name, "--out", taken)
    refused(capsys, 2, "choose another --out", untrained, "--format", name, "--out", taken / "file")
    assert [p.name for p in taken.iterdir()] == ["file"] and (taken / "file").read_text() == "mine"


@pytest.mark.fault("artefacts", "an export fails at its last tensor", "nothing is left")
@pytest.mark.parametrize("name", ["qwen2", "qwen", "gguf"])
def test_nan_in_the_last_tensor_leaves_nothing(untrained, tmp_path, capsys, name):
    held = {k: v.clone() for k, v in load_file(untrained / "model.safetensors").items()}
    held["model.norm.weight"][-1] = float("nan")
    save_file(held, untrained / "model.safetensors")
    refused(capsys, 4, "model.norm.weight holds NaN", untrained, "--format", name, "--out", tmp_path / "o")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_run_that_is_not_finished(untrained, tmp_path, capsys):
    (untrained / "DONE").unlink()
    refused(capsys, 4, "not finished", untrained, "--format", "qwen2", "--out", tmp_path / "o")


def test_a_tokenizer_of_another_model(tmp_path, capsys):
    other = tiny.model_artefact(tmp_path / "m", tokenizer=tokenizer())
    refused(capsys, 4, "524 ids, the model 464", other, "--format", "gguf", "--out", tmp_path / "o")


def test_no_tokenizer(untrained, tmp_path, capsys):
    away = tmp_path / "tok"
    away.mkdir()
    for file in ("vocab.tiktoken", "special.json", "tokenizer.json"):
        (untrained / file).rename(away / file)
    refused(capsys, 4, "holds no tokenizer", untrained, "--format", "qwen2", "--out", tmp_path / "o")
    assert export(untrained, "--format", "qwen2", "--tokenizer", away, "--out", tmp_path / "o") == 0


def test_gguf_needs_its_package(untrained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(capsys, 3, "pip install 'openqwen[hf]'", untrained, "--format", "gguf", "--out", tmp_path / "o")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_pickle(untrained, tmp_path, capsys):
    (untrained / "model.safetensors").rename(untrained / "pytorch_model.bin")
    refused(capsys, 4, "is a pickle", untrained, "--format", "qwen2", "--out", tmp_path / "o")
    refused(
        capsys, 4, "is a pickle", untrained / "pytorch_model.bin", "--format", "gguf", "--out", tmp_path / "o"
    )


def test_wrong_flags(untrained, tmp_path, capsys):
    refused(capsys, 2, "gptq", untrained, "--format", "gptq", "--out", tmp_path / "o")
    refused(
        capsys,
        2,
        "is no size",
        untrained,
        "--format",
        "qwen",
        "--max-shard-size",
        "5XB",
        "--out",
        tmp_path / "o",
    )
    refused(
        capsys, 2, "gguf is one file", untrained, "--format", "gguf", "--max-shard-size", "5GB", "--out",
        tmp_path / "o",
    )  # fmt: skip
    refused(capsys, 4, "no config.json", tmp_path / "no", "--format", "qwen", "--out", tmp_path / "o")


def test_sizes():
    sizes = {
        "5GB": 5 * 10**9,
        "1.5MB": 1_500_000,
        "2GiB": 2**31,
        "300": 300,
        "10 KB": 10_000,
        "7T": 7 * 10**12,
    }
    assert {text: size_of(text) for text in sizes} == sizes
    for text in ("", "GB", "-1", "0", "5 apples", "0.1"):
        with pytest.raises(UsageError, match="is no size"):
            size_of(text)
