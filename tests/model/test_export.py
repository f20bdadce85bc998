"""Export: equal bytes within a layout, equal logits across layouts, and what cannot be said is said."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openqwen.core.errors import DataError, UsageError
from openqwen.model import ModelConfig, Qwen, load_model, save_model
from openqwen.model.export import Ends, export_checkpoint, lost, whole_file, whole_folder
from openqwen.model.gguf import Vocabulary, write_gguf
from openqwen.model.stored import open_checkpoint

IDS = torch.randint(0, 61, (2, 14), generator=torch.Generator().manual_seed(0))
ENDS = Ends(eos_id=57, im_end_id=59)
INDEX = "model.safetensors.index.json"
# A released config.json: keys of both generations that mean nothing to us must survive.
EARLY = {
    "activation": "swiglu",
    "architectures": ["QWenLMHeadModel"],
    "attn_pdrop": 0.0,
    "bf16": True,
    "embd_pdrop": 0.0,
    "ffn_hidden_size": 112,
    "fp16": False,
    "fp32": False,
    "kv_channels": 8,
    "layer_norm_epsilon": 1e-06,
    "model_type": "qwen",
    "n_embd": 40,
    "n_head": 5,
    "n_layer": 3,
    "n_positions": 6144,
    "no_bias": True,
    "padded_vocab_size": 61,
    "params_dtype": "torch.bfloat16",
    "pos_emb": "rotary",
    "resid_pdrop": 0.1,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "seq_length": 16,
    "tie_word_embeddings": False,
    "transformers_version": "4.31.0",
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": 61,
}
LATER = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"},
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 40,
    "intermediate_size": 112,
    "kv_channels": 8,
    "max_position_embeddings": 64,
    "model_type": "qwen",
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
    "onnx_safe": None,
    "seq_length": 16,
    "transformers_version": "4.32.0",
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": 61,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 57,
    "hidden_act": "silu",
    "hidden_size": 40,
    "intermediate_size": 56,
    "max_position_embeddings": 16,
    "max_window_layers": 3,
    "model_type": "qwen2",
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
    "num_key_value_heads": 5,
    "rope_theta": 10000.0,
    "sliding_window": 16,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 61,
}
PUBLISHED = {"early": EARLY, "later": LATER, "qwen2": QWEN2}
RELEASED_CHAT = {
    "chat_format": "chatml",
    "eos_token_id": 57,
    "pad_token_id": 57,
    "max_window_size": 6144,
    "max_new_tokens": 512,
    "do_sample": True,
    "top_k": 0,
    "top_p": 0.5,
    "transformers_version": "4.31.0",
}


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def published(folder: Path, small: Qwen, name: str, *, shards: bool = False, dtype=torch.bfloat16) -> Path:
    """A folder as somebody else published it: their keys, their spacing, their index."""
    layout = "qwen2" if name == "qwen2" else "qwen1"
    save_model(copy.deepcopy(small).to(dtype), folder, layout=layout)
    if shards:
        held = load_file(folder / "model.safetensors")
        held = {key: value.clone() for key, value in held.items()}
        (folder / "model.safetensors").unlink()
        places = {key: f"part-{i % 3}.safetensors" for i, key in enumerate(held)}
        for file in sorted(set(places.values())):
            save_file(
                {k: held[k] for k in held if places[k] == file}, folder / file, metadata={"format": "pt"}
            )
        index = {"metadata": {"total_parameters": 1, "total_size": 2}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name], indent=3))
    (folder / "generation_config.json").write_text(json.dumps(RELEASED_CHAT, indent=1))
    return folder


def export(source: Path, out: Path, layout: str, **how) -> Path:
    with whole_folder(out) as folder:
        export_checkpoint(open_checkpoint(source), folder, layout, ends=ENDS, **how)
    return out


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_byte_stays_within_a_layout(tmp_path, small, name, shards):
    source = published(tmp_path / "theirs", small, name, shards=shards)
    out = export(source, tmp_path / "ours", "qwen2" if name == "qwen2" else "qwen1")
    assert files(out) == files(source) and len(files(out)) == (6 if shards else 3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_there_and_back_gives_the_same_weights(tmp_path, small, name):
    source = published(tmp_path / "a", small, name, shards=True)
    here, there = ("qwen2", "qwen1") if name == "qwen2" else ("qwen1", "qwen2")
    back = export(export(source, tmp_path / "b", there), tmp_path / "c", here)
    again = export(export(back, tmp_path / "d", there), tmp_path / "e", here)
    assert files(back) == files(again)
    ours, theirs = load_model(back), load_model(source)
    assert ours.config == theirs.config.model_copy(update={"windows": ours.config.windows})
    for (parameter, a), b in zip(ours.named_parameters(), theirs.parameters()):
        assert a.dtype == torch.bfloat16 and torch.equal(a, b), parameter


@pytest.mark.parametrize("name", ["early", "later"])
@torch.inference_mode()
def test_transformers_gives_our_logits(tmp_path, small, name):
    from transformers import AutoModelForCausalLM

    save_model(small, tmp_path / "a", layout="qwen1", shard_bytes=20_000)
    (tmp_path / "a/config.json").write_text(json.dumps(PUBLISHED[name]))
    theirs = AutoModelForCausalLM.from_pretrained(export(tmp_path / "a", tmp_path / "b", "qwen2"))
    assert type(theirs).__name__ == "Qwen2ForCausalLM" and theirs.dtype == torch.float32
    ours = load_model(tmp_path / "a")(IDS)
    assert ours.abs().max() > 1
    torch.testing.assert_close(ours, theirs.eval()(IDS).logits, atol=1e-5, rtol=0)


@pytest.mark.shared
@torch.inference_mode()
def test_released_logits_come_out_of_transformers(tmp_path, shared, qwen1):
    """The released code's own logits, up to the training length, from a program that does not know Qwen-1."""
    from transformers import AutoModelForCausalLM

    out = export(shared / "oracle/tiny_qwen1", tmp_path / "b", "qwen2")
    theirs = AutoModelForCausalLM.from_pretrained(out).eval()
    for length in (40, 64):
        ids = qwen1["input_ids_257"][:, :length].long()
        wanted = qwen1[f"full_L{length}.ntk_logn.logits"]
        assert (theirs(ids).logits[0] - wanted).abs().max() <= 1e-5
    ids = qwen1["input_ids_257"][:, :129].long()
    assert (theirs(ids).logits[0] - qwen1["full_L129.ntk_logn.logits"]).abs().max() > 1e-2


