"""Libraries of different Unicode versions: planted differences are found, those of the installed ones are explained."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.tokenizer import Tokenizer, pattern, unicode
from openqwen.tokenizer.export import find_merges, tokenizer_json
from openqwen.tokenizer.pattern import QWEN_PATTERN, normalise, split
from openqwen.tokenizer.train import byte_ranks
from openqwen.tokenizer.unicode import BORN, CUTS, FORMS, Difference, Read, Reader, assigned, survey

VERSIONS = list(BORN)
PLANES = [
    *range(0x40000),
    *range(0xE0000, 0xE1000),
]  # what holds characters; the command looks at all the rest too


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some code points, for quick surveys."""
    some = [*range(0x500), *range(0x900, 0x980), *range(0x2000, 0x2100), *range(0x3000, 0x3040)]
    monkeypatch.setattr(unicode, "CODE_POINTS", some)


def altered(old: str, new: str) -> Reader:
    """The readable twin with a changed pattern."""
    assert old in QWEN_PATTERN
    piece, twin = regex.compile(QWEN_PATTERN.replace(old, new)), unicode.twin()

    def read(texts: Sequence[str]) -> list[bytes]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pattern, "_PIECE", piece)
            return twin.read(texts)

    return Reader("altered", read, twin.unicode)


# What is planted: part of the pattern, what stands there instead, the characters that must be found.
PLANTED = {
    "currency signs are letters": (r"]?\p{L}+", r"]?[\p{L}\p{Sc}]+", r"\p{Sc}"),
    "numbers are not cut": (r"|\p{N}|", r"|\p{N}+|", r"\p{N}"),
    "case is folded in ASCII only": ("(?i:'s|", "'[sS]|(?i:", "ſ"),
    "one line end more": (r"|\s*[\r\n]+", r"|\s*[\r\n\x85]+", "\x85"),
    "one blank less": (r"[^\s\p{L}\p{N}]+", r"(?:[^\s\p{L}\p{N}]|\u3000)+", "\u3000"),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found_exactly(name: str) -> None:
    old, new, found = PLANTED[name]
    difference = survey([unicode.twin(), altered(old, new)], CUTS).between(0, 1)
    known = [point for point in unicode.CODE_POINTS if not pattern.unassigned()[point]]
    where = [point for point in known if regex.match(found, normalise(chr(point)))]
    assert difference.points == where != []
    assert set(assigned("14.0", where)) <= set(difference.unexplained)


@pytest.mark.usefixtures("few")
def test_a_planted_normal_form_is_found_exactly() -> None:
    theirs = unicode._form("altered", lambda text: normalise(text).replace("\u0915\u093c", "\u0958"))
    difference = survey([unicode.python_form(), theirs], FORMS).between(0, 1)
    assert difference.points == difference.unexplained == [0x0958]


def spoiled(read: Read, needs: str) -> Read:
    return lambda texts: [b"?" if needs in text else cut for text, cut in zip(texts, read(texts))]


def test_a_difference_in_company_only_is_reported_for_the_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicode, "CODE_POINTS", range(0x50000, 0x50100))
    twin = unicode.twin()
    broken = Reader("broken", spoiled(twin.read, "\U00050001\U00050002"), twin.unicode)
    assert survey([twin, broken], CUTS).between(0, 1).ranges() == [(0x50000, 0x5003F)]


@pytest.mark.usefixtures("few")
def test_a_reader_of_no_version_explains_nothing() -> None:
    twin, broken = unicode.twin(), Reader("broken", lambda texts: [b""] * len(texts), None)
    difference = survey([twin, broken], CUTS).between(0, 1)
    assert difference.points == difference.unexplained == list(unicode.CODE_POINTS)
    assert unicode._letters_known(broken.read) is None


@pytest.mark.usefixtures("few")
def test_a_library_agrees_with_itself() -> None:
    found = survey([unicode.engine("tiktoken"), unicode.engine("tiktoken")], CUTS).between(0, 1)
    assert (found.points, found.unexplained) == ([], [])


