"""Replies behind one copy of their query: the numbers and gradients of replies in rows of their own."""

from __future__ import annotations

import random

import pytest
import torch

from openqwen.model.config import ModelConfig
from openqwen.model.heads import ScalarModel
from openqwen.model.qwen import Qwen
from openqwen.rlhf import shared
from openqwen.rlhf.prompts import Prompt
from openqwen.rlhf.rollout import Reply, Rows, head_logits, make_rows, reply_values, share_rows, states

CPU, V = torch.device("cpu"), 50
SHAPE = ModelConfig(vocab_size=V, hidden_size=32, num_layers=3, num_heads=4, max_length=64)


def replies(seed: int) -> list[list[Reply]]:
    """Queries of 1 to 20 tokens with one to four replies of 1 to 9."""
    draw = random.Random(seed)

    def ids(most: int) -> list[int]:
        return draw.choices(range(V), k=draw.randint(1, most))

    prompts = [Prompt(line, {}, ids(20)) for line in range(5)]
    return [
        [Reply(p, ids(9), [], [], "", True) for _ in range(count)]
        for p, count in zip(prompts, (2, 1, 4, 3, 2))
    ]


def both(seed: int) -> tuple[Rows, Rows]:
    rows = replies(seed)
    apart = make_rows([reply for row in rows for reply in row], V, CPU)
    together = share_rows(rows, V, CPU)
    assert apart.trunk is None and together.trunk is not None
    assert len(apart.ids_BT) == 12 and len(together.ids_BT) == 5
    assert torch.equal(apart.tokens_N, together.tokens_N) and torch.equal(apart.mask_BR, together.mask_BR)
    return apart, together


@pytest.mark.parametrize("seed", range(4))
def test_logits_values_and_gradients_are_those_of_separate_rows(seed: int) -> None:
    model = Qwen(SHAPE).double().eval()
    value = ScalarModel.from_qwen(model, 1).eval()
    found = []
    for rows in both(seed):
        logits = head_logits(model, rows)
        values = reply_values(value, rows)
        ends = shared.scalars(value, states(value.backbone, rows, rows.last_R))
        weights = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits).cos()
        gradients = torch.autograd.grad((logits * weights).sum(), list(model.parameters()))
        found.append((logits, values, ends, *gradients))
    for apart, together in zip(*found, strict=True):
        torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)  # norms compute in fp32


def test_padding_is_left_out_of_all_but_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers and gradients, with fewer rows for the feed-forward."""
    model = Qwen(SHAPE).double().eval()
    _, rows = both(7)
    sizes: list[int] = []
    model.blocks[0].mlp.register_forward_pre_hook(
        lambda _, inputs: sizes.append(inputs[0].shape[:-1].numel())
    )
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(shared, "PACKED", share)
        logits = head_logits(model, rows)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))))
    assert sizes == [rows.real_BT.numel(), int(rows.real_BT.sum())] and sizes[0] > sizes[1]
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(padded, packed, rtol=1e-4, atol=1e-5)


def test_values_and_ends_are_those_of_the_scalar_model_itself() -> None:
    value = ScalarModel(SHAPE).eval()
    for row in replies(5):
        rows = share_rows([row], V, CPU)
        values = reply_values(value, rows).split([len(reply.ids) for reply in row])
        ends = shared.scalars(value, states(value.backbone, rows, rows.last_R))
        for reply, got, end in zip(row, values, ends):
            alone = value(torch.tensor([reply.prompt.ids + reply.ids]))[0]
            torch.testing.assert_close(got, alone[len(reply.prompt.ids) - 1 : -1])
            torch.testing.assert_close(end, alone[-1])


def test_a_reply_follows_its_query_and_not_another_reply() -> None:
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 1, 0]], dtype=torch.bool)
    assert shared.positions(real, trunk=3, count=2).tolist() == [[0, 1, 2, 3, 4, 3, 4], [0, 0, 0, 1, 2, 1, 0]]


def test_queries_are_shared_only_where_that_is_possible_and_pays() -> None:
    assert shared.possible(SHAPE, 64) and not shared.possible(SHAPE, 65)
    window = SHAPE.model_copy(update={"windows": (16, 16, 64)})
    assert shared.possible(window, 16) and not shared.possible(window, 17)
    assert shared.worth(64, [64, 64], 256) and not shared.worth(64, [64], 256)
    assert shared.worth(1024, [512, 512], 4096) and shared.worth(20, [2048, 2048], 256)
    assert not shared.worth(20, [2048, 16], 256)  # padded to 2048, too
