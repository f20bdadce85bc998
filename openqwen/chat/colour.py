"""A conversation on the terminal with the trained tokens in another colour: the quickest check of a loss mask.

Ours. Where there is no colour (a pipe, a log), trained stretches stand between « and ».
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from openqwen.chat import chatml
from openqwen.chat.messages import Message
from openqwen.core.artifact import read_jsonl
from openqwen.core.console import console
from openqwen.core.errors import DataError
from openqwen.tokenizer.tokenizer import Tokenizer

TRAINED, CONTROL, MASKED = "bold green", "dim cyan", "dim"


def colour(
    messages: Sequence[Message],
    tok: Tokenizer,
    mask: chatml.Mask = "report",
    brackets: bool | None = None,
) -> Text:
    """The rendered conversation: trained tokens green, control tokens cyan, the rest dim.

    brackets: « » around trained stretches; None: where the console shows no colour.
    """
    brackets = not console.is_terminal if brackets is None else brackets
    ids, trained = chatml.render(messages, tok, mask=mask)
    control = frozenset(tok.special.values())
    text = Text()
    for is_trained, run in groupby(zip(ids, trained), key=lambda pair: pair[1]):
        stretch = [token_id for token_id, _ in run]
        text.append("«" if brackets and is_trained else "")
        for is_control, part in groupby(stretch, key=control.__contains__):
            style = TRAINED if is_trained else CONTROL if is_control else MASKED
            text.append(tok.decode(list(part)), style=style)
        text.append("»" if brackets and is_trained else "")
    return text


def show_chat(
    path: Path,
    tok: Tokenizer,
    mask: chatml.Mask = "report",
    limit: int | None = 3,
    out: Console = console,
) -> int:
    """Prints the first conversations of a file (None: all); returns how many tokens of them are trained."""
    total = 0
    for number, messages in islice(enumerate(conversations(path), 1), limit):
        trained = chatml.render(messages, tok, mask=mask)[1]
        total += sum(trained)
        out.print(f"[bold]conversation {number}[/]: {sum(trained)} of {len(trained)} tokens trained ({mask})")
        out.print(colour(messages, tok, mask, brackets=not out.is_terminal))
    return total


def conversations(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The conversations of a .jsonl file (a list of messages or {"messages": [...]} a line) or one .json file."""
    if not path.is_file():
        raise DataError("no such file", where=str(path))
    records = [_read_json(path)] if path.suffix == ".json" else read_jsonl(path)
    for number, record in enumerate(records, 1):
        messages = record.get("messages") if isinstance(record, dict) else record
        if not isinstance(messages, list):
            raise DataError('not a conversation: {"messages": [...]} is needed', where=f"{path}:{number}")
        yield messages


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not readable JSON: {error}", where=str(path)) from error
