"""Up-sampling: how often each group of documents is taken to reach target proportions and tokens.

Report §2.1 ("selectively up-sample data from certain sources", instruction data among them); groups, cap and
arithmetic are ours. A plan is data: for each source, language and band of quality what there is, what is wanted, how
often it is taken. Every document of a group is taken so many whole times, and once more if the hash of its id is below
the group's cut: the same for any order and number of workers, and within one document of the target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openqwen.core.errors import UsageError, did_you_mean
from openqwen.data.config import MixConfig

STEP, UNUSED = "mix", "not drawn by the mix"
_ALL = 1 << 64


def hash64(seed: int, *parts: str) -> int:
    """A fixed number in [0, 2**64) for a seed and some words: randomness that does not depend on order."""
    text = "\0".join([str(seed), *parts]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def unit_hash(seed: int, *parts: str) -> float:
    """`hash64` as a number in [0, 1)."""
    return hash64(seed, *parts) / _ALL


@dataclass(frozen=True, order=True)
class Cell:
    """The documents of a source, a language and a band of quality ("" where no bands are set)."""

    source: str
    lang: str
    band: str = ""

    @classmethod
    def of(cls, source: str, lang: str, scores: Mapping[str, float], config: MixConfig) -> Cell:
        """The cell of a document."""
        score = scores.get(config.by, 0.0)
        fitting = [name for name, least in config.bands.items() if score >= least]
        return cls(source, lang, max(fitting, key=config.bands.__getitem__, default=""))

    def group(self, names: Mapping[str, float]) -> str | None:
        """The most specific of these groups that holds the cell: "web/zh/high" before "web/zh" before "*/zh"."""
        own = (self.source, self.lang, self.band)
        fitting = [n for n in names if all(p in ("*", o) for p, o in zip(_parts(n), own))]
        return max(fitting, key=lambda name: [part != "*" for part in _parts(name)], default=None)


def _parts(group: str) -> list[str]:
    """The source, language and band a group names; "*" for what it leaves open."""
    return [*group.split("/"), "*", "*"][:3]


def plan(
    cells: Sequence[Cell], cell: np.ndarray, hashes: np.ndarray, sizes: np.ndarray, config: MixConfig
) -> list[dict[str, Any]]:
    """A row for each cell; cell (documents,) int64 says which each document is of, beside hashes uint64 and bytes.

    Tokens are estimated by bytes. Without a target in tokens nothing is cut below one epoch: the corpus has the least
    size at which every group has its share. UsageError for groups that hold nothing and shares that cannot be.
    """
    _check(config, cells)
    groups = [c.group(config.proportions) for c in cells]
    per_token = np.array([config.bytes_per_token.get(c.lang, config.bytes_per_token["*"]) for c in cells])
    tokens = sizes / per_token[cell] if len(cells) else np.zeros(0)
    shares: dict[str | None, float] = {}
    shares.update(config.proportions)
    if None in groups:
        shares[None] = 1 - sum(config.proportions.values())
    order = np.argsort(hashes, kind="stable")
    members = {
        g: order[np.isin(cell[order], [i for i, own in enumerate(groups) if own == g])] for g in shares
    }
    there = {g: float(tokens[m].sum()) for g, m in members.items()}
    total = config.tokens or max((there[g] / share for g, share in shares.items()), default=0.0)
    chosen = {
        g: _choose(tokens[m], share * total, config.max_epochs)
        for g, m in members.items()
        for share in [shares[g]]
    }
    cuts = {
        g: int(hashes[m[extra]]) if extra < len(m) else _ALL
        for g, m in members.items()
        for _, extra in [chosen[g]]
    }
    table: list[dict[str, Any]] = []
    for i in sorted(range(len(cells)), key=cells.__getitem__):
        c, g = cells[i], groups[i]
        own = members[g][cell[members[g]] == i]
        whole, extra = chosen[g]
        more = own[hashes[own] < np.uint64(cuts[g])] if extra < len(members[g]) else own
        taken = whole * tokens[own].sum() + tokens[more].sum()
        wanted = shares[g] * total
        table.append(
            {
                "source": c.source, "lang": c.lang, "band": c.band, "group": g or "the rest", "documents": len(own),
                "bytes": int(sizes[own].sum()), "tokens": round(float(tokens[own].sum())), "target": round(shares[g], 6),
                "epochs": round(float(taken / max(tokens[own].sum(), 1e-9)), 4), "taken": round(float(taken)),
                "capped": wanted > config.max_epochs * there[g] * (1 + 1e-9),
                "missed": round(max(0.0, wanted - config.max_epochs * there[g])), "whole": whole, "cut": cuts[g],
            }
        )  # fmt: skip
    everything = max(1, sum(int(row["taken"]) for row in table))
    return [{**row, "share": round(row["taken"] / everything, 4)} for row in table]


def _choose(tokens: np.ndarray, wanted: float, max_epochs: float) -> tuple[int, int]:
    """Whole copies of each document, and how many of them, in order, are taken once more: nearest to what is wanted."""
    there = float(tokens.sum())
    if not there:
        return 0, 0
    most = max_epochs * there * (1 + 1e-12)
    whole = min(int(wanted * (1 + 1e-12) // there), int(max_epochs))
    rest = min(wanted, most) - whole * there
    total = np.concatenate([[0.0], np.cumsum(tokens)])
    extra = int(np.argmin(np.abs(total - rest)))
    while extra and whole * there + total[extra] > most:
        extra -= 1
    return whole, extra


def lines(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The plan for people: a heading and a line for each cell."""
    out = [f"{'source / language':32} {'tokens':>14} {'target':>8} {'epochs':>7} {'taken':>14} {'share':>8}"]
    for row in table:
        name = "/".join(part for part in (row["source"], row["lang"], row["band"]) if part)
        out.append(
            f"{name:32} {row['tokens']:14,} {row['target']:8.2%} {row['epochs']:7.2f} {row['taken']:14,} "
            f"{row['share']:8.2%}{'  capped' if row['capped'] else ''}"
        )
    return out


