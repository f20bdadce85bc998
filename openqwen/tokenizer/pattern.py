"""Cutting text into the pieces inside which BPE may merge.

Report §2.2 (digits are split one by one); the exact pattern is the released tokenizer's. A merge never
crosses a piece, so words, numbers, punctuation and line ends keep apart.

    split("It's 42\n") -> ["It", "'s", " ", "4", "2", "\n"]
"""

from __future__ import annotations

import unicodedata
from functools import cache

import regex

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
# CPython sorts combining marks by insertion, quadratic in the length of a run; such runs are sorted here first.
_LONG_MARKS = regex.compile(r"\p{M}{64,}")


def split(text: str) -> list[str]:
    """The pieces of a (normalised) text; joined they give it back."""
    return _PIECE.findall(text)


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
    """A long run of marks in canonical order: a stable sort by combining class between starters."""
    out: list[str] = []
    marks: list[str] = []
    for char in "".join(map(_decomposed, match[0])):
        if _combining(char):
            marks.append(char)
        else:
            out += sorted(marks, key=_combining)
            out.append(char)
            marks.clear()
    return "".join(out + sorted(marks, key=_combining))


@cache
def _combining(char: str) -> int:
    return unicodedata.combining(char)


@cache
def _decomposed(char: str) -> str:
    return unicodedata.normalize("NFD", char)