@pytest.mark.shared
@pytest.mark.parametrize("config", ["config.json", "config_legacy_v1.0_names.json"])
def test_released_checkpoint_is_byte_equal(tmp_path, shared, config):
    (tmp_path / "a").mkdir()
    for file, name in ((config, "config.json"), ("model.safetensors", "model.safetensors")):
        shutil.copy(shared / "oracle/tiny_qwen1" / file, tmp_path / "a" / name)
    out = files(export(tmp_path / "a", tmp_path / "b", "qwen1"))
    assert out.pop("generation_config.json") and out == files(tmp_path / "a")


def test_shard_size_is_kept_to(tmp_path, small):
    source = published(tmp_path / "a", small, "later")
    out = export(source, tmp_path / "b", "qwen2", shard_bytes=9_000)
    shards = [load_file(file) for file in out.glob("model-*.safetensors")]
    sizes = [sum(t.numel() * 2 for t in shard.values()) for shard in shards]
    assert len(shards) > 5 and all(size <= 9_000 for size in sizes)
    assert load_model(out).config.hidden_size == 40


def test_another_dtype(tmp_path, small):
    source = published(tmp_path / "a", small, "early", shards=True)
    out = export(source, tmp_path / "b", "qwen1", dtype=torch.float32)
    values = json.loads((out / "config.json").read_text())
    assert [values[k] for k in ("bf16", "fp16", "fp32")] == [False, False, True]
    assert values["torch_dtype"] == "float32" and values["pos_emb"] == "rotary"
    assert (out / "model.safetensors").is_file()
    for ours, theirs in zip(load_model(out).parameters(), load_model(source).parameters()):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs.float())


