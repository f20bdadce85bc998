"""The planner's bytes against torch: its allocator in real runs, its saved tensors, files on disk, counted operations."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import tiny_artefacts as tiny
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

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
from openqwen.train import checkpoint, distributed, flops, lora, loss, planner, precision, replay
from openqwen.train.config import LoraConfig, OptimConfig, ParallelConfig
from openqwen.train.optimizer import make_optimizer
from openqwen.train.replay import Replay, Work
from openqwen.train.tape import BF16, FP32

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
RUNS: dict[str, tuple[Any, ...]] = {
    "fp32": ("fp32", 64, 512, 8, 128, 3, None, 0.0),
    "bf16, accumulating": ("bf16", 96, 768, 3, 192, 4, 320, 0.0),
    "bf16, dropout, wide": ("bf16", 64, 512, 8, 64, 2, 2048, 0.1),
    "fp32, attention in blocks": ("fp32", 400, 800, 4, 256, 2, None, 0.0),
    "fp32, mostly weights": ("fp32", 32, 32, 1, 128, 3, None, 0.0),
    "bf16, computed again": ("bf16", 64, 512, 8, 128, 6, None, 0.0),
    "fp32, four shards": ("fp32", 64, 512, 8, 256, 2, None, 0.0),
    "bf16, adapters": ("bf16", 48, 384, 8, 32, 2, 48, 0.0),
}
MORE: dict[str, dict[str, Any]] = {
    "bf16, computed again": {"parallel.checkpoint_activations": True},
    "fp32, four shards": {"parallel.shards": 4},
    "bf16, adapters": {"lora.rank": 8, "model.num_heads": 2},
}


def settings_of(name: str) -> Resolved[PretrainConfig]:
    flags = dict(zip(COLUMNS, RUNS[name])) | RUN | MORE.get(name, {})
    return resolve(PretrainConfig, "pretrain", flags=flags, environ={})


def planned(config: PretrainConfig) -> planner.Memory:
    own = config.batch_size // config.parallel.shards
    return planner.memory(
        Work(
            config.model.for_vocabulary(464, config.context),
            rows=min(config.micro_batch, own),
            context=config.context,
            half=config.precision == "bf16",
            accumulates=config.micro_batch < own,
            device="cpu",
            shards=config.parallel.shards,
            recomputes=config.parallel.checkpoint_activations,
            lora=config.lora,
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
        "model": tiny.model_artefact(folder / "model"),
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


def held(tensor: Any) -> int:
    """Bytes this process holds of a tensor that may be divided."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.untyped_storage().nbytes()


