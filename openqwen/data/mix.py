"""Up-sampling: how often each group of documents is repeated to reach target proportions.

Report §2.1 ("selectively up-sample data from certain sources"); groups, cap and arithmetic are ours. A plan is
data: share wanted, share had, epochs. Fractions of an epoch are a fixed choice by the hash of each document's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from openqwen.core.errors import UsageError, did_you_mean
from openqwen.data.config import MixConfig


def unit_hash(seed: int, *parts: str) -> float:
    """A fixed number in [0, 1) for a seed and some words: randomness that does not depend on order."""
    digest = hashlib.blake2b(
        "\0".join([str(seed), *parts]).encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


Sizes = Mapping[tuple[str, str], tuple[int, int]]  # (source, lang) -> documents, bytes


def group_of(source: str, lang: str, proportions: Mapping[str, float]) -> str | None:
    """The most specific group the settings name: "source/lang", then "source"."""
    specific = f"{source}/{lang}"
    return specific if specific in proportions else source if source in proportions else None


def plan(found: Sizes, config: MixConfig) -> list[dict[str, Any]]:
    """Epochs of each named group: [{"group", "documents", "bytes", "share", "target", "epochs", "capped"}].

    What is not named stays at one epoch and takes what the named shares leave. Nothing is cut below one epoch.
    """
    _check(config, found)
    sizes: dict[str | None, tuple[int, int]] = {}
    for (source, lang), (count, size) in found.items():
        group = group_of(source, lang, config.proportions)
        before = sizes.get(group, (0, 0))
        sizes[group] = (before[0] + count, before[1] + size)
    total = sum(size for _, size in sizes.values())
    named = {g: s for g, s in config.proportions.items() if sizes.get(g, (0, 0))[1]}
    scale = _total_bytes(named, {g: sizes[g][1] for g in named}, total)
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


def _check(config: MixConfig, found: Sizes) -> None:
    shares = config.proportions.values()
    if any(not 0 < share < 1 for share in shares) or sum(shares) > 1:
        raise UsageError("shares must lie between 0 and 1 and not exceed 1 together", where="mix.proportions")
    known = sorted({source for source, _ in found} | {f"{source}/{lang}" for source, lang in found})
    for group in config.proportions:
        if group not in known:
            raise UsageError(
                f"no document of group {group!r}.{did_you_mean(group, known)}",
                where="mix.proportions",
                fix=f"groups here: {', '.join(known)}",
            )


def _total_bytes(named: Mapping[str, float], sizes: Mapping[str, int], total: int) -> float:
    """The least corpus size at which every group has its share without being cut."""
    rest = total - sum(sizes.values())
    free = 1 - sum(named.values())
    needed = [sizes[g] / share for g, share in named.items()]
    if rest and free > 1e-9:
        needed.append(rest / free)
    return max(needed, default=float(total))


def times(ident: str, epochs: float, seed: int) -> int:
    """How often a document is repeated: whole epochs, and once more by the hash of its id."""
    whole = int(epochs)
    return whole + (unit_hash(seed, "mix", ident) < epochs - whole)


def is_valid(ident: str, fraction: float, seed: int) -> bool:
    """Whether a document is held out for validation."""
    return unit_hash(seed, "valid", ident) < fraction