def missed(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """What cannot be reached within the cap on epochs, a sentence for each group."""
    groups = {row["group"]: row for row in table if row["capped"]}
    return [
        f"{name}: {row['missed']:,} tokens are missing to {row['target']:.2%}; "
        "all its documents are taken as often as allowed"
        for name, row in groups.items()
    ]


def _check(config: MixConfig, cells: Sequence[Cell]) -> None:
    shares, where = config.proportions, "mix.proportions"
    if any(not 0 < share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise UsageError("shares must lie between 0 and 1 and not exceed 1 together", where=where)
    known = sorted(
        {"/".join(p for p in (c.source, c.lang, c.band)[:n] if p) for c in cells for n in (1, 2, 3)}
    )
    held = {c.group(shares) for c in cells}
    for group in shares:
        if group not in held and cells:
            raise UsageError(
                f"no document of group {group!r}.{did_you_mean(group, known)}", where=where,
                fix=f"groups here: {', '.join(known)}",
            )  # fmt: skip
    if None in held and sum(shares.values()) > 1 - 1e-9:
        rest = sorted("/".join((c.source, c.lang)) for c in cells if c.group(shares) is None)
        raise UsageError(
            f"nothing is left for {', '.join(rest)}",
            where=where,
            fix="name them too, or let the shares sum to less than 1",
        )


def times(ident: str, row: Mapping[str, Any], seed: int) -> int:
    """How often a document of a row of the plan is taken."""
    return int(row["whole"]) + (hash64(seed, "mix", ident) < row["cut"])


def is_valid(ident: str, fraction: float, seed: int) -> bool:
    """Whether a document is held out for validation."""
    return unit_hash(seed, "valid", ident) < fraction
