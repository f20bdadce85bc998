"""The whole forward pass: token ids in, logits out.

Report §2.3, Table 1; §2.5 enters as `LayerContext` values (context.py). The report's: untied embedding and head,
RMSNorm before attention and feed-forward, RoPE with fp32 frequencies, biases on query, key and value only, SwiGLU
with an FFN of 8/3 of the width. From the released configuration: the init table. Ours: where dropout stands (the
report trains chat models with 0.1 and does not say where): after the embedding and on both branches of a block.

B batch, T time, S keys seen, C hidden, H heads, K key/value heads, D head dim, F ffn, V vocabulary.

    init_weights          embed, head, qkv, gate, up     N(0, 0.02)
                          out, down                      N(0, 0.02 / sqrt(2 x layers))
                          biases 0, norms 1
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openqwen.model.attention import attend, attend_branches
from openqwen.model.cache import CacheRows, KVCache, Part
from openqwen.model.config import Extension, ModelConfig
from openqwen.model.context import (
    Branches,
    LayerContext,
    is_right_padded,
    layer_contexts,
    plain_context,
    segment_positions,
    sight_in_order,
)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, normalised in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))  # (C,)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return y.to(x.dtype) * self.weight


class Linear(nn.Linear):
    """nn.Linear that leaves its weights to `Qwen.init_weights` instead of drawing from the global generator."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """nn.Embedding that leaves its weights to `Qwen.init_weights`."""

    def reset_parameters(self) -> None:
        pass


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on (B, T, H, D): dimension j turns with dimension j + D/2. cos, sin (B, T, 1, D/2) fp32."""
    first, second = x.float().chunk(2, dim=-1)  # (B, T, H, D/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for query, key and value."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim = config.num_heads, config.kv_heads, config.head_dim
        width = (self.num_heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.hidden_size, width, bias=True)
        self.out = Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, context: LayerContext, rows: CacheRows | None, layer: int) -> Tensor:
        H, K, packed, asked = self.num_heads, self.kv_heads, context.packed, context.asked
        qkv = self.qkv(x) if packed is None else packed.spread(self.qkv(x))
        B, T, _ = qkv.shape
        qk, v = qkv.view(B, T, H + 2 * K, self.head_dim).split((H + K, K), dim=2)
        q, k = rotate(qk, context.cos, context.sin).split((H, K), dim=2)  # (B, T, H, D), (B, T, K, D)
        if context.query_scale is not None:
            q = q * context.query_scale.to(q.dtype)
        if rows is not None:
            k, v = rows.append(layer, k, v)  # (B, K, S, D)
        else:
            k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, K, T, D)
        way = attend_branches if isinstance(context.sight, Branches) else attend
        mixed = way(q, k, v, **context.sight._asdict()).reshape(B, T, H * self.head_dim)
        if asked is not None:
            mixed = mixed.flatten(0, 1).index_select(0, asked.places)  # (m, H D)
        elif packed is not None:
            mixed = packed.gather(mixed)
        return self.out(mixed)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.ffn, bias=False)
        self.up = Linear(config.hidden_size, config.ffn, bias=False)
        self.down = Linear(config.ffn, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: LayerContext, rows: CacheRows | None, layer: int) -> Tensor:
        mixed = self.attn(self.attn_norm(x), context, rows, layer)  # (B, T, C)
        if context.asked is not None:
            x = x.flatten(0, -2).index_select(0, context.asked.given)  # (m, C)
        x = x + self.dropout(mixed)
        del mixed  # its memory is wanted by what follows
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Qwen(nn.Module):
    """The base language model. A new one holds `init_weights(0)`, except on the meta device."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if self.embed.weight.device.type != "meta":
            self.init_weights(0)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draws all weights by the table at the top of this file; the same seed gives the same model everywhere."""
        generator = torch.Generator().manual_seed(seed)
        std, residual_std = self.config.init_std, self.config.init_std / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                spread = residual_std if name.endswith(("attn.out.weight", "mlp.down.weight")) else std
                drawn = torch.empty(parameter.shape, dtype=torch.float32)
                parameter.copy_(drawn.normal_(0.0, spread, generator=generator))

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | CacheRows | None = None,
        extension: Extension | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T) int64; the arguments are those of `hidden`."""
        return self.head(self.hidden(ids, mask, segments, cache, extension))

    def hidden(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | CacheRows | None = None,
        extension: Extension | None = None,
    ) -> Tensor:
        """(B, T, C) after the final norm, what the head reads.

        mask (B, T) bool: True marks real tokens, padding may be on either side; outputs at padding mean nothing.
        segments (B, T): several samples in one row; a token sees its own segment only, positions restart in each.
        cache: the ids continue the cache's rows (see cache.py); its own extension holds.
        extension: None is what the config says, and none at all while training, as in the report.
        """
        rows = cache.select(range(cache.num_rows)) if isinstance(cache, KVCache) else cache
        if rows is not None:
            assert segments is None and extension is None, "a cache brings its own rows and extension"
            parts = rows.parts(ids, mask)
            if len(parts) > 1 or parts[0].again:
                return self._by_parts(ids, mask, rows, parts)
        if extension is None:
            extension = Extension() if self.training else self.config.extension
        contexts = self._contexts(ids, mask, segments, rows, extension)
        x = self.dropout(self.embed(ids))  # (B, T, C)
        for layer, (block, context) in enumerate(zip(self.blocks, contexts)):
            x = block(x, context, rows, layer)
        if rows is not None:
            rows.commit()
        return self.norm(x)

    def _contexts(
        self,
        ids: Tensor,
        mask: Tensor | None,
        segments: Tensor | None,
        rows: CacheRows | None,
        extension: Extension,
    ) -> list[LayerContext]:
        """What each layer must know about positions, by the cheapest way that is right for the arguments."""
        T, device = ids.shape[1], ids.device
        if rows is not None:
            return rows.contexts(ids, mask)
        seen = None
        if segments is not None:
            positions, lengths = segment_positions(segments)  # (B, T) each
            seen = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
            if mask is not None:
                seen = seen & mask[:, None, :]
        elif mask is None:
            return plain_context(self.config, extension, T, device)
        else:
            lengths = mask.sum(1, keepdim=True)  # (B, 1)
            if is_right_padded(mask):
                if self.config.max_length >= T:
                    return plain_context(self.config, extension, T, device)
                positions = torch.arange(T, device=device).expand_as(ids)  # (B, T)
            else:
                positions, seen = (mask.cumsum(1) - 1).clamp(min=0), mask[:, None, :]
        longest = int(lengths.max())
        return layer_contexts(self.config, extension, positions, lengths, longest, sight_in_order(seen))

    def _by_parts(self, ids: Tensor, mask: Tensor | None, rows: CacheRows, parts: list[Part]) -> Tensor:
        """Rows of different extensions one after the other, and in exact mode those that enter a new chunk anew."""
        out = self.embed.weight.new_zeros(*ids.shape, self.config.hidden_size)  # (B, T, C)
        for part in parts:
            chosen = rows.part(part.places)
            some, kept = ids[part.places], None if mask is None else mask[part.places]
            if part.again:
                real = slice(None) if kept is None else kept[0]
                whole = torch.cat((chosen.take().to(ids.device), some[0, real]))  # (N,)
                hidden = self.hidden(whole[None], cache=chosen)  # (1, N, C)
                out[part.places[0], real] = hidden[0, len(whole) - len(some[0, real]) :].to(out.dtype)
            else:
                out[part.places] = self.hidden(some, kept, cache=chosen).to(out.dtype)
        return out
