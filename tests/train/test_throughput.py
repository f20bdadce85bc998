"""Means over the steps since the last reading, by the formula of flops.py."""

from __future__ import annotations

import pytest
import torch

from openqwen.train import throughput
from openqwen.train.throughput import Throughput

CPU = torch.device("cpu")


def test_a_reading_is_the_mean_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "measured_peak", lambda *args, **options: 1e6)
    speed = Throughput(2000.0, torch.float32, CPU, processes=2)
    speed.add(100, 1.0)
    speed.add(300, 1.0)
    assert speed.shown()["mfu"] == "20%"  # 200 tokens a second of 2,000 operations each, of 2 x 1e6
    found = speed.reading()
    assert (found["tokens_per_second"], found["mfu"]) == (200.0, 0.2)
    speed.add(50, 0.5)
    assert speed.reading()["tokens_per_second"] == 100.0


def test_memory_is_the_peak_of_the_process() -> None:
    speed = Throughput(None, torch.float32, CPU)
    speed.add(1, 1.0)
    before = speed.reading()
    held = torch.ones(64 << 20)  # 256 MiB
    speed.add(1, 1.0)
    after = speed.reading()
    assert before["mfu"] is None
    assert after["memory"] >= before["memory"] and after["memory"] > held.nbytes


def test_measuring_draws_no_numbers_of_the_run() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    Throughput(1.0, torch.float32, CPU)
    assert torch.equal(torch.get_rng_state(), before)
