"""A growing program cut into code, comments and texts, so that brackets in texts count for nothing.

Ours. Every letter is judged once, as soon as what follows cannot change it: the same pieces come out however the program
is cut. Kinds are "code", "comment" and "text"; a text that nothing closes on its line ends there, as editors have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Quote:
    """How a text is written. escape: a backslash takes the next letter; lines: it may go over several."""

    end: str
    escape: bool = True
    lines: bool = False
    holes: bool = False  # code stands in ${ }
    doubled: bool = False  # the end twice is a letter


@dataclass(frozen=True)
class Form:
    """The letters of a language: what begins comments and texts. char: 'x' is one letter, or a text like others."""

    line: tuple[str, ...] = ("//",)
    block: bool = True  # /* */
    nested: bool = False  # comments within comments
    quotes: tuple[tuple[str, Quote], ...] = (('"', Quote('"')), ("'", Quote("'")))
    directives: bool = False  # lines that begin with # are the preprocessor's
    ticks: str = ""  # where ' stands in what is no text: "rust" lifetimes, "digits" 1'000
    raw: re.Pattern[str] | None = None
    patterns: bool = False  # /regular expressions/


_DOUBLE, _SINGLE = ('"', Quote('"')), ("'", Quote("'"))
_TRIPLE = ('"""', Quote('"""', lines=True))
_TRIPLE_SINGLE = ("'''", Quote("'''", lines=True))
_GRAVE = ("`", Quote("`", lines=True, holes=True))
_CPP_RAW = re.compile(r'R"(?P<name>[^\s()\\"]{0,16})\(')
_RUST_RAW = re.compile(r'b?r(?P<name>#{0,16})"')
_AT_RAW = re.compile(r'(?:@\$?|\$@)(?P<name>)"')
FORMS = {
    "python": Form(("#",), False, quotes=(_TRIPLE, _TRIPLE_SINGLE, _DOUBLE, _SINGLE)),
    "javascript": Form(quotes=(_GRAVE, _DOUBLE, _SINGLE), patterns=True),
    "typescript": Form(quotes=(_GRAVE, _DOUBLE, _SINGLE), patterns=True),
    "java": Form(quotes=(_TRIPLE, _DOUBLE, _SINGLE)),
    "c": Form(directives=True, ticks="digits"),
    "cpp": Form(directives=True, ticks="digits", raw=_CPP_RAW),
    "objective-c": Form(directives=True),
    "csharp": Form(quotes=(_TRIPLE, _DOUBLE, _SINGLE), directives=True, raw=_AT_RAW),
    "go": Form(quotes=(("`", Quote("`", escape=False, lines=True)), _DOUBLE, _SINGLE)),
    "rust": Form(nested=True, quotes=(('"', Quote('"', lines=True)),), ticks="rust", raw=_RUST_RAW),
    "swift": Form(nested=True, quotes=(_TRIPLE, _DOUBLE)),
    "kotlin": Form(nested=True, quotes=(_TRIPLE, _DOUBLE, _SINGLE)),
    "scala": Form(nested=True, quotes=(_TRIPLE, _DOUBLE), ticks="rust"),
    "dart": Form(nested=True, quotes=(_TRIPLE, _TRIPLE_SINGLE, _DOUBLE, _SINGLE)),
    "zig": Form(("//", "\\\\"), False),
}
_AHEAD = 3  # letters that decide what a quote or a slash begins
_VALUE = re.compile(r"(?:[\w)\]\"'`<]|\+\+|--)$")  # after these a slash divides, or closes a tag
_BEFORE_PATTERN = re.compile(
    r"(?:^|\W)(?:return|typeof|case|in|of|delete|void|throw|new|do|else|yield|await)$"
)


class Lexer:
    """Takes a program bit by bit with `feed`, which yields (kind, letters) as far as they are certain."""

    def __init__(self, language: str) -> None:
        self.form = FORMS[language]
        self._marks = tuple(mark for mark, _ in self.form.quotes)
        self._special = set("".join(m[0] for m in (*self._marks, *self.form.line)) + "/'")
        self._text = ""
        self._final = False
        # What is open, the innermost last: a quote, "//", "#", "/*", a pattern "/" or "[" in it, the depth of a ${ }.
        self._open: list[Quote | str | int] = []
        self._last = ""  # letters of code before, without space at their end; as many as rules look at
        self._line_begins = True

    def feed(self, text: str, final: bool = False) -> Iterator[tuple[str, str]]:
        """The pieces that have become certain; with `final` all that is left."""
        self._text, self._final = self._text + text, final
        at = 0
        try:
            while at < len(self._text):
                kind, size = self._next(at)
                piece = self._text[at : at + size]
                at += size
                yield kind, piece
        except _Wait:
            pass
        self._text = self._text[at:]

    def _need(self, at: int, count: int) -> None:
        if not self._final and len(self._text) - at < count:
            raise _Wait

    def _next(self, at: int) -> tuple[str, int]:
        top = self._open[-1] if self._open else 0
        if isinstance(top, Quote):
            return self._in_quote(top, at)
        if isinstance(top, str):
            return self._in_mark(top, at)
        return self._in_code(at)

    def _in_code(self, at: int) -> tuple[str, int]:
        letter = self._text[at]
        if self.form.directives and letter == "#" and self._line_begins:
            self._open.append("#")
            return "comment", 1
        raw = self._raw(at)
        if raw:
            return raw
        if letter in self._special:
            self._need(at, _AHEAD)
            begun = self._begin(at)
            if begun:
                return begun
        return self._plain(letter), 1

    def _plain(self, letter: str) -> str:
        """A letter of code. Within ${ } it is part of the text around."""
        if letter == "\n":
            self._line_begins = True
        elif not letter.isspace():
            self._line_begins = False
            self._last = (self._last + letter)[-12:]
        elif self._last[-1:].isalnum():
            self._last += " "
        if not self._open:
            return "code"
        depth = self._open[-1]
        assert isinstance(depth, int)
        if letter == "}" and depth == 0:
            self._open.pop()
        elif letter in "{}":
            self._open[-1] = depth + (1 if letter == "{" else -1)
        return "text"

    def _raw(self, at: int) -> tuple[str, int] | None:
        """A text that says itself how it ends: R"x( )x", r#" "#, @" "."""
        pattern = self.form.raw
        if pattern is None or self._text[at] not in "Rrb@$":
            return None
        if pattern is not _CPP_RAW and re.search(r"\w$", self._last):
            return None  # the end of a name
        found = pattern.match(self._text, at)
        if found is None:
            if _may_be(pattern, self._text[at : at + 20]):
                self._need(at, 20)
            return None
        if pattern is _CPP_RAW:
            self._open.append(Quote(f'){found["name"]}"', escape=False, lines=True))
        else:
            end = f'"{found["name"]}'
            self._open.append(Quote(end, escape=False, lines=True, doubled=pattern is _AT_RAW))
        self._last = '"'
        return "text", found.end() - at

    def _begin(self, at: int) -> tuple[str, int] | None:
        """What begins at a letter that may begin something; None if it is code after all."""
        text, form = self._text, self.form
        for mark in form.line:
            if text.startswith(mark, at):
                self._open.append("//")
                return "comment", len(mark)
        if form.block and text.startswith("/*", at):
            self._open.append("/*")
            return "comment", 2
        letter = text[at]
        if letter == "'" and form.ticks == "rust":
            size = 3 if text[at + 2 : at + 3] == "'" and text[at + 1] != "\\" else 0
            if text[at + 1 : at + 2] == "\\":
                self._open.append(Quote("'"))
                size = 1
            self._last = "'"
            return ("text", size) if size else None
        if letter == "'" and form.ticks == "digits" and re.search(r"[0-9a-fA-F]$", self._last):
            return None
        for mark, quote in form.quotes:
            if text.startswith(mark, at):
                self._open.append(quote)
                self._last, self._line_begins = '"', False
                return "text", len(mark)
        if letter == "/" and form.patterns and self._begins_pattern() and text[at + 1 : at + 2] != ">":
            self._open.append("/")
            self._last = '"'
            return "text", 1
        return None

    def _begins_pattern(self) -> bool:
        before = self._last.rstrip()
        return not _VALUE.search(before) or bool(_BEFORE_PATTERN.search(before))

    def _in_quote(self, quote: Quote, at: int) -> tuple[str, int]:
        text, letter = self._text, self._text[at]
        if quote.escape and letter == "\\":
            self._need(at, 2)
            return "text", min(2, len(text) - at)
        if letter == quote.end[0]:
            size = len(quote.end)
            self._need(at, size + (size if quote.doubled else 0))
            if quote.doubled and text.startswith(quote.end * 2, at):
                return "text", 2 * size
            if text.startswith(quote.end, at):
                self._open.pop()
                return "text", size
        if quote.holes and letter == "$":
            self._need(at, 2)
            if text.startswith("${", at):
                self._open.append(0)
                self._last = ""
                return "text", 2
        if letter == "\n" and not quote.lines:
            self._open.pop()
            return self._in_code(at)
        return "text", 1

    def _in_mark(self, mark: str, at: int) -> tuple[str, int]:
        """In a comment, a directive or a pattern."""
        text, letter = self._text, self._text[at]
        if mark == "/*":
            if letter in "*/":
                self._need(at, 2)
            if text.startswith("*/", at):
                self._open.pop()
                return "comment", 2
            if self.form.nested and text.startswith("/*", at):
                self._open.append("/*")
                return "comment", 2
            return "comment", 1
        if mark == "#" and letter == "\\":
            self._need(at, 2)
            return "comment", min(2, len(text) - at)  # a directive goes on in the next line
        if letter == "\n":
            while self._open and self._open[-1] in ("//", "#", "/", "["):
                self._open.pop()
            return self._in_code(at)
        if mark in ("//", "#"):
            return "comment", 1
        if letter == "\\":
            self._need(at, 2)
            return "text", min(2, len(text) - at)
        if mark == "/" and letter == "/":
            self._open.pop()
        elif mark == "/" and letter == "[":
            self._open.append("[")
        elif mark == "[" and letter == "]":
            self._open.pop()
        return "text", 1


class _Wait(Exception):
    """More letters are needed."""


def _may_be(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a text that is no beginning of a raw one may become it."""
    plain = {_CPP_RAW: r'R(?:"[^\s()\\"]{0,16})?', _RUST_RAW: r"b?(?:r#*)?", _AT_RAW: r"[@$]{1,2}"}[pattern]
    return bool(re.fullmatch(plain, text))
