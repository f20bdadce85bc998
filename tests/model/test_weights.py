"""Checkpoints: round trips, other programs' readers, and every damage refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openqwen.core.errors import DataError, UsageError
from openqwen.model import ModelConfig, Qwen, ScalarModel, load_model, load_scalar, save_model, save_scalar
from openqwen.model.weights import find_tensors, read_header

IDS = torch.randint(0, 61, (2, 14), generator=torch.Generator().manual_seed(0))
CONFIG = ModelConfig(vocab_size=61, hidden_size=40, num_layers=2, num_heads=5, max_length=16)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("layout", ["qwen1", "qwen2"])
@pytest.mark.parametrize("shard_bytes", [5 << 30, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_byte_equal(tmp_path, layout, shard_bytes, dtype):
    model = Qwen(CONFIG.model_copy(update={"windows": (8, 16), "dynamic_ntk": False})).to(dtype)
    for name in ("one", "two"):
        save_model(model, tmp_path / name, layout=layout, shard_bytes=shard_bytes, eos_ids=[60, 59])
        model = load_model(tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (len(list((tmp_path / "one").glob("*.safetensors"))) == 1) == (shard_bytes > 10**6)
    assert model.config.windows == (8, 16) and not model.config.dynamic_ntk and not model.training


def test_the_formats_own_library_agrees(tmp_path):
    save_model(Qwen(CONFIG), tmp_path / "ours")
    save_file(load_file(tmp_path / "ours/model.safetensors"), tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "ours/model.safetensors").read_bytes()


@pytest.mark.parametrize("kv_heads", [None, 1])
@torch.inference_mode()
def test_transformers_loads_what_we_save(tmp_path, small, kv_heads):
    from transformers import AutoModelForCausalLM

    model = small
    if kv_heads:
        model = Qwen(small.config.model_copy(update={"num_kv_heads": kv_heads})).eval()
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(theirs).__name__ == "Qwen2ForCausalLM"
    torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_transformers_loads_a_reward_model(tmp_path, small):
    from transformers import AutoModelForSequenceClassification

    model = ScalarModel.from_qwen(small, seed=7).eval()
    save_scalar(model, tmp_path)
    assert torch.equal(load_scalar(tmp_path)(IDS), model(IDS))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    theirs.config.pad_token_id = 60
    row = IDS[:1].clamp(max=59)
    torch.testing.assert_close(model(row)[:, -1:], theirs(row).logits, atol=1e-5, rtol=1e-5)


def test_a_scalar_model_is_a_copy(small):
    model = ScalarModel.from_qwen(small, seed=7)
    with torch.no_grad():
        model.backbone.embed.weight.zero_()
    assert small.embed.weight.abs().sum() > 0
    assert not torch.equal(model.scalar.weight, ScalarModel.from_qwen(small, seed=8).scalar.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype_can_be_asked_for(tmp_path, dtype):
    model = Qwen(CONFIG)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, dtype=dtype)
    for (name, ours), theirs in zip(model.named_parameters(), loaded.parameters()):
        assert torch.equal(ours.to(dtype), theirs), name


def test_flags_and_dropout_may_be_set_on_loading(tmp_path):
    save_model(Qwen(CONFIG.model_copy(update={"dropout": 0.3})), tmp_path)
    model = load_model(tmp_path, dynamic_ntk=False, logn=False, windows=[4, 8], dropout=0.1)
    assert (model.config.dynamic_ntk, model.config.logn, model.config.windows) == (False, False, (4, 8))
    assert model.blocks[0].dropout.p == 0.1 and load_model(tmp_path).config.dropout == 0.0
    with pytest.raises(UsageError, match="one a layer"):
        load_model(tmp_path, windows=[4])


def test_tied_embeddings_become_two_equal_tensors(tmp_path):
    save_model(Qwen(CONFIG), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": True}))
    model = load_model(tmp_path)
    assert torch.equal(model.head.weight, model.embed.weight)
    assert model.head.weight.data_ptr() != model.embed.weight.data_ptr()


# Damage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(Qwen(CONFIG), tmp_path)
    return tmp_path


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Rewrites the weights with some tensors replaced (or removed: None); names with . written as __."""
    held = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        held.pop(name.replace("__", "."), None)
        if tensor is not None:
            held[name.replace("__", ".")] = tensor
    save_file(held, folder / "model.safetensors")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        load_model(folder)
    for word in words:
        assert word in str(caught.value)


