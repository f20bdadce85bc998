"""The engines that turn ordinary text into ids: gigatoken where it proves equal, else tiktoken.

Ours. Both are libraries; this module owes its callers three things: no input takes more than linear time or
raises, equal ids whichever engine runs, and no control token, because neither engine is told of any.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
import tiktoken

from openqwen.core.errors import MissingTool, UsageError
from openqwen.tokenizer import bpe, runs
from openqwen.tokenizer.pattern import QWEN_PATTERN, has_newer, split
from openqwen.tokenizer.ranks import dump_ranks

Name = Literal["gigatoken", "tiktoken"]
OLDEST_UNICODE = (
    "15.0"  # every engine knows its characters; tiktoken, as in the release, decides on later ones
)
ALONE_CHARACTERS = (
    16_000_000  # so much gigatoken encodes on one thread; what another costs to start is then won back
)
FORGET_CHARACTERS = 100_000_000  # then gigatoken's memory of pieces, 1 GB at the very worst, is dropped
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
    """tiktoken, with the inputs on which it is slow or gives up taken apart first (see runs.py)."""

    name: Name = "tiktoken"

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        self._core = tiktoken.Encoding(
            "openqwen", pat_str=QWEN_PATTERN, mergeable_ranks=dict(ranks), special_tokens={}
        )
        self._ranks = ranks

    def encode(self, text: str) -> list[int]:
        if runs.has_long_run(text):
            return runs.encode(text, self._core._encode_single_piece, self._ranks)
        return self._core.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if any(map(runs.has_long_run, texts)):
            return [self.encode(text) for text in texts]
        return self._core.encode_ordinary_batch(list(texts), num_threads=os.cpu_count() or 1)

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return flat(self.encode_batch(texts))


class GigatokenEncoder:
    """gigatoken, with the pre-tokeniser it calls qwen2 (the same pattern).

    It remembers every piece it has met and never forgets, about ten bytes for each byte of text at worst, so it is
    made anew after FORGET_CHARACTERS. Each of its threads builds tables when it is first given text, and makes the
    others wait: a tokenizer that encodes little stays on one, and batches of up to 2 MB do so in any case. Long
    runs go to tiktoken, which takes pieces by themselves, and so do texts with characters so new that the two
    libraries' Unicode tables may differ.
    """

    name: Name = "gigatoken"

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        try:
            import gigatoken
        except ImportError as error:
            raise MissingTool("gigatoken is not installed", fix="pip install gigatoken") from error
        self._make = gigatoken.Tokenizer.from_tiktoken
        self._ranks = ranks
        self._lock = Lock()
        self._parallel: bool | None = False
        self._renew()

    def _renew(self) -> None:
        with tempfile.TemporaryDirectory() as folder:  # it reads vocabularies from files only
            path = Path(folder, "vocab.tiktoken")
            path.write_bytes(dump_ranks(self._ranks))
            try:
                self._core = self._make(path, pretokenizer="qwen2")
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # of its Rust code; it is no Exception
                    raise
                raise UsageError(
                    f"gigatoken cannot take a vocabulary in which no merge leads to some token: {error}",
                    fix="use the encoder tiktoken",
                ) from error
        self._seen = 0

    def _engine(self, size: int) -> tuple[Any, bool | None]:
        """The engine for `size` more characters, and whether it may use other threads (None: if it sees fit)."""
        with self._lock:
            self._seen += size
            if self._seen > ALONE_CHARACTERS:
                self._parallel = None
            if self._seen > FORGET_CHARACTERS:
                self._renew()
            return self._core, self._parallel

    @staticmethod
    def _is_odd(text: str) -> bool:
        return runs.has_long_run(text) or has_newer(text, OLDEST_UNICODE)

    @staticmethod
    def _odd(texts: Sequence[str]) -> frozenset[int]:
        """Which of the texts are odd."""
        joined = "".join([text for text in texts if not text.isascii()])  # texts may be many and short
        is_odd = GigatokenEncoder._is_odd if has_newer(joined, OLDEST_UNICODE) else runs.has_long_run
        return frozenset(number for number, text in enumerate(texts) if is_odd(text))

    @cached_property
    def _for_odd(self) -> TiktokenEncoder:
        return TiktokenEncoder(self._ranks)

    def encode(self, text: str) -> list[int]:
        if self._is_odd(text):
            return self._for_odd.encode(text)
        return self._engine(len(text))[0].encode(text).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        odd = self._odd(texts)
        rest = [text for number, text in enumerate(texts) if number not in odd]
        ids = self._lists(*self._flat(rest))
        if not odd:
            return ids
        others = iter(ids)
        return [
            self._for_odd.encode(text) if number in odd else next(others) for number, text in enumerate(texts)
        ]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return flat(self.encode_batch(texts)) if self._odd(texts) else self._flat(texts)

    def _flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        core, parallel = self._engine(sum(map(len, texts)))
        layout = core.encode_batch(list(texts), parallel=parallel).layout
        offsets = np.asarray(layout.offsets.data, np.int64)
        return np.asarray(layout.content.data, np.uint32)[offsets[0] : offsets[-1]], np.diff(offsets)

    @cached_property
    def _numbers(self) -> np.ndarray:
        """Python's integers below the vocabulary's size, (V,): lists that share them need a third of the memory."""
        return np.arange(max(self._ranks.values()) + 1).astype(object)

    def _lists(self, ids: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
        ends = np.cumsum(lengths).tolist()
        return [self._numbers[ids[begin:end]].tolist() for begin, end in zip([0, *ends], ends)]


def flat(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of ids as all of them one after the other (n,) uint32, and how many each list has (lists,) int64."""
    lengths = np.array(list(map(len, ids)), np.int64)
    return np.fromiter(chain.from_iterable(ids), np.uint32, int(lengths.sum())), lengths


_ENGINES: dict[str, type[TiktokenEncoder] | type[GigatokenEncoder]] = {
    "gigatoken": GigatokenEncoder,
    "tiktoken": TiktokenEncoder,
}


def make_encoder(ranks: Mapping[bytes, int], name: Name | None = None) -> Encoder:
    """The engine asked for; None takes gigatoken if it is there, takes the vocabulary and passes `disagreement`."""
    if name is not None:
        if name not in _ENGINES:
            raise UsageError(f"no encoder called {name!r}", fix=f"use one of: {', '.join(_ENGINES)}")
        return _ENGINES[name](ranks)
    try:
        fast = GigatokenEncoder(ranks)
    except (MissingTool, UsageError):
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
