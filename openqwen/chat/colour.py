"""A conversation on the terminal with the trained tokens in another colour: the quickest look at a loss mask.

Ours. Where there is no colour (a pipe, a log, NO_COLOR), trained stretches stand between « and ». Nothing
that a file holds can drive the terminal: control characters are shown as escapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.segment import Segments
from rich.text import Text

from openqwen.chat import chatml
from openqwen.chat.records import read_conversations
from openqwen.core.console import console
from openqwen.core.errors import DataError
from openqwen.tokenizer.tokenizer import Tokenizer

TRAINED, MASKED = "bold green", "dim"
CONTROL = "underline"  # on top of either: text that only looks like a control token has none
BAD_SHOWN = 10
# All but newline and tab, and the marks that reorder a line.
_UNSAFE = re.compile("[\0-\b\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def colour(ids: Sequence[int], trained: Sequence[bool], tok: Tokenizer, brackets: bool = False) -> Text:
    """Rendered ids as text: the trained ones green, the others dim, control tokens underlined.

    brackets: « » around trained stretches.
    """
    control = frozenset(tok.special.values())
    text = Text()
    for is_trained, run in groupby(zip(ids, trained), key=lambda pair: pair[1]):
        text.append("«" if brackets and is_trained else "")
        for is_control, part in groupby((token_id for token_id, _ in run), key=control.__contains__):
            style = f"{TRAINED if is_trained else MASKED} {CONTROL if is_control else ''}"
            text.append(visible(tok.decode(part)), style)
        text.append("»" if brackets and is_trained else "")
    return text


def visible(text: str) -> str:
    r"""`"\x1b[2J"` -> `"\\x1b[2J"`: what a terminal would obey, as people write it; newline and tab stay."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def show_chat(
    path: Path,
    tok: Tokenizer,
    mask: chatml.Mask = "report",
    limit: int | None = None,
    out: Console = console,
) -> None:
    """Prints the first conversations of a file (None: all).

    A record that is none is named where it stands (only counted after BAD_SHOWN of them) and the others are
    shown; DataError at the end.
    """
    brackets = out.color_system is None or out.no_color
    how = "stand between « and »" if brackets else f"are [{TRAINED}]green[/]"
    out.print(f"  Trained tokens ({mask} mask) {how}.\n")
    shown, bad = 0, []
    for line, found in read_conversations(path):
        here = visible(f"{path}:{line}")
        if isinstance(found, DataError):
            bad.append(DataError(f"{found.what} ({found.where})" if found.where else found.what, here))
            if len(bad) <= BAD_SHOWN:
                out.print(Text(f"{here}: skipped: {bad[-1].what}\n", "red"))
            continue
        shown += 1
        ids, trained = chatml.render(found, tok, mask=mask)
        out.print(Text(f"{here}: {sum(trained)} of {len(ids)} tokens trained", "bold"))
        # As segments: a Text of its own would have its tabs turned into blanks.
        out.print(Segments(colour(ids, trained, tok, brackets).render(out, end="\n")))
        if shown == limit:
            break
    if bad:
        raise DataError(
            f"{len(bad)} of {shown + len(bad)} records cannot be shown; the first: {bad[0].what}",
            where=bad[0].where,
            fix="mend or delete them; openqwen show chat --help names the forms that are read",
        )
    if not shown:
        raise DataError("the file holds no conversation", where=str(path))
