"""Two texts side by side: which parts of each the other one does not have.

Ours. A word is shared if it stands in a run of words that both texts have, wherever it stands there. That is what
deduplication compares, and it takes time in proportion to the texts, not to their product.
"""

from __future__ import annotations

from itertools import groupby

import regex

Piece = tuple[str, bool]  # some text, and whether it is marked
_RUN = 5
# Words; of scripts written without spaces every character. Everything else only separates.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_WORD = regex.compile(rf"{_UNSPACED}|[[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]+", regex.V1)


def compare(left: str, right: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces; joined they are the texts again."""
    words = [[found.group().casefold() for found in _WORD.finditer(text)] for text in (left, right)]
    run = max(1, min(_RUN, *map(len, words)))
    runs = [{tuple(own[i : i + run]) for i in range(len(own) - run + 1)} for own in words]
    common = runs[0] & runs[1]
    return _marked(left, words[0], common, run), _marked(right, words[1], common, run)


def _marked(text: str, words: list[str], common: set[tuple[str, ...]], run: int) -> list[Piece]:
    shared = [False] * len(words)
    for i in range(len(words) - run + 1):
        if tuple(words[i : i + run]) in common:
            shared[i : i + run] = [True] * run
    pieces: list[Piece] = []
    end = 0
    for found, own in zip(_WORD.finditer(text), shared):
        # What separates two marked words is marked with them.
        between = bool(pieces) and pieces[-1][1] and not own
        pieces += [(text[end : found.start()], between), (found.group(), not own)]
        end = found.end()
    pieces.append((text[end:], False))
    joined = groupby(pieces, key=lambda piece: piece[1])
    return [(whole, marked) for marked, part in joined if (whole := "".join(text for text, _ in part))]
