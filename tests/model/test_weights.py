"""Checkpoints: round trips, other programs' readers, and every damage refused by name."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.model import (
    ModelConfig,
    Qwen,
    ScalarModel,
    load_model,
    load_scalar,
    save_model,
    save_scalar,
    stored,
)
from openqwen.model.hf import Layout, pieces, write_config
from openqwen.model.stored import find_tensors, parameter_shapes, read_header

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


@pytest.mark.parametrize("shard_bytes", [7_000, 20_000, 60_000])
def test_shards_are_those_of_transformers(tmp_path, shard_bytes):
    from transformers import AutoConfig, AutoModelForCausalLM

    save_model(Qwen(CONFIG), tmp_path / "ours", shard_bytes=shard_bytes)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "ours"))
    theirs.load_state_dict(
        {k: v for file in (tmp_path / "ours").glob("*.safetensors") for k, v in load_file(file).items()}
    )
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard_bytes)
    ours, written = files(tmp_path / "ours"), files(tmp_path / "theirs")
    names = {name for name in written if name.endswith(".safetensors")}
    assert len(names) > 2 and {name: ours[name] for name in names} == {name: written[name] for name in names}
    index = "model.safetensors.index.json"
    assert json.loads(ours[index])["weight_map"] == json.loads(written[index])["weight_map"]


@pytest.mark.parametrize("kv_heads", [None, 1])
def test_shapes_are_known_without_building_a_model(kv_heads):
    config = CONFIG.model_copy(update={"num_kv_heads": kv_heads})
    for model, scalar in ((Qwen(config), False), (ScalarModel(config), True)):
        built = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        assert parameter_shapes(config, scalar) == built


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


@pytest.mark.parametrize("layout", ["qwen1", "qwen2"])
def test_mapped_weights_are_the_same_and_the_file_stays_as_it_is(tmp_path, layout):
    model = Qwen(CONFIG)
    save_model(model, tmp_path, layout=layout)
    before = files(tmp_path)
    loaded = load_model(tmp_path, mapped=True)
    for (name, ours), theirs in zip(model.named_parameters(), loaded.parameters()):
        assert torch.equal(ours, theirs), name
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert files(tmp_path) == before
    assert torch.equal(load_model(tmp_path, mapped=True).embed.weight, model.embed.weight)
    (tmp_path / "model.safetensors").unlink()
    loaded(IDS)


@pytest.mark.fault("files from strangers", "weights are larger than the memory", "mapped or refused")
def test_weights_larger_than_the_memory_are_mapped_or_refused(tmp_path, monkeypatch):
    save_model(Qwen(CONFIG), tmp_path, layout="qwen1")
    monkeypatch.setattr("openqwen.model.weights.available_memory", lambda: 1000)
    monkeypatch.setattr("openqwen.model.weights.read_stacked", None)  # nothing may be read
    load_model(tmp_path)(IDS)
    with pytest.raises(OpenQwenError, match="too little memory") as caught:
        load_model(tmp_path, dtype=torch.bfloat16)
    assert "float32" in str(caught.value)


PEAK = r"""
import re, sys, torch
from pathlib import Path
from openqwen.model.weights import load_model
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
before = peak()
model = load_model(sys.argv[1], dtype=getattr(torch, sys.argv[2]), mapped=sys.argv[3] == "mapped")
print(peak() - before, sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize(
    ("layout", "dtype", "how"),
    [
        ("qwen1", "bfloat16", "read"),
        ("qwen1", "bfloat16", "mapped"),
        ("qwen1", "float32", "read"),
        ("qwen2", "bfloat16", "mapped"),
        ("qwen2", "float16", "read"),
    ],
)
def test_loading_takes_the_weights_and_little_more(tmp_path, layout, dtype, how):
    """The pieces in between are of a fixed size, so what is little here is little at 14B."""
    config = ModelConfig(vocab_size=16_384, hidden_size=1024, num_layers=10, num_heads=8)
    write_zeros(tmp_path, config, layout)
    run = [sys.executable, "-c", PEAK, str(tmp_path), dtype, how]
    extra, size = map(int, subprocess.run(run, check=True, capture_output=True, text=True).stdout.split())
    assert size > 300 << 20
    assert extra < size + (256 << 20)


def write_zeros(folder: Path, config: ModelConfig, layout: Layout) -> None:
    """A checkpoint in bfloat16 whose weights are a hole in the file: no time and no disk."""
    shapes, header, at = parameter_shapes(config), {}, 0
    for piece in pieces(config, layout, shapes, False):
        shape = [piece.rows, *shapes[piece.ours][1:]]
        header[piece.name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * prod(shape)]}
        at += 2 * prod(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    (folder / "config.json").write_text(json.dumps(write_config(config, layout, "bfloat16", False)))


# Damage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(Qwen(CONFIG), tmp_path)
    return tmp_path


@pytest.fixture
def unread(monkeypatch) -> None:
    """No weight may be read."""

    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("memory was spent on a checkpoint that is refused")

    monkeypatch.setattr("openqwen.model.stored.read_stacked", read)
    monkeypatch.setattr("openqwen.model.weights.read_stacked", read)
    monkeypatch.setattr("openqwen.model.weights.map_tensor", read)


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


@pytest.mark.fault(
    "files from strangers", "a checkpoint is half downloaded", "refused, with the tensor's name"
)
@pytest.mark.parametrize("keep", [0, 5, 60, 2000, -1])
def test_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "model.safetensors")


