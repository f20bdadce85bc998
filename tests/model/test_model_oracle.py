"""Logits, gradients and caches equal to the released code's (reference data beside the checkout)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from openqwen.model import Extension, KVCache, ModelConfig, load_model, save_model
from openqwen.model.context import inverse_frequencies, logn_at, ntk_alpha, rotary_table

pytestmark = pytest.mark.shared
FLAGS = {
    "none": Extension(),
    "ntk": Extension(dynamic_ntk=True),
    "logn": Extension(logn=True),
    "ntk_logn": Extension(dynamic_ntk=True, logn=True),
}
FULL = [(n, "ntk_logn") for n in (1, 40, 63, 64, 65, 128, 129, 256, 257)]
FULL += [(n, flags) for n in (128, 256) for flags in ("none", "ntk", "logn")]


@pytest.fixture(scope="module")
def model(shared: Path):
    return load_model(shared / "oracle/tiny_qwen1")


def close(ours: torch.Tensor, theirs: torch.Tensor, bound: float = 1e-4) -> None:
    assert ours.shape == theirs.shape
    assert (ours.float() - theirs.float()).abs().max() <= bound


@pytest.mark.parametrize(("length", "flags"), FULL)
@torch.inference_mode()
def test_full_forward_equals_released_code(model, qwen1, length, flags):
    ids = qwen1["input_ids_257"][:, :length].long()
    close(model(ids, extension=FLAGS[flags])[0], qwen1[f"full_L{length}.{flags}.logits"])


@torch.inference_mode()
def test_flags_come_from_the_config_unless_given(model, qwen1):
    ids = qwen1["input_ids_257"][:, :128].long()
    close(model(ids)[0], qwen1["full_L128.ntk_logn.logits"])


@pytest.mark.parametrize("case", ["left_short", "right_short", "right_long"])
@torch.inference_mode()
def test_padded_batches_equal_released_code(model, qwen1, case):
    mask = qwen1[f"batch_{case}.attention_mask"].bool()
    ours = model(qwen1[f"batch_{case}.input_ids"].long(), mask=mask)
    close(ours[mask], qwen1[f"batch_{case}.logits"][mask])


@torch.inference_mode()
def test_long_left_padded_rows_equal_what_each_has_alone(model, qwen1):
    """The released LogN counts the padding here (off by up to 1.8 logits); ours gives the right-padded result."""
    left, right = (
        (qwen1[f"batch_{s}_long.input_ids"].long(), qwen1[f"batch_{s}_long.attention_mask"].bool())
        for s in ("left", "right")
    )
    ours = model(left[0], mask=left[1])
    close(ours[left[1]], qwen1["batch_right_long.logits"][right[1]])
    assert (ours - qwen1["batch_left_long.logits"])[left[1]].abs().max() > 1


@pytest.mark.parametrize(
    ("case", "flags"),
    [
        ("P20_E63", "ntk_logn"),
        ("P50_E129", "ntk_logn"),
        ("P100_E129", "ntk_logn"),
        ("P65_E128", "ntk_logn"),
        ("P50_E129.no_ntk", "logn"),
        ("P50_E129.none", "none"),
    ],
)
@torch.inference_mode()
def test_released_decoding_keeps_the_base_of_the_prefill(model, qwen1, case, flags):
    start, end = (int(part[1:]) for part in case.split(".")[0].split("_"))
    ids = qwen1["input_ids_257"].long()
    cache = KVCache(model.config, 1, 16, extension=FLAGS[flags], mode="released")
    rows = [model(ids[:, :start], cache=cache)[0, -1]]
    rows += [model(ids[:, t : t + 1], cache=cache)[0, -1] for t in range(start, end)]
    close(torch.stack(rows), qwen1[f"decode_{case}.logits"])


@torch.inference_mode()
def test_left_padded_prefill_then_decode(model, qwen1):
    ids, mask = (qwen1[f"batch_left_short.{n}"] for n in ("input_ids", "attention_mask"))
    text = qwen1["input_ids_257"][0].long()
    cache = KVCache(model.config, 3, 8)
    model(ids.long(), mask=mask.bool(), cache=cache)
    for t in range(3):
        fed = torch.stack([text[3 * row + n + t] for row, n in enumerate((40, 25, 7))])[:, None]
        close(model(fed, cache=cache)[:, 0], qwen1["batch_left_short.decode3.logits"][:, t])


@torch.inference_mode()
def test_greedy_text_equals_released_code(model, qwen1):
    wanted = qwen1["greedy_P50_N40.ids"].long()
    cache = KVCache(model.config, 1, mode="released")
    ids = wanted[:50].tolist()
    step = torch.tensor([ids])
    while len(ids) < len(wanted):
        ids.append(int(model(step, cache=cache)[0, -1].argmax()))
        step = torch.tensor([ids[-1:]])
    assert ids == wanted.tolist()


@torch.inference_mode()
def test_several_tokens_at_once_are_causal(model, qwen1):
    """The released torch-2 path lets them see ahead of themselves; the full forward is what is right."""
    ids = qwen1["input_ids_257"].long()
    cache = KVCache(model.config, 1)
    model(ids[:, :30], cache=cache)
    close(model(ids[:, 30:40], cache=cache)[0], qwen1["full_L40.ntk_logn.logits"][30:])


@torch.inference_mode()
def test_cached_keys_and_values(model, qwen1):
    cache = KVCache(model.config, 1)
    model(qwen1["input_ids_257"][:, :128].long(), cache=cache)
    for layer in range(3):
        close(cache.keys[layer][0, :, :128].transpose(0, 1), qwen1[f"cache_L128.{layer}.key"])
        close(cache.values[layer][0, :, :128].transpose(0, 1), qwen1[f"cache_L128.{layer}.value"])


def test_training_loss_and_gradients(shared, qwen1):
    model = load_model(shared / "oracle/tiny_qwen1").train()
    logits = model(qwen1["input_ids_257"][:, :128].long())
    close(logits[0], qwen1["train_L128.logits"])
    labels = qwen1["train_L128.labels"].long()
    loss = F.cross_entropy(logits[0, :-1], labels[0, 1:])
    assert abs(loss.item() - float(qwen1["train_L128.loss"])) < 1e-5
    loss.backward()
    parameters = dict(model.named_parameters())
    for ours, theirs in {
        "embed.weight": "transformer.wte.weight",
        "head.weight": "lm_head.weight",
        "blocks.0.attn.qkv.weight": "transformer.h.0.attn.c_attn.weight",
        "blocks.1.attn.qkv.bias": "transformer.h.1.attn.c_attn.bias",
        "blocks.1.mlp.gate.weight": "transformer.h.1.mlp.w2.weight",
        "blocks.2.mlp.up.weight": "transformer.h.2.mlp.w1.weight",
        "blocks.2.attn_norm.weight": "transformer.h.2.ln_1.weight",
    }.items():
        close(parameters[ours].grad, qwen1[f"train_L128.grad.{theirs}"], 1e-5)


@pytest.mark.parametrize("length", [40, 128])
@torch.inference_mode()
def test_bfloat16_stays_as_near_as_the_released_code(shared, qwen1, length):
    model = load_model(shared / "oracle/tiny_qwen1", dtype=torch.bfloat16)
    ours = model(qwen1["input_ids_257"][:, :length].long())[0].float()
    theirs = qwen1[f"bf16_L{length}.logits"].float()
    exact = qwen1[f"full_L{length}.ntk_logn.logits"]
    rms = lambda x: x.square().mean().sqrt()  # noqa: E731
    assert rms(ours - exact) <= 1.1 * rms(theirs - exact)


@pytest.mark.parametrize("alpha", [1, 3, 7, 15])
def test_rotary_tables_at_released_size(shared, alpha):
    from safetensors.torch import load_file

    oracle = load_file(shared / "oracle/tiny_qwen1/rope_logn_release_dims.safetensors")
    name = f"dim128_alpha{alpha}"
    close(inverse_frequencies(128, 10000.0, torch.tensor(alpha)), oracle[f"{name}.inv_freq"], 1e-7)
    cos, sin = rotary_table(8200, 128, 10000.0, alpha, torch.device("cpu"))
    for position in (2047, 8191, 8199):
        close(cos[0, position, 0].repeat(2), oracle[f"{name}.cos_{position}"], 1e-6)
        close(sin[0, position, 0].repeat(2), oracle[f"{name}.sin_{position}"], 1e-6)
    close(cos[0, :16, 0].repeat(1, 2), oracle[f"{name}.cos16"], 1e-6)


@pytest.mark.parametrize("length", [64, 2048, 8192])
def test_logn_factors(shared, length):
    from safetensors.torch import load_file

    oracle = load_file(shared / "oracle/tiny_qwen1/rope_logn_release_dims.safetensors")[f"logn_seq{length}"]
    config = ModelConfig(vocab_size=8, hidden_size=8, num_layers=1, num_heads=1, max_length=length)
    ours = logn_at(config, torch.arange(len(oracle))[None], None)[0, :, 0, 0]
    close(ours, oracle.flatten(), 1e-6)


def test_chunk_factors(shared):
    for file in ("ntk_alpha_release.json", "ntk_alpha_seq64.json"):
        for name, cases in json.loads((shared / "oracle/tiny_qwen1" / file).read_text()).items():
            for length, alpha in cases.items():
                assert ntk_alpha(int(length), int(name.split("=")[1])) == alpha


def test_first_generation_of_key_names(shared, qwen1, tmp_path):
    folder = shared / "oracle/tiny_qwen1"
    shutil.copy(folder / "config_legacy_v1.0_names.json", tmp_path / "config.json")
    shutil.copy(folder / "model.safetensors", tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert model.config == load_model(folder).config
    with torch.inference_mode():
        close(model(qwen1["input_ids_257"][:, :65].long())[0], qwen1["full_L65.ntk_logn.logits"])


def test_released_layout_round_trip_is_byte_equal(shared, tmp_path):
    save_model(load_model(shared / "oracle/tiny_qwen1"), tmp_path, layout="qwen1")
    theirs = (shared / "oracle/tiny_qwen1/model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == theirs
    said, ours = (
        json.loads((folder / "config.json").read_text())
        for folder in (shared / "oracle/tiny_qwen1", tmp_path)
    )
    for key in set(said) & set(ours) - {"max_position_embeddings", "use_flash_attn"}:
        assert ours[key] == said[key], key


def qwen2_folder(shared: Path, name: str, folder: Path) -> Path:
    shutil.copy(shared / f"oracle/tiny_qwen2/{name}.safetensors", folder / "model.safetensors")
    shutil.copy(shared / f"oracle/tiny_qwen2/{name}_config/config.json", folder / "config.json")
    return folder


@pytest.mark.parametrize("name", ["mha", "gqa_theta1e6"])
@torch.inference_mode()
def test_qwen2_layout(shared, qwen2, tmp_path, name):
    folder = qwen2_folder(shared, name, tmp_path)
    model = load_model(folder)
    for length in (1, 40, 128, 256):
        close(model(qwen2[f"{name}.L{length}.input_ids"].long())[0], qwen2[f"{name}.L{length}.logits"])
    cache = KVCache(model.config, 1)
    wanted = qwen2[f"{name}.greedy_P20_N30"].tolist()
    ids, step = wanted[:20], torch.tensor([wanted[:20]])
    while len(ids) < len(wanted):
        ids.append(int(model(step, cache=cache)[0, -1].argmax()))
        step = torch.tensor([ids[-1:]])
    assert ids == wanted
    save_model(model, tmp_path / "again")
    again = (tmp_path / "again/model.safetensors").read_bytes()
    assert again == (folder / "model.safetensors").read_bytes()


def test_newer_rope_key(shared, tmp_path):
    folder = qwen2_folder(shared, "gqa_theta1e6", tmp_path)
    values = json.loads((folder / "config.json").read_text())
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    (folder / "config.json").write_text(json.dumps(values))
    assert load_model(folder).config.rope_base == 1e6
