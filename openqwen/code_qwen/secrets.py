"""Replaces what must not be learnt: keys, passwords, e-mail and network addresses.

Ours, after the categories of Li et al. 2023 (StarCoder, §4): a key by its published form, other secrets by the name they
are assigned to and a value that looks drawn by chance. What is replaced keeps its place: <EMAIL>, <KEY>, <PASSWORD>, <IP>.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable

_KEYS = re.compile(
    r"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----.{0,8000}?-----END (?P=kind)-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{50,}\b|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[0-9A-Za-z_-]{35}\b|\bsk-[A-Za-z0-9_-]{20,}\b|\bhf_[A-Za-z0-9]{30,}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    re.S,
)
# Names and values are bounded: without that, a long name costs the square of its length.
_ASSIGNED = re.compile(
    r"(?i)(?P<name>(?:passw(?:or)?d|passwd|secret|token|api_?key|access_?key|private_?key|credential)\w{0,40}"
    r"[\"']?\s{0,20}(?::=|=>|[:=])\s{0,20})(?P<quote>[\"'])(?P<value>[^\"'\s]{8,200})(?P=quote)"
)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?P<host>(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})\b")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_EXAMPLES = re.compile(r"(?i)(^|\.)(example|test|localhost|invalid|local)(\.|$)|^example\.")
_DRAWN = 3.0  # bits a character from which on a value looks drawn by chance


def clean(text: str) -> tuple[str, Counter[str]]:
    """The text with every secret replaced, and how many of each kind there were."""
    found: Counter[str] = Counter()

    def put(kind: str, replaced: str) -> str:
        found[kind] += 1
        return replaced

    def assigned(match: re.Match[str]) -> str:
        if not _looks_drawn(match["value"]):
            return match.group(0)
        return put("password", f"{match['name']}{match['quote']}<PASSWORD>{match['quote']}")

    def email(match: re.Match[str]) -> str:
        return match.group(0) if _EXAMPLES.search(match["host"]) else put("email", "<EMAIL>")

    def address(match: re.Match[str]) -> str:
        return put("ip", "<IP>") if _is_public(match.group(0)) else match.group(0)

    steps: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
        (_KEYS, lambda match: put("key", "<KEY>")),
        (_ASSIGNED, assigned),
        (_EMAIL, email),
        (_IP, address),
    )
    for pattern, replace in steps:
        text = pattern.sub(replace, text)
    return text, found


def _looks_drawn(value: str) -> bool:
    """Whether a value has letters and digits in the disorder of a random one; names and sentences have not."""
    counts = Counter(value).values()
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return bits >= _DRAWN and mixed and not re.search(r"[<>{}$%()]|\.\w+\.", value)


def _is_public(text: str) -> bool:
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError:  # a version, or no address
        return False
    return found.is_global and not text.endswith(".0.0")
