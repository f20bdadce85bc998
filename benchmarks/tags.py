"""Prompts chosen by tags beside random ones: how many of the tags they cover, on real prompts.

Report §3.2.1. Goal: more coverage than random choices of the same size, by an interval over seeds that does not hold 1.

    python benchmarks/tags.py [--quick] [--shared FOLDER]

Tags are those of the rules and terms, as `openqwen tags` has them by default. Every seed is a choice by tags and a random
one: means of both, and the 2.5 % and 97.5 % quantiles of their ratio over seeds. Since the choice prefers prompts with many
tags, which are long, a second random arm takes prompts until it has as many characters. Where a file has labels that the
choice does not see (topics of HarmfulQA), their coverage is shown too.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openqwen.annotate.config import TagsConfig
from openqwen.annotate.prompts import Prompt, read_prompts
from openqwen.annotate.select import Tags, balanced, coverage
from openqwen.annotate.tag_stage import by_rules_and_terms, given
from openqwen.annotate.tags import keep_frequent
from openqwen.core.artifact import environment, write_json

SHARED = Path(__file__).resolve().parents[2] / "shared"
RESULT = Path(__file__).with_name("results") / "tags.json"
FILES = {
    "alpaca en": "sft/alpaca_en",
    "alpaca zh": "sft/alpaca_zh",
    "sharegpt zh": "sft/sharegpt_zh_1k",
    "belle": "sft/belle_dev1k",
    "lima": "sft/lima",
    "harmfulqa": "safety/harmfulqa",
}
LABELS = {"harmfulqa": ("topic", "subtopic")}
SIZES = (50, 200, 1000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds, nothing is written")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/align")
    options = parser.parse_args()
    folder = options.shared / "data" / "align"
    if not folder.is_dir():
        parser.error(f"{folder} is absent: name another folder with --shared")
    seeds = range(5 if options.quick else 20)
    config, tables, speed = TagsConfig(), {}, []
    for name, file in FILES.items():
        prompts, _ = read_prompts(folder / f"{file}.jsonl.gz", 0.05)
        began = time.process_time()
        raw = by_rules_and_terms([prompt.text for prompt in prompts], config)
        tags = keep_frequent(raw, config.min_count, config.max_tags)
        speed.append((len(prompts), time.process_time() - began))
        sizes = [size for size in SIZES if size <= len(prompts) // 3]
        tables[name] = [measure(name, prompts, tags, size, seeds) for size in sizes]
        for row in tables[name]:
            print(name, json.dumps(row))
    rows = [row for table in tables.values() for row in table]
    out = {
        "area": "tags",
        "ratios": {
            "coverage_over_random": round(statistics.geometric_mean(row["ratio"] for row in rows), 3),
            "coverage_over_random_least": min(row["low"] for row in rows),
            "coverage_over_random_of_as_many_characters": round(
                statistics.geometric_mean(row["ratio_characters"] for row in rows), 3
            ),
        },
        "goals": {"prompts_per_second": round(sum(n for n, _ in speed) / sum(took for _, took in speed))},
    }
    if not options.quick:
        write_json(RESULT, {**out, "tables": tables, "seeds": len(seeds), "environment": environment()})
    print(json.dumps(out))
    return 0


def measure(
    name: str, prompts: Sequence[Prompt], tags: Tags, size: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """One row: coverage by tags and of random prompts at a size, and their ratio with its interval over seeds."""
    labels = [given(prompt, LABELS[name]) for prompt in prompts] if name in LABELS else None
    found: dict[str, list[float]] = {}
    for seed in seeds:
        chosen = balanced(tags, size, seed)
        order = list(range(len(prompts)))
        random.Random(f"random {seed}").shuffle(order)
        long = as_long(order, prompts, sum(len(prompts[i].text) for i in chosen))
        values = {
            "balanced": coverage(tags, chosen),
            "random": coverage(tags, order[:size]),
            "random_characters": coverage(tags, long),
            "prompts_of_as_many_characters": len(long),
        }
        if labels:
            values |= {"labels": coverage(labels, chosen), "labels_random": coverage(labels, order[:size])}
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    ratios = sorted(a / b for a, b in zip(found["balanced"], found["random"]))
    cut = int(0.025 * len(ratios))
    longer = statistics.fmean(a / b for a, b in zip(found["balanced"], found["random_characters"]))
    return {
        "size": size,
        "of": len(prompts),
        "tags": len(frozenset().union(*tags)),
        **{key: round(statistics.fmean(values), 4) for key, values in found.items()},
        "ratio": round(statistics.fmean(ratios), 3),
        "low": round(ratios[cut], 3),
        "high": round(ratios[-1 - cut], 3),
        "ratio_characters": round(longer, 3),
    }


def as_long(order: Sequence[int], prompts: Sequence[Prompt], characters: int) -> list[int]:
    """The first prompts of an order that together have so many characters."""
    total = 0
    for place, number in enumerate(order):
        total += len(prompts[number].text)
        if total >= characters:
            return list(order[: place + 1])
    return list(order)


if __name__ == "__main__":
    sys.exit(main())
