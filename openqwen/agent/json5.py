"""Reads JSON as models write it: single quotes, bare names, trailing commas, comments (the JSON5 grammar).

Ours. The released scorer of Table 6 reads arguments as JSON5; this is what that needs, without a dependency.
"""

from __future__ import annotations

import re
from typing import Any

_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|Infinity|NaN|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_NAME = re.compile(r"[^\W\d]\w*|\$\w*")
_STRING = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|\r\n|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": "", "\r\n": ""}
_WORDS = {"true": True, "false": False, "null": None}
_DEPTH = 100


def loads(text: str) -> Any:
    """The value of a JSON5 text; ValueError if it is none."""
    value, at = _value(text, _skip(text, 0), 0)
    if _skip(text, at) != len(text):
        raise ValueError(f"text after the value at {at}")
    return value


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH}")
    if text.startswith("{", at):
        return _members(text, at + 1, "}", depth)
    if text.startswith("[", at):
        return _members(text, at + 1, "]", depth)
    if found := _STRING.match(text, at):
        return _unescape(found[1] if found[1] is not None else found[2]), found.end()
    if found := _NUMBER.match(text, at):
        return _number(found[0]), found.end()
    if (found := _NAME.match(text, at)) and found[0] in _WORDS:
        return _WORDS[found[0]], found.end()
    raise ValueError(f"no value at {at}")


def _members(text: str, at: int, closing: str, depth: int) -> tuple[Any, int]:
    """The inside of an object or array up to its closing sign."""
    pairs: list[tuple[Any, Any]] = []
    at = _skip(text, at)
    while not text.startswith(closing, at):
        key: Any = None
        if closing == "}":
            key, at = _key(text, at)
        value, at = _value(text, at, depth + 1)
        pairs.append((key, value))
        at = _skip(text, at)
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith(closing, at):
            raise ValueError(f"no comma at {at}")
    return (dict(pairs) if closing == "}" else [value for _, value in pairs]), at + 1


def _key(text: str, at: int) -> tuple[str, int]:
    found = _STRING.match(text, at) or _NAME.match(text, at)
    if not found:
        raise ValueError(f"no name at {at}")
    quoted = text[at] in "\"'"
    name = _unescape(found[1] if found[1] is not None else found[2]) if quoted else found[0]
    at = _skip(text, found.end())
    if not text.startswith(":", at):
        raise ValueError(f"no colon at {at}")
    return name, _skip(text, at + 1)


def _number(text: str) -> int | float:
    sign, body = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if body[:2] in ("0x", "0X"):
        return sign * int(body, 16)
    if body.isdecimal():
        return sign * int(body)
    return sign * float({"Infinity": "inf", "NaN": "nan"}.get(body, body))


def _unescape(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if code[0] in "ux" and len(code) > 1 else _ESCAPES.get(code, code)

    # Two escapes may be the halves of one character.
    return _ESCAPE.sub(one, text).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
