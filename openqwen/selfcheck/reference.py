"""The same computed plainly: one sequence at a time, full logits, torch's own loss, AdamW and ChatML by the book.

Ours. Nothing here is fast, and nothing here is shared with the code it judges but the model's plain forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openqwen.model.qwen import Qwen

IGNORED = -100
Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]  # ids and what follows each, or -100


def loss_and_gradients(model: Qwen, sequences: Sequences) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over all counted labels of all sequences, each read alone, and its gradients."""
    model.zero_grad()
    total: Any = 0.0
    count = 0
    for ids, labels in sequences:
        target = torch.tensor([*labels], device=model.head.weight.device)  # (T,)
        logits = model(torch.tensor([[*ids]], device=target.device))[0]  # (T, V)
        total = total + F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        count += int((target != IGNORED).sum())
    mean = total / count
    mean.backward()
    return float(mean.detach()), gradients_of(model)


def gradients_of(model: Qwen) -> dict[str, Tensor]:
    """The gradients of a backward pass that has been made, on the CPU."""
    return {name: p.grad.detach().cpu().clone() for name, p in model.named_parameters() if p.grad is not None}


def shifted(ids: Sequence[int], trained: Sequence[bool]) -> tuple[Sequence[int], list[int]]:
    """A conversation's ids and, for each, the id after it if that one is trained. The last has none after it."""
    labels = [ids[i + 1] if trained[i + 1] else IGNORED for i in range(len(ids) - 1)]
    return ids, [*labels, IGNORED]


def chatml(
    messages: Sequence[Mapping[str, str]], control: Mapping[str, int], mask: str
) -> tuple[list[int], list[bool]]:
    """Ids, a byte each, and which are trained, by the table of openqwen.chat.chatml read cell by cell."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": "You are a helpful assistant."}, *messages]
    ids: list[int] = []
    trained: list[bool] = []
    for message in messages:
        every, script = mask == "everything", mask != "report"
        reply = every or message["role"] == "assistant"
        head, content = f"{message['role']}\n".encode(), message["content"].encode()
        ids += [control["<|im_start|>"], *head, *content, control["<|im_end|>"], *b"\n"]
        trained += [script] + [every] * len(head) + [reply] * len(content) + [reply or script, script]
    return ids, trained


def adamw(model: Qwen, batches: Sequence[Sequences], rates: Sequence[float], optim: Any) -> dict[str, Tensor]:
    """Weights after a step on each batch: gradient of the whole batch, clipped by its norm, AdamW of its paper."""
    kept = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in model.named_parameters()}
    for step, (batch, lr) in enumerate(zip(batches, rates), 1):
        _, gradients = loss_and_gradients(model, batch)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                g = gradients[name].to(parameter.device) * min(1.0, optim.clip / norm)
                mean, square = kept[name]
                mean.mul_(optim.beta1).add_((1 - optim.beta1) * g)
                square.mul_(optim.beta2).add_((1 - optim.beta2) * g**2)
                root = (square / (1 - optim.beta2**step)).sqrt() + optim.eps
                decay = 0.0 if name.endswith(("norm.weight", "bias")) else optim.weight_decay
                parameter.sub_(lr * (decay * parameter + mean / (1 - optim.beta1**step) / root))
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
