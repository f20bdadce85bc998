"""Other people's tokenizers, only to be measured against: Hugging Face, tiktoken and sentencepiece files.

Report Figure 3 compares with XLM-R, LLaMA, Baichuan and InternLM. Nothing here makes ids for training.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import tiktoken

from openqwen.core.errors import DataError, MissingTool
from openqwen.tokenizer.compression import BYTES, Encode, plain_bytes
from openqwen.tokenizer.load import load_tokenizer
from openqwen.tokenizer.pattern import QWEN_PATTERN

# Ranks files do not say how they cut text. Published ones are known by name; every other is Qwen's.
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CASE}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CASE}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    "cl100k_base": _CL100K,
    "llama3": _CL100K,
    "o200k_base": _O200K,
    "gpt-neox-20b": _GPT2,
    "p50k_base": _GPT2,
    "r50k_base": _GPT2,
}


def load_encode(path: Path | str) -> Encode:
    """texts -> ids for a tokenizer of any kind: a file, a folder, or "bytes"."""
    if str(path) == BYTES:
        return plain_bytes
    path = Path(path)
    if path.suffix == ".model":
        return _sentencepiece(path)
    if path.suffix == ".tiktoken" and path.stem in _PATTERNS:
        return _tiktoken(path, _PATTERNS[path.stem])
    for file in (path, path / "tokenizer.json"):
        if file.name.endswith("tokenizer.json") and file.is_file() and not _ours(path):
            return _hugging_face(file)
    for file in (path / "tokenizer.model", path / "sentencepiece.bpe.model"):
        if file.is_file():
            return _sentencepiece(file)
    return load_tokenizer(path).encode_batch


def _ours(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("vocab.tiktoken", "qwen.tiktoken"))


def _tiktoken(path: Path, pattern: str) -> Encode:
    core = tiktoken.Encoding(path.stem, pat_str=pattern, mergeable_ranks=_any_ranks(path), special_tokens={})
    return lambda texts: core.encode_ordinary_batch(list(texts))


def _any_ranks(path: Path) -> dict[bytes, int]:
    """Ranks without the checks of ranks.py: published files leave some out, which is their own affair."""
    try:
        lines = [line.split() for line in path.read_bytes().split(b"\n") if line.strip()]
        return {base64.b64decode(token): int(rank) for token, rank in lines}
    except (OSError, ValueError) as error:
        raise DataError(f"not a ranks file: {error}", where=str(path)) from error


def _hugging_face(path: Path) -> Encode:
    import tokenizers

    try:
        core = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise DataError(f"not a tokenizer.json: {error}", where=str(path)) from error
    core.no_truncation()
    core.no_padding()

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in core.encode_batch_fast(list(texts), add_special_tokens=False)]

    return encode


def _sentencepiece(path: Path) -> Encode:
    try:
        module: Any = import_module("sentencepiece")
    except ImportError as error:
        raise MissingTool("sentencepiece is not installed", fix="pip install 'openqwen[hf]'") from error
    try:
        core = module.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(f"not a sentencepiece model: {error}", where=str(path)) from error
    return lambda texts: core.encode(list(texts))
