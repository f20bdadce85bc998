"""One more token for each row in few calls: the fast twin of `Qwen.hidden(ids, cache=rows)`.

Ours; the arithmetic is that of model/qwen.py (report §2.3, §2.5) up to the last bits. A decoding step of a small
model spends more time between kernels than in them, so here a norm is one call, products add the residual
themselves, RoPE is three calls, and no module is called. The live parameters are read at each step: training between
steps is seen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwen.engine import native
from openqwen.model.attention import attend
from openqwen.model.cache import CacheRows
from openqwen.model.context import LayerContext
from openqwen.model.quantise import Quantised
from openqwen.model.qwen import Block, Linear, Qwen, RMSNorm


def decode(model: Qwen, ids: Tensor, rows: CacheRows, compiled: bool = False) -> Tensor:
    """ids (B, 1), the newest token of each row -> hidden states (B, C) after the final norm.

    compiled: by native.py, where the step is one for it.
    """
    parts = rows.parts(ids, None)
    simple = len(parts) == 1 and not parts[0].again
    plain = simple and is_plain(model)
    readable = compiled and simple and (plain or is_plain(model, Quantised))
    if readable and native.fits(model, len(ids), rows):
        return native.decode(model, ids, rows, rows.contexts(ids, None))
    if not plain:
        return model.hidden(ids, cache=rows)[:, 0]
    contexts = rows.contexts(ids, None)
    turns = {id(context): _turn(context) for context in contexts}
    x = F.embedding(ids[:, 0], model.embed.weight)  # (B, C)
    for layer, (block, context) in enumerate(zip(model.blocks, contexts)):
        x = _block(block, x, context, turns[id(context)], rows, layer)  # type: ignore[arg-type]
    rows.commit()
    return _norm(model.norm, x)


def is_plain(model: Qwen, kind: type[Linear] = Linear) -> bool:
    """Whether blocks are those of model/qwen.py, matrices of one kind: no adapter, no sharding, no autocast."""
    kinds: set[type] = set()
    for block in model.blocks:
        if type(block) is not Block:
            return False
        # What `block.attn` looks in; in each step of each layer its way there would take longer than the look.
        parts = block._modules
        attn, mlp = parts["attn"]._modules, parts["mlp"]._modules  # type: ignore[union-attr]
        kinds |= {type(part) for part in (attn["qkv"], attn["out"], mlp["gate"], mlp["up"], mlp["down"])}
    return kinds == {kind} and not torch.is_autocast_enabled(model.embed.weight.device.type)


def _turn(context: LayerContext) -> tuple[Tensor, Tensor]:
    """cos and signed sin (B, 1, 1, D), for dimension j and j + D/2 at once."""
    return torch.cat((context.cos, context.cos), -1), torch.cat((-context.sin, context.sin), -1)


def _norm(norm: RMSNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


def _block(
    block: Block, x: Tensor, context: LayerContext, turn: tuple[Tensor, Tensor], rows: CacheRows, layer: int
) -> Tensor:
    """x (B, C) -> (B, C)."""
    attn, mlp, (cos, sin) = block.attn, block.mlp, turn
    H, K, D = attn.num_heads, attn.kv_heads, attn.head_dim
    qkv = F.linear(_norm(block.attn_norm, x), attn.qkv.weight, attn.qkv.bias)
    qk, v = qkv.view(len(x), 1, H + 2 * K, D).split((H + K, K), dim=2)
    wide = qk.float()
    q, k = torch.addcmul(wide * cos, wide.roll(D // 2, -1), sin).to(x.dtype).split((H, K), dim=2)
    if context.query_scale is not None:
        q = q * context.query_scale.to(q.dtype)
    k, v = rows.append(layer, k, v)  # (B, K, S, D)
    mixed = attend(q, k, v, **context.sight._asdict()).reshape(x.shape)
    x = torch.addmm(x, mixed, attn.out.weight.t())
    y = _norm(block.mlp_norm, x)
    return torch.addmm(
        x, F.silu(F.linear(y, mlp.gate.weight)).mul_(F.linear(y, mlp.up.weight)), mlp.down.weight.t()
    )
