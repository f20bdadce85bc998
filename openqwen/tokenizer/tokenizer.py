"""The tokenizer: text to ids and back, with Qwen's special tokens.

Report §2.2 and A.1.1. Layout of ids (released): the ranks, then <|endoftext|>, <|im_start|>, <|im_end|>, then
<|extra_0|>..<|extra_204|>. The default is ours and the opposite of the release: text never becomes a control
id unless the caller names the token.

    tok = openqwen.load_tokenizer("qwen.tiktoken")
    tok.encode("<|im_end|>")                          -> [27, 91, 318, 6213, 91, 29]
    tok.encode("<|im_end|>", allowed_special="all")   -> [151645]
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import regex

from openqwen.core.artifact import canonical
from openqwen.core.errors import DataError, UsageError, did_you_mean
from openqwen.tokenizer.config import NUM_SPECIAL
from openqwen.tokenizer.encoders import Name, make_encoder
from openqwen.tokenizer.pattern import normalise
from openqwen.tokenizer.ranks import dump_ranks

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, IM_START, IM_END)
NUM_EXTRAS = 205
assert len(CONTROL) + NUM_EXTRAS == NUM_SPECIAL
Allowed = Literal["all"] | Collection[str]
_ERRORS = ("replace", "ignore", "strict")


def special_names() -> list[str]:
    """The 208 special tokens in the order of their ids."""
    return [*CONTROL, *(f"<|extra_{i}|>" for i in range(NUM_EXTRAS))]


class Tokenizer:
    """A vocabulary with its special tokens. Cheap to share, safe to use from several threads."""

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special: Mapping[str, int] | None = None,
        *,
        encoder: Name | None = None,
    ) -> None:
        """ranks: token -> 0..n-1 without gaps. special: name -> id; None gives Qwen's 208 after the last rank.

        encoder: "gigatoken" or "tiktoken"; None takes the faster one that proves equal (see encoders.py).
        """
        self.ranks = dict(ranks)
        if special is None:
            special = {name: len(ranks) + i for i, name in enumerate(special_names())}
        self.special = dict(sorted(special.items(), key=lambda item: item[1]))
        self._check_layout()
        self._bytes = {i: token for token, i in self.ranks.items()}
        self._bytes |= {i: name.encode() for name, i in self.special.items()}
        self._special_ids = frozenset(self.special.values())
        self._encoder = make_encoder(self.ranks, encoder)

    def _check_layout(self) -> None:
        for name in CONTROL:
            if name not in self.special:
                raise DataError(
                    f"the special tokens lack {name}", where=f"{len(self.special)} special tokens"
                )
        ids = [*self.ranks.values(), *self.special.values()]
        if sorted(ids) != list(range(len(ids))):
            raise DataError(
                f"{len(self.ranks)} ranks and {len(self.special)} special tokens do not fill 0..{len(ids) - 1}",
                fix="special tokens come right after the last rank",
            )

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} ids, encoder={self.encoder!r})"

    @property
    def vocab_size(self) -> int:
        """Number of ids: ranks and special tokens."""
        return len(self.ranks) + len(self.special)

    @property
    def encoder(self) -> Name:
        """The engine in use: "gigatoken" or "tiktoken"."""
        return self._encoder.name

    @property
    def eos_id(self) -> int:
        return self.special[END_OF_TEXT]

    @property
    def im_start_id(self) -> int:
        return self.special[IM_START]

    @property
    def im_end_id(self) -> int:
        return self.special[IM_END]

    @cached_property
    def content(self) -> str:
        """sha256 over ranks and special tokens: equal content means equal ids for every text."""
        return hashlib.sha256(dump_ranks(self.ranks) + canonical(self.special).encode()).hexdigest()

    def encode(
        self, text: str, allowed_special: Allowed = frozenset(), disallowed_special: Allowed = frozenset()
    ) -> list[int]:
        """Ids of a text. Names in `allowed_special` ("all" for every one) found in it become control ids.

        Text of a name in `disallowed_special` raises DataError ("all": every name that is not allowed).
        """
        self._check_text(text)
        allowed = self._names(allowed_special)
        refused = self._names(disallowed_special) - (allowed if disallowed_special == "all" else frozenset())
        text = normalise(text)
        for name in refused:
            if name in text:
                raise DataError(f"the text contains {name}, which is not allowed here", where=repr(text[:60]))
        if not allowed or "<|" not in text:
            return self._encoder.encode(text)
        ids: list[int] = []
        for part in self._special_pattern(allowed).split(text):
            ids += [self.special[part]] if part in allowed else self._encoder.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many ordinary texts (no control ids), on all processors once enough text has come (encoders.py)."""
        return self._encoder.encode_batch(self._ordinary(texts))

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_batch` without lists: all ids (n,) uint32, and the number of ids of each text (texts,) int64."""
        return self._encoder.encode_flat(self._ordinary(texts))

    def _ordinary(self, texts: Sequence[str]) -> list[str]:
        for text in texts:
            self._check_text(text)
        return [normalise(text) for text in texts]

    @staticmethod
    def _check_text(text: str) -> None:
        if not isinstance(text, str):
            raise DataError(
                f"text must be str, not {type(text).__name__}",
                fix="decode bytes first, for example data.decode('utf-8', 'replace')",
            )

    def _names(self, names: Allowed) -> frozenset[str]:
        if isinstance(names, str):
            if names != "all":
                raise UsageError(f"special tokens must be 'all' or a set of names, not {names!r}")
            return frozenset(self.special)
        for name in names:
            if name not in self.special:
                raise UsageError(f"no special token {name!r}.{did_you_mean(name, self.special)}")
        return frozenset(names)

    @staticmethod
    @lru_cache(16)
    def _special_pattern(allowed: frozenset[str]) -> regex.Pattern[str]:
        return regex.compile("(" + "|".join(regex.escape(name) for name in sorted(allowed)) + ")")

    def decode(self, ids: Iterable[int], errors: str = "replace", skip_special_tokens: bool = False) -> str:
        """Text of ids. errors: what to do with bytes that are not UTF-8: "replace", "ignore", or "strict"."""
        if errors not in _ERRORS:
            raise UsageError(f"errors={errors!r} is unknown", fix=f"use one of: {', '.join(_ERRORS)}")
        try:
            return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", errors)
        except UnicodeDecodeError as error:
            what = f"the ids are not valid UTF-8: {error.reason} at byte {error.start}"
            raise DataError(what, fix="decode with errors='replace' or 'ignore'") from error

    def decode_bytes(self, ids: Iterable[int], skip_special_tokens: bool = False) -> bytes:
        """The bytes of ids, whether they are valid UTF-8 or not."""
        if hasattr(ids, "tolist"):  # arrays and tensors
            ids = ids.tolist()
        ids = list(ids)
        if skip_special_tokens:
            ids = [i for i in ids if i not in self._special_ids]
        try:
            return b"".join([self._bytes[i] for i in ids])
        except (KeyError, TypeError):
            raise self._outside(ids) from None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one id."""
        return self.decode_bytes([token_id])

    def _outside(self, ids: list[int]) -> DataError:
        place = next(n for n, i in enumerate(ids) if not isinstance(i, int) or i not in self._bytes)
        return DataError(
            f"id {ids[place]!r} is outside the vocabulary (0..{self.vocab_size - 1})",
            where=f"position {place} of {len(ids)}",
            fix="use the tokenizer that the ids were made with",
        )

    def save(self, folder: Path | str) -> None:
        """Writes all of its files into an existing folder (see export.py)."""
        from openqwen.tokenizer.export import save

        save(self, Path(folder))
