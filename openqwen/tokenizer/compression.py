"""How tightly tokenizers pack text: bytes per token, and Figure 3's rate against a base tokenizer.

Report §2.2, Figure 3 (base there: XLM-R). The measurement is the report's, per language; "bytes", one token a
byte, is our base where no other is named. Rates: tokens of the tokenizer over tokens of the base on the same
text, so lower is tighter and the base is 1. Ours: the count of unknown tokens, which swallow text and make a
tokenizer look tight where it cannot write the language.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from openqwen.core.errors import UsageError, did_you_mean

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]
BYTES = "bytes"
BATCH_DOCUMENTS, BATCH_CHARACTERS = 256, 4_000_000
DOUBTFUL = 0.01  # of the tokens unknown; with more, the tightness is that of losing text


def plain_bytes(texts: Sequence[str]) -> list[bytes]:
    """The tokenizer that every other is better than: each UTF-8 byte is a token."""
    return [text.encode() for text in texts]


@dataclass
class Group:
    """Totals of one language or source."""

    documents: int = 0
    num_bytes: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unknown: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def measure(
    tokenizers: Mapping[str, Encode],
    documents: Iterable[Mapping[str, Any]],
    by: Sequence[str] = ("lang", "source"),
    base: str = BYTES,
    unknown: Mapping[str, int | None] | None = None,
    min_bytes: int = 0,
) -> dict[str, Any]:
    """Counts tokens of every tokenizer in each group of documents ({"text", "lang", "source", ...}).

    unknown: the id, by tokenizer, that stands for text without a token. Groups below min_bytes are left out.
    Result: {"base", "tokenizers", "left_out": groups, "groups": [{"by", "name", "documents", "bytes", "tokens", "unknown",
    "bytes_per_token": {name: x}, "rate": {name: x}}]}; the group "all" of kind "all" holds the whole.
    """
    engines: dict[str, Encode] = {**tokenizers, BYTES: plain_bytes}
    check_base(base, engines)
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    for chunk in _chunks(documents):
        texts = [_valid(document["text"]) for document in chunk]
        keys = [[("all", "all"), *((kind, str(d.get(kind) or "unknown")) for kind in by)] for d in chunk]
        _count_texts(groups, keys, texts)
        for name, encode in engines.items():
            _count_tokens(groups, keys, name, encode(texts), (unknown or {}).get(name))
    order = ["all", *by]
    rows = sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    kept = [(key, group) for key, group in rows if key[0] == "all" or group.num_bytes >= min_bytes]
    return {
        "base": base,
        "tokenizers": list(engines),
        "left_out": len(rows) - len(kept),
        "groups": [_row(kind, name, group, base) for (kind, name), group in kept],
    }


def check_base(base: str, names: Iterable[str]) -> None:
    """UsageError unless the base is one of the tokenizers."""
    known = list(names)
    if base not in known:
        raise UsageError(
            f"no tokenizer {base!r} to compare with.{did_you_mean(base, known)}",
            fix=f"the base is one of: {', '.join(known)}",
        )


def _chunks(documents: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Documents in batches that are small in number and, but for a large document, in size."""
    chunk: list[Mapping[str, Any]] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document["text"])
        if len(chunk) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _valid(text: str) -> str:
    """Text without lone surrogates, which most libraries refuse; they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


Groups = dict[tuple[str, str], Group]
Keys = list[list[tuple[str, str]]]  # of each document, the groups it belongs to


def _count_texts(groups: Groups, keys: Keys, texts: Sequence[str]) -> None:
    for text, own in zip(texts, keys):
        size = len(text.encode())
        for key in own:
            groups[key].documents += 1
            groups[key].num_bytes += size


def _count_tokens(
    groups: Groups, keys: Keys, name: str, ids: Iterable[Sequence[int]], unknown: int | None
) -> None:
    for found, own in zip(ids, keys, strict=True):
        lost = 0 if unknown is None else list(found).count(unknown)
        for key in own:
            groups[key].tokens[name] += len(found)
            groups[key].unknown[name] += lost


def _row(kind: str, name: str, group: Group, base: str) -> dict[str, Any]:
    used = {tokenizer: number for tokenizer, number in group.tokens.items() if number}
    return {
        "by": kind,
        "name": name,
        "documents": group.documents,
        "bytes": group.num_bytes,
        "tokens": dict(group.tokens),
        "unknown": {tokenizer: number for tokenizer, number in group.unknown.items() if number},
        "bytes_per_token": {t: round(group.num_bytes / n, 4) for t, n in used.items()},
        "rate": {t: round(n / used[base], 4) for t, n in used.items()} if base in used else {},
    }


def doubtful(row: Mapping[str, Any], name: str) -> bool:
    """Whether so many tokens of a group are unknown that its numbers say little."""
    return row["unknown"].get(name, 0) > DOUBTFUL * row["tokens"].get(name, 0)


def table(result: Mapping[str, Any], kind: str = "lang") -> Table:
    """A row a language: its size and, for each tokenizer, bytes per token and the rate. "bytes" needs no column."""
    base = result["base"]
    names = [name for name in result["tokenizers"] if name != BYTES]
    rows = [row for row in result["groups"] if row["by"] in (kind, "all")]
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown.add_column(f"\n{kind}")
    shown.add_column("\nkB", justify="right")
    for name in names:
        shown.add_column(f"{escape(name)}\nB/token", justify="right")
        if name != base:
            shown.add_column("\nrate", justify="right")
    for row in rows:
        cells = [cell for name in names for cell in _cells(row, name, base)[: 1 if name == base else 2]]
        shown.add_row(
            escape(row["name"]), f"{row['bytes'] / 1000:,.1f}", *cells, end_section=row["by"] == "all"
        )
    return shown


def _cells(row: Mapping[str, Any], name: str, base: str) -> list[str]:
    size, rate = row["bytes_per_token"].get(name), row["rate"].get(name)
    lost = "?" if doubtful(row, name) else ""
    compared = "?" if lost or doubtful(row, base) else ""
    return ["-" if size is None else f"{size:.2f}{lost}", "-" if rate is None else f"{rate:.3f}{compared}"]
