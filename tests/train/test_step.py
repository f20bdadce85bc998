"""Optimizer groups, schedule, guarded steps, formulas."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.flop_counter import FlopCounterMode

from openqwen.core.config import fields_without_source
from openqwen.core.errors import Interrupted, OpenQwenError
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.train import flops, precision
from openqwen.train.config import OptimConfig, ScheduleConfig
from openqwen.train.optimizer import make_optimizer
from openqwen.train.schedule import lr_at, set_lr
from openqwen.train.signals import stop_on_signal
from openqwen.train.step import Guard, clip_and_step


def test_settings_have_sources_and_the_reports_values() -> None:
    assert not fields_without_source(OptimConfig) and not fields_without_source(ScheduleConfig)
    optim = OptimConfig()
    assert (optim.beta1, optim.beta2, optim.eps) == (0.9, 0.95, 1e-8)
    assert (optim.weight_decay, optim.clip, optim.lr) == (0.1, 1.0, 3e-4)
    assert (ScheduleConfig().shape, ScheduleConfig().final_share) == ("cosine", 0.1)


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 3), nn.LayerNorm(3))
    decayed, kept = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert {p.shape for p in decayed["params"]} == {(7, 5), (3, 5)} and decayed["weight_decay"] == 0.3
    assert all(p.ndim == 1 for p in kept["params"]) and kept["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(5, 3)
    model.bias.requires_grad_(False)
    assert [p.shape for g in make_optimizer(model, OptimConfig()).param_groups for p in g["params"]] == [
        (3, 5)
    ]


def test_cosine_equals_torchs_after_the_warmup() -> None:
    schedule = ScheduleConfig(warmup_steps=10)
    ours = [lr_at(step, 110, 2.0, schedule) for step in range(110)]
    assert ours[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    torchs = CosineAnnealingLR(optimizer, T_max=100, eta_min=0.2)
    for step in range(10, 110):
        optimizer.step()
        torchs.step()
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours[-1] == pytest.approx(0.2)
    assert lr_at(10**6, 110, 2.0, schedule) == pytest.approx(0.2)  # beyond the end: stays


def test_constant_with_and_without_warmup() -> None:
    assert lr_at(0, 10, 3e-6, ScheduleConfig(shape="constant", warmup_steps=0)) == 3e-6
    share = ScheduleConfig(shape="constant", warmup_share=0.03)
    assert share.warmup(1000) == 30
    assert lr_at(14, 1000, 1.0, share) == pytest.approx(0.5)
    assert lr_at(999, 1000, 1.0, share) == 1.0


def one_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, guard: Guard, x: float, step: int = 0
) -> float:
    set_lr(optimizer, 0.1)
    loss = model(torch.full((1, 2), x)).sum()
    loss.backward()
    return clip_and_step(optimizer, loss, OptimConfig(clip=1.0, max_bad_steps=3), guard, step=step)


@pytest.mark.fault(
    "training", "a gradient is not a number", "the step is skipped everywhere, the next one is not"
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_step_is_skipped_and_the_next_is_not(bad: float) -> None:
    model = nn.Linear(2, 2)
    optimizer, guard = make_optimizer(model, OptimConfig()), Guard(limit=3)
    one_step(model, optimizer, guard, 1.0)
    before = [p.detach().clone() for p in model.parameters()]
    one_step(model, optimizer, guard, bad)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert (guard.skipped, guard.in_a_row) == (1, 1)
    one_step(model, optimizer, guard, 1.0)
    assert all(not torch.equal(a, b) and b.isfinite().all() for a, b in zip(before, model.parameters()))
    assert (guard.skipped, guard.in_a_row) == (1, 0)


@pytest.mark.fault("training", "gradients stay broken", "the run stops")
def test_too_many_bad_steps_stop_the_run() -> None:
    model = nn.Linear(2, 2)
    optimizer, guard = make_optimizer(model, OptimConfig()), Guard(limit=3)
    one_step(model, optimizer, guard, math.nan)
    restored = Guard(limit=3)
    restored.restore(guard.state())
    one_step(model, optimizer, restored, math.nan)
    with pytest.raises(OpenQwenError, match="3 steps in a row") as caught:
        one_step(model, optimizer, restored, math.nan, step=41)
    assert "step 41" in str(caught.value) and "optim.lr" in str(caught.value)


def test_clipping_scales_to_the_norm() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    (weight * torch.tensor([3.0, 0.0, 4.0])).sum().backward()
    assert clip_and_step(optimizer, 0.0, OptimConfig(clip=1.0), Guard(3), step=0) == pytest.approx(5.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, 0.0, -0.8]))
    assert weight.grad is None


@pytest.mark.parametrize("size", [0.1, 1 - 1e-6, 1 - 1e-7, 1.0, 1 + 1e-6, 5.0])
def test_gradients_are_those_of_torchs_clipping(size: float) -> None:
    """Below the limit they are not touched at all."""
    ours, theirs = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    for weight in (ours, theirs):
        weight.grad = size * torch.tensor([0.6, 0.0, 0.8])
    torch.nn.utils.clip_grad_norm_([theirs], 1.0)
    clip_and_step(torch.optim.SGD([ours], lr=1.0), 0.0, OptimConfig(clip=1.0), Guard(3), step=0)
    torch.optim.SGD([theirs], lr=1.0).step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kv_heads", [None, 1])
def test_flops_formula_equals_torchs_count_of_the_model(kv_heads: int | None) -> None:
    config = ModelConfig(
        vocab_size=31,
        hidden_size=24,
        num_layers=2,
        num_heads=3,
        num_kv_heads=kv_heads,
        ffn_size=20,
        max_length=64,
    )
    model, ids = Qwen(config), torch.randint(0, 31, (2, 7))
    forward = flops.flops_per_token(config, 7, causal=False, backward=False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(ids)
    assert counter.get_total_flops() == forward * ids.numel()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    assert counter.get_total_flops() == 2 * forward * ids.numel()
    both = flops.flops_per_token(config, 7, causal=False)
    assert both == 3 * forward
    assert both - flops.flops_per_token(config, 7) == 6 * 2 * 24 * 7  # half the scores of two layers
    assert flops.mfu(1000, 1e9, 4e12) == 0.25


def test_measured_peak_is_a_rate_of_products() -> None:
    peak = flops.measured_peak(torch.float32, size=256, seconds=0.05)
    assert 1e8 < peak < 1e14


def test_precision() -> None:
    assert precision.pick_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    with precision.autocast(torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with precision.autocast(torch.float32):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_signal_is_noted_and_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGTERM"), stop_on_signal() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        error = stop.interrupted("pretraining")
        assert isinstance(error, Interrupted) and error.exit_code == 130 and "SIGTERM" in str(error)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
