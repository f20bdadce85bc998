"""The planner's bytes against real pretraining runs: torch's allocator, its saved tensors, files on disk, the cache."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import tiny_artefacts as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from openqwen.core.config import Resolved, find_recipe, resolve
from openqwen.core.errors import UsageError
from openqwen.model import attention
from openqwen.model.cache import KVCache
from openqwen.model.config import ModelConfig, layer_windows
from openqwen.model.qwen import Qwen
from openqwen.model.table1 import TABLE1, size
from openqwen.model.weights import save_model
from openqwen.pretrain import loop
from openqwen.pretrain.config import PretrainConfig
from openqwen.train import checkpoint, flops, loss, planner, precision
from openqwen.train.config import OptimConfig
from openqwen.train.optimizer import make_optimizer
from openqwen.train.planner import BF16, FP32, Work

RUN = {
    "model.num_heads": 4,
    "schedule.warmup_steps": 1,
    "steps": 2,
    "eval_interval": 10,
    "eval_tokens": 100,
    "checkpoint_interval": 10,
    "prompts": ["1"],
    "sample_tokens": 2,
    "ngram_order": 2,
}
SHAPE = ("model.hidden_size", "model.num_layers", "model.ffn_size", "model.dropout")
COLUMNS = ("precision", "context", "batch_tokens", "micro_batch", *SHAPE)
# The marks come in the loss, in a block's backward pass, where attention goes in blocks, and at the very end.
RUNS = {
    "fp32": ("fp32", 64, 512, 8, 128, 3, None, 0.0),
    "bf16, accumulating": ("bf16", 96, 768, 3, 192, 4, 320, 0.0),
    "bf16, dropout, wide": ("bf16", 64, 512, 8, 64, 2, 2048, 0.1),
    "fp32, attention in blocks": ("fp32", 400, 800, 4, 256, 2, None, 0.0),
    "fp32, mostly weights": ("fp32", 32, 32, 1, 128, 3, None, 0.0),
}


def settings_of(name: str) -> Resolved[PretrainConfig]:
    flags = dict(zip(COLUMNS, RUNS[name])) | RUN
    return resolve(PretrainConfig, "pretrain", flags=flags, environ={})


def planned(config: PretrainConfig) -> planner.Memory:
    return planner.memory(
        Work(
            config.model.for_vocabulary(464, config.context),
            rows=min(config.micro_batch, config.batch_size),
            context=config.context,
            half=config.precision == "bf16",
            accumulates=config.micro_batch < config.batch_size,
            device="cpu",
        )
    )


def small(**changes: Any) -> ModelConfig:
    shape = {"vocab_size": 464, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "ffn_size": 112}
    return ModelConfig(**{**shape, "max_length": 512, **changes})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("planner")
    return {
        "tokenizer": tiny.tokenizer_artefact(folder / "tokenizer"),
        "tokens": tiny.tokens_artefact(folder / "tokens", tiny.sums(0, 200), tiny.sums(1, 20)),
    }


def highest_mark(profiled: profile) -> int:
    """The most bytes torch's allocator had given out at one time since profiling began."""
    assert profiled.profiler is not None
    results: Any = profiled.profiler.kineto_results
    changes = sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    live = highest = 0
    for change in changes:
        live += change.nbytes()
        highest = max(highest, live)
    return highest


