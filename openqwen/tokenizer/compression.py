"""How tightly tokenizers pack text: bytes per token, and Figure 3's rate against a base tokenizer.

Report §2.2, Figure 3 (base there: XLM-R). The measurement is the report's, per language; "bytes", one token a
byte, is our base where no other is named. Rates: tokens of the tokenizer over tokens of the base on the same
text, so lower is tighter and the base is 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openqwen.core.errors import UsageError, did_you_mean

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]
BYTES = "bytes"


def plain_bytes(texts: Sequence[str]) -> list[bytes]:
    """The tokenizer that every other is better than: each UTF-8 byte is a token."""
    return [text.encode("utf-8", "replace") for text in texts]


@dataclass
class Group:
    """Totals of one language or source."""

    documents: int = 0
    num_bytes: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def measure(
    tokenizers: Mapping[str, Encode],
    documents: Iterable[Mapping[str, Any]],
    by: Sequence[str] = ("lang", "source"),
    base: str = BYTES,
    batch: int = 256,
) -> dict[str, Any]:
    """Counts tokens of every tokenizer in each group of documents ({"text", "lang", "source", ...}).

    Result: {"base", "tokenizers", "groups": [{"by", "name", "documents", "bytes", "bytes_per_token": {name: x},
    "rate": {name: x}}]}; the group named "all" of kind "all" holds the whole.
    """
    engines: dict[str, Encode] = {**tokenizers, BYTES: plain_bytes}
    if base not in engines:
        raise UsageError(f"no tokenizer {base!r} to compare with.{did_you_mean(base, engines)}")
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    for chunk in _chunks(documents, batch):
        texts = [document["text"] for document in chunk]
        sizes = {name: [len(ids) for ids in encode(texts)] for name, encode in engines.items()}
        for place, document in enumerate(chunk):
            _count(groups, document, {name: size[place] for name, size in sizes.items()}, by)
    order = ["all", *by]
    rows = sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    return {
        "base": base,
        "tokenizers": list(engines),
        "groups": [_row(kind, name, group, base) for (kind, name), group in rows],
    }


def _chunks(documents: Iterable[Mapping[str, Any]], size: int) -> Iterable[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    for document in documents:
        chunk.append(document)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _count(
    groups: dict[tuple[str, str], Group],
    document: Mapping[str, Any],
    tokens: dict[str, int],
    by: Sequence[str],
) -> None:
    size = len(document["text"].encode("utf-8", "replace"))
    for key in [("all", "all"), *((kind, str(document.get(kind, "unknown"))) for kind in by)]:
        group = groups[key]
        group.documents += 1
        group.num_bytes += size
        for name, number in tokens.items():
            group.tokens[name] += number


def _row(kind: str, name: str, group: Group, base: str) -> dict[str, Any]:
    used = {tokenizer: number for tokenizer, number in group.tokens.items() if number}
    return {
        "by": kind,
        "name": name,
        "documents": group.documents,
        "bytes": group.num_bytes,
        "tokens": dict(group.tokens),
        "bytes_per_token": {t: round(group.num_bytes / n, 4) for t, n in used.items()},
        "rate": {t: round(n / used[base], 4) for t, n in used.items()} if base in used else {},
    }


def table(result: Mapping[str, Any], kind: str = "lang") -> str:
    """Plain text: a line a language, for each tokenizer bytes per token and, in brackets, the rate."""
    names = list(result["tokenizers"])
    rows = [row for row in result["groups"] if row["by"] in (kind, "all")]
    width = max([len(kind), *(len(row["name"]) for row in rows)])
    lines = ["  ".join([kind.ljust(width), *(name.rjust(max(14, len(name))) for name in names)])]
    for row in rows:
        cells = [_cell(row, name).rjust(max(14, len(name))) for name in names]
        lines.append("  ".join([row["name"].ljust(width), *cells]))
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row["bytes_per_token"]:
        return "-"
    rate = row["rate"].get(name)
    return f"{row['bytes_per_token'][name]:.2f}" + ("" if rate is None else f" ({rate:.3f})")