def test_missing_tensor(folder):
    change(folder, model__layers__1__self_attn__k_proj__bias=None)
    refused(folder, "model.layers.1.self_attn.k_proj.bias [40] is missing")


def test_extra_tensor(folder):
    change(folder, model__layers__2__mlp__up_proj__weight=torch.zeros(3, 4))
    refused(folder, "model.layers.2.mlp.up_proj.weight [3, 4] has no place")


def test_misshapen_tensor(folder):
    change(folder, model__norm__weight=torch.zeros(41))
    refused(folder, "model.norm.weight is [41], config.json asks for [40]")


def test_config_that_contradicts_its_tensors(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "vocab_size": 64}))
    refused(folder, "[61, 40]", "[64, 40]")


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(folder, poison):
    bad = torch.ones(40)
    bad[7] = poison
    change(folder, model__norm__weight=bad)
    refused(folder, "model.norm.weight holds NaN or infinity", "1 values")


def test_weights_beyond_the_dtype_asked_for(folder):
    change(folder, model__norm__weight=torch.full((40,), 1e6))
    load_model(folder)
    with pytest.raises(DataError, match=r"model.norm.weight is out of range for torch.float16"):
        load_model(folder, dtype=torch.float16)


@pytest.mark.parametrize("keep", [0, 5, 60, 2000, -1])
def test_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "model.safetensors")


def test_garbage_header(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 12) + b'{"a": "bcd"}')
    refused(folder, "not a readable safetensors file")


def test_header_is_checked_before_memory_is_spent(folder, monkeypatch):
    change(folder, model__norm__weight=torch.zeros(41))

    def no_memory(*args: object, **kwargs: object) -> None:
        raise AssertionError("memory was allocated for a checkpoint that is refused")

    monkeypatch.setattr("openqwen.model.weights._read_into", no_memory)
    refused(folder, "model.norm.weight")


def test_integer_weights(folder):
    change(folder, model__norm__weight=torch.zeros(40, dtype=torch.int8))
    refused(folder, "model.norm.weight has dtype I8")


def test_pickle_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin is a pickle", "safetensors.torch.save_file")


def test_missing_shard_and_wrong_index(tmp_path):
    save_model(Qwen(CONFIG), tmp_path, shard_bytes=20_000)
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    assert set(find_tensors(tmp_path)) == set(places["weight_map"])
    shard = places["weight_map"]["model.norm.weight"]
    outside = {**places["weight_map"], "model.norm.weight": "../other.safetensors"}
    index.write_text(json.dumps({**places, "weight_map": outside}))
    refused(tmp_path, "outside the folder")
    index.write_text(json.dumps(places))
    (tmp_path / shard).rename(tmp_path / "elsewhere")
    refused(tmp_path, f"shard {shard} is missing")


def test_a_new_save_leaves_no_old_shards(tmp_path):
    save_model(Qwen(CONFIG), tmp_path, shard_bytes=20_000)
    save_model(Qwen(CONFIG), tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]
    assert read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model_type", "llama", "'llama'"),
        ("use_sliding_window", True, "use_sliding_window"),
        ("rope_parameters", {"rope_type": "yarn"}, "yarn"),
        ("num_attention_heads", 7, "hidden_size 40"),
        ("hidden_size", "forty", "'forty'"),
        ("head_dim", 16, "head_dim 16"),
    ],
)
def test_configs_we_cannot_compute(folder, key, value, words):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, key: value}))
    refused(folder, words)


def test_not_a_model_folder(tmp_path):
    refused(tmp_path, "no config.json there")
