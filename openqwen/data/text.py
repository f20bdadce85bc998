"""Text as it is compared: normalised, cut into tokens that work for Chinese too, hashed, all in numpy.

Report §2.1 ("exact-match deduplication after normalization", n-gram overlap); the normal form is ours. What is
compared is never what is kept. A token is a run of letters and digits, or one character of a script written
without spaces, or one mathematical symbol; everything else only separates.

    >>> tokens("Ｈello,  WORLD! 你好")
    ['hello', 'world', '你', '好']
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

SEPARATOR, WORD, SINGLE, IGNORED = 0, 1, 2, 3
# Blocks written without spaces between words: each character is a token.
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x20000, 0x3FFFF),  # Han, extensions B and later
)
_U64 = np.uint64
_CHAR_BASE = _U64(0x9E3779B97F4A7C15)  # odd, therefore invertible modulo 2**64
_TOKEN_BASE = _U64(0xD1342543DE82EF95)


def fold(text: str) -> str:
    """HTML entities resolved, compatibility forms unified (full-width letters), case folded."""
    for _ in range(3):  # entities are found escaped twice on real pages, rarely deeper
        if "&" not in text:
            break
        text = html.unescape(text)
    return unicodedata.normalize("NFKC", text).casefold()


@cache
def _classes() -> np.ndarray:
    """Class of every code point as (0x110000,) uint8."""
    table = np.zeros(0x110000, np.uint8)
    for code in range(0x20000):
        char = chr(code)
        category = unicodedata.category(char)
        if char.isalnum() or category in ("Mn", "Mc"):
            table[code] = WORD
        elif category == "Sm":
            table[code] = SINGLE
        elif category == "Cf":  # zero-width characters and soft hyphens hide a copy from no one
            table[code] = IGNORED
    for first, last in UNSPACED:
        table[first : last + 1] = np.where(table[first : last + 1] == SEPARATOR, SEPARATOR, SINGLE)
    table[0x20000:0x40000] = SINGLE
    return table


def code_points(text: str) -> np.ndarray:
    """The text's code points, lone surrogates included, as (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _spans(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code points without the ignored ones, and where each token begins and ends in them."""
    kinds = _classes()[codes]
    if (kinds == IGNORED).any():
        keep = kinds != IGNORED
        codes, kinds = codes[keep], kinds[keep]
    word = kinds == WORD
    begins = word.copy()
    begins[1:] &= ~word[:-1]
    begins |= kinds == SINGLE
    ends = word.copy()
    ends[:-1] &= ~word[1:]
    ends |= kinds == SINGLE
    return codes, np.flatnonzero(begins), np.flatnonzero(ends) + 1


def tokens(text: str) -> list[str]:
    """The tokens of one text in normal form, as strings (for people and tests; the pipeline hashes them)."""
    codes, starts, stops = _spans(code_points(fold(text)))
    clean = codes.tobytes().decode("utf-32-le", "surrogatepass")
    return [clean[a:b] for a, b in zip(starts.tolist(), stops.tolist())]


def normal_form(text: str) -> str:
    """What exact deduplication compares: the tokens joined by single spaces."""
    return " ".join(tokens(text))


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads the bits of uint64 values (a bijection: xor-shifts and odd multipliers)."""
    out = values ^ (values >> _U64(30))
    out *= _U64(0xBF58476D1CE4E5B9)
    out ^= out >> _U64(27)
    out *= _U64(0x94D049BB133111EB)
    out ^= out >> _U64(31)
    return out


_powers: dict[tuple[int, bool], np.ndarray] = {}


def _power_table(base: np.uint64, inverse: bool, size: int) -> np.ndarray:
    """base**i modulo 2**64 for i < size (inverse: base**-i), kept and grown by doubling."""
    key = (int(base), inverse)
    table = _powers.get(key)
    if table is None or len(table) < size:
        step = _U64(pow(int(base), -1, 1 << 64)) if inverse else base
        length = 1 << max(16, (size - 1).bit_length())
        factors = np.full(length, step, _U64)
        factors[0] = 1
        table = _powers[key] = np.cumprod(factors, dtype=_U64)
    return table[:size]


def _span_hashes(values: np.ndarray, starts: np.ndarray, stops: np.ndarray, base: np.uint64) -> np.ndarray:
    """Polynomial hash of values[start:stop] for every span: equal contents, equal hash, wherever they stand."""
    total = np.zeros(len(values) + 1, _U64)
    np.cumsum(values * _power_table(base, False, len(values)), dtype=_U64, out=total[1:])
    shift = _power_table(base, True, len(values) + 1)
    # The length goes in as well: a span must not equal itself followed by zeros.
    return mix((total[stops] - total[starts]) * shift[starts] + (stops - starts).astype(_U64) * _TOKEN_BASE)


@dataclass(frozen=True)
class TokenStream:
    """Token hashes of several documents end to end."""

    hashes: np.ndarray  # (tokens,) uint64
    bounds: np.ndarray  # (documents + 1,) int64: document i is hashes[bounds[i]:bounds[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per document, (documents,) int64."""
        return np.diff(self.bounds)


def token_stream(texts: Sequence[str]) -> TokenStream:
    """Normalises, cuts and hashes all texts at once (many small pages cost as little as one large)."""
    folded = [fold(text) for text in texts]
    joined = "\0".join(folded) + "\0"
    codes = code_points(joined)
    document_ends = np.cumsum(np.array([len(text) + 1 for text in folded], np.int64))
    kinds = _classes()[codes]
    removed = np.cumsum(kinds == IGNORED)
    document_ends -= np.concatenate([[0], removed])[document_ends]
    clean, starts, stops = _spans(codes)
    bounds = np.concatenate([[0], np.searchsorted(starts, document_ends)])
    return TokenStream(_span_hashes(mix(clean.astype(_U64) + _CHAR_BASE), starts, stops, _CHAR_BASE), bounds)


@dataclass(frozen=True)
class Grams:
    """Hashes of all runs of n tokens of several documents."""

    hashes: np.ndarray  # (grams,) uint64
    bounds: np.ndarray  # (documents + 1,) int64
    positions: np.ndarray  # (grams,) int64: index of each run's first token in the stream


def grams(stream: TokenStream, n: int) -> Grams:
    """All runs of n tokens inside single documents; a document shorter than n has none."""
    counts = np.maximum(stream.lengths - n + 1, 0)
    # A run may not cross into the next document: keep the first length - n + 1 starts of each.
    first = np.repeat(stream.bounds[:-1], counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = first + within
    bounds = np.concatenate([[0], np.cumsum(counts)])
    return Grams(_span_hashes(stream.hashes, starts, starts + n, _TOKEN_BASE), bounds, starts)


def batches(texts: Sequence[str], characters: int = 1 << 19) -> Iterator[tuple[int, int]]:
    """Ranges [start, stop) of consecutive texts of about `characters` characters: bounds the working memory."""
    start, size = 0, 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= characters:
            yield start, i + 1
            start, size = i + 1, 0
    if start < len(texts):
        yield start, len(texts)
