"""Where a completion of code ends: the line, the block, the function or the file that it goes on with.

Ours; the rules of published benchmarks are their own (evals/tasks). A rule reads what stands before the completion, so
that it knows which function or block is open there, then takes the completion bit by bit and passes on what is certain.
Where the cursor is in no function, the first one that the completion writes is the one that counts.

    rule = StopRule("function", "python", before="def double(x):\n")
    rule.cut("    return 2 * x\n\nprint(double(2))\n")    # "    return 2 * x"
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Literal, Protocol

from openqwen.code_qwen.languages import language_of
from openqwen.code_qwen.lexer import FORMS, Lexer
from openqwen.core.errors import UsageError

Rule = Literal["line", "block", "function", "file"]
RULES: tuple[Rule, ...] = ("line", "block", "function", "file")
_INDENTED = ("python",)
# What names a function; languages that are not here name none, there it is a pair of brackets before the brace.
_KEYWORDS = {
    "go": "func", "rust": "fn", "zig": "fn", "swift": "func|init|deinit", "kotlin": "fun|constructor|init",
    "scala": "def",
}  # fmt: skip
_NO_SEMICOLON = ("go", "swift", "kotlin", "scala", "javascript", "typescript")
_ARROWS = ("javascript", "typescript", "dart", "csharp", "java")
_CONTROL = re.compile(
    r"\s*(?:if|for|foreach|while|switch|catch|else|do|try|synchronized|using|lock|fixed|with|case|return|throw)\b|\s*default\s*[:-]"
)
_CASE = re.compile(r"\s*(?:case\b|default\s*[:-])")
_TYPE = re.compile(r"\b(?:class|interface|enum|record|namespace|trait|object)\b")
_NEW = re.compile(r"\bnew\s+[\w.<>, ]+\([^{}]*\)\s*$")
_MOST_HEAD = 4000  # letters of a function's head that are looked at
_HEADER = re.compile(r"(?:#|//|--|%|;|!|/\*|\(\*) (\S+?)(?: (?:\*/|\*\)))?")


class _Cutter(Protocol):
    """Takes pieces one by one. `ended`: the last one is behind the end; `kept`: the letters that are certain."""

    ended: bool

    def begin(self) -> None:
        """From now on pieces are the completion's."""

    def take(self, kind: str, piece: str) -> None: ...

    def drain(self) -> str: ...

    def rest(self) -> str: ...


class StopRule:
    """One completion's end. Make one for what stands before; `start` gives a fresh one for each completion of it.

    rule: "line" (the first that is not empty), "block" (the statements around the cursor; at the top level up to an
    empty line, with braces one statement), "function" (the innermost) or "file" (up to a line that names another file
    as code data does).
    language: as `languages.language_of` names it; "line" and "file" need none. before: text of the file before the
    cursor. UsageError for a language whose functions are not known.
    """

    def __init__(self, rule: Rule, language: str | None = None, before: str = "") -> None:
        if rule not in RULES:
            raise UsageError(f"no stop rule {rule!r}", fix=f"choose {', '.join(RULES)}")
        self.name = rule
        self._cutter: _Cutter
        self._lexer: Lexer | None = None
        if rule in ("line", "file"):
            self._cutter = _Lines(whole=rule == "file", before=before)
            return
        if language not in FORMS:
            raise UsageError(
                f"the ends of functions and blocks are not known in {language or 'a file of no language'}",
                fix=f"use the rule line or file; known are {', '.join(sorted(FORMS))}",
            )
        self._lexer = Lexer(language)
        self._cutter = (_Indented if language in _INDENTED else _Braced)(rule == "function", language)
        self._before = len(before)
        self._run(before, False)

    @property
    def ended(self) -> bool:
        """Whether the end was found; what comes after it is not passed on."""
        return self._cutter.ended

    def start(self) -> StopRule:
        """A rule in the same state, for one of several completions."""
        return deepcopy(self)

    def push(self, text: str) -> str:
        """The text that has become certain."""
        return self._run(text, False)

    def finish(self) -> str:
        """What was held back, when nothing more will come."""
        passed = self._run("", True)
        return passed if self.ended else passed + self._cutter.rest()

    def cut(self, text: str) -> str:
        """A whole completion up to its end. Another call needs another `start`."""
        return self.push(text) + self.finish()

    def _run(self, text: str, final: bool) -> str:
        if self.ended:
            return ""
        if self._lexer is None:
            for letter in text:
                self._cutter.take("code", letter)
                if self.ended:
                    break
            return self._cutter.drain()
        for kind, piece in self._lexer.feed(text, final):
            for letter in piece:
                if self._before == 0:
                    self._cutter.begin()
                self._before -= 1
                self._cutter.take(kind, letter)
                if self.ended:
                    return self._cutter.drain()
        return self._cutter.drain()


