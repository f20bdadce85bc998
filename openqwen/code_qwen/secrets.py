"""Replaces what must not be learnt: keys, passwords, e-mail and network addresses, phone numbers, names of authors.

Ours, after the categories of Li et al. 2023 (StarCoder, §4): a key by its published form, other secrets by the name they
are assigned to and a value that looks drawn by chance; a person's name only where it is said to be one. What is replaced
keeps its place: <EMAIL>, <KEY>, <PASSWORD>, <IP>, <PHONE>, <NAME>.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

# The forms that providers give their keys, by what those begin with.
_FORMS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}", r"AIza[0-9A-Za-z_-]{35}", r"GOCSPX-[0-9A-Za-z_-]{28}", r"ya29\.[0-9A-Za-z_-]{20,}",
    r"1//0[0-9A-Za-z_-]{30,}", r"AAAA[0-9A-Za-z_-]{7}:[0-9A-Za-z_-]{100,}",  # Amazon, Google
    r"gh[pousr]_[A-Za-z0-9]{36,}", r"github_pat_[A-Za-z0-9_]{50,}", r"gl(?:pat|dt|rt|ptt|cbt|soat)-[A-Za-z0-9_-]{20,}",
    r"GR1348941[A-Za-z0-9_-]{20}", r"xox[abeprs]-[A-Za-z0-9-]{10,}", r"xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+",
    r"sk-[A-Za-z0-9_-]{20,}", r"hf_[A-Za-z0-9]{30,}", r"gsk_[A-Za-z0-9]{40,}", r"r8_[A-Za-z0-9]{37}",
    r"[sr]k_(?:live|test|prod)_[A-Za-z0-9]{16,}", r"whsec_[A-Za-z0-9+/=]{24,}", r"sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{22,}",
    r"(?:AC|SK)[0-9a-f]{32}", r"SG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,50}", r"key-[0-9a-f]{32}",
    r"[0-9a-f]{32}-us\d{1,2}", r"npm_[A-Za-z0-9]{36}", r"pypi-AgE[A-Za-z0-9_-]{50,}", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}",
    r"do[opr]_v1_[0-9a-f]{64}", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}", r"\d{8,10}:AA[A-Za-z0-9_-]{33}",
    r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}",  # Telegram's and Discord's bots
    r"EAA[A-Za-z0-9]{60,}", r"lin_api_[A-Za-z0-9]{40}", r"secret_[A-Za-z0-9]{43}", r"ntn_[A-Za-z0-9]{40,}",
    r"dapi[0-9a-f]{32}", r"NRAK-[A-Z0-9]{27}", r"gl(?:sa|c)_[A-Za-z0-9+/=_]{32,}", r"sntry[su]_[A-Za-z0-9+/=_]{40,}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}", r"hv[sbr]\.[A-Za-z0-9_-]{24,}", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,}",
    r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.-]{32,}", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}", r"LTAI[A-Za-z0-9]{16,24}",
    r"[A-Za-z0-9_~.]{3}8Q~[A-Za-z0-9_~.-]{31,34}", r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
)  # fmt: skip
_KEYS = re.compile(
    r"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY(?: BLOCK)?)-----.{0,8000}?-----END (?P=kind)-----"
    rf"|(?<![A-Za-z0-9_])(?:{'|'.join(_FORMS)})(?![A-Za-z0-9])",
    re.S,
)
# What stands before a secret that has no form of its own: an address of a hook, a part of a connection.
_BEHIND = re.compile(
    r"(?P<name>hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/\d{15,20}/|(?:Account|SharedAccess)Key=)"
    r"(?P<value>[A-Za-z0-9_+/=-]{20,200})"
)
_LOGIN = re.compile(
    r"(?P<name>\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"']{1,64}:)(?P<value>[^\s:/@\"']{8,100})(?=@)"
)
# Names and values are bounded: without that, a long name costs the square of its length.
_ASSIGNED = re.compile(
    r"(?i)(?P<name>(?:passw(?:or)?d|passwd|secret|token|api_?key|access_?key|private_?key|credential)\w{0,40}"
    r"[\"']?\s{0,20}(?::=|=>|[:=])\s{0,20})(?P<quote>[\"'])(?P<value>[^\"'\s]{8,200})(?P=quote)"
)
# The same without quotes, as shells have it: nothing else is on the line.
_BARE = re.compile(
    r"(?im)^(?P<name>[ \t]{0,20}(?:export[ \t]+)?\w{0,40}(?:passw(?:or)?d|passwd|secret|token|api_?key|access_?key)"
    r"\w{0,40}=)(?P<value>[A-Za-z0-9_+/=~.-]{12,200})$"
)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?P<host>(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})\b")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
# Phone numbers with their country's and in groups, or in quotes, or behind a word for one; 8 to 15 digits (ITU-T E.164).
_PHONE = re.compile(
    r"(?<![\w+.)-])\+[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\)|[ .-]\d{1,4})(?:[ .-]\d{2,6}){1,4}(?![\w+]|[.-]\d)"
    r"|(?<=[\"'`:])\+[1-9]\d{9,14}(?=[\"'`])"
)
_PHONE_BEHIND = re.compile(
    r"(?i)(?P<name>\b(?:tel(?:ephone)?|phone|mobile|fax)(?:[_ ]?(?:no|number|nr))?[\"']?\.?[ \t]{0,4}[:=]{1,2}[ \t]{0,4}"
    r"[\"']?)(?P<value>\+?\(?\d[\d ().-]{6,20}\d)(?!\w)"
)
_NOBODYS = re.compile(r"12345|(\d)\1{4}|55501\d\d$")  # digits of numbers for examples
# Two to four words of which the first and last begin with a capital, or a Chinese name; several with commas between.
_WORD = r"(?:(?:[^\W\d_a-z]\.-?){1,3}|[^\W\d_a-z](?:\w|[-'’](?=\w)){0,30})"
_PERSON = rf"{_WORD}(?: (?:(?:v[ao]n|d[eiu]|de[rn]|la|al|bin) ){{0,3}}{_WORD}){{1,3}}"
_AUTHOR = re.compile(
    r"(?P<name>(?:@author[ \t:]|\b[Aa]uthors?:|\bAUTHORS?:|__author__[ \t]{0,8}=[ \t]{0,8}[\"'])[ \t]{0,8})"
    rf"(?P<value>{_PERSON}(?:(?:, (?:and )?| and | & ){_PERSON}){{0,9}}|[一-鿿]{{2,4}}(?![一-鿿]))"
)
_ORGANISATION = re.compile(
    r"\b(?:Authors?|Community|Contributors|Corp|Corporation|Developers|Foundation|GmbH|Group|Inc|Ltd|LLC|Project|Team|The|"
    r"University)\b"
)
_IN_ADDRESS = re.compile(r"://[^\s/@\"']*$")  # before user:password@host, or git@host
_EXAMPLES = re.compile(r"(?i)(^|\.)(example|test|localhost|invalid|local)(\.|$)|^example\.")
# Name servers for everybody, which programs name without giving anybody away.
_RESOLVERS = frozenset(
    [
        "8.8.8.8",
        "8.8.4.4",
        "1.1.1.1",
        "1.0.0.1",
        "9.9.9.9",
        "149.112.112.112",
        "208.67.222.222",
        "208.67.220.220",
    ]
)
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

    def bare(match: re.Match[str]) -> str:
        if not _looks_drawn(match["value"]):
            return match.group(0)
        return put("password", f"{match['name']}<PASSWORD>")

    def login(match: re.Match[str]) -> str:
        if len(re.findall("[a-z][A-Z]", match["value"])) >= 3:  # no word, digits or not
            return put("password", f"{match['name']}<PASSWORD>")
        return bare(match)

    def email(match: re.Match[str]) -> str:
        before = match.string[max(0, match.start() - 200) : match.start()]
        if _EXAMPLES.search(match["host"]) or _IN_ADDRESS.search(before) or match.group(0).startswith("git@"):
            return match.group(0)
        return put("email", "<EMAIL>")

    def address(match: re.Match[str]) -> str:
        return put("ip", "<IP>") if _is_public(match.group(0)) else match.group(0)

    def phone(match: re.Match[str]) -> str:
        number = match.groupdict().get("value") or match.group(0)
        digits = "".join(filter(str.isdigit, number))
        decimal = number.count(".") == 1 and number.replace(".", "").isdigit()
        if not 8 <= len(digits) <= 15 or decimal or _NOBODYS.search(digits):
            return match.group(0)
        return put("phone", f"{match.groupdict().get('name') or ''}<PHONE>")

    def author(match: re.Match[str]) -> str:
        if _ORGANISATION.search(match["value"]):
            return match.group(0)
        return put("name", f"{match['name']}<NAME>")

    steps: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
        (_KEYS, lambda match: put("key", "<KEY>")),
        (_BEHIND, lambda match: put("key", f"{match['name']}<KEY>")),
        (_LOGIN, login),
        (_ASSIGNED, assigned),
        (_BARE, bare),
        (_EMAIL, email),
        (_IP, address),
        (_PHONE, phone),
        (_PHONE_BEHIND, phone),
        (_AUTHOR, author),
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
    """Whether a text is somebody's address: not one that is reserved, nor 1.2.3.4 or 7.7.7.7, which are examples."""
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError:  # a version, or no address
        return False
    numbers = list(found.packed)
    steps = {b - a for a, b in pairwise(numbers)}
    return (
        found.is_global and not text.endswith(".0.0") and text not in _RESOLVERS and steps not in ({0}, {1})
    )
