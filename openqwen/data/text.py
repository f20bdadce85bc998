"""Text as it is compared: normalised, cut into tokens that work for Chinese too, hashed, all in numpy.

Report §2.1 ("exact-match deduplication after normalization", n-gram overlap); the normal form is ours. What is
compared is never what is kept. A token is a run of letters and digits, or one character of a script written
without spaces, or one mathematical symbol; everything else only separates, and so does > before a quoted line.

    >>> tokens("Ｈello,  WORLD! 你好")
    ['hello', 'world', '你', '好']
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html.entities import html5

import numpy as np

SEPARATOR, WORD, SINGLE, IGNORED = 0, 1, 2, 3  # classes of characters
SIGN, NAME, UNSPACED = 0, 1, 2  # tokens: number, letter or symbol; longer word; character of UNSPACED_BLOCKS
# Blocks written without spaces between words: each character is a token.
UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x20000, 0x3FFFF),  # Han, extensions B and later
)
_CHARACTERS = 0x110000
# Code points that folding may change or join to others: not ideographs, Hangul syllables, surrogates, private ones.
_FOLDED = [*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x20000), *range(0x2F800, 0x30000)]
_BARE = sorted((name for name in html5 if not name.endswith(";")), key=len, reverse=True)  # need no semicolon
_ENTITY = re.compile(rf"&(?:#(?:[0-9]+|[xX][0-9a-fA-F]+);?|[a-zA-Z][a-zA-Z0-9]{{1,31}};|{'|'.join(_BARE)})")
_QUOTED = re.compile(r"\n[ \t]*>[> \t]*")  # lines of a mail or of Markdown that quote others
_U64 = np.uint64
_CHAR_BASE = _U64(0x9E3779B97F4A7C15)  # odd, therefore invertible modulo 2**64
_TOKEN_BASE = _U64(0xD1342543DE82EF95)


def fold(text: str) -> str:
    """HTML entities resolved, marks of quoted lines gone, compatibility forms unified (full-width), case folded."""
    return _fold(_plain(text))


def _plain(text: str) -> str:
    if "&" in text:
        text = _unescape(text)
    return _QUOTED.sub("\n", text) if ">" in text else text


def _unescape(text: str) -> str:
    """html.unescape three times: entities are found escaped twice on real pages, rarely deeper."""
    for _ in range(3):
        if "&" not in text:
            break
        # Only what is an entity goes through html.unescape, which is slow on the & of programs.
        text, found = _ENTITY.subn(lambda entity: html.unescape(entity[0]), text)
        if not found:
            break
    return text


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@cache
def _classes() -> np.ndarray:
    """Class of every code point of a folded text as (0x110000,) uint8."""
    table = np.zeros(_CHARACTERS, np.uint8)
    for code in range(0x20000):
        char = chr(code)
        category = unicodedata.category(char)
        if char.isalnum() or category in ("Mn", "Mc"):
            table[code] = WORD
        elif category == "Sm":
            table[code] = SINGLE
        elif category == "Cf":  # zero-width characters and soft hyphens hide a copy from no one
            table[code] = IGNORED
    for first, last in UNSPACED_BLOCKS:
        table[first : last + 1] = np.where(table[first : last + 1] == SEPARATOR, SEPARATOR, SINGLE)
    table[0x20000:0x40000] = SINGLE
    return table


@dataclass(frozen=True)
class _Folding:
    """What folding does to single code points, each (0x110000,)."""

    kinds: np.ndarray  # uint8: the class of what becomes of it
    codes: np.ndarray  # uint32: what becomes of it
    hashes: np.ndarray  # uint64: a hash of that
    tokens: np.ndarray  # uint8: the kind of token that begins with it
    hard: np.ndarray  # bool: it becomes several, or what becomes of it depends on its neighbours


@cache
def _folding() -> _Folding:
    kinds, codes = _classes().copy(), np.arange(_CHARACTERS, dtype=np.uint32)
    hard = np.zeros(_CHARACTERS, bool)
    joining = _joining()
    for code in _FOLDED:
        char = chr(code)
        if (folded := _fold(char)) == char:
            continue
        if len(folded) == 1:
            kinds[code], codes[code] = kinds[ord(folded)], ord(folded)
        elif not kinds[[ord(part) for part in folded]].any():
            kinds[code] = SEPARATOR  # an ellipsis is three full stops
        else:
            hard[code] = True
        hard[code] |= ord(folded[0]) in joining
    hard[list(joining)] = True
    tokens = np.where(_digits() | (_classes() == SINGLE), SIGN, NAME).astype(np.uint8)
    for first, last in UNSPACED_BLOCKS:
        tokens[first : last + 1] = UNSPACED
    return _Folding(kinds, codes, mix(codes + _CHAR_BASE), tokens[codes], hard)


def _joining() -> set[int]:
    """Code points that normalisation may move or join to what stands before them."""
    found = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # vowels and finals of Hangul syllables
    for code in _FOLDED:
        if unicodedata.combining(chr(code)):
            found.add(code)
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(int(parts[1], 16))
    return found


def code_points(text: str) -> np.ndarray:
    """The text's code points, lone surrogates included, as (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _read(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code points of all texts, each text followed by a separator, their classes, and where each text ends.

    Only single code points are left to fold; ignored ones are gone.
    """
    folding = _folding()
    texts = list(map(_plain, texts))
    codes, ends = _joined(texts)
    hard = np.flatnonzero(folding.hard.take(codes))
    if len(hard):
        for i in np.unique(np.searchsorted(ends, hard, "right")).tolist():
            texts[i] = _fold(texts[i])
        codes, ends = _joined(texts)
    kinds = folding.kinds.take(codes)
    ignored = kinds == IGNORED
    if ignored.any():
        ends = ends - np.cumsum(ignored)[ends - 1]
        codes, kinds = codes[~ignored], kinds[~ignored]
    return codes, kinds, ends


def _joined(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return code_points("\0".join([*texts, ""])), np.cumsum(lengths + 1)


def _spans(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each token begins and ends among code points of these classes, none of them ignored."""
    word, single = kinds == WORD, kinds == SINGLE
    begins, ends = single.copy(), single
    begins[:1] |= word[:1]
    begins[1:] |= word[1:] > word[:-1]
    ends[-1:] |= word[-1:]
    ends[:-1] |= word[:-1] > word[1:]
    return np.flatnonzero(begins), np.flatnonzero(ends) + 1


