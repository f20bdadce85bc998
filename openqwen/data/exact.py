"""Exact deduplication of the normal form; what is kept is the text as it was.

Report §2.1 ("exact-match deduplication after normalization"); the normal form is text.py's and ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from openqwen.data.documents import Document, Dropped
from openqwen.data.text import normal_form


def key(text: str) -> bytes:
    """128 bits that are equal for texts equal up to case, space, punctuation, width and entities."""
    # A text of nothing but punctuation has an empty normal form: compare it as it is, or all such would be one.
    form = normal_form(text) or "\0" + text
    return hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def deduplicate(documents: Sequence[Document]) -> tuple[list[Document], list[Dropped]]:
    """Keeps the first of each set of equal documents."""
    first: dict[bytes, str] = {}
    kept, dropped = [], []
    for document in documents:
        original = first.setdefault(key(document.text), document.id)
        if original == document.id:
            kept.append(document)
        else:
            dropped.append(Dropped(document, "exact duplicate", kept=original))
    return kept, dropped
