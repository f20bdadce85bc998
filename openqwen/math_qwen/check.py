"""Checks worked solutions by exact arithmetic: every equation in a text must hold, the last line names the answer.

Ours. Numbers are fractions, so that 0.1 + 0.2 = 0.3 holds; what is no arithmetic between two sides of "=" is no equation.
The form of answers is GSM8K's ("#### 42"). What makes a path new is its list of equations (Yuan et al. 2023, RFT).
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

# Sides are numbers, signs and brackets; bounded, so that no text costs more than its length.
_MARK = r"(?<=\d)[.,](?=\d)"  # of a decimal or of thousands; else it ends a sentence and no side goes on behind it
_SIDE = rf"[\d(-](?:(?:[\d%+\-*/×÷x() ]|{_MARK}){{0,120}}[\d)%])?"
_BARE = re.compile(r"[\d,.]+")
# What follows these is a part of something that is no arithmetic; a sign behind a word joins it to that word.
_BEFORE = re.compile(r"[+*/×÷=-]\s*\Z|\d:\Z")
_WORD = re.compile(r"[A-Za-z)]\s*\Z")
_MONEY = str.maketrans({"–": "-", "−": "-"} | dict.fromkeys("$¥￥"))
_UNIT = re.compile(r"(?<=[\d)])(?:[ /][A-Za-z]{2,20}){1,3}(?=\s*[+\-*/×÷=])")  # 36 birds / 4 birds = 9
_EQUATION = re.compile(rf"(?<![A-Za-z0-9_.]){_SIDE}(?:\s*=\s*(?:{_SIDE}))+")
_ANSWER = re.compile(r"####\s*(?P<value>\S[^\n]*)")
_TOKEN = re.compile(r"\s*(?:(?P<number>\d[\d,]*(?:\.\d+)?%?)|(?P<sign>[+\-*/×÷x()]))")
_DEPTH = 50


class NoArithmetic(ValueError):
    """A text that is no expression of numbers."""


def value(text: str) -> Fraction:
    """The value of an expression of + - * / × ÷ and brackets. NoArithmetic if it is none or divides by zero."""
    tokens: list[str] = []
    place = 0
    text = text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise NoArithmetic(text)
        tokens.append(match.group().strip())
        place = match.end()
    found, rest = _sum(tokens, 0)
    if rest:
        raise NoArithmetic(text)
    return found


def _sum(tokens: list[str], depth: int) -> tuple[Fraction, list[str]]:
    total, tokens = _product(tokens, depth)
    while tokens and tokens[0] in "+-":
        sign, tokens = tokens[0], tokens[1:]
        other, tokens = _product(tokens, depth)
        total = total + other if sign == "+" else total - other
    return total, tokens


def _product(tokens: list[str], depth: int) -> tuple[Fraction, list[str]]:
    total, tokens = _atom(tokens, depth)
    while tokens and tokens[0] in "*/×÷x":
        sign, tokens = tokens[0], tokens[1:]
        other, tokens = _atom(tokens, depth)
        if sign in "/÷" and other == 0:
            raise NoArithmetic("division by zero")
        total = total / other if sign in "/÷" else total * other
    return total, tokens


def _atom(tokens: list[str], depth: int) -> tuple[Fraction, list[str]]:
    if not tokens or depth > _DEPTH:
        raise NoArithmetic("no number")
    first, rest = tokens[0], tokens[1:]
    if first == "-":
        found, rest = _atom(rest, depth + 1)
        return -found, rest
    if first == "(":
        found, rest = _sum(rest, depth + 1)
        if not rest or rest[0] != ")":
            raise NoArithmetic("a bracket is open")
        return found, rest[1:]
    return number(first), rest


def number(text: str) -> Fraction:
    """A number as people write it: 1,234.5 or 30 % as a fraction. NoArithmetic for anything else."""
    plain = text.strip().replace(",", "").replace(" ", "")
    share = plain.endswith("%")
    plain = plain.removesuffix("%").lstrip("$¥￥")
    if not re.fullmatch(r"-?\d{1,60}(?:\.\d{1,60}|/\d{1,60})?", plain):
        raise NoArithmetic(text)
    try:
        found = Fraction(plain)
    except ZeroDivisionError:
        raise NoArithmetic(text) from None
    return found / 100 if share else found


def equations(text: str) -> list[tuple[str, bool]]:
    """Each equation of a text as "side=side" without spaces, and whether it holds.

    Signs of money and names of units do not count; "1 foot = 12 inches" and the end of "S + 3 = 12" are no equations.
    """
    found = []
    text = _UNIT.sub("", text.translate(_MONEY))
    for match in _EQUATION.finditer(text):
        sides = [side.strip() for side in match.group().split("=")]
        if len(sides) == 2 and all(map(_BARE.fullmatch, sides)):
            continue
        before = text[max(0, match.start() - 8) : match.start()]
        if _BEFORE.search(before) or (sides[0].startswith("-") and _WORD.search(before)):
            continue
        try:
            values = [value(side) for side in sides]
        except NoArithmetic:
            continue
        for (left, right), (a, b) in zip(pairwise(sides), pairwise(values)):
            form = (
                f"{left}={right}".replace(" ", "")
                .replace(",", "")
                .replace("×", "*")
                .replace("x", "*")
                .replace("÷", "/")
            )
            share = right.endswith("%") and a == 100 * b  # people write 3 / 4 * 100 = 75%
            found.append((form, a == b or share))
    return found


def answer_of(text: str) -> Fraction | None:
    """The number behind the last "####"; None without one."""
    found = _ANSWER.findall(text)
    if not found:
        return None
    try:
        return number(found[-1].strip().rstrip(".。"))
    except NoArithmetic:
        return None


def is_right(text: str, answer: Fraction) -> bool:
    """Whether a worked solution ends in the answer and every equation in it holds."""
    return answer_of(text) == answer and all(holds for _, holds in equations(text))


def result_of(text: str) -> Fraction | None:
    """What the last equation of a text comes to; None if it has none."""
    found = equations(text)
    return value(found[-1][0].split("=")[1]) if found else None


def path_of(text: str) -> tuple[str, ...]:
    """What a path is known by: its equations in order; two texts with the same ones are one path."""
    return tuple(form for form, _ in equations(text))
