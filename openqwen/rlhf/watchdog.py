"""Names what goes wrong in a PPO run: drift, length, repetition, reward up while quality goes down.

Ours; the report only says that KL, value clipping and the pretrained gradient keep training stable. Pure Python:
the history is the run's metric records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openqwen.rlhf.config import WatchdogConfig

NGRAM = 4


def findings(history: Sequence[Mapping[str, Any]], config: WatchdogConfig) -> list[str]:
    """What the last `window` records show against the first; empty when all is well or there are too few."""
    if config.action == "off" or len(history) < 2 * config.window:
        return []
    first, last = history[: config.window], history[-config.window :]
    found = []
    kl = _mean(last, "kl")
    if kl is not None and kl > config.kl:
        found.append(f"drift: {kl:.1f} nats a reply from the reference (limit {config.kl:g})")
    ratio = _ratio(first, last, "length")
    if ratio is not None and not 1 / config.length_ratio <= ratio <= config.length_ratio:
        found.append(f"length: replies are {ratio:.2f} times as long as at the beginning")
    repetition = _change(first, last, "repetition")
    if repetition is not None and repetition > config.repetition:
        found.append(f"repetition: the share of repeated {NGRAM}-grams rose by {repetition:.2f}")
    reward, true = _change(first, last, "reward"), _change(first, last, "true_reward")
    if reward is not None and true is not None and reward > 0 and true < -config.true_drop:
        found.append(
            f"reward hacking: modelled reward +{reward:.2f} while the true reward fell by {-true:.2f}"
        )
    return found


def repetition(ids: Sequence[int]) -> float:
    """Share of a reply's 4-grams that occurred before in it: `repetition([1, 1, 1, 1, 1, 1])` -> 0.667."""
    grams = [tuple(ids[i : i + NGRAM]) for i in range(len(ids) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _mean(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [record[key] for record in records if record.get(key) is not None]
    return sum(values) / len(values) if values else None


def _change(first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]], key: str) -> float | None:
    before, after = _mean(first, key), _mean(last, key)
    return None if before is None or after is None else after - before


def _ratio(first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]], key: str) -> float | None:
    before, after = _mean(first, key), _mean(last, key)
    return None if not before or after is None else after / before
