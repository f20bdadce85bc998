"""Figure 4: how often one chat model's reply is preferred to another's.

Report §3.3, Figure 4, where people judge 300 Chinese instructions against GPT-3.5. Ours: the primer's held-out prompts,
judged by its known true score; a second bar shows how the reward model would have judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openqwen.core.intervals import wilson
from openqwen.core.tables import figure


def bar(scores: Sequence[float], baseline: Sequence[float], margin: float) -> dict[str, Any]:
    """Shares of wins, ties and losses against the baseline, each with its Wilson interval, as fractions."""
    differences = [a - b for a, b in zip(scores, baseline, strict=True)]
    wins = sum(d > margin for d in differences)
    losses = sum(d < -margin for d in differences)
    n = len(differences)
    counts = {"win": wins, "tie": n - wins - losses, "loss": losses}
    shares: dict[str, Any] = {name: count / n for name, count in counts.items()}
    return {**shares, "n": n, "intervals": {name: wilson(count, n) for name, count in counts.items()}}


def figure_4(bars: Sequence[dict[str, Any]], manifest: str) -> dict[str, Any]:
    """The figure's data: our bars, and what is known of the published ones."""
    known = figure(4)
    return {
        "figure": 4,
        "title": known["title"],
        "rows": [{"origin": "ours", "manifest": manifest, **row} for row in bars],
        "published": {key: known[key] for key in ("models", "baseline", "instructions")},
        "notes": [
            *known["notes"],
            "Our bars: held-out prompts of the primer, greedy replies, RLHF model against SFT model.",
            "Judged by the primer's true score; the reward model's bar shows how near it comes to that.",
        ],
    }
