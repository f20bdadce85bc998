"""What goes out beside the weights: template, tokenizer class, model card, Modelfile, and what the export loses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import tiny_artefacts as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.chat import chatml
from openqwen.chat.messages import Message, with_system
from openqwen.cli import main
from openqwen.core.artifact import load, stage_run
from openqwen.core.config import Resolved
from openqwen.model import ModelConfig, Qwen, load_model, save_model
from openqwen.model.ollama import CHAT, PLAIN, modelfile
from openqwen.tokenizer import Tokenizer, load_tokenizer

LENGTH = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model with every context extension, whose weights are large enough for the extensions to matter."""
    folder = tmp_path_factory.mktemp("model") / "talker"
    config = ModelConfig(
        vocab_size=480,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        ffn_size=48,
        max_length=LENGTH,
        windows=(LENGTH, 4 * LENGTH),
    )
    small = Qwen(config)
    small.init_weights(2)
    with torch.no_grad():
        for parameter in small.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    tok = tiny.byte_tokenizer()
    parent = tiny.tokenizer_artefact(folder.with_name("vocabulary"))
    with stage_run(
        folder, "model", Resolved(tiny.NoSettings(), {}), {"tokenizer": load(parent, "tokenizer")}
    ):
        save_model(small, folder, eos_ids=[tok.im_end_id, tok.eos_id])
        tok.save(folder)
    return folder


def export(*words: object) -> int:
    return main(["export", *map(str, words)])


@pytest.fixture(scope="module")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "q"
    assert export(model, "--format", "qwen2", "--out", folder) == 0
    return folder


# Template and tokenizer


@pytest.fixture(scope="module")
def theirs(out: Path):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(out)


CONTENT = st.text(st.sampled_from("ab 7\n\r\t{}%<|>'\"\\éü你🦊") | st.characters(codec="utf-8"), max_size=12)
ROLES = st.sampled_from(("user", "assistant"))
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CONTENT}), min_size=1, max_size=5)
SYSTEM = st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": CONTENT}), max_size=1)


@settings(max_examples=200, deadline=None)
@given(system=SYSTEM, talk=MESSAGES, prompt=st.booleans())
def test_the_template_is_our_renderer(theirs, system, talk, prompt) -> None:
    messages = [*system, *talk]
    how = {"add_generation_prompt": prompt, "tokenize": False}
    assert theirs.apply_chat_template(messages, **how) == chatml.as_text(
        messages, add_generation_prompt=prompt
    )
    # Ids are those of the whole text there, of each content here: a break at its start joins the role's line end.
    if any(re.match(r"\s*[\r\n]", m["content"]) or "<|" in m["content"] for m in messages):
        return
    ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    assert ids == chatml.render(messages, tiny.byte_tokenizer(), add_generation_prompt=prompt)[0]


@pytest.mark.shared
def test_the_template_gives_released_contexts(shared: Path, tmp_path: Path) -> None:
    """The released code's own texts and ids, from the template and the class that transformers finds in the export."""
    transformers = pytest.importorskip("transformers")
    config = ModelConfig(vocab_size=151936, hidden_size=8, num_layers=1, num_heads=1, ffn_size=8)
    save_model(Qwen(config), tmp_path / "m")
    words = ("--format", "qwen2", "--tokenizer", shared / "vocab/qwen.tiktoken", "--out", tmp_path / "q")
    assert export(tmp_path / "m", *words) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "q")
    assert type(theirs).__name__.startswith("Qwen2Tokenizer")
    cases = json.loads((shared / "oracle/chat/make_context_oracle.json").read_text(encoding="utf-8"))
    tok = load_tokenizer(shared / "vocab/qwen.tiktoken")
    for case in cases:
        asked = case["args"]
        talk: list[Message] = [{"role": "system", "content": asked["system"]}]
        for query, reply in asked["history"] or []:
            talk += [{"role": "user", "content": query}, {"role": "assistant", "content": reply}]
        talk = chatml.truncated(
            [*talk, {"role": "user", "content": asked["query"]}], tok, asked["max_window_size"]
        )
        text = theirs.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        assert text == case["raw_text"], case["name"]
        ids = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert (ids == case["context_tokens"]) == case["tokenize_raw_text_equals_context_tokens"], case[
            "name"
        ]
    assert sum(case["tokenize_raw_text_equals_context_tokens"] for case in cases) > 15


