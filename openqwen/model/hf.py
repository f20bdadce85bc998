"""Names and settings of published checkpoints, translated to ours; the only file that knows `c_attn`, `w1`, `w2`.

Report §2.3. Read: `QWenLMHeadModel` (key names of August 2023 and of later files) and `Qwen2ForCausalLM`
(`rope_theta` and `rope_parameters`). Written: Qwen2 by default, because today's programs load it without remote
code, with a block `openqwen` in config.json for what that layout cannot say: the training length and the context
extension. In the Qwen-1 layout `w2` is the gate, `w1` the other half, and `intermediate_size` is twice the FFN width.
GGUF's names are here too. Values of generation_config.json are those of the released models (December 2023).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Any, Literal, NamedTuple

from openqwen.core.config import validate
from openqwen.core.errors import DataError, UsageError
from openqwen.model.config import ModelConfig

Layout = Literal["qwen1", "qwen2"]
Naming = Literal["qwen1", "qwen2", "gguf"]
# Tensors of old files that hold no weights.
CONSTANTS = re.compile(r"\.(attn\.masked_bias|attn\.bias|rotary_emb\.inv_freq)$")
_LEGACY = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
    "padded_vocab_size": "vocab_size",
    "n_positions": "max_position_embeddings",
}
_PRECISION = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_SAMPLING = ("do_sample", "max_new_tokens", "repetition_penalty", "temperature", "top_k", "top_p")
# Embedding, final norm, head and the stem of the blocks.
_OUTER: dict[Naming, tuple[str, str, str, str]] = {
    "qwen1": ("transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight", "transformer.h"),
    "qwen2": ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers"),
    "gguf": ("token_embd.weight", "output_norm.weight", "output.weight", "blk"),
}
_BLOCK: dict[Naming, dict[str, tuple[str, ...]]] = {
    "qwen1": {
        "attn_norm.weight": ("ln_1.weight",),
        "attn.qkv.weight": ("attn.c_attn.weight",),
        "attn.qkv.bias": ("attn.c_attn.bias",),
        "attn.out.weight": ("attn.c_proj.weight",),
        "mlp_norm.weight": ("ln_2.weight",),
        "mlp.up.weight": ("mlp.w1.weight",),
        "mlp.gate.weight": ("mlp.w2.weight",),
        "mlp.down.weight": ("mlp.c_proj.weight",),
    },
    "qwen2": {
        "attn.qkv.weight": tuple(f"self_attn.{x}_proj.weight" for x in "qkv"),
        "attn.qkv.bias": tuple(f"self_attn.{x}_proj.bias" for x in "qkv"),
        "attn.out.weight": ("self_attn.o_proj.weight",),
        "mlp.gate.weight": ("mlp.gate_proj.weight",),
        "mlp.up.weight": ("mlp.up_proj.weight",),
        "mlp.down.weight": ("mlp.down_proj.weight",),
        "attn_norm.weight": ("input_layernorm.weight",),
        "mlp_norm.weight": ("post_attention_layernorm.weight",),
    },
    "gguf": {
        "attn_norm.weight": ("attn_norm.weight",),
        "attn.qkv.weight": tuple(f"attn_{x}.weight" for x in "qkv"),
        "attn.qkv.bias": tuple(f"attn_{x}.bias" for x in "qkv"),
        "attn.out.weight": ("attn_output.weight",),
        "mlp_norm.weight": ("ffn_norm.weight",),
        "mlp.gate.weight": ("ffn_gate.weight",),
        "mlp.up.weight": ("ffn_up.weight",),
        "mlp.down.weight": ("ffn_down.weight",),
    },
}


class Piece(NamedTuple):
    """One published tensor: which rows of which parameter of ours it is."""

    name: str
    ours: str
    first: int
    rows: int


def published_names(config: ModelConfig, naming: Naming, scalar: bool = False) -> dict[str, tuple[str, ...]]:
    """Our parameter name -> the published tensors that stand stacked in it (along dimension 0).

    scalar: the parameters of a ScalarModel, published as Qwen2ForSequenceClassification.
    """
    embed, norm, head, stem = _OUTER[naming]
    names: dict[str, tuple[str, ...]] = {"embed.weight": (embed,)}
    for i in range(config.num_layers):
        for ours, theirs in _BLOCK[naming].items():
            names[f"blocks.{i}.{ours}"] = tuple(f"{stem}.{i}.{name}" for name in theirs)
    names["norm.weight"] = (norm,)
    if scalar:
        names = {f"backbone.{ours}": theirs for ours, theirs in names.items()}
        return {**names, "scalar.weight": ("score.weight",)}
    return {**names, "head.weight": (head,)}


def pieces(
    config: ModelConfig, naming: Naming, shapes: Mapping[str, tuple[int, ...]], scalar: bool = False
) -> list[Piece]:
    """Every tensor of a checkpoint in the order of published files. shapes: of our parameters."""
    found: list[Piece] = []
    for ours, theirs in published_names(config, naming, scalar).items():
        first = 0
        for name, rows in zip(theirs, piece_rows(config, ours, len(theirs)) or [shapes[ours][0]]):
            found.append(Piece(name, ours, first, rows))
            first += rows
    return sorted(found, key=_module) if naming == "qwen2" else found


def _module(piece: Piece) -> tuple[float, int]:
    """Sorts q, k and v of Qwen2 by module (q.weight, q.bias, k.weight, ...), as shards are divided by transformers."""
    match = re.match(r"model\.layers\.(\d+)\.self_attn\.([qkvo])_proj", piece.name)
    if match:
        return int(match[1]), "qkvo".index(match[2])
    layer = re.match(r"model\.layers\.(\d+)\.", piece.name)
    if layer:
        return int(layer[1]), 4
    return (-1, 0) if piece.ours.endswith("embed.weight") else (inf, 0)


def piece_rows(config: ModelConfig, ours: str, pieces: int) -> list[int] | None:
    """How the rows of a stacked parameter divide among its published tensors; None: it is a single tensor."""
    if pieces == 1:
        return None
    assert ours.endswith(("qkv.weight", "qkv.bias"))
    kv = config.kv_heads * config.head_dim
    return [config.hidden_size, kv, kv]


def read_config(values: Mapping[str, Any], where: str) -> tuple[ModelConfig, Layout]:
    """A published config.json as (ModelConfig, layout). DataError names what we cannot compute correctly."""
    architectures = _architectures(values)
    kind = values.get("model_type")
    if values.get("quantization_config") is not None:
        raise DataError(
            "these weights are quantised",
            where=where,
            fix="give the checkpoint in bfloat16, float16 or float32 they were made from",
        )
    if "visual" in values:
        raise DataError(
            "this model also reads pictures (Qwen-VL): it is not of the report",
            where=where,
            fix="give a language model, such as Qwen-7B",
        )
    if kind == "qwen" or "QWenLMHeadModel" in architectures:
        return _read_qwen1(values, where), "qwen1"
    if kind == "qwen2":
        return _read_qwen2(values, where), "qwen2"
    raise DataError(
        f"model_type {kind!r} ({', '.join(architectures) or 'no architecture named'}) is not a Qwen of the report",
        where=where,
        fix="give a checkpoint whose model_type is 'qwen' (QWenLMHeadModel) or 'qwen2' (Qwen2ForCausalLM)",
    )


def _read_qwen1(values: Mapping[str, Any], where: str) -> ModelConfig:
    said = dict(values)
    for old, new in _LEGACY.items():
        if old in said:
            said[new] = said[old]
    _refuse(said, "rotary_pct", (1.0, 1, None), where)
    _refuse(said, "no_bias", (True, None), where)
    _refuse(said, "tie_word_embeddings", (False, None), where)
    hidden, heads = _need(said, "hidden_size", where), _need(said, "num_attention_heads", where)
    channels = hidden // heads if said.get("kv_channels") is None else _need(said, "kv_channels", where)
    if hidden != heads * channels:
        raise DataError(
            f"hidden_size {hidden} is not num_attention_heads {heads} x kv_channels {channels}", where=where
        )
    return _validated(
        {
            "vocab_size": _need(said, "vocab_size", where),
            "hidden_size": hidden,
            "num_layers": _need(said, "num_hidden_layers", where),
            "num_heads": heads,
            "ffn_size": _need(said, "intermediate_size", where) // 2,
            "max_length": said.get("seq_length") or _need(said, "max_position_embeddings", where),
            "rope_base": said.get("rotary_emb_base", 10000.0),
            "norm_eps": said.get("layer_norm_epsilon", 1e-6),
            "init_std": said.get("initializer_range", 0.02),
            "dynamic_ntk": said.get("use_dynamic_ntk", True),
            "logn": said.get("use_logn_attn", True),
            **_block(values, where, "openqwen"),
        },
        where,
    )


def _read_qwen2(values: Mapping[str, Any], where: str) -> ModelConfig:
    _refuse(values, "use_sliding_window", (False, None), where)
    _refuse(values, "hidden_act", ("silu", None), where)
    rope = _block(values, where, "rope_parameters") or _block(values, where, "rope_scaling")
    _refuse(rope, "rope_type", ("default", None), where)
    _refuse(rope, "type", ("default", None), where)
    hidden, heads = _need(values, "hidden_size", where), _need(values, "num_attention_heads", where)
    if values.get("head_dim") not in (None, hidden // heads):
        raise DataError(
            f"head_dim {values['head_dim']} is not hidden_size {hidden} / num_attention_heads {heads}",
            where=where,
        )
    kv_heads = values.get("num_key_value_heads") or heads
    return _validated(
        {
            "vocab_size": _need(values, "vocab_size", where),
            "hidden_size": hidden,
            "num_layers": _need(values, "num_hidden_layers", where),
            "num_heads": heads,
            "num_kv_heads": None if kv_heads == heads else kv_heads,
            "ffn_size": _need(values, "intermediate_size", where),
            "max_length": _need(values, "max_position_embeddings", where),
            "rope_base": rope.get("rope_theta") or values.get("rope_theta") or 10000.0,
            "norm_eps": values.get("rms_norm_eps", 1e-6),
            "init_std": values.get("initializer_range", 0.02),
            "dynamic_ntk": False,
            "logn": False,
            **_block(values, where, "openqwen"),
        },
        where,
    )


def is_scalar(values: Mapping[str, Any]) -> bool:
    """Whether config.json is of a reward or value model: no head over the vocabulary."""
    return any(name.endswith("ForSequenceClassification") for name in _architectures(values))


def is_tied(values: Mapping[str, Any]) -> bool:
    """Whether head and embedding are one tensor in the file (small Qwen2 models); we hold two equal ones then."""
    return bool(values.get("tie_word_embeddings", False))


def write_config(config: ModelConfig, layout: Layout, dtype: str, scalar: bool = False) -> dict[str, Any]:
    """config.json of a model saved by us. dtype: "float32", "bfloat16" or "float16"."""
    own: dict[str, Any] = {
        "max_length": config.max_length,
        "dynamic_ntk": config.dynamic_ntk,
        "logn": config.logn,
    }
    if config.windows is not None:
        own["windows"] = list(config.windows)
    if layout == "qwen1":
        return {**_write_qwen1(config, dtype), "openqwen": own}
    extra = {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}} if scalar else {}
    return {
        "architectures": ["Qwen2ForSequenceClassification" if scalar else "Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.ffn,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same by its older name
        **extra,
        "openqwen": own,
    }


def with_dtype(said: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json for the same weights in another dtype; everything else, known to us or not, stays."""
    changed = {**said, **{name: dtype for name in ("dtype", "torch_dtype") if name in said}}
    if not {"dtype", "torch_dtype"} & said.keys():
        changed["torch_dtype"] = dtype
    if any(said.get(flag) for flag in _PRECISION):
        changed |= {flag: dtype == name for flag, name in _PRECISION.items()}
    return changed


