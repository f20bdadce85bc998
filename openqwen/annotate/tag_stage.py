"""Stage "tags": tags for every prompt, a balanced choice of prompts, and how much of the tags it covers.

Report §3.2.1 (tags, balanced sampling). Ours: the comparison with random choices of the same size. prompts.jsonl holds the
choice, best first, in the form that PPO and `openqwen sample` read; tagged.jsonl the tags of all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openqwen.annotate.config import TagsConfig
from openqwen.annotate.models import ask, only_model
from openqwen.annotate.prompts import Prompt, read_prompts
from openqwen.annotate.select import Tags, balanced, coverage
from openqwen.annotate.tags import ASK, by_rules, by_terms, keep_frequent, normalise, parse_tags
from openqwen.core.artifact import (
    Artifact,
    Run,
    find,
    open_inputs,
    stage_run,
    write_atomic,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError, UsageError
from openqwen.report.figures import Series, curves, standalone

SIZES = 12  # points of a curve


def run(resolved: Resolved[TagsConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "prompts" (a file), and "model" if a model of ours tags, to a prompts artefact."""
    config = resolved.config
    opened = open_inputs(inputs, {"model": "model"})
    if config.tagger != "model" and ("model" in inputs or config.address):
        raise UsageError(
            f"tags come from {config.tagger}, no model is asked", where="--model", fix="--tagger model"
        )
    with stage_run(out, "prompts", resolved, opened) as stage:
        prompts, skipped = read_prompts(inputs["prompts"], config.max_bad_share)
        raw = tag(prompts, config, inputs.get("model"), stage)
        tags = keep_frequent(raw, config.min_count, config.max_tags)
        if not any(tags):
            raise DataError(
                "no prompt has a tag", where=str(inputs["prompts"]), fix="another --tagger, or --min_count 1"
            )
        size = min(config.size or len(prompts), len(prompts))
        chosen = balanced(tags, size, config.seed, config.diversity, config.complexity)
        found = compare(tags, chosen, config)
        write_jsonl(out / "prompts.jsonl", [prompts[i].record(tags=sorted(tags[i])) for i in chosen])
        write_jsonl(
            out / "tagged.jsonl",
            [{"id": p.id, "line": p.line, "tags": sorted(t)} for p, t in zip(prompts, tags)],
        )
        write_jsonl(out / "skipped.jsonl", [asdict(record) for record in skipped])
        write_json(out / "coverage.json", {"curve": found, "tags": counts(tags, chosen)})
        write_atomic(out / "coverage.svg", picture(found))
        last = found[-1]
        stage.fact(
            prompts=len(prompts),
            skipped=len(skipped),
            skipped_reasons=dict(Counter(record.reason for record in skipped)),
            untagged=sum(not found for found in tags),
            tags=len(frozenset().union(*tags)),
            tags_per_prompt=sum(map(len, tags)) / len(tags),
            chosen=size,
            coverage=last["balanced"],
            coverage_random=last["random"],
            coverage_random_low=last["low"],
            coverage_random_high=last["high"],
            tags_per_chosen=last["tags_balanced"],
            tags_per_random=last["tags_random"],
        )
    done = find(out)
    assert done is not None
    return done


def tag(
    prompts: Sequence[Prompt], config: TagsConfig, model: Path | None, stage: Run
) -> list[frozenset[str]]:
    """The tags of every prompt, as the configured tagger gives them."""
    texts = [prompt.text for prompt in prompts]
    if config.tagger == "given":
        return [given(prompt, config.fields) for prompt in prompts]
    if config.tagger == "model":
        asked = only_model(model, config, "tagging")
        questions = [ASK.format(text=text) for text in texts]
        answers = ask(asked, questions, config.max_tokens, config, stage)
        return [parse_tags(answer.text) for answer in answers]  # none where a prompt does not fit
    return by_rules_and_terms(texts, config)


def by_rules_and_terms(texts: Sequence[str], config: TagsConfig) -> list[frozenset[str]]:
    """The tags that need no model."""
    terms = by_terms(texts, config.terms, config.term_share)
    return [by_rules(text) | more for text, more in zip(texts, terms)]


def given(prompt: Prompt, fields: Sequence[str]) -> frozenset[str]:
    """The tags in a record's fields, each a text or a list of texts. DataError for anything else."""
    found: list[str] = []
    for name in fields:
        value = prompt.extra.get(name) or []
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f'"{name}" is neither a tag nor a list of tags', where=f"line {prompt.line}")
        found += words
    return frozenset(filter(None, map(normalise, found)))


def compare(tags: Tags, chosen: Sequence[int], config: TagsConfig) -> list[dict[str, Any]]:
    """Coverage at growing sizes: of the first so many chosen, and of random ones (mean, 2.5 % and 97.5 % over seeds)."""
    sizes = sorted({max(1, round(len(chosen) * (k + 1) / SIZES)) for k in range(SIZES)})
    orders = []
    for seed in range(config.random_seeds):
        orders.append(list(range(len(tags))))
        random.Random(f"random {config.seed} {seed}").shuffle(orders[-1])
    found = []
    for size in sizes:
        shares = sorted(coverage(tags, order[:size]) for order in orders)
        cut = int(0.025 * len(shares))
        found.append(
            {
                "size": size,
                "balanced": coverage(tags, chosen[:size]),
                "random": sum(shares) / len(shares),
                "low": shares[cut],
                "high": shares[-1 - cut],
                "tags_balanced": sum(len(tags[i]) for i in chosen[:size]) / size,
                "tags_random": sum(len(tags[i]) for order in orders for i in order[:size])
                / size
                / len(orders),
            }
        )
    return found


def counts(tags: Tags, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Every tag with how many prompts have it, and how many of the chosen ones; the most frequent first."""
    every = Counter(tag for found in tags for tag in found)
    of_chosen = Counter(tag for i in chosen for tag in tags[i])
    order = sorted(every, key=lambda tag: (-every[tag], tag))
    return [{"tag": tag, "prompts": every[tag], "chosen": of_chosen[tag]} for tag in order]


def picture(found: Sequence[dict[str, Any]]) -> str:
    """Coverage against the number of prompts, as SVG."""
    sizes = [point["size"] for point in found]

    def share(name: str) -> list[float]:
        return [100 * point[name] for point in found]

    series = (
        Series("balanced by tags", sizes, share("balanced")),
        Series("random", sizes, share("random"), share("low"), share("high")),
    )
    return standalone(curves(series, "prompts chosen", "tags covered, %"))