def test_weights_beyond_fp16_are_refused_and_nothing_stays(tmp_path, small):
    source = published(tmp_path / "a", small, "later", dtype=torch.float32)
    held = {k: v.clone() for k, v in load_file(source / "model.safetensors").items()}
    held["lm_head.weight"][3, 3] = 1e6
    save_file(held, source / "model.safetensors")
    with pytest.raises(DataError, match=r"lm_head.weight is out of range for torch.float16: 1 values"):
        export(source, tmp_path / "b", "qwen2", dtype=torch.float16)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("layout", ["qwen1", "qwen2"])
def test_tied_embeddings(tmp_path, small, layout):
    source = published(tmp_path / "a", small, "qwen2")
    held = {k: v.clone() for k, v in load_file(source / "model.safetensors").items()}
    del held["lm_head.weight"]
    save_file(held, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text(json.dumps({**QWEN2, "tie_word_embeddings": True}))
    out = export(source, tmp_path / "b", layout)
    assert torch.equal(load_model(out).head.weight, load_model(source).embed.weight)
    if layout == "qwen2":
        assert files(out) == files(source)


# generation_config.json


def generation(folder: Path) -> dict:
    return json.loads((folder / "generation_config.json").read_text())


def test_generation_values_cross_layouts(tmp_path, small):
    """top_p 0.5 is this checkpoint's own; the penalty is the released chat models'."""
    source = published(tmp_path / "a", small, "later")
    assert generation(export(source, tmp_path / "b", "qwen2")) == {
        "do_sample": True,
        "max_new_tokens": 512,
        "top_k": 0,
        "top_p": 0.5,
        "repetition_penalty": 1.1,
        "pad_token_id": 57,
        "eos_token_id": [59, 57],
    }
    back = generation(export(tmp_path / "b", tmp_path / "c", "qwen1"))
    assert back["chat_format"] == "chatml" and back["eos_token_id"] == 57 and back["max_window_size"] == 16


@pytest.mark.parametrize("chat", [None, False, True])
@pytest.mark.parametrize("layout", ["qwen1", "qwen2"])
def test_generation_of_a_stage(tmp_path, small, layout, chat):
    save_model(small, tmp_path / "a", eos_ids=[59, 57] if chat is None else [])
    values = generation(export(tmp_path / "a", tmp_path / "b", layout, chat=chat))
    talks = chat is not False
    assert values["top_p"] == 0.8 and ("repetition_penalty" in values) == talks
    if layout == "qwen2":
        assert values["eos_token_id"] == ([59, 57] if talks else 57)
    else:
        assert values["chat_format"] == ("chatml" if talks else "raw")
        assert values.get("stop_words_ids") == (None if talks else [[57]])


# What cannot be said


def test_what_is_lost():
    config = ModelConfig(vocab_size=8, hidden_size=8, num_layers=2, num_heads=1, max_length=64)
    assert lost(config, "qwen1") is None
    for naming in ("qwen2", "gguf"):
        assert "no dynamic NTK, no LogN" in lost(config, naming) and "up to 64 tokens" in lost(config, naming)
    plain = config.model_copy(update={"dynamic_ntk": False, "logn": False})
    assert lost(plain, "qwen2") is None
    windowed = plain.model_copy(update={"windows": (32, 128)})
    assert "windows by layer" in lost(windowed, "qwen1") and "up to 32 tokens" in lost(windowed, "qwen2")
    only = plain.model_copy(update={"logn": True})
    assert "NTK" not in lost(only, "gguf")


@torch.inference_mode()
def test_the_limit_named_is_the_true_one(tmp_path, small):
    """Equal up to the length that `lost` names, different one token later."""
    from transformers import AutoModelForCausalLM

    save_model(Qwen(small.config.model_copy(update={"windows": (6, 8, 12)})), tmp_path / "a")
    model = load_model(tmp_path / "a")
    assert "up to 6 tokens" in lost(model.config, "qwen2")
    theirs = AutoModelForCausalLM.from_pretrained(export(tmp_path / "a", tmp_path / "b", "qwen2")).eval()
    gap = (model(IDS) - theirs(IDS).logits).abs().amax((0, 2))
    assert gap[:6].max() <= 1e-5 and gap[6] > 1e-3 * gap.max()


# GGUF


def vocabulary(count: int) -> Vocabulary:
    return Vocabulary(
        tokens=[f"t{i}" for i in range(count)],
        control=frozenset({57, 58, 59}),
        merges=["t 1"],
        eos_id=59,
        pad_id=57,
        chat_template="{{ messages }}",
    )


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_gguf_holds_every_weight(tmp_path, small, dtype):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    save_model(small, tmp_path / "a", layout="qwen1")
    with whole_file(tmp_path / "m.gguf") as file:
        write_gguf(file, open_checkpoint(tmp_path / "a"), vocabulary(60), dtype, "a model")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    held = {tensor.name: tensor for tensor in reader.tensors}
    assert len(held) == 3 + 12 * 3
    kind = {torch.float16: "F16", torch.bfloat16: "BF16"}.get(dtype, "F32")
    assert held["blk.1.attn_k.weight"].tensor_type.name == kind
    assert held["blk.1.attn_k.bias"].tensor_type.name == held["output_norm.weight"].tensor_type.name == "F32"
    C, parameters = 40, dict(small.named_parameters())
    wanted = {
        "blk.1.attn_k.weight": parameters["blocks.1.attn.qkv.weight"][C : 2 * C],
        "blk.2.attn_v.bias": parameters["blocks.2.attn.qkv.bias"][2 * C :],
        "blk.0.ffn_gate.weight": parameters["blocks.0.mlp.gate.weight"],
        "token_embd.weight": parameters["embed.weight"],
        "output.weight": parameters["head.weight"],
    }
    for name, ours in wanted.items():
        theirs = torch.from_numpy(gguf.dequantize(held[name].data, held[name].tensor_type).copy())
        cast = ours if ours.dim() == 1 else ours.to(dtype or torch.float32).float()
        assert torch.equal(theirs.reshape(ours.shape), cast), name


def test_gguf_settings(tmp_path, small):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    save_model(small, tmp_path / "a")
    write_gguf(tmp_path / "m.gguf", open_checkpoint(tmp_path / "a"), vocabulary(60), None, "a model")
    said = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    for name, value in {
        "general.architecture": "qwen2",
        "general.name": "a model",
        "qwen2.context_length": 16,
        "qwen2.embedding_length": 40,
        "qwen2.block_count": 3,
        "qwen2.feed_forward_length": 56,
        "qwen2.attention.head_count": 5,
        "qwen2.attention.head_count_kv": 5,
        "qwen2.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.eos_token_id": 59,
        "tokenizer.ggml.padding_token_id": 57,
        "tokenizer.chat_template": "{{ messages }}",
    }.items():
        assert said[name] == value, name
    assert said["tokenizer.ggml.tokens"][-2:] == ["t59", "[PAD60]"]
    assert said["tokenizer.ggml.token_type"][56:] == [1, 3, 3, 3, 5]


def test_gguf_refuses_a_larger_vocabulary(tmp_path, small):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    save_model(small, tmp_path / "a")
    with pytest.raises(DataError, match="62 ids, the model 61"), whole_file(tmp_path / "m.gguf") as file:
        write_gguf(file, open_checkpoint(tmp_path / "a"), vocabulary(62), None, "a model")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# Whole or not at all


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_nothing_stays_of_a_broken_export(tmp_path, whole, error):
    with pytest.raises(error), whole(tmp_path / "out") as place:
        (place if whole is whole_file else place / "part").write_text("half")
        assert not (tmp_path / "out").exists()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for whole, name in (
        (whole_file, "file"),
        (whole_file, "empty"),
        (whole_folder, "file"),
        (whole_folder, "full"),
    ):
        with pytest.raises(UsageError, match="choose another --out"), whole(tmp_path / name):
            raise AssertionError("the body must not run")
    with whole_folder(tmp_path / "empty") as place:
        (place / "new").write_text("x")
    with whole_file(tmp_path / "deep/er") as place:
        place.write_text("x")
    assert (tmp_path / "empty/new").is_file() and (tmp_path / "deep/er").is_file()
    assert (tmp_path / "file").read_text() == (tmp_path / "full/file").read_text() == "mine"
