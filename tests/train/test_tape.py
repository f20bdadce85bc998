"""The autograd that counts bytes against torch's: the same little programs leave the same highest mark."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from openqwen.train.tape import FP32, Autograd, Memory, Tape, Tensor, Weight

N, I, O = 512, 256, 384  # rows, inputs, outputs
TURN = 1_234_567  # bytes of a tensor that is made between the way there and back
X, WEIGHT = (torch.ones(rows, I, requires_grad=True) for rows in (N, O))


def highest_going_back(program: Callable[[], torch.Tensor]) -> int:
    """Bytes on top of what the way there has left, at the highest mark of the way back."""
    for _ in range(2):
        X.grad = WEIGHT.grad = None
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            out = program()
            turn = torch.empty(TURN, dtype=torch.uint8)
            out.backward(torch.ones(1).expand(out.shape))
        del out, turn
    assert profiled.profiler is not None
    results: Any = profiled.profiler.kineto_results
    events = sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    changes = [event.nbytes() for event in events]
    back = changes[changes.index(TURN) + 1 :]
    return max(accumulate(back))


def linear(graph: Autograd, x: Tensor) -> Tensor:
    y = graph.silu(graph.linear(x, Weight(O * I), N * O))
    return graph.mul(y, y)


def torch_linear() -> torch.Tensor:
    y = F.silu(F.linear(X, WEIGHT))
    return y * y


def branches(graph: Autograd, x: Tensor) -> Tensor:
    y = graph.add(x, graph.silu(x))
    y = graph.add(y, graph.silu(y))
    return graph.square(y)


def torch_branches() -> torch.Tensor:
    y = X + F.silu(X)
    y = y + F.silu(y)
    return y.square()


def parts(graph: Autograd, x: Tensor) -> Tensor:
    a, b = graph.split(x, N * I // 2, N * I // 2)
    return graph.square(graph.joined([graph.silu(b), graph.silu(a)]))


def torch_parts() -> torch.Tensor:
    a, b = X.chunk(2, dim=0)
    return torch.cat([F.silu(b), F.silu(a)]).square()


def thrice(graph: Autograd, x: Tensor) -> Tensor:
    y = graph.simple(x, x.size, x.item)
    a, b, c = (graph.simple(y, y.size, y.item) for _ in range(3))
    return graph.silu(graph.add(graph.add(a, b), c))


def torch_thrice() -> torch.Tensor:
    y = X * 2
    a, b, c = y * 2, y * 3, y * 4
    return F.silu(a + b + c)


@pytest.mark.parametrize(
    ("counted", "real"),
    [(linear, torch_linear), (branches, torch_branches), (parts, torch_parts), (thrice, torch_thrice)],
)
def test_the_way_back_has_torchs_highest_mark(
    counted: Callable[[Autograd, Tensor], Tensor], real: Callable[[], torch.Tensor]
) -> None:
    tape = Tape()
    graph = Autograd(tape, FP32)
    x = graph.new(N * I, FP32)
    gradient = graph.entrance(x)
    out = counted(graph, x)
    before = tape.highest = tape.total
    graph.backward(out.node)
    assert tape.highest - before == pytest.approx(highest_going_back(real), rel=0.001)
    assert len(gradient) == 1


def test_memory_is_on_the_tape_while_somebody_refers_to_it() -> None:
    tape = Tape(parameters=8)
    one = Memory(tape, 4, "temporary")
    other = one
    del one
    assert tape.live == {"parameters": 8, "temporary": 4}
    other.become("activations")
    assert tape.live == {"parameters": 8, "temporary": 0, "activations": 4} and tape.highest == 12
    del other
    assert tape.live["activations"] == 0 and tape.total == 8


def test_autocast_copies_a_trained_weight_once_and_a_frozen_one_each_time() -> None:
    for trained, copies in ((True, 1), (False, 2)):
        tape = Tape()
        graph, w = Autograd(tape, 2), Weight(O * I, trained=trained)
        x = graph.new(N * I, FP32)
        graph.entrance(x)
        kept = [graph.linear(x, w, N * O) for _ in range(2)]
        assert tape.live["copies"] == copies * O * I * 2
        del kept


def test_the_peak_says_what_was_alive_and_when() -> None:
    tape = Tape(parameters=5)
    for now, size in (("first", 10), ("second", 30), ("third", 20)):
        tape.now = now
        Memory(tape, size, "temporary")
    assert (tape.peak, tape.moment, tape.highest) == ({"parameters": 5, "temporary": 30}, "second", 35)
