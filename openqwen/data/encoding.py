"""The encoding of a page or text: marks, declarations and, where they lie or are absent, what reads like text.

Ours. Valid UTF-8 is UTF-8. For the rest all likely encodings are tried and the text is taken in which the characters
that are not ASCII are common ones of some language; a declaration only helps. uchardet (in resiliparse) names one candidate.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if (
    TYPE_CHECKING
):  # only pages that are not UTF-8 need it; without it an extraction process starts in half the time
    import numpy as np

_DECLARED = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,400}?(?:charset|encoding)\s*=\s*["']?\s*([a-zA-Z0-9_:.-]{2,40})""", re.I
)
_HEAD = 4096  # bytes in which a declaration stands
_SAMPLE = 1 << 16  # bytes of lines that are not ASCII, by which encodings are compared
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip
# What pages call them, and the larger sets browsers read instead.
_LARGER = {
    "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949",
    "iso8859-1": "cp1252", "ascii": "cp1252", "latin_1": "cp1252", "iso8859-9": "cp1254", "tis-620": "cp874",
    "iso8859-11": "cp874",
}  # fmt: skip
_ALWAYS = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1252", "cp1251", "koi8_r")
_SAID, _DETECTED = 0.1, 0.3  # what a declaration and the detector's word add to how plausible a text is

# The most frequent characters of running text: simplified and traditional Chinese, Korean.
_COMMON_HAN = (
    "的一是用个有了在不以人行可你和这中法第件者定为文我条会时要到上应下本或使能国发作来理务如当对它出机其关十动好送就工们生于开器部数管大面"
    "规很安程所成他过多事单后分并经没方提点民还将自果进保公都也设实地通业全二得内同员新现家制更系些么门令政建吃三由需最项接计合但网度产等"
    "院服处年小前之加外任位构主种式而查重命间证装组因道据户及次包情解资期代级责电信量说给具常运看从意然案專個開們貢獻這爲來對社群做麼裡於很"
    "讓想護發問與理為意論維受權說應沒樣並決寫參當報學習東車長書頭氣電點體後過還現實際關係機構"
)
_COMMON_HANGUL = (
    "다이는하에니을를지로가의서고기수한있사은트해리도어요용나시습스정할면만보화인여일으자아그게영전들라합드대장적프제것세성작치과되데러모더포"
    "소상와부않분동미문입때파중우터위주경재야함오된커내거무명생없같연공구결저실행간토"
)
_COMMON_LATIN = "àáâãäåæçèéêëìíîïñòóôõöøùúûüßœÀÁÂÄÅÆÇÈÉÊËÍÎÑÓÔÖØÚÜŒ“”‘’–—…·•«»©®™°€£§¿¡ \u00a0º±×²³´"
_COMMON_CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєў"
_PUNCTUATION = "，。、；：？！“”‘’（）《》「」『』【】…—·～"


