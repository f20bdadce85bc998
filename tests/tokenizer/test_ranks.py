"""Damaged vocabulary files are refused, with the line."""

from __future__ import annotations

import base64
import tracemalloc
from pathlib import Path

import pytest

from openqwen.core.errors import DataError
from openqwen.tokenizer.ranks import (
    byte_order,
    dump_ranks,
    from_letters,
    parse_ranks,
    read_ranks,
    to_letters,
    write_ranks,
)
from openqwen.tokenizer.train import byte_ranks, extended

RANKS = extended(byte_ranks(), [(b"a", b"b"), (b"ab", b"c")])


def lines() -> list[bytes]:
    return dump_ranks(RANKS).split(b"\n")[:-1]


def whole(changed: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in changed)


def test_written_and_read_again(tmp_path: Path) -> None:
    write_ranks(tmp_path / "v.tiktoken", RANKS)
    assert read_ranks(tmp_path / "v.tiktoken") == RANKS
    assert list(parse_ranks(whole(lines()[::-1]), "v")) == list(RANKS)  # order of lines does not matter
    assert parse_ranks(dump_ranks(RANKS).replace(b"\n", b"\r\n"), "v") == RANKS  # copies made on Windows


@pytest.mark.fault(
    "tokenizer", "a vocabulary file is cut, has gaps, doubles or bad base64", "refused with its line"
)
@pytest.mark.parametrize(
    ("raw", "what", "where"),
    [
        (b"", "empty", "v"),
        (whole(lines())[:-1], "cut off", "v:258"),
        (whole(lines()[:-1]) + b"YWJj", "cut off", "v:258"),
        (whole(lines()[:100] + lines()[101:]), "gap in the ranks: 100 is missing", "v:101"),
        (whole([*lines(), b"eHk= 5"]), "rank 5 is given twice", "v:259"),
        (whole([*lines(), lines()[3].split()[0] + b" 258"]), "stands twice", "v:259"),
        (whole([*lines(), b"eHk= 258 1"]), "not 'base64 rank'", "v:259"),
        (whole([*lines(), b"eHk= " + b"9" * 5000]), "not 'base64 rank'", "v:259"),
        (whole([*lines(), b"eHk= -1"]), "not 'base64 rank'", "v:259"),
        (whole([*lines(), b""]), "not 'base64 rank'", "v:259"),
        (whole([*lines(), b"e*k= 258"]), "not base64", "v:259"),
        (whole([*lines(), b" 258"]), "empty token", "v:259"),
        (whole([base64.b64encode(b"zz") + b" 0", *lines()[1:]]), "single byte 0x21 is no token", "v:258"),
    ],
)
def test_damage_is_refused(raw: bytes, what: str, where: str) -> None:
    with pytest.raises(DataError) as error:
        parse_ranks(raw, "v")
    assert what in error.value.what and error.value.where == where


@pytest.mark.fault("tokenizer", "a vocabulary file has 2 GB", "refused before it is held in memory")
def test_a_file_of_two_gigabytes_is_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "huge.tiktoken"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # a hole: it takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="no vocabulary: more than") as error:
            read_ranks(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.value.where == str(path) and peak < 256 << 20


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the vocabulary"):
        read_ranks(tmp_path / "absent")


def test_letters_are_those_of_hugging_face_files() -> None:
    assert to_letters(b" the\n") == "ĠtheĊ"
    assert all(from_letters(to_letters(byte)) == byte for byte in byte_order())


@pytest.mark.shared
def test_byte_order_is_the_release(shared: Path) -> None:
    released = read_ranks(shared / "vocab/qwen.tiktoken")
    assert len(released) == 151_643 and list(released)[:256] == byte_order()
    assert dump_ranks(released) == (shared / "vocab/qwen.tiktoken").read_bytes()