class _Held:
    """Letters that are certain, and those held back behind them."""

    def __init__(self) -> None:
        self.ended = False
        self._kept: list[str] = []
        self._held: list[str] = []

    def drain(self) -> str:
        kept, self._kept = "".join(self._kept), []
        return kept

    def rest(self) -> str:
        held, self._held = "".join(self._held), []
        return held

    def _release(self) -> None:
        self._kept += self._held
        self._held = []

    def _end(self) -> None:
        self.ended, self._held = True, []


class _Lines(_Held):
    """One line, or all up to the line that names another file."""

    def __init__(self, whole: bool, before: str) -> None:
        super().__init__()
        self._whole = whole
        self._line = before.rpartition("\n")[2]
        self._after_empty = bool(re.search(r"\n[ \t]*\n[^\n]*\Z", before))
        self._some = False  # anything but space was written

    def begin(self) -> None:
        """Nothing to do: the lines before are known."""

    def take(self, kind: str, piece: str) -> None:
        if not self._whole:
            if piece == "\n" and self._some:
                self._end()
                return
            self._some = self._some or not piece.isspace()
            self._kept.append(piece)
            return
        self._held.append(piece)
        if piece == "\n":
            if self._names_a_file():
                self._end()
                return
            self._after_empty = not self._line.strip()
            self._line = ""
        else:
            self._line += piece
            if self._line.strip() and not (self._after_empty and self._line[0] in "#/-%;!("):
                self._release()

    def rest(self) -> str:
        if self._whole and self._names_a_file():
            self._end()
            return ""
        return super().rest()

    def _names_a_file(self) -> bool:
        found = _HEADER.fullmatch(self._line) if self._after_empty and self._held else None
        return found is not None and language_of(found[1]) is not None


class _Indented(_Held):
    """Blocks by their indentation, as Python reads it."""

    def __init__(self, function: bool, language: str) -> None:
        super().__init__()
        self._function = function
        self._begun = False
        self._pending = False  # which function or block the completion belongs to is to be found out
        self._functions: list[int] = []  # indentations of the open ones, the innermost last
        self._target: int | None = None  # a line that begins here or further left is behind the end
        self._margin, self._indent = (
            True,
            0,
        )  # before the first letter of a logical line, and how far in that is
        self._comment = self._empty = False  # since the logical line before
        self._depth = 0  # of brackets
        self._head = self._last = self._letter = (
            ""  # first letters of the logical line, its last and the one before
        )

    def begin(self) -> None:
        if not self._begun:
            self._begun = self._pending = True

    def take(self, kind: str, piece: str) -> None:
        if self._begun:
            self._held.append(piece)
        if not self._margin:
            self._in_line(kind, piece)
        elif kind == "comment":
            self._comment = True
            if self._target is None or (self._indent > self._target and not (self._empty and self._top)):
                self._release()  # else it may be the next function's
        elif kind == "code" and piece == "\n":
            self._empty = self._empty or not self._comment
            self._indent, self._comment = 0, False
        elif kind == "code" and piece in " \t\f":
            if not self._comment:
                self._indent += {" ": 1, "\t": 8 - self._indent % 8, "\f": -self._indent}[piece]
        else:
            self._begin_line()
            if not self.ended:
                self._in_line(kind, piece)

    @property
    def _top(self) -> bool:
        """Whether the block wanted is of the top level, which ends at an empty line."""
        return self._target == -1

    def _begin_line(self) -> None:
        behind = self._target is not None and self._indent <= self._target
        if behind or (self._top and self._indent == 0 and self._empty):
            self._end()
            return
        while self._functions and self._indent <= self._functions[-1]:
            self._functions.pop()
        if self._pending:
            innermost = self._functions[-1] if self._functions else None
            self._target = innermost if self._function else self._indent - 1
            self._pending = False
        self._margin = self._empty = False
        self._head = self._last = self._letter = ""
        self._depth = 0

    def _in_line(self, kind: str, letter: str) -> None:
        if kind == "code" and letter == "\n" and self._depth == 0 and self._letter != "\\":
            self._end_line()
            return
        self._release()
        if kind == "comment":
            return
        if kind == "code":
            self._depth = max(0, self._depth + (letter in "([{") - (letter in ")]}"))
        self._letter = letter if kind == "code" else '"'
        self._head = (self._head + self._letter)[:12]
        if not letter.isspace():
            self._last = self._letter

    def _end_line(self) -> None:
        opens, defines = self._last == ":", re.match(r"(?:async\s+)?def\b", self._head) is not None
        if defines:
            self._functions.append(self._indent)
        if self._begun and self._function:
            self._after_line(opens, defines)
        elif self._pending:
            self._target = self._indent if opens else self._indent - 1
            self._pending = opens  # the block is the one below
        self._margin, self._indent = True, 0

    def _after_line(self, opens: bool, defines: bool) -> None:
        """The end of the line the cursor stood in, or of one in no function."""
        if defines and not opens and (self._pending or self._target is None):
            self._end()  # a function of one line
        elif self._pending and self._functions:
            self._target = self._functions[-1]
        elif defines and self._target is None:
            self._target = self._indent
        self._pending = False