@pytest.mark.parametrize("name", RUNS)
def test_a_real_run_needs_what_was_planned(
    name: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: dict[str, int] = {}
    clip, save = loop.clip_and_step, checkpoint.save

    def clip_and_measure(optimizer: torch.optim.Optimizer, *args: Any, **named: Any) -> float:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        measured["parameters"] = sum(p.untyped_storage().nbytes() for p in params)
        measured["gradients"] = sum(p.grad.untyped_storage().nbytes() for p in params if p.grad is not None)
        norm = clip(optimizer, *args, **named)
        states = [tensor for state in optimizer.state.values() for tensor in state.values()]
        measured["optimizer"] = sum(tensor.untyped_storage().nbytes() for tensor in states)
        return norm

    def save_and_measure(*args: Any, **named: Any) -> Path:
        path = save(*args, **named)
        measured["checkpoint"] = sum(file.stat().st_size for file in path.iterdir())
        return path

    monkeypatch.setattr(loop, "clip_and_step", clip_and_measure)
    monkeypatch.setattr(checkpoint, "save", save_and_measure)
    resolved = settings_of(name)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loop.run(resolved, inputs, tmp_path / "base")

    need = planned(resolved.config)
    assert (need.parameters, need.gradients, need.optimizer) == (
        measured["parameters"],
        measured["gradients"],
        measured["optimizer"],
    )
    assert need.total == pytest.approx(highest_mark(profiled), rel=0.03), (need.peak, need.moment)
    model = resolved.config.model.for_vocabulary(464, resolved.config.context)
    saved = sum(planner.checkpoint_files(model).values())
    assert saved == pytest.approx(measured["checkpoint"], rel=0.03)


def test_the_runs_cover_the_moments_of_the_highest_mark() -> None:
    moments = {planned(settings_of(name).config).moment for name in RUNS}
    assert {"loss", "backward of block 2 of 2", "backward of the embedding"} <= moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("context", [24, 300])
@pytest.mark.parametrize(
    "changes", [{}, {"num_kv_heads": 2, "dropout": 0.1}, {"num_kv_heads": 1, "num_layers": 3}]
)
def test_what_is_saved_for_the_backward_pass_is_counted_exactly(
    dtype: torch.dtype, context: int, changes: dict[str, Any]
) -> None:
    config = small(**changes)
    model = Qwen(config).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # the tensor is held, so no address is used twice
        return tensor

    ids = torch.randint(0, config.vocab_size, (2, context + 1))
    with saved_tensors_hooks(pack, lambda tensor: tensor), precision.autocast(dtype):
        hidden = model.hidden(ids[:, :-1])
        loss.cross_entropy(hidden.flatten(0, 1), model.head.weight, ids[:, 1:].flatten())
    own.add(ids.untyped_storage().data_ptr())
    measured = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in own)
    need = planner.memory(Work(config, 2, context, dtype == torch.bfloat16, False, "cpu"))
    assert need.activations + need.copies == measured


@settings(max_examples=60, deadline=None)
@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 5),
    rows=st.integers(1, 9),
    context=st.sampled_from([1, 17, 128, 257, 512, 513]),
    dropout=st.sampled_from([0.0, 0.1]),
    vocab=st.sampled_from([7, 464, 150_000]),
    half=st.booleans(),
    accumulates=st.booleans(),
    device=st.sampled_from(["cpu", "cuda"]),
    devices=st.sampled_from([1, 4]),
)
def test_a_step_leaves_gradients_and_nothing_else(
    kv_heads: int,
    layers: int,
    rows: int,
    context: int,
    dropout: float,
    vocab: int,
    half: bool,
    accumulates: bool,
    device: planner.Device,
    devices: int,
) -> None:
    config = small(num_kv_heads=kv_heads, num_layers=layers, dropout=dropout, vocab_size=vocab)
    work = Work(config, rows, context, half, accumulates, device, devices)
    step = planner.Step(work)
    begun = step.tape.live["copies"]
    tape = step.play()
    assert (
        tape.live["activations"] == context * config.head_dim * FP32
    )  # the rotary tables are kept for all steps
    assert (
        tape.live["temporary"] == rows * context * config.hidden_size * FP32
    )  # the loop still holds the output
    assert tape.live["copies"] == begun
    tensors = len(planner.parameter_shapes(config))
    assert 0 <= tape.live["gradients"] - FP32 * config.num_parameters / devices < tensors
    assert all(value >= 0 for value in tape.peak.values())
    assert sum(tape.peak.values()) >= sum(tape.live.values())


def test_constants_are_those_of_the_code_they_speak_of() -> None:
    assert (planner.CHUNK_BYTES, planner.CHUNK_ROWS) == (loss.CHUNK_BYTES, loss.CHUNK_ROWS)
    assert (flops.BLOCK, flops.CPU_SKIPS) == (attention.BLOCK, attention.CPU_SKIPS)
    assert checkpoint.KEEP + 1 == planner.CHECKPOINTS
    assert torch.get_rng_state().nbytes == planner.RANDOM_STATE


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 2, "num_layers": 11}])
def test_shapes_are_the_models(changes: dict[str, Any]) -> None:
    config = small(**changes)
    with torch.device("meta"):
        model = Qwen(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert list(planner.parameter_shapes(config).items()) == list(shapes.items())


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1, "num_layers": 12, "hidden_size": 32}])
def test_files_of_a_checkpoint_are_exact(changes: dict[str, Any], tmp_path: Path) -> None:
    model = Qwen(small(**changes))
    optimizer = make_optimizer(model, OptimConfig())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    path = checkpoint.save(tmp_path, 1, {"model": model}, {"adamw": optimizer}, {})
    sizes = {file.name: file.stat().st_size for file in path.glob("*.safetensors")}
    if not torch.cuda.is_available():  # each GPU adds its own random state
        assert planner.checkpoint_files(model.config) == sizes
    assert planner.checkpoint_files(model.config)["model.safetensors"] == sizes["model.safetensors"]