def tokens(text: str) -> list[str]:
    """The tokens of one text in normal form, as strings (for people and tests; the pipeline hashes them)."""
    codes = code_points(fold(text))
    kinds = _classes()[codes]
    codes, kinds = codes[kinds != IGNORED], kinds[kinds != IGNORED]
    clean = codes.tobytes().decode("utf-32-le", "surrogatepass")
    return [clean[a:b] for a, b in zip(*(places.tolist() for places in _spans(kinds)))]


def normal_form(text: str) -> str:
    """What exact deduplication compares: the text without what separates, equal up to case and width.

    A space stays where only it divides two numbers, because 1.10 and 11.0 are not the same.
    """
    return normal_forms([text])[0].decode()


def normal_forms(texts: Sequence[str]) -> list[bytes]:
    """`normal_form` of many texts at once, in UTF-8."""
    codes, kinds, ends = _read(texts)
    codes = _folding().codes.take(codes)
    kept = (kinds == WORD) | (kinds == SINGLE)
    places = np.flatnonzero(kept)
    digits = _digits()[codes[places]]
    parted = places[1:][digits[1:] & digits[:-1] & (np.diff(places) > 1)] - 1
    codes[parted], kept[parted] = ord(" "), True
    data = codes[kept].tobytes().decode("utf-32-le").encode()
    sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    stops = np.cumsum(sizes * kept)[ends - 1].tolist()
    # A space between the numbers of two texts belongs to neither.
    return [data[start:stop].strip() for start, stop in zip([0, *stops], stops)]