def decode_page(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """The text of a page and the encoding it was read in; bytes that do not fit become U+FFFD, never an error.

    `declared`: the charset of whoever sent the page. A declaration in the page itself is looked for.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace"), encoding
    if encoding := _wide(data[:_HEAD]):
        return data.decode(encoding, "replace"), encoding
    if b"\x1b$" in data[:_SAMPLE] and data.isascii():
        return data.decode("iso2022_jp", "replace"), "iso2022_jp"
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        encoding = _best(data, declared)
        return data.decode(encoding, "replace"), encoding


def _wide(head: bytes) -> str:
    """UTF-16 without a mark: markup is ASCII, so every other byte is NUL."""
    half = len(head) // 2
    even, odd = head[0 : 2 * half : 2].count(0), head[1 : 2 * half : 2].count(0)
    if half < 8 or max(even, odd) < 0.4 * half or min(even, odd) > 0.02 * half:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _best(data: bytes, declared: str | None) -> str:
    sample = _telling(data)
    found: dict[str, float] = {}
    for encoding, help in _candidates(data, sample, declared):
        found[encoding] = found.get(encoding, 0.0) + help
    return max(found, key=lambda encoding: found[encoding] + _plausible(sample, encoding))


def _telling(data: bytes) -> bytes:
    """The lines that are not ASCII, up to a limit; cut where a line ends, so that no character is."""
    out, size = [], 0
    for line in data.split(b"\n"):
        if not line.isascii():
            out.append(line[:_SAMPLE])
            size += len(out[-1])
            if size >= _SAMPLE:
                break
    return b"\n".join(out)


def _candidates(data: bytes, sample: bytes, declared: str | None) -> Iterator[tuple[str, float]]:
    """Encodings that may be right, with what speaks for them beforehand."""
    from resiliparse.parse.encoding import detect_encoding

    inside = _DECLARED.search(data[:_HEAD])
    said = [declared, inside[1].decode("ascii") if inside else None]
    for name in said:
        if name and (encoding := _python_name(name)):
            yield encoding, _SAID
    if encoding := _python_name(detect_encoding(sample) or ""):
        yield encoding, _DETECTED
    yield "utf-8", 0.0
    for encoding in _ALWAYS:
        yield encoding, 0.0


def _python_name(label: str) -> str:
    """Python's name of an encoding for a label of the web; "" where there is none."""
    try:
        name = codecs.lookup(label.strip().lower()).name
    except (LookupError, ValueError):
        return ""
    if name in (
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-7",
        "utf-8-sig",
        "idna",
        "punycode",
    ) or not _is_text(name):
        return ""  # a page whose declaration can be read as ASCII is in none of these
    return _LARGER.get(name, name)


def _is_text(name: str) -> bool:
    try:
        return isinstance(b"a".decode(name, "replace"), str)
    except (LookupError, ValueError):
        return False


@cache
def _worth() -> np.ndarray:
    """How much each code point speaks for a text, (0x110000,) float32."""
    import numpy as np

    table = np.full(0x110000, -0.2, np.float32)  # what is seldom met speaks against
    table[0x3400:0xA000] = 0.1
    table[0xAC00:0xD7A4] = 0.1
    table[0x3041:0x30FF] = 1.0
    table[0x0100:0x0250] = 0.6
    table[0x0370:0x0700] = 0.2  # capitals; a wrong reading of another alphabet is full of them
    for first, last in ((0x03AC, 0x03CE), (0x05D0, 0x05EA), (0x0621, 0x064A), (0x0E01, 0x0E59)):
        table[first : last + 1] = 1.0  # small Greek letters, Hebrew, Arabic, Thai
    table[0xFF01:0xFF5F] = 0.6
    table[0xFF61:0xFFA0] = -0.5  # half-width kana: what wrong Japanese is full of
    table[0xE000:0xF900] = -1.0
    table[0x80:0xA0] = -1.0
    table[0xFFFD] = -2.0
    for text, worth in (
        (_COMMON_HAN + _COMMON_HANGUL + _PUNCTUATION + _COMMON_CYRILLIC, 1.0), (_COMMON_LATIN, 0.8),
    ):  # fmt: skip
        table[[ord(char) for char in text]] = worth
    return table


def _plausible(sample: bytes, encoding: str) -> float:
    """How much what is not ASCII looks like text, -2 to 1: the mean over characters of how common each is."""
    import numpy as np

    text = sample.decode(encoding, "replace")
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    foreign = codes >= 0x80
    if not foreign.any():
        return 0.0
    worth = _worth()[codes[foreign]]
    # Accented letters stand among ASCII ones, letters of other alphabets do not: the reverse is a wrong reading.
    ascii_letters = (codes < 0x80) & ((codes | 0x20) - 0x61 < 26)
    accented = (codes >= 0xC0) & (codes < 0x250)
    other = (codes >= 0x370) & (codes < 0x1000)
    runs = accented[1:] & accented[:-1]
    mixed = (ascii_letters[1:] & other[:-1]) | (ascii_letters[:-1] & other[1:])
    return float(worth.mean() - (runs.sum() + mixed.sum()) / foreign.sum())
