"""Means over the steps since the last reading, by the formula of flops.py."""

from __future__ import annotations

import pytest
import torch

from openqwen.train.flops import measured_peak, mfu
from openqwen.train.throughput import Throughput

CPU = torch.device("cpu")


def test_a_reading_is_the_mean_since_the_one_before() -> None:
    speed = Throughput(CPU, peak=2e6)
    speed.add(100, 2000.0 * 100, 1.0)
    speed.add(300, 2000.0 * 300, 1.0)
    assert speed.shown()["mfu"] == "20%"  # 200 tokens a second of 2,000 operations each, of 2e6
    found = speed.reading()
    assert (found["tokens_per_second"], found["mfu"]) == (200.0, mfu(200, 2000, 2e6))
    speed.add(50, 2000.0 * 50, 0.5)
    assert speed.reading()["tokens_per_second"] == 100.0
    assert speed.total.tokens_per_second == pytest.approx(450 / 2.5)
    assert speed.total.flops_per_second == pytest.approx(2000 * 450 / 2.5)


def test_without_a_step_or_a_known_rate_there_is_no_number() -> None:
    speed = Throughput(CPU, peak=None)
    assert speed.total.tokens_per_second is None and speed.total.flops_per_second is None
    speed.add(1, 0.0, 1.0)
    assert "mfu" not in speed.shown() and speed.reading()["mfu"] is None


def test_memory_is_the_peak_of_the_process() -> None:
    speed = Throughput(CPU, peak=None)
    before = speed.reading()
    held = torch.ones(64 << 20)  # 256 MiB
    after = speed.reading()
    assert after["memory"] >= before["memory"] and after["memory"] > held.nbytes


def test_measuring_draws_no_numbers_of_the_run() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    measured_peak(torch.float32, CPU, size=64, seconds=0.01)
    assert torch.equal(torch.get_rng_state(), before)
