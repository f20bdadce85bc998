"""`openqwen export`: a model for other programs.

Ours. `qwen2` and `qwen` are folders (safetensors, tokenizer, settings), `gguf` is one file. Nothing appears at --out
before all of it is written, and nothing that is there is overwritten.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from openqwen.core import artifact
from openqwen.core.console import note
from openqwen.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from openqwen.model.gguf import Vocabulary
    from openqwen.model.stored import Checkpoint
    from openqwen.tokenizer import Tokenizer

Format = Literal["qwen2", "qwen", "gguf"]
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def export(
    model: Path,
    *,
    format: Annotated[
        Format, Parameter(help="qwen2: today's programs; qwen: the released layout; gguf: llama.cpp.")
    ],
    out: Annotated[Path, Parameter(help="New folder, or new file for gguf.")],
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        Parameter(help="Of the weights; otherwise as they are stored."),
    ] = None,
    max_shard_size: Annotated[
        str | None, Parameter(help="Largest weight file, such as 5GB; otherwise as the source, or 5GB.")
    ] = None,
    tokenizer: Annotated[
        Path | None, Parameter(help="Where the tokenizer is, if not beside the model.")
    ] = None,
    chat: Annotated[
        bool | None, Parameter(help="Replies end with <|im_end|>; otherwise as generation_config.json says.")
    ] = None,
    strict: Annotated[bool, Parameter(negative="", help="Refuse what the format cannot say.")] = False,
) -> int:
    """Writes a model of ours, or a Hugging Face folder (Qwen-1 or Qwen2), for other programs.

    Formats other than qwen cannot say dynamic NTK and LogN: the export is exact up to the training length.
    """
    from openqwen.model.export import lost
    from openqwen.model.stored import open_checkpoint
    from openqwen.tokenizer import load_tokenizer

    shard_bytes = None if max_shard_size is None else size_of(max_shard_size)
    if format == "gguf" and shard_bytes is not None:
        raise UsageError("gguf is one file", where="--max-shard-size", fix="leave the flag out")
    if (model / "STARTED").exists() and not (model / "DONE").exists():
        artifact.load(model, "model")
    checkpoint = open_checkpoint(model)
    missing = lost(checkpoint.config, "qwen1" if format == "qwen" else format)
    if missing and strict:
        raise UsageError(
            missing, where=f"--format {format} --strict", fix="leave --strict out to export all the same"
        )
    tok = load_tokenizer(tokenizer or model)
    if tok.vocab_size > checkpoint.config.vocab_size:
        raise DataError(
            f"the tokenizer has {tok.vocab_size} ids, the model {checkpoint.config.vocab_size} embedding rows",
            where=str(tokenizer or model),
            fix="use the tokenizer the model was trained with",
        )
    if format == "gguf":
        _gguf(checkpoint, tok, out, dtype, chat)
    else:
        _folder(checkpoint, tok, out, format, dtype, shard_bytes, chat)
    note(f"{format}: {out}")
    if missing:
        note(missing)
    return 0


def _folder(
    checkpoint: Checkpoint,
    tok: Tokenizer,
    out: Path,
    format: Format,
    dtype: str | None,
    shard_bytes: int | None,
    chat: bool | None,
) -> None:
    import torch

    from openqwen.model.export import Ends, export_checkpoint, whole_folder
    from openqwen.tokenizer.ranks import write_ranks

    to = getattr(torch, _DTYPES[dtype]) if dtype else None
    with whole_folder(out) as folder:
        export_checkpoint(
            checkpoint,
            folder,
            "qwen1" if format == "qwen" else "qwen2",
            ends=Ends(tok.eos_id, tok.im_end_id),
            dtype=to,
            shard_bytes=shard_bytes,
            chat=chat,
        )
        tok.save(folder)
        if format == "qwen":
            write_ranks(folder / "qwen.tiktoken", tok.ranks)
    if format == "qwen":
        note(
            "programs that load it as QWenLMHeadModel need the released Python files beside it; they are not copied"
        )


def _gguf(checkpoint: Checkpoint, tok: Tokenizer, out: Path, dtype: str | None, chat: bool | None) -> None:
    import torch

    from openqwen.model.export import source_is_chat, whole_file
    from openqwen.model.gguf import write_gguf

    to = getattr(torch, _DTYPES[dtype]) if dtype else None
    replies = source_is_chat(checkpoint, tok.im_end_id) if chat is None else chat
    with whole_file(out) as file:
        write_gguf(file, checkpoint, vocabulary(tok, replies), to, checkpoint.folder.resolve().name)


def vocabulary(tok: Tokenizer, chat: bool) -> Vocabulary:
    """A tokenizer as GGUF writes it. chat: texts end with <|im_end|>, not with <|endoftext|>."""
    from openqwen.model.gguf import Vocabulary
    from openqwen.tokenizer.export import CHAT_TEMPLATE, find_merges
    from openqwen.tokenizer.ranks import to_letters

    tokens = {i: to_letters(token) for token, i in tok.ranks.items()} | {
        i: name for name, i in tok.special.items()
    }
    pairs = find_merges(tok.ranks).values()
    return Vocabulary(
        tokens=[tokens[i] for i in range(tok.vocab_size)],
        control=frozenset(tok.special.values()),
        merges=[f"{to_letters(left)} {to_letters(right)}" for left, right in pairs],
        eos_id=tok.im_end_id if chat else tok.eos_id,
        pad_id=tok.eos_id,
        chat_template=CHAT_TEMPLATE,
    )


def size_of(text: str) -> int:
    """`"5GB"` -> 5000000000, `"2GiB"` -> 2147483648, `"300000"` -> 300000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]|[KMG]i)?B?\s*", text)
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise UsageError(
            f"{text!r} is no size", where="--max-shard-size", fix="write it as 5GB, 500MB or 2GiB"
        )
    return size
