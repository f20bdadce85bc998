"""Up-sampling: how often each group of documents is repeated to reach target proportions.

Report §2.1 ("selectively up-sample data from certain sources"); groups, cap and arithmetic are ours. A plan is
data: share wanted, share had, epochs. Fractions of an epoch are a fixed choice by the hash of each document's id.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from openqwen.core.errors import UsageError, did_you_mean
from openqwen.data.config import MixConfig
from openqwen.data.documents import Document


def unit_hash(seed: int, *parts: str) -> float:
    """A fixed number in [0, 1) for a seed and some words: randomness that does not depend on order."""
    digest = hashlib.blake2b(
        "\0".join([str(seed), *parts]).encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


def group_of(document: Document, proportions: dict[str, float]) -> str | None:
    """The most specific group the settings name: "source/lang", then "source"."""
    specific = f"{document.source}/{document.lang}"
    return (
        specific if specific in proportions else document.source if document.source in proportions else None
    )


def plan(documents: Sequence[Document], config: MixConfig) -> list[dict[str, Any]]:
    """Epochs of each named group: [{"group", "documents", "bytes", "share", "target", "epochs", "capped"}].

    What is not named stays at one epoch and takes what the named shares leave. Nothing is cut below one epoch.
    """
    sizes: dict[str | None, list[int]] = defaultdict(lambda: [0, 0])
    for document in documents:
        entry = sizes[group_of(document, config.proportions)]
        entry[0] += 1
        entry[1] += len(document.text.encode("utf-8", "replace"))
    _check(config, documents, sizes)
    total = sum(size for _, size in sizes.values())
    named = {g: s for g, s in config.proportions.items() if sizes[g][1]}
    scale = _total_bytes(named, sizes, total)
    table = []
    for group, share in named.items():
        count, size = sizes[group]
        wanted = share * scale / size
        table.append(
            {
                "group": group, "documents": count, "bytes": size, "share": round(size / total, 4),
                "target": share, "epochs": round(min(max(wanted, 1.0), config.max_epochs), 4),
                "capped": wanted > config.max_epochs,
            }
        )  # fmt: skip
    return table


def _check(config: MixConfig, documents: Sequence[Document], sizes: dict[str | None, list[int]]) -> None:
    shares = config.proportions.values()
    if any(not 0 < share < 1 for share in shares) or sum(shares) > 1:
        raise UsageError("shares must lie between 0 and 1 and not exceed 1 together", where="mix.proportions")
    known = sorted({d.source for d in documents} | {f"{d.source}/{d.lang}" for d in documents})
    for group in config.proportions:
        if group not in known:
            raise UsageError(
                f"no document of group {group!r}.{did_you_mean(group, known)}",
                where="mix.proportions",
                fix=f"groups here: {', '.join(known)}",
            )


def _total_bytes(named: dict[str, float], sizes: dict[str | None, list[int]], total: int) -> float:
    """The least corpus size at which every group has its share without being cut."""
    rest = total - sum(sizes[g][1] for g in named)
    free = 1 - sum(named.values())
    needed = [sizes[g][1] / share for g, share in named.items()]
    if rest and free > 1e-9:
        needed.append(rest / free)
    return max(needed, default=float(total))


def repeat(
    documents: Sequence[Document], config: MixConfig, seed: int
) -> tuple[list[Document], list[dict[str, Any]]]:
    """The documents with their repetitions (same id: they are the same document) and the plan."""
    table = plan(documents, config)
    epochs = {row["group"]: row["epochs"] for row in table}
    out = []
    for document in documents:
        times = epochs.get(group_of(document, config.proportions), 1.0)
        whole = int(times)
        out += [document] * (whole + (unit_hash(seed, "mix", document.id) < times - whole))
    return out, table
