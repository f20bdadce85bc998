"""Exact deduplication of the normal form; what is kept is the text as it was.

Report §2.1 ("exact-match deduplication after normalization"); the normal form is text.py's and ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from openqwen.data.documents import Document, Dropped
from openqwen.data.text import batches, normal_forms


def key(text: str) -> bytes:
    """128 bits that are equal for texts equal up to case, space, punctuation, width and entities."""
    return keys([text])[0]


def keys(texts: Sequence[str]) -> list[bytes]:
    """`key` of many texts at once."""
    found = []
    for start, stop in batches(texts):
        part = texts[start:stop]
        for text, form in zip(part, normal_forms(part)):
            # A text of nothing but punctuation has an empty form: compare it as it is, or all such would be one.
            data = form or b"\0" + text.encode("utf-8", "surrogatepass")
            found.append(hashlib.blake2b(data, digest_size=16).digest())
    return found


def deduplicate(documents: Sequence[Document]) -> tuple[list[Document], list[Dropped]]:
    """Keeps the first of each set of equal documents."""
    first: dict[bytes, str] = {}
    kept, dropped = [], []
    for document, form in zip(documents, keys([d.text for d in documents])):
        if form in first:
            dropped.append(Dropped(document, "exact duplicate", kept=first[form]))
        else:
            first[form] = document.id
            kept.append(document)
    return kept, dropped