class _Braced(_Held):
    """Blocks by their braces."""

    def __init__(self, function: bool, language: str) -> None:
        super().__init__()
        self._function, self._language = function, language
        self._begun = self._closed = False
        self._open: list[bool] = []  # for each brace that is open whether it is a function's
        self._parens: list[int] = [0]  # brackets that are open within each of them
        self._heads: list[
            tuple[str, int]
        ] = []  # what stood before each of them, where that goes on behind it
        self._target: int | None = None  # braces that are open when the end has come
        self._head = ""  # code since the statement began
        self._line = 0  # where in it the last line begins that stands in no brackets

    def begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        wanted = [i for i, function in enumerate(self._open) if function or not self._function]
        self._target = wanted[-1] if wanted else None

    def take(self, kind: str, piece: str) -> None:
        if self._closed and not (kind == "code" and piece in ")];,"):
            self._end()
            return
        if self._begun:
            self._kept.append(piece)
        if kind != "code" or self._closed:
            return
        if piece == "{":
            self._open_brace()
        elif piece == "}":
            self._close_brace()
        elif piece == ";" and self._parens[-1] == 0:
            self._forget()
            if self._begun and not self._function and not self._open and self._target is None:
                self._end()
        else:
            self._parens[-1] = max(0, self._parens[-1] + (piece in "([") - (piece in ")]"))
            if piece == "\n" and self._parens[-1] == 0 and self._head[self._line :].strip():
                self._line = len(self._head)
            self._head = (self._head + piece)[-_MOST_HEAD:]

    def _forget(self) -> None:
        self._head, self._line = "", 0

    def _open_brace(self) -> None:
        last_line = self._head[self._line :] if self._language in _NO_SEMICOLON else ""
        own = _own_part(last_line if last_line.strip() else self._head)
        kind_of_type = self._language == "go" and re.search(r"\b(?:interface|struct)\s*$", own) is not None
        function = not kind_of_type and _begins_function(own, self._language)
        if self._begun and self._target is None and (function or not self._function):
            self._target = len(self._open)
        self._open.append(function)
        self._parens.append(0)
        goes_on = self._parens[-2] > 0 or kind_of_type
        self._heads.append((self._head + "{}", self._line) if goes_on else ("", 0))
        self._forget()

    def _close_brace(self) -> None:
        unseen = not self._open  # what it closes stands before the text that is known
        self._forget()
        if not unseen:
            self._open.pop()
            self._parens.pop()
            self._head, self._line = self._heads.pop()
        self._closed = self._begun and (len(self._open) == self._target or (unseen and self._target is None))


def _own_part(head: str) -> str:
    """Of a statement the argument that it has come to, all of it outside of brackets."""
    depth = 0
    for place in range(len(head) - 1, -1, -1):
        letter = head[place]
        depth += (letter in ")]") - (letter in "([")
        if depth < 0:
            return _after_comma(head[place + 1 :])
    return head


def _after_comma(arguments: str) -> str:
    depth, start = 0, 0
    for place, letter in enumerate(arguments):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            start = place + 1
    return arguments[start:]


def _begins_function(head: str, language: str) -> bool:
    """Whether the brace behind a statement's beginning is a function's. Texts and comments are not in it."""
    keyword = _KEYWORDS.get(language)
    if keyword is not None:
        return re.search(rf"\b(?:{keyword})\b", head) is not None
    head = re.sub(r"@\w+(?:\([^()]*\))?", " ", head).rstrip()
    if language in _ARROWS and not _CASE.match(head) and re.search(r"\bfunction\b|[=-]>$", head):
        return True
    if ")" not in head or not re.search(r"[\w)>\]&*]$", head) or _CONTROL.match(head) or _NEW.search(head):
        return False
    outside = re.sub(r"\([^()]*\)|<[^<>]*>", " ", head)
    return language in ("c", "cpp", "objective-c") or _TYPE.search(outside) is None
