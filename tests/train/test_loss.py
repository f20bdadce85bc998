"""The chunked loss equals torch's own, forward and backward, and holds no full logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from openqwen.train import loss as loss_module
from openqwen.train.loss import cross_entropy

N, C, V = 37, 11, 53


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    hidden = torch.randn(N, C, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, C, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, V, (N,))
    labels[[0, 5, 36]] = -100
    return hidden, weight, labels


@pytest.mark.parametrize("chunk", [1, 5, 34, 1000, None])
def test_equals_plain_cross_entropy_in_fp64(chunk: int | None) -> None:
    hidden, weight, labels = inputs(torch.float64)
    total, count = cross_entropy(hidden, weight, labels, chunk)
    (total / count).backward()
    plain_hidden, plain_weight = (t.detach().clone().requires_grad_() for t in (hidden, weight))
    plain = F.cross_entropy(plain_hidden @ plain_weight.T, labels)
    plain.backward()
    assert count == N - 3
    assert total.dtype == torch.float64
    torch.testing.assert_close(total / count, plain, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(hidden.grad, plain_hidden.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(weight.grad, plain_weight.grad, rtol=1e-12, atol=1e-14)


def test_under_autocast_it_is_as_close_to_the_truth_as_torch() -> None:
    hidden, weight, labels = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = cross_entropy(hidden, weight, labels, 7)
    total.backward()
    truth_hidden, truth_weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    truth = F.cross_entropy(truth_hidden @ truth_weight.T, labels, reduction="sum")
    truth.backward()
    assert total.dtype == torch.float32 and hidden.grad.dtype == torch.float32
    assert abs(total.item() - truth.item()) < 2e-2 * truth.item()
    for ours, exact in ((hidden.grad, truth_hidden.grad), (weight.grad, truth_weight.grad)):
        assert (ours - exact).norm() < 1e-2 * exact.norm()


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    hidden, weight, labels = inputs(torch.float64)
    total, _ = cross_entropy(hidden.detach(), weight, labels, 4)
    total.backward()
    assert weight.grad is not None and hidden.grad is None
    with torch.no_grad():
        total, _ = cross_entropy(hidden, weight, labels, 4)
    assert not total.requires_grad


@pytest.mark.fault("training", "every label of a batch is masked", "loss 0, not NaN")
def test_all_rows_ignored_is_zero_not_nan() -> None:
    hidden, weight, _ = inputs(torch.float32)
    total, count = cross_entropy(hidden, weight, torch.full((N,), -100))
    total.backward()
    assert (total.item(), count) == (0.0, 0)
    assert hidden.grad.abs().sum() == 0


class _Largest(TorchDispatchMode):
    """Rows of the largest matrix with a column for every id of the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == V:
            self.rows = max(self.rows, out.shape[0])
        return out


def test_largest_temporary_is_a_chunk() -> None:
    hidden, weight, labels = inputs(torch.float32)
    with _Largest() as largest:
        total, _ = cross_entropy(hidden, weight, labels, 16)
        total.backward()
    assert largest.rows == 16


def test_chunks_of_a_large_vocabulary_hold_64_mib_or_256_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(loss_module._SummedLoss, "apply", lambda *args: taken.append(args[3]))
    for vocab_size in (512, 32_768, 65_536, 151_936):
        cross_entropy(torch.zeros(3, 1), torch.zeros(vocab_size, 1), torch.zeros(3, dtype=torch.int64))
    assert taken == [1024, 512, 256, 256]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pieces_of_a_chunk_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels = inputs(dtype)
    whole, _ = cross_entropy(hidden, weight, labels, 20)
    gradients = torch.autograd.grad(whole, (hidden, weight))
    monkeypatch.setattr(loss_module, "PIECE_BYTES", 1)
    monkeypatch.setattr(loss_module, "PIECE_ROWS", 3)
    parts, _ = cross_entropy(hidden, weight, labels, 20)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    for ours, expected in zip(torch.autograd.grad(parts, (hidden, weight)), gradients):
        assert torch.equal(ours, expected)


def test_a_label_too_unlikely_for_fp32_has_a_finite_loss() -> None:
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    hidden, labels = torch.tensor([[300.0], [-200.0]]), torch.tensor([1, 0])
    found, _ = cross_entropy(hidden, weight, labels)
    assert float(found) == float(F.cross_entropy(hidden @ weight.T, labels, reduction="sum")) == 1000.0


def test_gradients_pass_gradcheck() -> None:
    hidden, weight, labels = inputs(torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: cross_entropy(h, w, labels[:9], 4)[0], (hidden[:9].detach().requires_grad_(), weight)
    )