@pytest.mark.parametrize(
    "text", ["a中b", "1é1 é1ée", "!§! §§", "'ſa\n€€\n", "'#a1!#!1 #1##1\n", "\t\n1 \t1\n 1", "ab1 a1aa1!a!"]
)
def test_ids_of_the_probe_show_every_cut(text: str) -> None:
    (seen,) = unicode.engine("tiktoken").read([text])
    assert [piece.decode() for piece in seen.split(b"\xff")[1:]] == split(text)


def test_versions_are_told_by_what_each_added() -> None:
    own = unicode.engine("tiktoken").unicode
    assert own in VERSIONS
    for before, after in pairwise(VERSIONS[: VERSIONS.index(own) + 1]):
        new = [ord(char) for char in BORN[after] if char]
        assert not assigned(before, new) and assigned(after, new) == set(new)
    for letter, mark in BORN.values():
        assert unicodedata.category(letter) in ("Lo", "Ll", "Lu", "Cn")
        if mark and unicodedata.category(mark) != "Cn":
            assert unicodedata.combining(mark) > 1


def test_ranges_and_their_names() -> None:
    assert unicode.ranges([]) == []
    assert unicode.ranges([1, 2, 3, 7]) == [(1, 3), (7, 7)]
    assert unicode.described(0x9FE, 0x9FE) == "U+09FE  1  BENGALI SANDHI MARK"
    assert unicode.described(0x61, 0x62) == "U+0061..U+0062  2  LATIN SMALL LETTER A .. LATIN SMALL LETTER B"
    assert unicode.described(0x378, 0x379).endswith(f"  2  not in Unicode {unicodedata.unidata_version}")


@pytest.fixture(scope="module")
def layout() -> dict[str, object]:
    """A tokenizer.json as exported."""
    tokenizer = Tokenizer(byte_ranks(), encoder="tiktoken")
    return tokenizer_json(tokenizer, find_merges(tokenizer.ranks))


@pytest.fixture(scope="module")
def installed(layout: dict[str, object]) -> dict[str, Difference]:
    """Everything that cuts text against tiktoken, the reference, on every plane that holds characters."""
    readers = [unicode.engine("tiktoken"), unicode.twin(), unicode.exported(layout)]
    if find_spec("gigatoken"):
        readers.append(unicode.engine("gigatoken"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unicode, "CODE_POINTS", PLANES)
        found = survey(readers, CUTS)
    return {
        name: found.between(0, i)
        for i, name in zip(range(1, len(readers)), ("twin", "exported", "gigatoken"))
    }


@pytest.mark.parametrize("name", ["twin", "exported", "gigatoken"])
def test_cuts_differ_only_where_one_unicode_version_has_no_character(
    installed: dict[str, Difference], name: str
) -> None:
    if name not in installed:
        pytest.skip(f"{name} is not installed")
    difference = installed[name]
    assert difference.older is not None and difference.unexplained == []
    if name != "exported" or difference.left.unicode == difference.right.unicode:
        assert difference.points == []  # what is ours cuts as tiktoken does, whatever the versions are
    if float(unicodedata.unidata_version[:4]) <= float(difference.older):
        assert {unicodedata.category(chr(point)) for point in difference.points} <= {"Cn"}


def test_normal_forms_differ_only_where_one_unicode_version_has_no_character(
    layout: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unicode, "CODE_POINTS", PLANES)
    difference = survey([unicode.python_form(), unicode.exported_form(layout)], FORMS).between(0, 1)
    assert difference.older is not None and difference.unexplained == []
    for char in map(chr, difference.points):
        assert (
            unicodedata.category(char) == "Cn"
            or unicodedata.combining(char)
            or unicodedata.decomposition(char)
        )


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None), max_size=8), st.sampled_from([None, "15.0"]))
def test_newer_characters_are_seen_wherever_they_stand(text: str, version: str | None) -> None:
    """Against a look at each character, lone surrogates too."""
    unknown = pattern.unassigned(version)
    assert pattern.has_newer(text, version) == any(unknown[ord(char)] for char in text)