def test_files_for_programs_of_different_age(out: Path, theirs) -> None:
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    said = json.loads((out / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "Qwen2Tokenizer" and said["model_max_length"] == LENGTH
    assert said["chat_template"] == (out / "chat_template.jinja").read_text()
    tok = tiny.byte_tokenizer()
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [
        tok.im_end_id,
        tok.eos_id,
    ]
    assert type(theirs).__name__.startswith("Qwen2Tokenizer") and theirs.model_max_length == LENGTH


def test_a_token_that_merges_do_not_reach(tmp_path: Path) -> None:
    """transformers' Qwen2Tokenizer would never give it: such a vocabulary names the general class."""
    transformers = pytest.importorskip("transformers")
    tok = Tokenizer({**{bytes([b]): b for b in range(256)}, b"fox": 256})
    tok.save(tmp_path)
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode("fox") == tok.encode("fox") == [256]


# Model card


def test_the_card_says_what_is_known(model: Path, tmp_path: Path) -> None:
    words = ("--format", "qwen2", "--dtype", "bf16", "--license", 'mine: "free"')
    assert export(model, *words, "--out", tmp_path / "q") == 0
    text = (tmp_path / "q/README.md").read_text(encoding="utf-8")
    head, body = text.removeprefix("---\n").split("\n---\n")
    assert 'license: "mine: \\"free\\""' in head.split("\n") and "library_name: transformers" in head
    assert (
        "\n# talker\n" in body
        and "A chat model" in body
        and f"{load_model(model).config.num_parameters:,}" in body
    )
    assert (
        "bfloat16" in body
        and "no dynamic NTK, no LogN, no windows by layer" in body
        and f"{LENGTH} tokens" in body
    )
    rows = re.findall(r"^( *)- (\w+): (\w+) `([0-9a-f]{12})`", body, re.MULTILINE)
    done = [json.loads((path / "DONE").read_text()) for path in (model, model.with_name("vocabulary"))]
    assert rows == [
        ("", "talker", "model", done[0]["content"][:12]),
        ("  ", "tokenizer", "tokenizer", done[1]["content"][:12]),
    ]
    assert "named no licence" not in text and str(tmp_path) not in text


def test_a_card_tells_each_history_once(model: Path, tmp_path: Path) -> None:
    both = {name: load(model, "model") for name in ("policy", "reference")}
    with stage_run(tmp_path / "m", "model", Resolved(tiny.NoSettings(), {}), both):
        save_model(load_model(model), tmp_path / "m")
        tiny.byte_tokenizer().save(tmp_path / "m")
    assert export(tmp_path / "m", "--format", "qwen2", "--out", tmp_path / "q") == 0
    lines = [line for line in card(tmp_path).split("\n") if line.lstrip().startswith("- ")]
    assert [line.split(":")[0] for line in lines] == ["- m", "  - policy", "    - tokenizer", "  - reference"]
    assert lines[3].endswith("(as above)") and not lines[1].endswith("(as above)")


def test_the_card_of_an_import_names_its_source(out: Path, tmp_path: Path) -> None:
    assert main(["import", str(out), "--out", str(tmp_path / "ours")]) == 0
    assert export(tmp_path / "ours", "--format", "qwen", "--out", tmp_path / "back") == 0
    text = (tmp_path / "back/README.md").read_text(encoding="utf-8")
    assert "imported from the folder q" in text and str(out) not in text and "named no licence" in text
    assert export(out, "--format", "qwen2", "--out", tmp_path / "again") == 0
    assert "holds no record of its making" in (tmp_path / "again/README.md").read_text(encoding="utf-8")


# What is lost


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("".join(f"{n} geese – and one 狐狸.\n" for n in range(40)), encoding="utf-8")
    return path


@torch.inference_mode()
def test_what_is_lost_is_measured(model: Path, text: Path, tmp_path: Path, capsys) -> None:
    """The exported column is transformers' own loss of the exported folder; ours is the loss of our model."""
    from transformers import AutoModelForCausalLM

    words = ("--format", "qwen2", "--measure", text, "--out", tmp_path / "q")
    assert export(model, *words) == 0
    shown = capsys.readouterr().out
    theirs, ours = AutoModelForCausalLM.from_pretrained(tmp_path / "q").eval(), load_model(model)
    tok = load_tokenizer(model)
    ids = torch.tensor([*tok.encode(text.read_text(encoding="utf-8")), tok.eos_id])
    size = 4 * LENGTH + 1
    blocks = ids[: len(ids) // size * size].view(-1, size)
    num_bytes = sum(len(tok.decode_bytes(block[1:].tolist())) for block in blocks)
    rows = re.findall(r"^\| (\d)x \((\d+) tokens\) \| (\S+) \| (\S+) \| (\S+) ", card(tmp_path), re.MULTILINE)
    assert [(row[0], int(row[1])) for row in rows] == [("1", LENGTH), ("2", 2 * LENGTH), ("4", 4 * LENGTH)]
    for multiple, length, mine, exported, more in rows:
        inputs = blocks[:, :-1].reshape(-1, int(length))
        labels = blocks[:, 1:].reshape(-1)
        for logits, said in ((ours(inputs), mine), (theirs(inputs).logits, exported)):
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
            assert float(said) == pytest.approx(float(loss) / math.log(2) / num_bytes, abs=1e-4)
        assert float(more) == pytest.approx(float(exported) - float(mine), abs=2e-4)
        assert f"{multiple}x ({length} tokens): {mine}  {exported}" in shown
        assert (mine == exported) == (multiple == "1")
    assert f"story.txt ({num_bytes:,} bytes" in card(tmp_path) and str(text.parent) not in card(tmp_path)


def card(folder: Path) -> str:
    return (folder / "q/README.md").read_text(encoding="utf-8")


def refused(capsys, code: int, what: str, *words: object) -> None:
    assert export(*words) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and what in error and "Traceback" not in error


def test_what_cannot_be_measured(model: Path, text: Path, tmp_path: Path, capsys) -> None:
    short = tmp_path / "short.txt"
    short.write_text("x" * (LENGTH - 1))
    at = ("--out", tmp_path / "q")
    refused(capsys, 4, "25 are needed", model, "--format", "gguf", "--measure", short, *at)
    refused(capsys, 4, "nothing there to read", model, "--format", "qwen2", "--measure", tmp_path / "no", *at)
    plain = load_model(model).config.model_copy(update={"windows": None})
    save_model(Qwen(plain), tmp_path / "m")
    tiny.byte_tokenizer().save(tmp_path / "m")
    refused(capsys, 2, "nothing is lost", tmp_path / "m", "--format", "qwen", "--measure", text, *at)
    assert not (tmp_path / "q").exists()
    short.write_text("x" * (2 * LENGTH))
    assert export(model, "--format", "qwen2", "--measure", short, *at) == 0
    assert "| 2x (48 tokens) |" in card(tmp_path) and "4x" not in card(tmp_path)


# Ollama and GGUF


def go(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """What Go's text/template makes of the few things that our template says."""
    head, body, tail = re.fullmatch(
        r"\{\{- range \.Messages \}\}()(.*)\{\{ end \}\}(.*)", template, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    assert (
        set(re.findall(r"\{\{.*?\}\}", body)) == {"{{ .Role }}", "{{ .Content }}"} and "{{" not in head + tail
    )
    parts = re.split(r"\{\{ \.(\w+) \}\}", body)
    texts = ["".join(m[part.lower()] if n % 2 else part for n, part in enumerate(parts)) for m in messages]
    return "".join(texts) + tail


@settings(max_examples=100, deadline=None)
@given(system=SYSTEM, talk=MESSAGES)
def test_the_modelfile_renders_as_we_do(system: list[Message], talk: list[Message]) -> None:
    """Ollama puts SYSTEM in front of a conversation without one, as with_system does."""
    messages = [*system, *talk]
    text = chatml.as_text(messages, add_generation_prompt=True)
    assert go(CHAT, [dict(m) for m in with_system(messages)]) == text


def read_modelfile(text: str) -> dict[str, list[str]]:
    """Command -> its values, quotes taken off; PARAMETER by the parameter's name."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'^([A-Z]+) ("""(?:.|\n)*?"""|.*)$', text, re.MULTILINE):
        if name == "PARAMETER":
            name, value = value.split(" ", 1)
        found.setdefault(name, []).append(re.sub(r'^("""|")|("""|")$', "", value))
    return found


def test_ollama_gets_weights_and_modelfile(model: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    words = ("--format", "ollama", "--license", "apache-2.0")
    assert export(model, *words, "--out", tmp_path / "o") == 0
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"model.gguf", "Modelfile", "README.md"}
    said = read_modelfile((tmp_path / "o/Modelfile").read_text(encoding="utf-8"))
    assert said["FROM"] == ["./model.gguf"] and said["TEMPLATE"] == [CHAT]
    assert said["SYSTEM"] == [with_system([])[0]["content"]]
    assert said["stop"] == ["<|im_end|>", "<|im_start|>", "<|endoftext|>"] and said["num_ctx"] == [
        str(LENGTH)
    ]
    values = {name: float(said[name][0]) for name in ("top_p", "top_k", "repeat_penalty", "temperature")}
    assert values == {"top_p": 0.8, "top_k": 0, "repeat_penalty": 1.1, "temperature": 1.0}
    fields = gguf.GGUFReader(tmp_path / "o/model.gguf").fields
    assert fields["general.license"].contents() == "apache-2.0"
    assert "no dynamic NTK" in fields["general.description"].contents()
    assert "ollama create" in (tmp_path / "o/README.md").read_text(encoding="utf-8")


def test_a_base_model_gets_no_template(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    assert export(model, "--format", "ollama", "--no-chat", "--out", tmp_path / "o") == 0
    said = read_modelfile((tmp_path / "o/Modelfile").read_text(encoding="utf-8"))
    assert said["TEMPLATE"] == [PLAIN] and said["stop"] == ["<|endoftext|>"] and "SYSTEM" not in said
    assert said["repeat_penalty"] == ["1.0"]


def test_greedy_models_stay_greedy() -> None:
    said = read_modelfile(modelfile("m", {"do_sample": False}, system=None, stops=(), max_length=8))
    assert said["temperature"] == ["0"]