@contextmanager
def before_each_update(measured: dict[str, int]) -> Iterator[None]:
    """Notes the bytes of parameters, gradients and, from the second update on, state whenever an optimizer steps."""

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        states = [tensor for state in optimizer.state.values() for tensor in state.values()]
        measured["parameters"] = sum(map(held, params))
        measured["gradients"] = sum(held(p.grad) for p in params if p.grad is not None)
        measured["optimizer"] = sum(map(held, states))

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("name", RUNS)
def test_a_real_run_needs_what_was_planned(name: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    resolved, measured = settings_of(name), {}
    given = inputs if resolved.config.lora else {key: inputs[key] for key in ("tokens", "tokenizer")}
    gc.collect()
    profiling = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with before_each_update(measured), profiling as profiled:
        loop.run(resolved, given, tmp_path / "base")
    need = planned(resolved.config)
    assert need.optimizer == measured["optimizer"]
    if resolved.config.lora is None:
        assert need.parameters == measured["parameters"]
    # Sums of shards wait for each other, log2 of them at most; they are one at the update.
    waiting = resolved.config.parallel.shards.bit_length()
    assert need.gradients == waiting * measured["gradients"]
    # The only save is the last step's: its copy stands beside weights and optimizer, and there are no gradients any more.
    mark = max(need.total, need.parameters + need.optimizer + need.saving)
    assert mark == pytest.approx(highest_mark(profiled), rel=0.02), (need.peak, need.moment)


def test_the_runs_cover_the_moments_of_the_highest_mark() -> None:
    moments = {planned(settings_of(name).config).moment for name in RUNS}
    assert {"loss", "backward of block 2 of 2", "backward of the embedding"} <= moments


# ---- one step of the model's own code ---------------------------------------------------------------------------------

ADAPTERS: dict[str, LoraConfig | None] = {
    "whole": None,
    "adapters": LoraConfig(rank=8),
    "adapters without dropout": LoraConfig(rank=8, dropout=0.0),
    "some adapters": LoraConfig(rank=8, targets=("qkv",), train_embeddings=False),
    "4 bits": LoraConfig(rank=8, quantize="nf4"),
}


def train(model: Qwen, rows: int, context: int, dtype: torch.dtype, micro_batches: int) -> None:
    """As the loop does it: the hidden state of a micro-batch lives until the next one's is there."""
    for _ in range(micro_batches):
        ids = torch.randint(0, model.config.vocab_size, (rows, context + 1))
        with precision.autocast(dtype):
            hidden = model.hidden(ids[:, :-1]).flatten(0, 1)
            total, _count = loss.cross_entropy(hidden, model.head.weight, ids[:, 1:].flatten())
        (total / ids.numel()).backward()


def mark_of_a_step(model: Qwen, *arguments: Any) -> int:
    """Bytes on top of what the model and its optimizer hold."""
    optimizer = make_optimizer(model, OptimConfig())
    train(model, *arguments)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        train(model, *arguments)
    return highest_mark(profiled)


def planned_mark(work: Work) -> int:
    """The same by the tape."""
    replayed = Replay(work)
    before = replayed.tape.total
    return replayed.play().highest - before


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["whole", "adapters", "some adapters", "4 bits"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.usefixtures("one_thread")  # each thread has scratch memory of its own, which no plan counts
def test_a_step_needs_what_was_planned(kind: str, again: bool, dtype: torch.dtype) -> None:
    config, adapters = small(hidden_size=128, num_layers=4, ffn_size=None), ADAPTERS[kind]
    model = Qwen(config).train()
    if adapters is not None:
        lora.add_lora(model, adapters, 0)
    parallel = ParallelConfig(checkpoint_activations=again)
    distributed.prepare(model, model.blocks, parallel, dtype)
    work = Work(config, 8, 64, dtype == torch.bfloat16, True, "cpu", recomputes=again, lora=adapters)
    assert planned_mark(work) == pytest.approx(mark_of_a_step(model, 8, 64, dtype, 2), rel=0.02)


SHARED = [
    ("shard", 2, None, torch.float32, 1, False, 464),
    ("shard", 8, None, torch.bfloat16, 2, False, 464),
    ("shard", 8, None, torch.bfloat16, 1, True, 8000),
    ("hybrid", 8, 4, torch.bfloat16, 1, False, 8000),
    ("shard", 4, None, torch.float32, 1, True, 464),
]


@pytest.mark.parametrize(
    ("strategy", "processes", "group", "dtype", "micro_batches", "again", "vocabulary"), SHARED
)
def test_a_process_that_divides_the_weights_needs_what_was_planned(
    strategy: Any,
    processes: int,
    group: int | None,
    dtype: torch.dtype,
    micro_batches: int,
    again: bool,
    vocabulary: int,
) -> None:
    config = small(hidden_size=256, num_layers=6, ffn_size=None, vocab_size=vocabulary)
    parallel = ParallelConfig(strategy=strategy, group_size=group, checkpoint_activations=again)
    measured: dict[str, int] = {}
    # One process that believes there are others: nothing is exchanged, and nothing is taken for exchanging it.
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        model = Qwen(config).train()
        distributed.prepare(model, model.blocks, parallel, dtype)
        with before_each_update(measured):
            highest = mark_of_a_step(model, 2, 64, dtype, micro_batches)
    finally:
        dist.destroy_process_group()
    work = Work(
        config,
        2,
        64,
        dtype == torch.bfloat16,
        micro_batches > 1,
        "cpu",
        devices=processes,
        shared=group or processes,
        recomputes=again,
    )
    assert planned_mark(work) == pytest.approx(highest, rel=0.03)
    assert planner.memory(work).parameters == measured["parameters"]


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("context", [24, 300])
@pytest.mark.parametrize(
    "changes", [{}, {"num_kv_heads": 2, "dropout": 0.1}, {"num_kv_heads": 1, "num_layers": 3}]
)
def test_what_is_saved_for_the_backward_pass_is_counted_exactly(
    kind: str, dtype: torch.dtype, context: int, changes: dict[str, Any]
) -> None:
    config, adapters = small(**changes), ADAPTERS[kind]
    model = Qwen(config).train()
    if adapters is not None:
        lora.add_lora(model, adapters, 0)
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
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
    need = planner.memory(Work(config, 2, context, dtype == torch.bfloat16, False, "cpu", lora=adapters))
    assert need.activations + need.copies == measured


@settings(max_examples=40, deadline=None)
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
    shared=st.sampled_from([1, 4]),
    recomputes=st.booleans(),
    kind=st.sampled_from(sorted(ADAPTERS)),
    shards=st.sampled_from([1, 8]),
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
    device: replay.Device,
    shared: int,
    recomputes: bool,
    kind: str,
    shards: int,
) -> None:
    config = small(num_kv_heads=kv_heads, num_layers=layers, dropout=dropout, vocab_size=vocab)
    adapters = ADAPTERS[kind] if shared == 1 else None
    work = Work(
        config, rows, context, half, accumulates, device, shared, shared, shards, recomputes, adapters
    )
    replayed = Replay(work)
    tape = replayed.play()
    del replayed.divided, replayed.arrived
    # Rotary tables are kept for all steps.
    assert tape.live["activations"] in (0, context * config.head_dim * FP32)
    assert tape.live["temporary"] == tape.live["copies"] == 0
    trained = planner.trained_parameters(config, adapters)
    tensors = len(planner.trained_shapes(config, adapters))
    assert replayed.gradients_kept >= FP32 * trained // shared
    if shared == 1:
        assert tape.live["gradients"] == FP32 * trained
    assert 0 <= tape.live["optimizer"] - FP32 * tensors - ceil(2 * FP32 * trained / shared) <= 1
    assert all(value >= 0 for value in tape.peak.values())
    assert tape.highest == sum(tape.peak.values()) >= sum(tape.live.values())


def test_constants_are_those_of_the_code_they_speak_of() -> None:
    for name in ("CHUNK_BYTES", "MIN_ROWS", "MAX_ROWS", "PIECE_BYTES", "PIECE_ROWS"):
        assert getattr(replay, name) == getattr(loss, name)
    for name in ("BLOCK", "WIDE_BLOCK", "WIDE_WINDOW", "CPU_SKIPS", "PRODUCTS"):
        assert getattr(flops, name) == getattr(attention, name)
    assert checkpoint.KEEP + 1 == planner.CHECKPOINTS
    assert torch.get_rng_state().nbytes == replay.RANDOM_STATE


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 2, "num_layers": 11}])
def test_shapes_are_the_models(changes: dict[str, Any]) -> None:
    config = small(**changes)
    with torch.device("meta"):
        model = Qwen(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert list(planner.parameter_shapes(config).items()) == list(shapes.items())


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_is_trained_and_held_is_the_models(kind: str) -> None:
    config, adapters = small(), ADAPTERS[kind]
    model = Qwen(config)
    if adapters is not None:
        lora.add_lora(model, adapters, 0)
    trained = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    assert planner.trained_shapes(config, adapters) == trained
    everything = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    assert planner.memory(Work(config, 1, 16, lora=adapters)).parameters == everything


@pytest.mark.parametrize("kind", ADAPTERS)
def test_operations_are_those_that_torch_counts(kind: str) -> None:
    config, adapters, rows, context = small(), ADAPTERS[kind], 2, 32
    model = Qwen(config).train()
    if adapters is not None:
        lora.add_lora(model, adapters, 0)
    # The flash kernel of a processor is not among the operations that torch counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        train(model, rows, context, torch.float32, 1)
    work = Work(config, rows, context, False, False, "cpu", lora=adapters)
    counted = counter.get_total_flops() / (rows * context)
    assert planner.training_flops(work, causal=False) == counted


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1, "num_layers": 12, "hidden_size": 32}])
def test_files_of_a_checkpoint_are_exact(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model, adapters = Qwen(small(**changes)), ADAPTERS[kind]
    if adapters is not None:
        lora.add_lora(model, adapters, 0)
    optimizer = make_optimizer(model, OptimConfig())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    with checkpoint.Saver(tmp_path, {"model": lora.trained(model)}, {"adamw": optimizer}) as saver:
        path = saver.save(1, {})
    sizes = {file.name: file.stat().st_size for file in path.glob("*.safetensors")}
    if not torch.cuda.is_available():  # each GPU adds its own random state
        assert planner.checkpoint_files(model.config, adapters) == sizes
    assert planner.checkpoint_files(model.config, adapters)["model.safetensors"] == sizes["model.safetensors"]


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
    eight = planner.memory(Work(model, 1, 2048, devices=8, shared=8))
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