def write_generation(
    layout: Layout, *, chat: bool, eos_id: int, im_end_id: int, max_length: int, said: Mapping[str, Any]
) -> dict[str, Any]:
    """generation_config.json: the released models' values, with what `said` (the source's file) sets put over them.

    A Qwen-1 chat model ends with <|endoftext|> as its pad and lets chat_format stop at <|im_end|>; the Qwen2 layout
    has no chat_format, so <|im_end|> must be among the ends.
    """
    values: dict[str, Any] = {"do_sample": True, "max_new_tokens": 512, "top_k": 0, "top_p": 0.8}
    if chat:
        values["repetition_penalty"] = 1.1
    values |= {name: said[name] for name in _SAMPLING if name in said}
    values["pad_token_id"] = eos_id
    if layout == "qwen2":
        return {**values, "eos_token_id": [im_end_id, eos_id] if chat else eos_id}
    values["eos_token_id"] = eos_id
    if chat:
        return {**values, "chat_format": "chatml", "max_window_size": min(6144, max_length)}
    return {**values, "chat_format": "raw", "stop_words_ids": [[eos_id]]}


def is_chat(generation: Mapping[str, Any], im_end_id: int) -> bool:
    """Whether a generation_config.json is a chat model's: its replies end with <|im_end|>."""
    return generation.get("chat_format") == "chatml" or im_end_id in end_ids(generation)


