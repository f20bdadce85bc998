"""PPO without each of its tricks: what each one is worth, over several seeds.

Report §3.2.2 names the tricks: a warm-up of the value model, two responses a query, normalised rewards, value clipping,
top-p, the pretrained gradient. Ours: the measurement. Each run is an artefact of stage ppo; the runs of one seed are judged
by one comparison (comparison.py) on the same prompts, and a variant's number is the mean over the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openqwen.core.artifact import Artifact, digest
from openqwen.core.config import NONE
from openqwen.rlhf.comparison import COLUMNS, mean, signed
from openqwen.rlhf.config import PPOConfig

WHOLE = "all tricks"
GAIN, RISEN = "gain", "seeds that rise, of {}"


def variants(config: PPOConfig) -> dict[str, dict[str, Any]]:
    """Name -> settings that differ from `config`, first none. As many replies a step in each."""
    return {
        WHOLE: {},
        "no value warm-up": {"value_warmup_steps": 0},
        "one response a query": {"responses": 1, "prompts_per_step": config.rows},
        "rewards as they are": {"reward_norm": "none"},
        "no value clipping": {"value_clip": NONE},
        "whole distribution (top-p 1)": {"top_p": 1.0},
        "no pretrained gradient": {"pretrain_coef": 0.0},
    }


def folder_of(variant: str, seed: int) -> str:
    """`folder_of("no value warm-up", 3)` -> `no-value-warm-up-3`."""
    words = "".join(c if c.isalnum() or c == "-" else " " for c in variant).split()
    return "-".join([*words, str(seed)])


def table(comparisons: Sequence[Artifact]) -> dict[str, Any]:
    """The table of core/tables.py's form from one comparison a seed; the first row of each is the chat model.

    A cell is the mean over seeds, from the lowest to the highest.
    """
    manifest = digest([found.content for found in comparisons])
    by_seed: list[dict[str, dict[str, float | None]]] = [
        found.manifest["facts"]["rows"] for found in comparisons
    ]
    chat, *names = by_seed[0]
    by = "true" if by_seed[0][chat]["true"] is not None else "reward"
    risen = RISEN.format(len(by_seed))
    rows: list[dict[str, Any]] = []
    for name in (chat, *names):
        cells = _cells([means[name] for means in by_seed])
        if name != chat:
            gains = [_gain(means[name], means[chat], by) for means in by_seed]
            cells |= {GAIN: _over(gains), risen: {"value": sum(gain > 0 for gain in gains)}}
        rows.append({"model": name, "origin": "ours", "cells": signed(cells, manifest)})
    names_shown = [GAIN, risen, *COLUMNS.values()]
    columns = [{"name": name} for name in names_shown if any(name in row["cells"] for row in rows)]
    return {
        "title": "PPO without each of its tricks",
        "columns": columns,
        "rows": rows,
        "notes": [
            f"Each row is the mean over {len(by_seed)} seeds; in brackets the lowest and the highest.",
            f"gain: the {COLUMNS[by]} over {chat}'s on the same prompts with the same seeds.",
        ],
    }


def _gain(one: Mapping[str, float | None], before: Mapping[str, float | None], by: str) -> float:
    after, base = one[by], before[by]
    assert after is not None and base is not None, "a comparison without rewards"
    return after - base


def _cells(found: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Column -> cell over some rows; what none of them has is left out."""
    by_key = {key: [v for one in found if (v := one[key]) is not None] for key in COLUMNS}
    return {COLUMNS[key]: _over(values) for key, values in by_key.items() if values}


def _over(values: Sequence[float]) -> dict[str, Any]:
    cell: dict[str, Any] = {"value": mean(values)}
    return cell if len(values) == 1 else {**cell, "low": min(values), "high": max(values)}
