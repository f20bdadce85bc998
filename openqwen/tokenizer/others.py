"""Other people's tokenizers, only to be measured against: Hugging Face, tiktoken and sentencepiece files.

Report Figure 3 compares with XLM-R, LLaMA, Baichuan and InternLM. Nothing here makes ids for training. Files are told
apart by their contents, because names mislead: Llama 3 calls a tiktoken file tokenizer.model.

    load_other("tokenizer.model").encode(["some text"])   -> [[777, 1426]]
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import regex
import tiktoken

from openqwen.core.artifact import sha256_file
from openqwen.core.errors import DataError, MissingTool, UsageError, did_you_mean
from openqwen.tokenizer.compression import BYTES, Encode, plain_bytes
from openqwen.tokenizer.load import load_tokenizer
from openqwen.tokenizer.pattern import QWEN_PATTERN

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CASE}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CASE}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = "qwen"
PATTERNS = {
    QWEN: QWEN_PATTERN,
    "cl100k": QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),
    "o200k": _O200K,
    "gpt2": _GPT2,
}
# A ranks file does not say how text is cut. The published ones are known by their sha256; every other is read with
# Qwen's pattern unless the caller names another.
_PUBLISHED = {
    "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186": QWEN,  # qwen
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": "cl100k",  # cl100k_base
    "24e574743fa051c20a9bdd2f93cc359a0e96afe2d5c137d4e6af344863af28f3": "cl100k",  # Llama 3
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": "o200k",  # o200k_base
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": "gpt2",  # r50k_base
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": "gpt2",  # p50k_base
    "1952cfc998f55a89b4326494ab242902e589b39fc8c9cc90528fd0f1b9a19fd0": "gpt2",  # GPT-NeoX-20B
}
# What is looked for in a folder, the first that is there.
_IN_FOLDER = (
    "vocab.tiktoken",
    "qwen.tiktoken",
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)
_RANKS_LINE = regex.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_LONG_SPACE = regex.compile(r"\s{4096,}")  # tiktoken's regular expressions run out of stack on longer ones


@dataclass(frozen=True)
class Other:
    """A tokenizer to measure, and what it was read from."""

    encode: Encode
    kind: str
    vocab_size: int
    file: Path | None = None
    pattern: str | None = None  # of a ranks file: how it was taken to cut text
    guessed: bool = False  # whether the pattern was neither known nor named
    unknown: int | None = (
        None  # the id that stands for whatever has no token; None where every text has tokens
    )

    def record(self) -> dict[str, Any]:
        """What is needed to measure the same again."""
        record: dict[str, Any] = {"kind": self.kind, "vocab_size": self.vocab_size}
        if self.file is not None:
            record |= {"file": str(self.file), "sha256": sha256_file(self.file)}
        return record | ({"pattern": self.pattern} if self.pattern else {})


def load_other(path: Path | str, pattern: str | None = None) -> Other:
    """The tokenizer at a path, whatever its kind: a file, a folder, or "bytes".

    pattern: how the text of a ranks file is cut, a name in PATTERNS; None: as published, else as Qwen cuts.
    """
    if str(path) == BYTES:
        return Other(plain_bytes, BYTES, 256)
    if pattern is not None and pattern not in PATTERNS:
        raise UsageError(
            f"no pattern {pattern!r}.{did_you_mean(pattern, PATTERNS)}", fix=f"known: {', '.join(PATTERNS)}"
        )
    file = _file(Path(path))
    kind = _kind(file)
    if kind == "tiktoken":
        return _ranks(file, pattern)
    if pattern is not None:
        raise UsageError(f"a pattern is for ranks files only, this is a {kind} file", where=str(file))
    return _hugging_face(file) if kind == "Hugging Face" else _sentencepiece(file)


def _file(path: Path) -> Path:
    """The file that holds the tokenizer: the path itself, or what its folder has."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(
            "no tokenizer there." + similar(path), where=str(path), fix="name a file or folder that exists"
        )
    for name in _IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise DataError(
        "the folder holds no tokenizer that is known by its name",
        where=str(path),
        fix=f"name the file itself; looked for {', '.join(_IN_FOLDER)}",
    )


def similar(path: Path) -> str:
    """For messages: what stands where a path that does not exist leads, if its name is close."""
    return did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])


def _kind(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            head = opened.read(4096)
    except OSError as error:
        raise DataError(f"cannot read the tokenizer: {error.strerror}", where=str(file)) from error
    if not head:
        raise DataError("the tokenizer file is empty", where=str(file))
    if file.suffix == ".tiktoken" or _RANKS_LINE.match(head):
        return "tiktoken"
    return "Hugging Face" if file.suffix == ".json" or head.lstrip().startswith(b"{") else "sentencepiece"


def _ranks(file: Path, pattern: str | None) -> Other:
    """A ranks file. Qwen's kind goes the way of our own, which composes characters (NFC) first."""
    known = pattern or _PUBLISHED.get(sha256_file(file))
    ours = file.name == "vocab.tiktoken" and file.with_name("special.json").is_file()
    if known is None or known == QWEN:
        tokenizer = load_tokenizer(file)
        guessed = known is None and not ours
        return Other(tokenizer.encode_batch, "tiktoken", tokenizer.vocab_size, file, QWEN, guessed)
    ranks = _any_ranks(file)
    return Other(_tiktoken(ranks, PATTERNS[known]), "tiktoken", len(ranks), file, known)


def _any_ranks(path: Path) -> dict[bytes, int]:
    """Ranks without the checks of ranks.py: published files leave some out, which is their own affair."""
    try:
        lines = [line.split() for line in path.read_bytes().split(b"\n") if line.strip()]
        return {base64.b64decode(token): int(rank) for token, rank in lines}
    except (OSError, ValueError) as error:
        raise DataError(f"not a ranks file: {error}", where=str(path)) from error


def _tiktoken(ranks: dict[bytes, int], pattern: str) -> Encode:
    core = tiktoken.Encoding("other", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    piece = regex.compile(pattern)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        if not any(map(_LONG_SPACE.search, texts)):
            return core.encode_ordinary_batch(list(texts))
        return [in_pieces(text) if _LONG_SPACE.search(text) else core.encode_ordinary(text) for text in texts]

    def in_pieces(text: str) -> list[int]:
        return [i for found in piece.findall(text) for i in core._encode_single_piece(found)]

    return encode


def _hugging_face(path: Path) -> Other:
    import tokenizers

    try:
        text = path.read_bytes().decode()
        core = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise DataError(f"not a tokenizer.json: {error}", where=str(path)) from error
    core.no_truncation()
    core.no_padding()
    core.encode_special_tokens = True  # text that spells a control token is text
    model = json.loads(text)["model"]
    unknown = model.get("unk_id")
    if unknown is None and model.get("unk_token") is not None:
        unknown = core.token_to_id(model["unk_token"])

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in core.encode_batch_fast(list(texts), add_special_tokens=False)]

    return Other(encode, "Hugging Face", core.get_vocab_size(), path, unknown=unknown)


def _sentencepiece(path: Path) -> Other:
    try:
        module: Any = import_module("sentencepiece")
    except ImportError as error:
        raise MissingTool("sentencepiece is not installed", fix="pip install 'openqwen[hf]'") from error
    module.SetMinLogLevel(2)  # errors only: published models have pieces that it warns of
    try:
        core = module.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"not a sentencepiece model: {error}",
            where=str(path),
            fix="known are tokenizer.json (Hugging Face), ranks (tiktoken) and sentencepiece models",
        ) from error

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return core.encode(list(texts))

    return Other(encode, "sentencepiece", core.get_piece_size(), path, unknown=core.unk_id())