def end_ids(generation: Mapping[str, Any]) -> list[int]:
    """The ids at which a generation_config.json ends a text; none if it names none."""
    ends = generation.get("eos_token_id")
    return [] if ends is None else ends if isinstance(ends, list) else [ends]


def _write_qwen1(config: ModelConfig, dtype: str) -> dict[str, Any]:
    if config.kv_heads != config.num_heads:
        raise UsageError(
            "the Qwen-1 layout has no fewer key/value heads than heads",
            where=f"num_heads {config.num_heads}, num_kv_heads {config.kv_heads}",
            fix="save it in the qwen2 layout",
        )
    return {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "model_type": "qwen",
        "tokenizer_class": "QWenTokenizer",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "kv_channels": config.head_dim,
        "intermediate_size": 2 * config.ffn,
        "seq_length": config.max_length,
        "max_position_embeddings": config.max_length,
        "rotary_emb_base": config.rope_base,
        "rotary_pct": 1.0,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "emb_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "no_bias": True,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
        "use_dynamic_ntk": config.dynamic_ntk,
        "use_logn_attn": config.logn,
        "use_cache": True,
        "use_flash_attn": "auto",
        **{flag: dtype == name for flag, name in _PRECISION.items()},
        "torch_dtype": dtype,
    }


def _architectures(values: Mapping[str, Any]) -> list[str]:
    said = values.get("architectures")
    return [str(name) for name in said] if isinstance(said, list) else []


def _block(values: Mapping[str, Any], where: str, key: str) -> dict[str, Any]:
    """A table inside config.json; an absent one is empty."""
    said = values.get(key) or {}
    if not isinstance(said, dict):
        raise DataError(f"{key} is {said!r}; a JSON object is needed", where=where)
    return said


def _need(values: Mapping[str, Any], key: str, where: str) -> Any:
    said = values.get(key)
    if not isinstance(said, int) or isinstance(said, bool) or said < 1:
        raise DataError(f"{key} is {said!r}; a whole number above 0 is needed", where=where)
    return said


def _refuse(values: Mapping[str, Any], key: str, known: tuple[Any, ...], where: str) -> None:
    if values.get(key) not in known:
        raise DataError(
            f"{key} = {values[key]!r} would change the result and is not supported",
            where=where,
            fix=f"only {key} = {known[0]!r} is computed here",
        )


def _validated(values: dict[str, Any], where: str) -> ModelConfig:
    try:
        return validate(ModelConfig, values)
    except UsageError as error:
        raise DataError(error.what, where=where) from error
