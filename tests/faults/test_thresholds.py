"""The long figures that are recorded are as large as was promised, and of what must not happen there is none."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from faults import catalogue

# name -> (at least, none of); the figures of coverage-guided fuzzing count each of its targets.
PROMISED: dict[str, tuple[Mapping[str, float], tuple[str, ...]]] = {
    "SIGKILLs at random moments over all stages": ({"kills": 1000}, ("differing", "looking_finished")),
    "50 SIGKILLs over one run of pretraining, finetuning, reward model and PPO each": (
        {"kills": 200},
        ("differing",),
    ),
    "Bit flips in checkpoints, models, tokenizers, token and corpus shards": (
        {"flips": 10_000},
        ("undetected",),
    ),
    "streams held": ({"clients": 1000, "seconds": 600}, ("wrong_or_lost",)),
    "mixed traffic": ({"seconds": 600}, ("lost_or_crossed", "leaked_rows")),
    "requests fuzzed": ({"requests": 100_000, "with_spoilt_bytes": 1}, ("server_errors",)),
    "hostile programs": ({"programs": 10_000}, ("effects_on_the_host",)),
    "score cheats": ({"cheats": 200}, ("fake_passes",)),
    "coverage-guided fuzzing": (
        dict.fromkeys(("requests", "conversations", "react", "detokeniser"), 1000.0),
        ("crashes",),
    ),
    "Other faults of pretraining, finetuning, reward model and PPO": (
        dict.fromkeys(("torn_checkpoints", "SIGTERM", "jumping_clocks", "full_disks"), 40.0)
        | {"dead_ranks": 30},
        ("differing",),
    ),
}


def broken(found: dict[str, Any]) -> list[str]:
    """The promises that recorded figures do not keep; a figure that is not there keeps none."""
    wrong = []
    for name, (least, none) in PROMISED.items():
        figures = found.get(name, {}).get("figures", {})
        wrong += [f"{name}: {key}" for key, count in least.items() if not figures.get(key, -1) >= count]
        wrong += [f"{name}: {key}" for key in none if figures.get(key) != 0]
    return wrong


def test_the_recorded_figures_are_those_promised() -> None:
    found = catalogue.figures()
    assert broken(found) == []
    assert set(found) == set(PROMISED), "a figure without a promise, or the other way round"
    assert all(one["machine"] and one["date"] for one in found.values())


@pytest.mark.parametrize("name", PROMISED)
def test_a_smaller_figure_or_one_of_the_bad_would_be_seen(name: str) -> None:
    least, none = PROMISED[name]
    for key in (*least, *none):
        found = copy.deepcopy(catalogue.figures())
        found[name]["figures"][key] = least[key] - 1 if key in least else 1
        assert broken(found) == [f"{name}: {key}"]
        del found[name]["figures"][key]
        assert broken(found) == [f"{name}: {key}"]
