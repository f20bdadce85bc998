"""Cutting text into the pieces inside which BPE may merge.

Report §2.2 (digits are split one by one); the exact pattern is the released tokenizer's. A merge never
crosses a piece, so words, numbers, punctuation and line ends keep apart.

    split("It's 42\n") -> ["It", "'s", " ", "4", "2", "\n"]
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import regex
import tiktoken

# cl100k's pattern with one change: \p{N} stands for a single digit instead of up to three.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
_PIECE = regex.compile(QWEN_PATTERN)
_ASCII = bytes(range(128))
_NONCHARACTER = 0xFFFF  # stands for characters that are too new; will never be one itself
_SAFE = regex.compile(r"(?r)(?<=\n)(?=\S)|(?<=\p{L})(?= )")  # (?r): from the end
# CPython sorts combining marks by insertion, quadratic in the length of a run; such runs are sorted here first.
_LONG_MARKS = regex.compile(r"\p{M}{64,}")


def split(text: str) -> list[str]:
    """The pieces of a (normalised) text; joined they give it back.

    Classes of characters are those of tiktoken's Unicode version, which the released tokenizer cuts with: what it does
    not know yet is no letter and no number here either, however new the tables of `regex` are.
    """
    if text.isascii() or not (new := unassigned()[_codes(text)]).any():
        return _PIECE.findall(text)
    shown = (
        np.where(new, np.uint32(_NONCHARACTER), _codes(text)).tobytes().decode("utf-32-le", "surrogatepass")
    )
    return [text[piece.start() : piece.end()] for piece in _PIECE.finditer(shown)]


def _codes(text: str) -> np.ndarray:
    """The code points of a text, (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def unassigned(version: str | None = None) -> np.ndarray:
    """For every code point whether it is no character in a Unicode version (None: tiktoken's), as (0x110000,) bool."""
    known = r"\P{Cn}" if version is None else rf"\p{{Age={version}}}"
    ranks = {bytes([byte]): byte for byte in range(256)}
    asked = tiktoken.Encoding("known", pat_str=known, mergeable_ranks=ranks, special_tokens={})
    table = np.ones(0x110000, bool)
    table[0xD800:0xE000] = table[0xF0000:] = False  # surrogates, private use
    for some in (
        range(0xD800),
        range(0xE000, 0x40000),
        range(0xE0000, 0xE1000),
    ):  # elsewhere there is nothing
        text = "".join(map(chr, some))
        table[_codes(asked.decode(asked.encode_ordinary(text)))] = False  # what does not match is left out
    return table


def has_newer(text: str, version: str | None) -> bool:
    """Whether a text holds a character that is newer than a Unicode version (None: tiktoken's)."""
    if text.isascii():
        return False
    others = text.encode("utf-8", "surrogatepass").translate(
        None, _ASCII
    )  # a tenth of an English text, if that
    return bool(unassigned(version)[_codes(others.decode("utf-8", "surrogatepass"))].any())


def safe_cut(text: str) -> int:
    """The last place where a text may be cut in two without changing its pieces or its normal form; 0 if there is none.

    It lies before a line that begins with something visible, or between a letter and a blank.
    """
    found = _SAFE.search(text)
    return found.start() if found else 0


def normalise(text: str) -> str:
    """The form in which Qwen reads text: lone surrogates become U+FFFD, then canonical composition (NFC)."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # Through UTF-16 two halves of a pair that stand together become the character they mean.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", _LONG_MARKS.sub(_sorted_marks, text))


def _sorted_marks(match: regex.Match[str]) -> str:
    """A long run of marks in canonical order: a stable sort by combining class between starters (class 0)."""
    marks = match[0]
    if any(unicodedata.decomposition(char) for char in set(marks)):
        marks = "".join(map(_decomposed, marks))
    codes = np.frombuffer(marks.encode("utf-32-le"), np.uint32)
    table = np.zeros(codes.max() + 1, np.uint8)
    for char in set(marks):
        table[ord(char)] = unicodedata.combining(char)
    classes = table[codes]
    keys = classes if classes.all() else np.cumsum(classes == 0) * 256 + classes
    return codes[np.argsort(keys, kind="stable")].tobytes().decode("utf-32-le")


@cache
def _decomposed(char: str) -> str:
    return unicodedata.normalize("NFD", char)
