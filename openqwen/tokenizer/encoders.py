"""The engines that turn ordinary text into ids: gigatoken where it proves equal, else tiktoken.

Ours. Both are libraries; this module owes its callers three things: no input takes more than linear time or
raises, equal ids whichever engine runs, and no control token, because neither engine is told of any.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import regex
import tiktoken

from openqwen.core.errors import MissingTool, UsageError
from openqwen.tokenizer import bpe
from openqwen.tokenizer.pattern import QWEN_PATTERN, split
from openqwen.tokenizer.ranks import dump_ranks

Name = Literal["gigatoken", "tiktoken"]
# tiktoken's regular expressions run out of stack on longer runs of white space.
_LONG_SPACE = regex.compile(r"\s{4096,}")
# What an engine must encode as the readable twin does before it is trusted. Each line touches another alternative
# of the pattern or a place where libraries are known to differ.
PROBE = (
    "It's I'M we'Ll 'ſ 'tis",
    "The year 2023, 12345 and ٣٤ or 三十五 and １２",
    "你好，世界！通义千问。 中文 English混排\u3000全角",
    "  two   three    four\n\n\n  \n\t\tx \r\n\r y  ",
    "a\u0085b\u00a0c\u1680d\u2003e\u200bf\u2028g\u001ch\u001fi",
    "def f(x):\n    return x**2  # ok!!\n",
    "e\u0301 \u0e01\u0e33\u0e31 हिन्दी தமிழ் العربية עברית 한국어",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f600\U0001f600 \ufffd \x00\x7f",
    "<|endoftext|><|im_start|>user\n<|im_end|><|extra_0|>",
    "-1+2=3.14e-10 ...!!!\n\n???\r\n$%^&*()",
    "",
)


class Encoder(Protocol):
    """Ordinary text to ids. The text is normalised and valid Unicode."""

    name: Name

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All ids one after the other (n,) uint32, and how many each text has (texts,) int64."""


class TiktokenEncoder:
    """tiktoken, with the inputs on which it gives up cut by our own pattern."""

    name: Name = "tiktoken"

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        self._core = tiktoken.Encoding(
            "openqwen", pat_str=QWEN_PATTERN, mergeable_ranks=dict(ranks), special_tokens={}
        )

    def encode(self, text: str) -> list[int]:
        if _LONG_SPACE.search(text):
            piece_ids = lru_cache(65536)(self._core._encode_single_piece)
            return [i for piece in split(text) for i in piece_ids(piece)]
        return self._core.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if any(_LONG_SPACE.search(text) for text in texts):
            return [self.encode(text) for text in texts]
        return self._core.encode_ordinary_batch(list(texts), num_threads=os.cpu_count() or 1)

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = self.encode_batch(texts)
        lengths = np.array(list(map(len, ids)), np.int64)
        return np.fromiter(chain.from_iterable(ids), np.uint32, int(lengths.sum())), lengths


class GigatokenEncoder:
    """gigatoken, with the pre-tokeniser it calls qwen2 (the same pattern)."""

    name: Name = "gigatoken"

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        try:
            import gigatoken
        except ImportError as error:
            raise MissingTool("gigatoken is not installed", fix="pip install gigatoken") from error
        with tempfile.TemporaryDirectory() as folder:  # it reads vocabularies from files only
            path = Path(folder, "vocab.tiktoken")
            path.write_bytes(dump_ranks(ranks))
            self._core = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer="qwen2")

    def encode(self, text: str) -> list[int]:
        return self._core.encode(text).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._core.encode_batch_list(list(texts))

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        layout = self._core.encode_batch(list(texts)).layout
        offsets = np.asarray(layout.offsets.data, np.int64)
        return np.asarray(layout.content.data, np.uint32)[offsets[0] : offsets[-1]], np.diff(offsets)


_ENGINES: dict[str, type[TiktokenEncoder] | type[GigatokenEncoder]] = {
    "gigatoken": GigatokenEncoder,
    "tiktoken": TiktokenEncoder,
}


def make_encoder(ranks: Mapping[bytes, int], name: Name | None = None) -> Encoder:
    """The engine asked for; None takes gigatoken if it is installed and passes `disagreement`, else tiktoken."""
    if name is not None:
        if name not in _ENGINES:
            raise UsageError(f"no encoder called {name!r}", fix=f"use one of: {', '.join(_ENGINES)}")
        return _ENGINES[name](ranks)
    try:
        fast = GigatokenEncoder(ranks)
    except MissingTool:
        return TiktokenEncoder(ranks)
    return TiktokenEncoder(ranks) if disagreement(fast, ranks) else fast


def disagreement(encoder: Encoder, ranks: Mapping[bytes, int]) -> str | None:
    """The first probe text that an engine encodes differently from the readable twin; None if it is sound."""
    for text in PROBE:
        if encoder.encode(text) != _twin(text, ranks):
            return text
    flat, lengths = encoder.encode_flat(PROBE)
    whole = [i for text in PROBE for i in _twin(text, ranks)]
    same = flat.tolist() == whole and encoder.encode_batch(PROBE) == [_twin(text, ranks) for text in PROBE]
    return None if same and int(lengths.sum()) == len(whole) else "all of them at once"


def _twin(text: str, ranks: Mapping[bytes, int]) -> list[int]:
    return [i for piece in split(text) for i in bpe.encode_piece(piece.encode(), ranks)]
