"""One GGUF file for llama.cpp and its relatives: the weights, the vocabulary and the chat template.

Ours; the format is llama.cpp's. Architecture `qwen2` (q, k and v with bias, RMSNorm, SwiGLU, half-rotated RoPE) is
the report's §2.3 exactly; what is lost of §2.5 says `export.lost`. Vectors (norms, biases) are always fp32, as
llama.cpp computes with them. Its pre-tokeniser `qwen2` cuts text as Qwen does, without Unicode's NFC first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openqwen.core.artifact import need_disk
from openqwen.core.errors import MissingTool
from openqwen.model.config import ModelConfig
from openqwen.model.export import lost, planned
from openqwen.model.stored import Checkpoint, check_rows

_FILE_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as plain data. tokens: by id, bytes as printable letters; control: ids of the special ones."""

    tokens: Sequence[str]
    control: frozenset[int]
    merges: Sequence[str]  # "left right", in the order of learning
    eos_id: int
    pad_id: int
    chat_template: str


def write_gguf(
    path: Path,
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    dtype: torch.dtype | None,
    name: str,
    license: str | None = None,
) -> None:
    """Writes the file. dtype: of the matrices; None as the embedding is stored. MissingTool without `gguf`.

    Its description says what of the model the format cannot.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    except ModuleNotFoundError as error:
        raise MissingTool(
            f"writing GGUF needs the package {error.name}", fix="pip install 'openqwen[hf]'"
        ) from error
    dtype = dtype or checkpoint.parts["embed.weight"][0].dtype
    plan = planned(checkpoint, "gguf", dtype, wide_vectors=True)
    need_disk(path.parent, sum(tensor.num_bytes for tensor in plan.values()))
    writer = GGUFWriter(path, "qwen2")
    try:
        writer.add_name(name)
        if license is not None:
            writer.add_license(license)
        if (missing := lost(checkpoint.config, "gguf")) is not None:
            writer.add_description(missing)
        writer.add_file_type(LlamaFileType[_FILE_TYPES[dtype]])
        _add_shape(writer, checkpoint.config)
        _add_vocabulary(writer, vocabulary, checkpoint.config.vocab_size)
        for key, tensor in plan.items():
            kind = GGMLQuantizationType[_TYPES[tensor.dtype]]
            # raw_dtype decides; numpy has no bfloat16 to name there.
            writer.add_tensor_info(key, tensor.shape, np.dtype(np.float32), tensor.num_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in plan.values():
            writer.write_tensor_data(_numpy(tensor.read()))
    finally:
        writer.close()


def _add_shape(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, rows: int) -> None:
    """rows: of the embedding; those beyond the vocabulary become unused tokens."""
    from gguf import TokenType

    count = len(vocabulary.tokens)
    check_rows(count, rows, "the tokenizer")
    kinds = [TokenType.CONTROL if i in vocabulary.control else TokenType.NORMAL for i in range(count)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*vocabulary.tokens, *(f"[PAD{i}]" for i in range(count, rows))])
    writer.add_token_types([*kinds, *[TokenType.UNUSED] * (rows - count)])
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.pad_id)  # never added; without one llama.cpp assumes id 11
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_pad_token_id(vocabulary.pad_id)
    writer.add_chat_template(vocabulary.chat_template)


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