def test_an_exported_model_has_two_bytes_a_parameter(tmp_path: Path) -> None:
    model = Qwen(small(hidden_size=256, num_layers=3)).bfloat16()
    save_model(model, tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert BF16 * model.config.num_parameters == pytest.approx(written, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("windows", [None, layer_windows(64, 8)])
def test_kv_bytes_are_the_caches(dtype: torch.dtype, windows: tuple[int, ...] | None) -> None:
    config = small(num_kv_heads=2, num_layers=8, windows=windows)
    for length in (1, 64, 100, 300):
        cache = KVCache(config, 3, length, dtype=dtype)
        assert 3 * planner.kv_bytes(config, length, dtype.itemsize, windows) == cache.num_bytes


PUBLISHED = {
    "qwen-1.8b": (1_836_828_672, 3_673_657_344),
    "qwen-7b": (7_721_324_544, 15_442_649_088),
    "qwen-14b": (14_167_290_880, 28_334_581_760),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_the_report_are_table_1(name: str) -> None:
    config = resolve(PretrainConfig, "pretrain", [name], environ={}).config
    model, row = config.model.for_vocabulary(151_851, config.context), size(name)
    assert model == row.config
    assert (config.optim.lr, config.context) == (row.peak_lr, row.max_length)
    assert config.batch_tokens == pytest.approx(row.batch_tokens, rel=0.05)  # 4M, as 2048 x 2048
    assert config.steps * config.batch_tokens == pytest.approx(row.train_tokens, rel=1e-5)
    assert (model.num_parameters, BF16 * model.num_parameters) == PUBLISHED[name]
    shapes = planner.parameter_shapes(model)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == model.num_parameters


def test_recipes_of_the_report_say_only_what_differs_and_where_it_is_from() -> None:
    assert {name for name, row in TABLE1.items() if row.origin == "report"} == set(PUBLISHED)
    default = resolve(PretrainConfig, "pretrain", environ={}).config
    for name in PUBLISHED:
        resolved = resolve(PretrainConfig, "pretrain", [name], environ={})
        for key in resolved.origin:
            ours: Any = resolved.config
            theirs: Any = default
            for part in key.split("."):
                ours, theirs = getattr(ours, part), getattr(theirs, part)
            assert ours != theirs, f"{name} repeats the default of {key}"
        lines = [line for line in find_recipe(name).read_text().splitlines() if " = " in line]
        assert len(lines) == len(resolved.origin)
        assert all("  # report Table 1" in line or "  # released config" in line for line in lines)


def test_sharing_shrinks_state_and_more_rows_cost_more() -> None:
    model = TABLE1["qwen-7b"].config
    one = planner.memory(Work(model, 1, 2048))
    eight = planner.memory(Work(model, 1, 2048, devices=8))
    two = planner.memory(Work(model, 2, 2048))
    assert eight.parameters == pytest.approx(one.parameters / 8) and eight.total < one.total / 2
    assert two.activations > one.activations and two.parameters == one.parameters


def test_fit_and_what_would() -> None:
    model = TABLE1["qwen-7b"].config
    big, little = planner.hardware("h100-80gb"), planner.hardware("rtx-4090")
    work = Work(model, 8, 2048)
    found = planner.fit(planner.memory(work), big)
    assert not found.fits and found.margin < 0
    way = planner.smaller(work, 2048, big)
    assert way is not None and planner.fit(planner.memory(way), big).fits
    assert way.devices > 1 and not planner.fit(planner.memory(Work(model, 1, 2048, devices=1)), big).fits
    assert not planner.fit(planner.memory(Work(model, way.rows * 2, 2048, devices=way.devices)), big).fits
    assert planner.smaller(Work(model, 1, 2048), 1, little) is None  # one sequence a step cannot be shared
    assert planner.fit(planner.memory(Work(small(), 1, 64)), little).fits


def test_time_follows_from_the_stated_share_of_the_peak() -> None:
    gpu = planner.hardware("a100-80gb")
    assert planner.seconds(312e12 * 4 * 10, gpu, 4, 0.5) == pytest.approx(20)
    with pytest.raises(UsageError, match="no rate is known for laptop-24gb"):
        planner.seconds(1e12, planner.hardware("laptop-24gb"), 1, 0.5)


def test_unknown_hardware_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'a100-80gb' or 'a100-40gb'"):
        planner.hardware("A100")
    with pytest.raises(UsageError, match="Did you mean 'rtx-4090'"):
        planner.hardware("rtx4090")
    assert all(name == row.name and row.source for name, row in planner.HARDWARE.items())
