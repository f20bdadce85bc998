"""Parameters on large pages stay what they are."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch

from openqwen.model import ModelConfig, pages
from openqwen.model.qwen import Qwen

CONFIG = ModelConfig(vocab_size=31, hidden_size=16, num_layers=2, num_heads=2, ffn_size=24, max_length=16)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are asked for on Linux only")


@pytest.fixture
def model() -> Qwen:
    torch.manual_seed(0)
    return Qwen(CONFIG)


def places(model: Qwen) -> list[int]:
    return [p.untyped_storage().data_ptr() for p in model.parameters()]


def test_parameters_are_the_same_objects_side_by_side(model):
    before, values = list(model.parameters()), {k: v.clone() for k, v in model.state_dict().items()}
    pages.settle(model)
    assert all(a is b for a, b in zip(before, model.parameters())) and len(set(places(model))) == 1
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert all(p.data_ptr() % pages.LINE == 0 for p in model.parameters())
    ends = [(p.data_ptr(), p.data_ptr() + p.nbytes) for p in model.parameters()]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
    settled = places(model)
    pages.settle(model)
    assert places(model) == settled


def test_an_optimizer_goes_on_with_them(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    twin = Qwen(CONFIG)
    twin.load_state_dict(model.state_dict())
    other = torch.optim.AdamW(twin.parameters(), lr=0.1)
    ids = torch.randint(0, 31, (2, 8))
    for step in range(3):
        if step == 1:
            pages.settle(model)
        for net, optim in ((model, optimizer), (twin, other)):
            optim.zero_grad()
            net(ids).float().logsumexp(-1).mean().backward()
            optim.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_weights_that_fill_the_memory_stay_where_they_are(model, monkeypatch):
    before = places(model)
    monkeypatch.setattr(pages, "available_memory", lambda: pages.SPARE)
    pages.settle(model)
    assert places(model) == before


def test_no_number_changes_on_large_pages():
    tensor = torch.arange(3 << 20)
    assert pages.on_large_pages(tensor) is tensor and torch.equal(tensor, torch.arange(3 << 20))