def test_truncated_shard_names_the_tensor(tmp_path, unread):
    save_model(Qwen(CONFIG), tmp_path, shard_bytes=20_000)
    last = max(tmp_path.glob("model-*.safetensors"))
    last.write_bytes(last.read_bytes()[:-4])
    refused(tmp_path, "truncated", "tensor model.norm.weight [40]", last.name)


def rewrite_header(path: Path, change) -> None:
    """Replaces the header of a file, its weights kept."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    text = change(raw[8 : 8 + length].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.fault("files from strangers", "tensors overlap", "refused")
def test_tensors_that_share_bytes(folder, unread):
    def shift(text: str) -> str:
        header = json.loads(text)
        norm = header["model.norm.weight"]["data_offsets"]
        header["model.norm.weight"]["data_offsets"] = [n - 160 for n in norm]
        return json.dumps(header)

    rewrite_header(folder / "model.safetensors", shift)
    refused(folder, "tensor model.norm.weight begins at byte")


@pytest.mark.fault("files from strangers", "a file has bytes of no tensor", "refused")
def test_bytes_that_belong_to_no_tensor(folder, unread):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0\0\0")
    refused(folder, "3 bytes follow the last tensor")


@pytest.mark.fault("files from strangers", "a tensor is there twice", "refused")
def test_a_name_that_stands_twice(folder, unread):
    path = folder / "model.safetensors"
    rewrite_header(path, lambda text: text.replace("layers.1.mlp.up_proj", "layers.1.mlp.gate_proj"))
    refused(folder, "a name stands twice")


@pytest.mark.fault("files from strangers", "the header is no JSON", "refused")
def test_garbage_header(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 12) + b'{"a": "bcd"}')
    refused(folder, "not a readable safetensors file")


@pytest.mark.fault(
    "files from strangers", "a header promises more than the file holds", "refused before memory is spent"
)
@pytest.mark.parametrize("rows", [10**6, 2**40, 2**62])
@pytest.mark.parametrize("told", [True, False])
def test_header_is_checked_before_memory_is_spent(folder, unread, rows, told):
    """The last tensor has so many rows: with offsets that tell it, and with those that stood there."""

    def promise(text: str) -> str:
        header = json.loads(text)
        last = header["model.norm.weight"]
        last["shape"] = [rows]
        if told:
            last["data_offsets"][1] = last["data_offsets"][0] + 4 * rows
        return json.dumps(header)

    rewrite_header(folder / "model.safetensors", promise)
    refused(
        folder, f"tensor model.norm.weight [{rows}] ends at byte" if told else "does not fit its 160 bytes"
    )


@pytest.mark.parametrize("length", [2**20, 2**60, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_not_read(folder, unread, length):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(folder, f"header of {length} bytes in a file of {path.stat().st_size}")


def test_a_shape_without_end_is_refused(folder, unread):
    path = folder / "model.safetensors"
    rewrite_header(path, lambda text: text.replace('"shape":[40]', '"shape":[1e400]', 1))
    refused(folder, "not a readable safetensors file")


# What a stranger may write where offsets, shapes and dtypes belong.
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([-160, -1, 0, 1, 40, 61, 160, 2**31, 2**32, 2**53 + 1, 2**63, 2**64]),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
)
FIELDS = st.one_of(
    st.tuples(st.just("data_offsets"), st.lists(NUMBERS, max_size=3)),
    st.tuples(st.just("shape"), st.lists(st.one_of(NUMBERS, st.lists(NUMBERS, max_size=1)), max_size=4)),
    st.tuples(st.just("dtype"), st.sampled_from(["F16", "F64", "BF16", "I8", "BOOL", "", None, [], {}, 32])),
    st.tuples(st.sampled_from(["data_offsets", "shape", "dtype"]), st.none()),
)
Header = dict[str, dict[str, object]]
Change = Callable[[str], str]


def header_changes() -> st.SearchStrategy[Change]:
    """Ways to change the text of a header, which stays JSON but for names and keys that stand twice."""

    def on_entry(number: int, change: Callable[[Header, str], None]) -> Change:
        def run(text: str) -> str:
            header = json.loads(text)
            names = sorted(header)
            change(header, names[number % len(names)])
            return json.dumps(header)

        return run

    def twice(number: int, inner: bool) -> Change:
        def run(text: str) -> str:
            header = json.loads(text)
            name = sorted(header)[number % len(header)]
            own = json.dumps(header[name])
            again = own.replace("{", '{"dtype": "F32", ', 1) if inner else f"{own}, {json.dumps(name)}: {own}"
            return json.dumps(header).replace(f"{json.dumps(name)}: {own}", f"{json.dumps(name)}: {again}")

        return run

    def rename(new: str, keep: bool) -> Callable[[Header, str], None]:
        def change(header: Header, name: str) -> None:
            header[name + new] = header[name]
            if not keep:
                del header[name]

        return change

    def put(field: tuple[str, object]) -> Callable[[Header, str], None]:
        def change(header: Header, name: str) -> None:
            header[name][field[0]] = field[1]

        return change

    def overlap(by: int) -> Callable[[Header, str], None]:
        def change(header: Header, name: str) -> None:
            offsets = header[name].get("data_offsets")
            if isinstance(offsets, list) and all(isinstance(n, int) for n in offsets):
                header[name]["data_offsets"] = [n + by for n in offsets]

        return change

    places = st.integers(0, 60)
    names = st.sampled_from(["\0", "\0.weight", "\ud800", "", "/../x", "x" * 5000])
    return st.one_of(
        st.builds(on_entry, places, st.builds(put, FIELDS)),
        st.builds(on_entry, places, st.builds(overlap, st.integers(-4000, 4000))),
        st.builds(on_entry, places, st.builds(rename, names, st.booleans())),
        st.builds(twice, places, st.booleans()),
    )


def file_changes() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Ways to change the bytes of a file, its header and its length among them."""

    def flip(share: float, bit: int) -> Callable[[bytes], bytes]:
        def run(raw: bytes) -> bytes:
            place = int(share * max(len(raw) - 1, 0))
            return raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :] if raw else raw

        return run

    def in_header(change: Change) -> Callable[[bytes], bytes]:
        def run(raw: bytes) -> bytes:
            try:
                (length,) = struct.unpack("<Q", raw[:8])
                text = change(raw[8 : 8 + length].decode()).encode()
            except (struct.error, ValueError, LookupError, TypeError, AttributeError, OverflowError):
                return raw  # an earlier change left nothing of a header
            return struct.pack("<Q", len(text)) + text + raw[8 + length :]

        return run

    lengths = st.sampled_from([0, 1, 2**20, 2**32, 2**60, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
    shares = st.floats(0, 1) | st.floats(0, 0.02)  # the header is in the beginning
    change_header = st.builds(in_header, header_changes())
    return st.one_of(
        change_header,
        change_header,
        st.builds(lambda length: lambda raw: struct.pack("<Q", length) + raw[8:], lengths),
        st.builds(lambda share: lambda raw: raw[: int(share * len(raw))], shares),
        st.builds(flip, shares, st.integers(0, 7)),
        st.builds(lambda more: lambda raw: raw + more, st.binary(min_size=1, max_size=20)),
    )


def memory(key: str) -> int:
    """Bytes this process holds (VmRSS) or has held at most (VmHWM)."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc"
)
@pytest.mark.fault(
    "files from strangers",
    "a checkpoint's length, offsets, shapes, names and bytes are changed in any way",
    "refused in one clear error, or loaded in its own shapes; memory stays bounded",
)
def test_any_change_of_a_file_is_refused_or_harmless(tmp_path, small):
    folder, path = tmp_path, tmp_path / "model.safetensors"
    save_model(small, folder)
    whole, wanted = path.read_bytes(), [p.shape for p in small.parameters()]
    load_model(folder)
    seen = Counter()

    @settings(max_examples=300, deadline=None, database=None)
    @given(st.lists(file_changes(), min_size=1, max_size=3), st.booleans())
    def check(changes, mapped):
        raw = whole
        for change in changes:
            raw = change(raw)
        path.write_bytes(raw)
        try:
            model = load_model(folder, mapped=mapped)
        except DataError as error:
            assert str(folder) in error.where
            seen["refused"] += 1
        else:
            assert [p.shape for p in model.parameters()] == wanted
            assert all(torch.isfinite(p).all() for p in model.parameters())
            seen["loaded"] += 1

    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    check()
    assert memory("VmHWM") - before < 64 << 20
    assert seen["refused"] > 150 and seen["loaded"] > 5, seen


@pytest.mark.fault("files from strangers", "weights are not numbers", "refused, with the tensor's name")
def test_nan_is_refused_before_the_rest_is_read(folder, monkeypatch):
    change(folder, model__embed_tokens__weight=torch.full((61, 40), float("nan")))
    read, begun = stored._read_into, []
    monkeypatch.setattr(stored, "_read_into", lambda out, one: begun.append(one.name) or read(out, one))
    refused(folder, "model.embed_tokens.weight holds NaN", "2440 values")
    assert begun == ["model.embed_tokens.weight"]


@pytest.mark.fault("files from strangers", "a config asks for a billion layers", "refused at no cost")
def test_a_billion_layers_cost_nothing(folder, unread):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 10**9}))
    refused(folder, "asks for 1000000000 layers, the file has 27 tensors")


def test_integer_weights(folder):
    change(folder, model__norm__weight=torch.zeros(40, dtype=torch.int8))
    refused(folder, "model.norm.weight has dtype I8")


def test_constants_of_old_files_are_passed_over(folder):
    change(
        folder,
        model__layers__0__attn__bias=torch.ones(1, 1, 4, 4, dtype=torch.bool),
        model__layers__0__attn__masked_bias=torch.tensor(-1e4),
        model__rotary_emb__inv_freq=torch.ones(4, dtype=torch.float64),
    )
    load_model(folder)


@pytest.mark.fault(
    "files from strangers", "a checkpoint is a pickle", "refused with how to convert it; nothing of it runs"
)
def test_pickle_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin is a pickle", "safetensors.torch.save_file")
    with pytest.raises(DataError, match=r"pytorch_model\.bin is a pickle"):
        load_model(folder / "pytorch_model.bin")


@pytest.mark.fault("files from strangers", "a pickle is named .safetensors", "refused")
@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_under_another_name_is_refused(folder, zipped):
    tensors = {"model.norm.weight": torch.ones(40)}
    torch.save(tensors, folder / "model.safetensors", _use_new_zipfile_serialization=zipped)
    refused(folder, "model.safetensors is a pickle")


def test_the_advice_for_pickles_works(folder, monkeypatch):
    wanted = load_model(folder)
    tensors = sorted(load_file(folder / "model.safetensors").items())
    for i in range(2):
        torch.save(dict(tensors[i::2]), folder / f"pytorch_model-0000{i}-of-00002.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError) as caught:
        load_model(folder)
    monkeypatch.chdir(folder)
    advice = caught.value.fix.removeprefix("convert it where it is trusted: ")
    import safetensors.torch

    exec(advice, {"torch": torch, "safetensors": safetensors, "FILES": sorted(folder.glob("*.bin"))})
    for ours, theirs in zip(load_model(folder).parameters(), wanted.parameters()):
        assert torch.equal(ours, theirs)


def test_a_reward_model_is_no_language_model(tmp_path, small):
    save_scalar(ScalarModel.from_qwen(small, seed=7), tmp_path)
    refused(tmp_path, "this is a reward model")


ODD = [None, 0, -1, 1, 2.5, True, "", "x", [], ["x"], {}, {"x": 1}, 10**30]


@pytest.mark.fault(
    "files from strangers", "anything at all stands in config.json", "a model or one clear error"
)
@pytest.mark.parametrize("layout", ["qwen1", "qwen2"])
def test_odd_values_are_refused_or_harmless(tmp_path, layout):
    """Whatever stands in config.json: a model, or one clear error. Never another exception."""
    save_model(Qwen(CONFIG), tmp_path, layout=layout)
    values = json.loads((tmp_path / "config.json").read_text())
    loaded = refusals = 0
    for key in values:
        for odd in ODD:
            (tmp_path / "config.json").write_text(json.dumps({**values, key: odd}))
            try:
                load_model(tmp_path)
                loaded += 1
            except DataError as error:
                refusals += 1
                assert str(tmp_path) in error.where
    assert loaded > 50 and refusals > 50


@pytest.mark.fault("files from strangers", "a shard is missing or the index is wrong", "refused")
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
