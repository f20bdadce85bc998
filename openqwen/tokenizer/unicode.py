"""Where libraries read a text differently because their Unicode tables differ: each is asked about every code point.

Report §2.2; the question is ours. The released tokenizer is Python's NFC and tiktoken's cut, each with the tables of
its version; the readable twin cuts with `regex`, other programs read the exported files with `tokenizers`.

    found = survey([twin(), engine("tiktoken")], CUTS)
    found.between(0, 1).ranges()    -> [(0x3D000, 0x3FC3F), ...]
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import product
from typing import Any

import regex
import tiktoken

from openqwen.tokenizer.encoders import Name, make_encoder
from openqwen.tokenizer.export import find_merges, tokenizer_json
from openqwen.tokenizer.pattern import normalise, split
from openqwen.tokenizer.ranks import byte_order
from openqwen.tokenizer.tokenizer import Tokenizer

# Unicode version -> a letter and a mark that sorts (combining class above 1) which it added; None: it added none.
BORN: dict[str, tuple[str, str | None]] = {
    "9.0": ("\U00017000", "\u08d4"),
    "10.0": ("\U0001b170", "\u1df6"),
    "11.0": ("\U00010d00", "\u09fe"),
    "12.0": ("\U00010fe0", "\U0001e130"),
    "13.0": ("\U00030000", "\u1abf"),
    "14.0": ("\U0001df00", "\u0898"),
    "15.0": ("\U00031350", "\U0001e08f"),
    "15.1": ("\U0002ebf0", None),
    "16.0": ("\U000105c0", "\u0897"),
    "17.0": ("\U000323b0", None),
    "18.0": ("\U0003d000", None),
}
_VERSIONS = list(BORN)
_BAR = "\udcff"  # as bytes 0xFF, which stands in no UTF-8
_BATCH, _RUN = 16384, 64  # texts; code points
CODE_POINTS = range(0x110000)
Read = Callable[[Sequence[str]], list[bytes]]


@dataclass(frozen=True)
class Reader:
    """A library, what it makes of texts, and the newest Unicode version whose characters it knows (None: none)."""

    name: str
    read: Read
    unicode: str | None


@dataclass(frozen=True)
class Probe:
    """How a code point is shown: alone in many contexts, or in a run with its neighbours in one."""

    alone: Callable[[str], str]
    run: Callable[[str], str]


@dataclass(frozen=True)
class Difference:
    """The code points that two readers read differently, and those of them that were assigned in version `older`.

    That is the older of the two Unicode versions, or tiktoken's where both are newer; None: a reader has no version.
    """

    left: Reader
    right: Reader
    points: list[int]
    older: str | None
    unexplained: list[int]

    def ranges(self) -> list[tuple[int, int]]:
        return ranges(self.points)


# A digit is a piece by itself, so that contexts with digits between them do not touch each other.
_CUT_CONTEXTS = ("a{}b", "{}", " {}", "{}{}", "e{}\u0301", "{}\u0301\u0316", "!{}!", "\n{}", "{}\n", "'{}a")
_CUT_TEXT = "1" + "1".join(_CUT_CONTEXTS) + "1"
CUTS = Probe(lambda char: normalise(_CUT_TEXT.replace("{}", char)), lambda run: normalise(f"1{run}a1"))
# Between marks of classes 230 and 1 (or 220) a character shows whether it sorts, and how it composes.
_FORM_CONTEXTS = "e{}\u03011e\u0301{}\u03341{}\u0301\u03161"
FORMS = Probe(
    lambda char: _FORM_CONTEXTS.replace("{}", char) + unicodedata.normalize("NFD", char),
    lambda run: "".join(f"e\u0301{char}\u0334{unicodedata.normalize('NFD', char)}" for char in run),
)


def twin() -> Reader:
    """Cuts of the readable twin."""

    def read(texts: Sequence[str]) -> list[bytes]:
        barred = [_BAR + _BAR.join(split(text)) for text in texts]
        return [text.encode("utf-8", "surrogateescape") for text in barred]

    return Reader(f"readable twin (regex {version('regex')})", read, _letters_known(read))


def engine(name: Name) -> Reader:
    """Cuts of an engine as the tokenizer uses it. MissingTool if it is not installed."""
    encode = make_encoder(probe_ranks(), name).encode
    read = _by_ids(lambda texts: map(encode, texts))
    return Reader(f"{name} {version(name)}", read, _letters_known(read))


def exported(data: Mapping[str, Any]) -> Reader:
    """Cuts of `tokenizers` by the content of a tokenizer.json (its vocabulary plays no part)."""
    import tokenizers

    ours = Tokenizer(probe_ranks(), encoder="tiktoken")
    model = tokenizer_json(ours, find_merges(ours.ranks))["model"]
    bare = {**data, "normalizer": None, "post_processor": None, "added_tokens": [], "model": model}
    core = tokenizers.Tokenizer.from_str(json.dumps(bare))

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in core.encode_batch_fast(list(texts), add_special_tokens=False)]

    read = _by_ids(encode)
    return Reader(f"tokenizers {tokenizers.__version__}", read, _letters_known(read))


def python_form() -> Reader:
    """Normal forms as the tokenizer makes them."""
    return _form(f"unicodedata {unicodedata.unidata_version}", normalise)


def exported_form(data: Mapping[str, Any]) -> Reader:
    """Normal forms of `tokenizers` by the content of a tokenizer.json."""
    import tokenizers

    normalizer = tokenizers.Tokenizer.from_str(json.dumps(data)).normalizer
    name = f"tokenizers {tokenizers.__version__}"
    return _form(name, normalizer.normalize_str if normalizer else lambda text: text)


def _form(name: str, normal: Callable[[str], str]) -> Reader:
    def read(texts: Sequence[str]) -> list[bytes]:
        return [normal(text).encode() for text in texts]

    marks = {v: mark for v, (_, mark) in BORN.items() if mark}
    sorted_in = [v for v, mark in marks.items() if normal(f"a{mark}\u0334") == f"a\u0334{mark}"]
    return Reader(name, read, sorted_in[-1] if sorted_in else None)


def _letters_known(read: Read) -> str | None:
    """The newest version whose letter makes one piece with the letters around it."""
    texts = [f"a{letter}b" for letter, _ in BORN.values()]
    known = [v for v, text, cut in zip(BORN, texts, read(texts)) if cut == b"\xff" + text.encode()]
    return known[-1] if known else None


@cache
def probe_ranks() -> dict[bytes, int]:
    """A vocabulary whose ids show every cut: inside a piece of the probe's texts no token begins with a character.

    It joins the last byte of a character to the first of the next, as long as one of them is from the contexts or
    both are part of longer characters; one-byte characters have their contexts as whole tokens.
    """
    around = {*_CUT_TEXT.encode(), 0xCC}
    lasts, firsts = range(0xC0), [*range(0x80), *range(0xC2, 0xF5)]
    pairs = [
        bytes(pair)
        for pair in product(lasts, firsts)
        if around & set(pair) or pair[0] == pair[1] or pair[0] >= 0x80 <= pair[1]
    ]
    triples = [text.replace("{}", chr(c)).encode() for text in ("a{}b", "!{}!", "'{}a") for c in range(128)]
    return {token: rank for rank, token in enumerate(dict.fromkeys([*byte_order(), *pairs, *triples]))}


def _by_ids(encode: Callable[[Sequence[str]], Iterable[Sequence[int]]]) -> Read:
    """A reader from an encoder with `probe_ranks`: a bar stands before each token that begins with a character."""
    barred = [token if token[0] & 0xC0 == 0x80 else b"\xff" + token for token in probe_ranks()]

    def read(texts: Sequence[str]) -> list[bytes]:
        return [b"".join([barred[i] for i in ids]) for ids in encode(texts)]

    return read


@dataclass(frozen=True)
class Survey:
    """What readers made of every code point: of those alone and of runs of the others."""

    readers: Sequence[Reader]
    chars: list[str]
    runs: list[str]
    by_char: list[list[bytes]]  # one list a reader, one reading a character
    by_run: list[list[bytes]]

    def between(self, left: int, right: int) -> Difference:
        """The difference of two readers, named by their places."""
        readings = zip(self.chars, self.by_char[left], self.by_char[right])
        found = {ord(char) for char, a, b in readings if a != b}
        for run, a, b in zip(self.runs, self.by_run[left], self.by_run[right]):
            if a != b and found.isdisjoint(map(ord, run)):  # visible in company only
                found.update(map(ord, run))
        return _explained(self.readers[left], self.readers[right], sorted(found))


def survey(readers: Sequence[Reader], probe: Probe, step: Callable[[str], object] = str) -> Survey:
    """Asks every reader about every code point. step: told the name of each reader before its turn.

    Unassigned and private ones, ideographs and Hangul syllables stand in runs, and alone where readers differ on the
    run; all others stand alone.
    """
    chars, runs = _code_points()
    run_texts = list(map(probe.run, runs))
    by_run = []
    for reader in readers:
        step(f"{reader.name}, runs")
        by_run.append(_read(reader, run_texts))
    chars += [char for run, *rest in zip(runs, *by_run) if len(set(rest)) > 1 for char in run]
    texts = list(map(probe.alone, chars))
    by_char = []
    for reader in readers:
        step(f"{reader.name}, one by one")
        by_char.append(_read(reader, texts))
    return Survey(readers, chars, runs, by_char, by_run)


def _code_points() -> tuple[list[str], list[str]]:
    """Those that stand alone, and the runs; regex's tables decide here, which changes the cost only."""
    everything = "".join(chr(point) for point in CODE_POINTS if not 0xD800 <= point < 0xE000)
    dull = r"\p{Cn}\p{Co}\p{Han}\p{Tangut}\uac00-\ud7a3"
    return regex.findall(f"[^{dull}]", everything), regex.findall(f"[{dull}]{{1,{_RUN}}}", everything)


