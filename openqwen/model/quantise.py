"""Weights in 8 or 4 bits for use: a model that is read from memory in a half or a quarter of the bytes.

Not in the report; its authors released Int8 and Int4 files beside the chat models, from which we take what is
quantised: the matrices of the blocks, not the embedding and not the head. Those were made by GPTQ; here torchao rounds
each weight by itself, without data. Only weights are quantised; what they are multiplied with stays as it is.

    quantise(model, Quantisation(weights="int4"))      # in place, once; for generating and scoring, not for training

int8: symmetric, one scale a row of a matrix. int4: low and step of each group of neighbours in a row, in bfloat16,
which the whole model becomes: torch's kernel for it is fast in no other dtype (benchmarks/quantise.py).
"""

from __future__ import annotations

import logging
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from openqwen.core.errors import MissingTool, UsageError
from openqwen.model.config import Quantisation
from openqwen.model.qwen import Linear, Qwen

ROWS = 16  # of a matrix that torch's int4 kernel takes together


class Quantised(Linear):
    """A linear layer whose weight is a tensor of torchao's; a type of its own, for those who read weights directly."""


def quantise(model: Qwen, config: Quantisation) -> None:
    """Replaces the model's linear layers as `config` says. Deterministic arithmetic stays so.

    MissingTool without torchao; UsageError for int4 beside a CPU or in sizes that do not divide into groups.
    """
    ao = _torchao()
    if config.weights == "int4":
        if model.embed.weight.device.type != "cpu":
            raise UsageError(
                f"int4 weights are for CPUs, the model is on {model.embed.weight.device}", fix="use int8"
            )
        model.to(torch.bfloat16)
        how = ao.int4(group_size=config.group, set_inductor_config=False)
    else:
        how = ao.int8(set_inductor_config=False)
    chosen = {name: module for name, module in model.named_modules() if type(module) is Linear}
    if not config.head:
        del chosen["head"]
    for name, module in chosen.items():
        if config.weights == "int4":
            _check_groups(name, module, config.group)
        with torch.device("meta"):
            layer = Quantised(module.in_features, module.out_features, bias=module.bias is not None)
        layer.weight, layer.bias = module.weight, module.bias
        model.set_submodule(name, layer)
    ao.quantize_(model, how, filter_fn=lambda module, _: type(module) is Quantised)
    model.requires_grad_(False)


def is_quantised(model: nn.Module) -> bool:
    """Whether `quantise` has been here."""
    return any(type(module) is Quantised for module in model.modules())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of memory that a model's parameters take, scales of quantised ones included."""
    return sum(part.nbytes for parameter in model.parameters() for part in _parts(parameter))


def int8_parts(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Of a weight (O, I) in int8: its codes (O, I) int8 and its scales (O, 1) float32. None for any other."""
    codes = getattr(weight, "qdata", None)
    return (codes, weight.scale) if codes is not None and codes.dtype == torch.int8 else None  # type: ignore[attr-defined]


def _parts(parameter: Tensor) -> list[Tensor]:
    if not hasattr(parameter, "__tensor_flatten__"):
        return [parameter]
    return [getattr(parameter, name) for name in parameter.__tensor_flatten__()[0]]


def _check_groups(name: str, module: Linear, group: int) -> None:
    if module.in_features % group or module.out_features % ROWS:
        raise UsageError(
            f"{name}, {module.out_features} x {module.in_features}, does not divide into groups of {group} weights"
            f" and {ROWS} rows",
            fix="use int8" + (", or a smaller group" if group > 32 else ""),
        )


def _torchao() -> SimpleNamespace:
    """What we use of torchao. While it is imported it warns of libraries for GPUs that are not here: left out."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise MissingTool(
            "int8 and int4 weights need torchao 0.18", fix="pip install 'openqwen[quantise]'"
        ) from error
    finally:
        logging.disable(before)
    return SimpleNamespace(quantize_=quantize_, int8=Int8WeightOnlyConfig, int4=PrototypeInt4WeightOnlyConfig)