@cache
def _digits() -> np.ndarray:
    table = np.zeros(_CHARACTERS, bool)
    table[_FOLDED] = [chr(code).isdigit() for code in _FOLDED]
    return table


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads the bits of uint64 values (a bijection: xor-shifts and odd multipliers)."""
    out = values ^ (values >> _U64(30))
    out *= _U64(0xBF58476D1CE4E5B9)
    out ^= out >> _U64(27)
    out *= _U64(0x94D049BB133111EB)
    out ^= out >> _U64(31)
    return out


def crowded(keys: np.ndarray) -> np.ndarray:
    """Places of the keys (n,) uint64 whose slot is shared: all repeated keys, and of the others one in five."""
    bits = len(keys).bit_length() + 2
    slots = (keys * _CHAR_BASE >> _U64(64 - bits)).astype(np.int64)
    return np.flatnonzero(np.bincount(slots)[slots] > 1)


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


class Spans:
    """Hashes of any spans of a sequence of hashes (n,) uint64: equal contents, equal hash, wherever they stand."""

    def __init__(self, values: np.ndarray, base: np.uint64 = _TOKEN_BASE) -> None:
        self._base, self._total = base, np.zeros(len(values) + 1, _U64)
        np.cumsum(values * _power_table(base, False, len(values)), dtype=_U64, out=self._total[1:])

    def hashes(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Polynomial hash of each span [start, stop), (spans,) uint64."""
        shift = _power_table(self._base, True, len(self._total))
        out = self._total.take(stops)
        out -= self._total.take(starts)
        out *= shift.take(starts)
        # The length goes in as well: a span must not equal itself followed by zeros.
        out += (stops - starts).astype(_U64) * _TOKEN_BASE
        return mix(out)


@dataclass(frozen=True)
class TokenStream:
    """Token hashes of several documents end to end."""

    hashes: np.ndarray  # (tokens,) uint64
    bounds: np.ndarray  # (documents + 1,) int64: document i is hashes[bounds[i]:bounds[i + 1]]
    kinds: np.ndarray  # (tokens,) uint8: SIGN, NAME or UNSPACED

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per document, (documents,) int64."""
        return np.diff(self.bounds)

    def document(self, places: np.ndarray) -> np.ndarray:
        """Which document the tokens at some places belong to."""
        return np.searchsorted(self.bounds, places, "right") - 1


def token_stream(texts: Sequence[str]) -> TokenStream:
    """Normalises, cuts and hashes all texts at once (many small pages cost as little as one large)."""
    codes, classes, ends = _read(texts)
    starts, stops = _spans(classes)
    bounds = np.concatenate([[0], np.searchsorted(starts, ends)])
    folding = _folding()
    hashes = Spans(folding.hashes.take(codes), _CHAR_BASE).hashes(starts, stops)
    kinds = folding.tokens.take(codes.take(starts))
    kinds[(kinds == NAME) & (stops - starts == 1)] = SIGN
    return TokenStream(hashes, bounds, kinds)


@dataclass(frozen=True)
class Grams:
    """Hashes of all runs of n tokens of several documents."""

    hashes: np.ndarray  # (grams,) uint64
    bounds: np.ndarray  # (documents + 1,) int64
    positions: np.ndarray  # (grams,) int64: index of each run's first token in the stream


def grams(stream: TokenStream, n: int) -> Grams:
    """All runs of n tokens inside single documents; a document shorter than n has none."""
    positions = np.flatnonzero(inside(stream, n))
    bounds = np.concatenate([[0], np.cumsum(np.maximum(stream.lengths - n + 1, 0))])
    return Grams(run_hashes(stream.hashes, n)[positions], bounds, positions)


def inside(stream: TokenStream, n: int) -> np.ndarray:
    """Whether the n tokens from each on belong to one document, (tokens - n + 1,) bool."""
    whole = np.ones(max(0, len(stream.hashes) - n + 1), bool)
    filled = stream.lengths > 0
    first, last = stream.bounds[:-1][filled], stream.bounds[1:][filled] - 1
    for back in range(n - 1):
        place = np.maximum(last - back, first)
        whole[place[place < len(whole)]] = False
    return whole


def run_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hashes of all runs of n of these hashes, (len(hashes) - n + 1,) uint64: what Spans gives for them."""
    size = len(hashes) - n + 1
    if size <= 0:
        return np.empty(0, _U64)
    total, length = hashes, 1
    for bit in bin(n)[3:]:  # runs of twice the length from two of them, and of one more
        total = total[: len(total) - length] + total[length:] * _power(length)
        length *= 2
        if bit == "1":
            total = total[:-1] + hashes[length:] * _power(length)
            length += 1
    return mix(total + _U64(n * int(_TOKEN_BASE) % (1 << 64)))


def _power(exponent: int) -> np.uint64:
    return _U64(pow(int(_TOKEN_BASE), exponent, 1 << 64))


def batches(texts: Sequence[str], characters: int = 1 << 18) -> Iterator[tuple[int, int]]:
    """Ranges [start, stop) of consecutive texts of about `characters` characters: bounds the working memory."""
    start, size = 0, 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= characters:
            yield start, i + 1
            start, size = i + 1, 0
    if start < len(texts):
        yield start, len(texts)