def _read(reader: Reader, texts: list[str]) -> list[bytes]:
    batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    return [reading for batch in batches for reading in reader.read(batch)]


def _explained(left: Reader, right: Reader, points: list[int]) -> Difference:
    own = engine("tiktoken").unicode  # the newest whose characters `assigned` can tell
    if left.unicode is None or right.unicode is None or own is None:
        return Difference(left, right, points, None, points)
    older = min(left.unicode, right.unicode, own, key=_VERSIONS.index)
    known = assigned(older, points)
    return Difference(left, right, points, older, [point for point in points if point in known])


def assigned(unicode: str, points: Sequence[int]) -> set[int]:
    """Those of some code points that are characters in a Unicode version, which must not be newer than tiktoken's.

    tiktoken's regular expressions are asked, because they know in which version a character was born.
    """
    ranks = {bytes([byte]): byte for byte in range(256)}
    core = tiktoken.Encoding("age", pat_str=rf"\p{{Age={unicode}}}", mergeable_ranks=ranks, special_tokens={})
    # What the pattern does not match is dropped: the text that comes back is the assigned part.
    return set(map(ord, core.decode(core.encode_ordinary("".join(map(chr, points))))))


def ranges(points: Sequence[int]) -> list[tuple[int, int]]:
    """`ranges([1, 2, 3, 7])` -> `[(1, 3), (7, 7)]`."""
    found: list[tuple[int, int]] = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1] = found[-1][0], point
        else:
            found.append((point, point))
    return found


def described(first: int, last: int) -> str:
    """`described(0x9FE, 0x9FE)` -> `"U+09FE  1  BENGALI SANDHI MARK"`."""
    nameless = f"not in Unicode {unicodedata.unidata_version}"
    names = list(dict.fromkeys(unicodedata.name(chr(point), nameless) for point in (first, last)))
    place = f"U+{first:04X}" if first == last else f"U+{first:04X}..U+{last:04X}"
    return f"{place}  {last - first + 1}  {' .. '.join(names)}"
