"""Adapters start as nothing, train alone, merge exactly, and are peft's files; NF4 is bitsandbytes' to the byte."""

from __future__ import annotations

import copy
import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from openqwen.core.config import resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model, save_model
from openqwen.sft.config import SFTConfig
from openqwen.train import lora, nf4
from openqwen.train.config import MATRICES, LoraConfig, OptimConfig
from openqwen.train.lora import add_lora, load_adapter, merge, save_adapter
from openqwen.train.optimizer import make_optimizer

IDS = torch.arange(24).view(2, 12) * 7 % 80


def tiny(seed: int = 0, **changes: object) -> Qwen:
    shape = {"vocab_size": 80, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "ffn_size": 96}
    config = ModelConfig(**{**shape, "max_length": 32, "dynamic_ntk": False, "logn": False, **changes})  # type: ignore[arg-type]
    model = Qwen(config)
    model.init_weights(seed)
    with torch.no_grad():  # biases and norms that matter
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def small(**changes: object) -> LoraConfig:
    return LoraConfig(**{"rank": 4, "dropout": 0.0, **changes})  # type: ignore[arg-type]


def stir(model: Qwen) -> Qwen:
    """As if it had been trained: every trained parameter moves."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def layer(model: Qwen, name: str) -> Any:
    return model.get_submodule(name)


@torch.no_grad()
def logits(model: Qwen) -> Tensor:
    return model(IDS)


def nearest_even(exact: Fraction, bits: int) -> Fraction:
    """The nearest number with so many significant bits, ties to even: rounding by its definition, for normal numbers."""
    size, unit = abs(exact), Fraction(1)
    while size >= unit * 2**bits:
        unit *= 2
    while size < unit * 2 ** (bits - 1):
        unit /= 2
    return round(exact / unit) * unit  # Python rounds a fraction's ties to even


def test_defaults_are_the_released_scripts() -> None:
    default = LoraConfig()
    assert (default.rank, default.alpha, default.dropout, default.targets) == (64, 16, 0.05, MATRICES)
    assert default.trains_embeddings and not LoraConfig(quantize="nf4").trains_embeddings
    released = resolve(SFTConfig, "sft", ["lora-sft"], environ={}).config
    assert released.lora == default and released.optim.lr == 3e-4 and released.batch_size == 16
    four_bits = resolve(SFTConfig, "sft", ["lora-sft", "lora-nf4"], environ={}).config
    assert four_bits.lora == LoraConfig(quantize="nf4")


def test_new_adapters_change_nothing_and_are_alike_for_a_seed() -> None:
    model, before = tiny(), logits(tiny())
    add_lora(model, small(), 3)
    assert torch.equal(logits(model), before)
    assert sorted(lora.adapters(model)) == sorted(
        f"blocks.{i}.{name}"
        for i in range(2)
        for name in ("attn.qkv", "attn.out", "mlp.gate", "mlp.up", "mlp.down")
    )
    first = layer(model, "blocks.0.attn.qkv").a
    assert 0.11 < first.abs().max().item() <= 1 / 8  # uniform within 1 / sqrt(64)
    again, other = tiny(), tiny()
    add_lora(again, small(), 3)
    add_lora(other, small(), 4)
    assert torch.equal(first, layer(again, "blocks.0.attn.qkv").a)
    assert not torch.equal(first, layer(other, "blocks.0.attn.qkv").a)


@pytest.mark.parametrize("embeddings", [True, False])
def test_only_adapters_and_embeddings_are_trained(embeddings: bool) -> None:
    model = tiny()
    add_lora(model, small(targets=("qkv", "down"), train_embeddings=embeddings), 0)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = make_optimizer(model, OptimConfig())
    held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    each = 2 * 4 * ((64 + 192) + (96 + 64))  # layers, rank, inputs and outputs of both matrices
    assert held == lora.sizes(model)["trained_parameters"] == each + 2 * 80 * 64 * embeddings
    model.train()(IDS).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) == 4 + 2 * embeddings  # B at first (A waits for it), embedding and head
    names = set(lora.trained(model).state_dict())
    assert len(names) == 8 + 2 * embeddings and "blocks/1/mlp/down/a" in names


def test_a_checkpoint_without_adapters_is_the_model() -> None:
    model = tiny()
    assert lora.trained(model) is model


# Merging


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_rounds_the_exact_sum_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(24, 16, bias=False).to(dtype)
    adapted = lora.LoraLinear(linear, 3, 16.0, 0.0, "")
    with torch.no_grad():
        for tensor in (adapted.a, adapted.b):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    w, a, b = (t.double().tolist() for t in (linear.weight, adapted.a, adapted.b))
    scale, bits = Fraction(16, 3), 24 if dtype == torch.float32 else 8
    want = [
        [
            float(
                nearest_even(
                    Fraction(w[o][i]) + scale * sum(Fraction(b[o][r]) * Fraction(a[r][i]) for r in range(3)),
                    bits,
                )
            )
            for i in range(24)
        ]
        for o in range(16)
    ]
    found = lora.merged(adapted)
    assert found.dtype == dtype and torch.equal(found.double(), torch.tensor(want, dtype=torch.float64))


def test_sixteen_bits_are_rounded_once() -> None:
    """Just above the middle of two bfloat16: by way of fp32 it would become the middle and go to the even one, below."""
    exact = torch.tensor([1 + 2**-8 + 2**-40, -1 - 2**-8 - 2**-40], dtype=torch.float64)
    assert exact.bfloat16().tolist() == [1.0, -1.0]
    assert lora.round_once(exact, torch.bfloat16).tolist() == [1 + 2**-7, -1 - 2**-7]
    many = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for dtype, bits in ((torch.bfloat16, 8), (torch.float16, 11), (torch.float32, 24)):
        normal = many[many.abs() > 1e-3]
        want = [float(nearest_even(Fraction(x), bits)) for x in normal.tolist()]
        assert lora.round_once(normal, dtype).double().tolist() == want


def test_the_merged_model_computes_the_same_and_is_exported_as_any_other(tmp_path: Path) -> None:
    model = tiny()
    names = [name for name, _ in model.named_parameters()]
    add_lora(model, small(), 0)
    stir(model)
    unmerged = logits(model)
    assert (unmerged - logits(tiny())).abs().max() > 0.1
    merge(model)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
    found = logits(model)
    # 64 and 96 products a sum, two layers: some units in the last place of the largest logit.
    assert (found - unmerged).abs().max() <= 32 * torch.finfo(torch.float32).eps * unmerged.abs().max()
    for layout in ("qwen1", "qwen2"):
        save_model(model, tmp_path / layout, layout=layout)
        assert torch.equal(logits(load_model(tmp_path / layout)), found)
    add_lora(model, small(), 0)  # it is a plain model again


# NF4


def slow_codes(weight: Tensor) -> list[int]:
    """The nearest of the 16 values, one weight after the other."""
    codes = []
    for block in weight.double().view(-1, 64).tolist():
        largest = max(map(abs, block))
        for value in block:
            distances = [abs(value - largest * v) for v in nf4.VALUES]
            codes.append(distances.index(min(distances)))
    return [high << 4 | low for high, low in zip(codes[::2], codes[1::2])]


def test_nf4_values_are_quantiles_of_a_normal_distribution() -> None:
    """Eight positive and seven negative ones, evenly spread in probability between 1/2 and 0.9677083, and zero."""
    end = torch.tensor(0.9677083, dtype=torch.float64)
    half = torch.tensor(0.5, dtype=torch.float64)
    above = torch.special.ndtri(torch.linspace(float(end), float(half), 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(float(end), float(half), 8, dtype=torch.float64)[:-1])
    values = torch.cat((below, torch.zeros(1, dtype=torch.float64), above)).sort().values
    assert torch.allclose(values / values.max(), torch.tensor(nf4.VALUES, dtype=torch.float64), atol=3e-7)


def test_nf4_is_that_of_bitsandbytes() -> None:
    """Hashes of what quantize_4bit(w, blocksize=64, quant_type="nf4") of bitsandbytes 0.50.2 gives, one block all zero."""
    w = ((torch.arange(64 * 256) * 40503 % 65521) - 32760).float() / 2**15
    w[64:128] = 0
    codes, scales = nf4.quantize(w.view(64, 256))
    assert hashlib.sha256(codes.numpy().tobytes()).hexdigest() == (
        "48af2cbb0a1fc180414464d1e01326bb33481294c88c964306aee65ab3b7d785"
    )
    assert hashlib.sha256(scales.numpy().tobytes()).hexdigest() == (
        "ed4bbca98079198322d35976dfa5d3118a585e4a54cca0cdac7e36edc6a4caca"
    )
    restored = nf4.dequantize(codes, scales, torch.Size((64, 256)))
    assert torch.equal(restored.view(-1)[64:128], torch.zeros(64))


def test_nf4_takes_the_nearest_value_and_stays_there() -> None:
    w = torch.randn(16, 128, generator=torch.Generator().manual_seed(2))
    codes, scales = nf4.quantize(w)
    assert codes.tolist() == slow_codes(w)
    restored = nf4.dequantize(codes, scales, w.shape)
    again, _ = nf4.quantize(restored)
    assert torch.equal(codes, again)
    assert float((restored - w).square().mean().sqrt()) < 0.1  # 9 % of a normal distribution's spread
    with pytest.raises(UsageError, match=r"\[5, 10\] does not divide into blocks of 64"):
        nf4.quantize(torch.zeros(5, 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_in_four_bits_is_a_linear_layer_of_its_values(dtype: torch.dtype) -> None:
    linear = nn.Linear(64, 32)
    packed, plain = nf4.NF4Linear(linear), copy.deepcopy(linear)
    plain.weight = nn.Parameter(packed.weight)
    inputs, grads, outputs = torch.randn(3, 5, 64), [], []
    for one in (packed, plain):
        x = inputs.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = one(x)
        y.float().square().sum().backward()
        outputs.append(y)
        assert x.grad is not None
        grads.append(x.grad)
    assert outputs[0].dtype == outputs[1].dtype == dtype
    bound = 1e-5 if dtype == torch.float32 else 0.02
    assert torch.allclose(outputs[0].float(), outputs[1].float(), atol=bound, rtol=bound)
    assert torch.allclose(grads[0], grads[1], atol=2 * bound, rtol=2 * bound)


def test_qlora_packs_the_blocks_keeps_the_rest_and_merges_what_it_trained(tmp_path: Path) -> None:
    model = tiny()
    embedding = model.embed.weight.clone()
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    before = sum(p.numel() * 4 for p in model.parameters())
    add_lora(model, small(quantize="nf4", targets=("qkv", "up")), 0)
    # 4 bits a weight and one fp32 scale for 64 of them, where there were 32 bits.
    assert lora.sizes(model)["frozen_bytes"] == before - matrices * 4 + matrices // 2 + matrices // 64 * 4
    assert not model.head.weight.requires_grad and isinstance(
        layer(model, "blocks.0.mlp.down"), nf4.NF4Linear
    )
    stir(model)
    unmerged = logits(model)
    down, qkv = layer(model, "blocks.1.mlp.down").weight, layer(model, "blocks.1.attn.qkv")
    want = (qkv.base.weight.double() + 4 * (qkv.b.double() @ qkv.a.double())).float()
    merge(model)
    assert torch.equal(layer(model, "blocks.1.mlp.down").weight, down)
    assert torch.equal(layer(model, "blocks.1.attn.qkv").weight, want)
    assert torch.equal(model.embed.weight, embedding)
    assert (logits(model) - unmerged).abs().max() <= 1e-5 * unmerged.abs().max()
    save_model(model, tmp_path)
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


def test_a_half_precision_base_is_packed_as_it_stands(tmp_path: Path) -> None:
    save_model(tiny().bfloat16(), tmp_path)
    model = lora.load_base(tmp_path, small(quantize="nf4"), 0, 0.0)
    whole = load_model(tmp_path, dtype=torch.float32)
    add_lora(whole, small(quantize="nf4"), 0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(logits(model), logits(whole))


# Files


@pytest.mark.parametrize("layout", ["qwen1", "qwen2"])
@pytest.mark.parametrize("targets", [MATRICES, ("out", "gate")])
def test_an_adapter_comes_back_as_it_was(
    layout: lora.Layout, targets: tuple[str, ...], tmp_path: Path
) -> None:
    model = tiny()
    add_lora(model, small(targets=targets), 0)
    stir(model)
    save_adapter(model, tmp_path, layout)
    other = tiny()
    load_adapter(other, tmp_path)
    assert torch.equal(logits(other), logits(model))
    same = dict(model.named_parameters())
    assert all(torch.equal(p, same[name]) for name, p in other.named_parameters())
    half = tiny().bfloat16()
    load_adapter(half, tmp_path)
    assert (logits(half).float() - logits(model)).abs().max() < 0.1 * logits(model).abs().max()
    assert {n for n, p in other.named_parameters() if p.requires_grad} == {
        n for n, p in same.items() if p.requires_grad
    }
    names = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    if layout == "qwen1":  # one published name stands for two matrices
        assert names == (["attn.c_proj", "w2"] if len(targets) == 2 else ["c_attn", "c_proj", "w1", "w2"])


def test_adapters_of_query_key_and_value_become_one(tmp_path: Path) -> None:
    """peft trains an A for each of q, k and v, or adapts some of them only: still one matrix of ours, exactly."""
    model = tiny(num_kv_heads=2)
    generator = torch.Generator().manual_seed(0)
    for name, rows in (("q", 64), ("v", 32)):
        stem = f"base_model.model.model.layers.1.self_attn.{name}_proj"
        tensors = load_file(tmp_path / lora.WEIGHTS) if (tmp_path / lora.WEIGHTS).exists() else {}
        tensors[f"{stem}.lora_A.weight"] = torch.randn(4, 64, generator=generator)
        tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
        save_file(tensors, tmp_path / lora.WEIGHTS)
    (tmp_path / lora.CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    load_adapter(model, tmp_path)
    assert list(lora.adapters(model)) == ["blocks.1.attn.qkv"]
    q, v = (
        tensors[f"base_model.model.model.layers.1.self_attn.{n}_proj.lora_B.weight"].double()
        @ tensors[f"base_model.model.model.layers.1.self_attn.{n}_proj.lora_A.weight"].double()
        for n in "qv"
    )
    base = layer(tiny(num_kv_heads=2), "blocks.1.attn.qkv").weight.double()
    want = base + 2 * torch.cat((q, torch.zeros(32, 64), v))
    assert torch.equal(layer(merge(model), "blocks.1.attn.qkv").weight, want.float())


@pytest.mark.fault("files from strangers", "an adapter of another model", "refused")
def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    model = tiny()
    add_lora(model, small(), 0)
    stir(model)
    save_adapter(model, tmp_path)
    with pytest.raises(UsageError, match="has adapters already"):
        load_adapter(model, tmp_path)
    with pytest.raises(UsageError, match="has adapters already"):
        add_lora(model, small(), 0)
    with pytest.raises(UsageError, match="no adapters to save"):
        save_adapter(tiny(), tmp_path)
    with pytest.raises(DataError, match=r"lora_A.weight is \[4, 64\], \[4, 32\] is needed.*another model"):
        load_adapter(tiny(hidden_size=32), tmp_path)
    with pytest.raises(DataError, match=r"model.layers.1.*has no place"):
        load_adapter(tiny(num_layers=1), tmp_path)
    with pytest.raises(DataError, match="trained on a base with other weights"):
        load_adapter(tiny(1), tmp_path)
    with pytest.raises(DataError, match="trained on a base with other weights"):
        load_adapter(merge(model), tmp_path)  # it would count twice
    config = json.loads((tmp_path / lora.CONFIG).read_text())
    (tmp_path / lora.CONFIG).write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(DataError, match="use_dora = True is not computed here"):
        load_adapter(tiny(), tmp_path)
    (tmp_path / lora.CONFIG).write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(DataError, match=r"\[8, 64\] is needed"):
        load_adapter(tiny(), tmp_path)
    (tmp_path / lora.CONFIG).write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(DataError, match="no LoRA adapter"):
        load_adapter(tiny(), tmp_path)
    (tmp_path / lora.CONFIG).write_text(json.dumps(config))
    tensors = load_file(tmp_path / lora.WEIGHTS)
    tensors["base_model.model.lm_head.weight"][0, 0] = torch.nan
    save_file(tensors, tmp_path / lora.WEIGHTS)
    with pytest.raises(DataError, match=r"lm_head.weight holds NaN"):
        load_adapter(tiny(), tmp_path)
    (tmp_path / lora.WEIGHTS).write_bytes(b"no such thing")
    with pytest.raises(DataError, match="damaged"):
        load_adapter(tiny(), tmp_path)
    (tmp_path / lora.WEIGHTS).unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match="pickled"):
        load_adapter(tiny(), tmp_path)
    with pytest.raises(DataError, match="no adapter there"):
        load_adapter(tiny(), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("lora.rank", "0", r"lora.rank = 0: Input should be greater than 0"),
        ("lora.targets", '["gate_proj"]', "no matrix of a block is called 'gate_proj'. Did you mean 'gate'"),
        ("lora.targets", "[]", "no matrix is named"),
        ("lora.rnak", "8", "unknown setting 'lora.rnak'. Did you mean 'lora.rank'"),
        ("lora.quantize", "int3", "lora.quantize = 'int3'"),
    ],
)
def test_impossible_settings_are_refused(flag: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(SFTConfig, "sft", flags={flag: value}, environ={})


# peft as the outside reference


def test_a_layer_is_pefts() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    linear = nn.Linear(24, 40)
    ours: Any = lora.LoraLinear(copy.deepcopy(linear), 4, 6.0, 0.0, "")
    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["qkv"], init_lora_weights=False)
    theirs = peft.inject_adapter_in_model(settings, nn.ModuleDict({"qkv": linear}))["qkv"]
    with torch.no_grad():
        ours.a.copy_(theirs.lora_A["default"].weight)
        ours.b.copy_(theirs.lora_B["default"].weight)
    x = torch.randn(3, 7, 24)
    results = [one(x) for one in (ours, theirs)]
    assert torch.allclose(results[0], results[1], atol=1e-6)
    for result in results:
        result.square().sum().backward()
    assert torch.allclose(ours.a.grad, theirs.lora_A["default"].weight.grad, rtol=1e-4, atol=1e-4)
    assert torch.allclose(ours.b.grad, theirs.lora_B["default"].weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", [MATRICES, ("qkv", "down")])
def test_peft_reads_our_adapter_on_the_exported_base(targets: tuple[str, ...], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = tiny(num_kv_heads=2)
    save_model(model, tmp_path / "base")
    add_lora(model, small(targets=targets), 0)
    stir(model)
    save_adapter(model, tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ours = logits(model)
    with torch.no_grad():
        assert (theirs(IDS).logits - ours).abs().max() <= 1e-5 * ours.abs().max()
        merged = theirs.merge_and_unload()
        assert (merged(IDS).logits - logits(merge(model))).abs().max() <= 1e-5 * ours.abs().max()


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_we_read_pefts_adapter(targets: list[str] | str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = tiny(num_kv_heads=2)
    save_model(model, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        modules_to_save=["lm_head"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    theirs = peft.get_peft_model(base, settings).eval()
    with torch.no_grad():
        theirs.base_model.model.lm_head.weight.mul_(1.5)
    theirs.save_pretrained(tmp_path / "adapter")
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        want = theirs(IDS).logits
    assert (want - logits(tiny(num_kv_heads=2))).abs().max() > 0.1
    assert (logits(model) - want).abs().max() <= 1e-5 * want.abs().max()
    assert model.head.weight.requires_grad and not model.embed.weight.requires_grad
