"""Licences by the words of their texts, as SPDX names them.

Ours. A file has the licence it names itself, else that of the nearest folder above it that holds one; a text that is no
licence known here is none, so that nothing is taken for free by mistake.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

_NAMES = re.compile(r"(un)?licen[cs]e|copying|copyright", re.I)
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+(?:\s+(?:OR|AND|WITH)\s+[A-Za-z0-9.+-]+)*)")
_HEAD = 3000  # characters of a file in which it may name its licence
_BSD = "redistribution and use in source and binary forms"
# Licence: what its text says. The first whose words are all there; those that name others in their text stand first.
_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0", ("gnu affero general public license",)),
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1")),
    ("LGPL-3.0", ("gnu lesser general public license",)),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("GPL-2.0", ("gnu general public license", "version 2, june 1991")),
    ("GPL-3.0", ("gnu general public license",)),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("BSL-1.0", ("boost software license",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("Zlib", ("altered source versions must be plainly marked as such",)),
    (
        "ISC",
        (
            "permission to use, copy, modify, and",
            "for any purpose with or without fee",
            "notice and this permission",
        ),
    ),
    ("0BSD", ("permission to use, copy, modify, and", "for any purpose with or without fee")),
    (
        "MIT",
        ("permission is hereby granted, free of charge, to any person obtaining a copy", "without warranty"),
    ),
    ("BSD-4-Clause", (_BSD, "all advertising materials")),
    ("BSD-3-Clause", (_BSD, "neither the name")),
    ("BSD-3-Clause", (_BSD, "may not be used to endorse")),
    ("BSD-2-Clause", (_BSD,)),
)


def is_licence_file(name: str) -> bool:
    """Whether a file of this name holds a licence: LICENSE, LICENCE.md, COPYING, ..."""
    path = PurePosixPath(name)
    return bool(_NAMES.match(path.name)) and path.suffix.lower() in {
        "",
        ".txt",
        ".md",
        ".rst",
        ".apache",
        ".mit",
    }


def licence_of_text(text: str) -> str | None:
    """The SPDX name of a licence's text; None if it is none known here."""
    plain = " ".join(text.lower().split())
    return next((name for name, words in _WORDS if all(word in plain for word in words)), None)


def licence_of_file(path: str, text: str, folders: Mapping[str, str | None]) -> str | None:
    """The licence of a file: its own word, else that of the nearest folder in `folders` ("" is the root)."""
    own = _SPDX.search(text[:_HEAD])
    if own:
        return own.group(1)
    folder = path
    while folder:
        folder = posixpath.dirname(folder)
        if folder in folders:
            return folders[folder]
    return None


def is_allowed(licence: str | None, allowed: tuple[str, ...]) -> bool:
    """Whether a licence is among those allowed; of "A OR B" one is enough, of "A AND B" both are needed."""
    if not allowed:
        return True
    if licence is None:
        return False
    name = re.compile(r"^(.+?)(-only|-or-later|\+)?$")
    known = {found.group(1) if (found := name.match(each)) else each for each in allowed}

    def single(word: str) -> bool:
        found = name.match(word.strip())
        return found is not None and found.group(1) in known

    return any(
        all(map(single, re.split(r"\s+(?:AND|WITH)\s+", part))) for part in re.split(r"\s+OR\s+", licence)
    )
