"""Reading and writing vocabularies in tiktoken's format: one `base64(token) rank` a line.

Report §2.2; the format is that of the released qwen.tiktoken. A file with a hole in it is refused with the
line number, because a wrong vocabulary fails silently everywhere else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from openqwen.core.artifact import write_atomic
from openqwen.core.errors import DataError

_FIX = "fetch or make the file again"
_MAX_BYTES, _MAX_DIGITS = 1 << 26, 9  # the released vocabulary has 2.5 MB, and ranks of 6 digits


def byte_order() -> list[bytes]:
    """The 256 single bytes in the order of the released vocabulary: printable ones first, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [bytes([b]) for b in (*printable, *(b for b in range(256) if b not in set(printable)))]


def read_ranks(path: Path | str) -> dict[bytes, int]:
    """Token -> rank, in rank order. DataError with file and line for anything that is not a whole vocabulary."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read the vocabulary: {error.strerror}", where=str(path)) from error
    if len(raw) > _MAX_BYTES:
        raise DataError(f"no vocabulary: more than {_MAX_BYTES:,} bytes", where=str(path), fix=_FIX)
    return parse_ranks(raw, str(path))


def parse_ranks(raw: bytes, name: str) -> dict[bytes, int]:
    """As `read_ranks`, from the bytes of a file called `name` in messages."""
    if not raw:
        raise DataError("the vocabulary file is empty", where=name, fix=_FIX)
    if not raw.endswith(b"\n"):
        last = raw.count(b"\n") + 1
        raise DataError("the last line has no end: the file is cut off", where=f"{name}:{last}", fix=_FIX)
    ranks: dict[bytes, int] = {}
    lines: dict[int, int] = {}  # rank -> the line that gives it
    for number, line in enumerate(raw[:-1].split(b"\n"), 1):
        token, rank = _parse_line(line.removesuffix(b"\r"), f"{name}:{number}")
        if token in ranks:
            what = f"token {token!r} stands twice (ranks {ranks[token]} and {rank})"
            raise DataError(what, where=f"{name}:{number}", fix=_FIX)
        if rank in lines:
            what = f"rank {rank} is given twice (first on line {lines[rank]})"
            raise DataError(what, where=f"{name}:{number}", fix=_FIX)
        ranks[token], lines[rank] = rank, number
    _check_whole(ranks, lines, name)
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def _parse_line(line: bytes, where: str) -> tuple[bytes, int]:
    parts = line.split(b" ")
    if len(parts) != 2 or not parts[1].isdigit() or len(parts[1]) > _MAX_DIGITS:
        raise DataError(f"not 'base64 rank': {line[:60]!r}", where=where, fix=_FIX)
    try:
        token = base64.b64decode(parts[0], validate=True)
    except binascii.Error as error:
        raise DataError(f"not base64: {parts[0][:40]!r} ({error})", where=where, fix=_FIX) from error
    if not token:
        raise DataError("an empty token", where=where, fix=_FIX)
    return token, int(parts[1])


def _check_whole(ranks: Mapping[bytes, int], lines: Mapping[int, int], name: str) -> None:
    """Ranks must be 0..n-1 without a gap and every single byte must be a token."""
    ordered = sorted(lines)
    for expected, rank in enumerate(ordered):
        if rank != expected:
            what = f"gap in the ranks: {expected} is missing, {rank} comes next"
            raise DataError(what, where=f"{name}:{lines[rank]}", fix=_FIX)
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        shown = ", ".join(f"0x{b:02X}" for b in missing[:4])
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        what = f"single byte {shown}{more} is no token: some texts could not be encoded"
        raise DataError(what, where=f"{name}:{len(lines)}", fix=_FIX)


def dump_ranks(ranks: Mapping[bytes, int]) -> bytes:
    """The bytes of a ranks file, in rank order."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)


def write_ranks(path: Path, ranks: Mapping[bytes, int]) -> None:
    """Writes a ranks file atomically."""
    write_atomic(path, dump_ranks(ranks))


@cache
def byte_letters() -> dict[int, str]:
    """The printable letter by which Hugging Face files write each byte: `{0x20: "Ġ", 0x41: "A", ...}`."""
    order = byte_order()
    printable = 188  # bytes that stand for themselves; the others get letters from U+0100 on
    return {
        token[0]: chr(token[0]) if place < printable else chr(256 + place - printable)
        for place, token in enumerate(order)
    }


def to_letters(token: bytes) -> str:
    """`b" the"` -> `"Ġthe"`."""
    letters = byte_letters()
    return "".join(letters[byte] for byte in token)


def from_letters(text: str) -> bytes:
    """`"Ġthe"` -> `b" the"`. KeyError for a letter that stands for no byte."""
    return bytes(_letter_bytes()[char] for char in text)


@cache
def _letter_bytes() -> dict[str, int]:
    return {letter: byte for byte, letter in byte_letters().items()}
