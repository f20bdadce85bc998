"""Stage "pairs": scored replies become comparison pairs that say where both sides are from and who judged.

Report §3.2.1: pairs are formed by the annotators' scores. The files are what `openqwen pmp` and `openqwen reward` read.
Ours: which pairs of a prompt are taken, and that a prompt's pairs are all training or all held out, by its hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from openqwen.annotate.config import PairsConfig
from openqwen.annotate.judge import Record, Scores, by_model, by_people, by_rule
from openqwen.annotate.models import only_model
from openqwen.annotate.sample import FILE
from openqwen.core.artifact import (
    Artifact,
    Run,
    canonical,
    find,
    open_inputs,
    read_jsonl,
    stage_run,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError, UsageError


def run(resolved: Resolved[PairsConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "replies" (artefact), and "scores" (people's, a file) or "model" (the judge), to a pairs artefact."""
    config = resolved.config
    opened = open_inputs(inputs, {"replies": "replies", "model": "model"})
    check(config, inputs)
    with stage_run(out, "pairs", resolved, opened) as stage:
        replies = list(read_jsonl(inputs["replies"] / FILE))
        prompts = {record["id"]: record for record in read_jsonl(inputs["replies"] / "prompts.jsonl")}
        scores = judge(config, inputs, replies, prompts, stage)
        asked = len(scores.of) + scores.num_skipped
        if scores.num_skipped > config.max_bad_share * asked:
            reason, lines = next(iter(scores.skipped.items()))
            raise DataError(
                f"{scores.num_skipped} of {asked} scores cannot be used; the first: {reason}",
                where=f"{inputs['scores']}:{lines[0]}"
                if "scores" in inputs
                else f"line {lines[0]} of the prompts",
                fix="mend them, ask another judge, or raise max_bad_share",
            )
        pairs, counts = form(replies, prompts, scores, config)
        if not pairs:
            raise DataError(
                f"no two replies to a prompt differ by more than {config.min_gap:g}: {dict(counts)}",
                where=str(inputs["replies"]),
                fix="more replies a prompt, or a smaller --min_gap",
            )
        split = {
            name: [p for p in pairs if held_out(p, config) == (name == "heldout")]
            for name in ("pairs", "heldout")
        }
        for name, found in split.items():
            write_jsonl(out / f"{name}.jsonl", found)
        write_json(out / "skipped.json", scores.skipped)
        stage.fact(
            pairs=len(split["pairs"]),
            heldout=len(split["heldout"]),
            scored=len(scores.of),
            skipped={reason: len(lines) for reason, lines in scores.skipped.items()},
            left_out=dict(counts),
            agreement=scores.agreement,
            longer_chosen=sum(len(p["chosen"]) > len(p["rejected"]) for p in pairs) / len(pairs),
            wins=_wins(pairs),
        )
    done = find(out)
    assert done is not None
    return done


def check(config: PairsConfig, inputs: Mapping[str, Path]) -> None:
    """UsageError unless there is what the judge needs, and nothing that another would."""
    if (config.judge == "people") != ("scores" in inputs):
        raise UsageError(
            "people's scores are a file"
            if config.judge == "people"
            else f"the {config.judge} needs no scores",
            where="--scores",
            fix="--scores FILE with --judge people, or --judge rules, or --judge model",
        )
    if config.judge != "model" and ("model" in inputs or config.address):
        raise UsageError(f"{config.judge} judge, no model is asked", where="--model", fix="--judge model")


def judge(
    config: PairsConfig,
    inputs: Mapping[str, Path],
    replies: Sequence[Record],
    prompts: Mapping[str, Record],
    stage: Run,
) -> Scores:
    """The scores of the configured judge."""
    if config.judge == "people":
        return by_people(inputs["scores"], replies)
    if config.judge == "rules":
        return by_rule(replies, prompts, config)
    return by_model(only_model(inputs.get("model"), config, "judging"), replies, prompts, config, stage)


def form(
    replies: Sequence[Record], prompts: Mapping[str, Record], scores: Scores, config: PairsConfig
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The pairs of all prompts in their order, and why other combinations gave none."""
    groups: dict[str, list[Record]] = {}
    for reply in replies:
        if reply["id"] in scores.of:
            groups.setdefault(reply["prompt"], []).append(reply)
    pairs: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for name, group in groups.items():
        found: dict[tuple[str, str], dict[str, Any]] = {}  # by the texts: models often say the same
        for a, b in combinations(group, 2):
            gap = scores.of[a["id"]] - scores.of[b["id"]]
            better, worse = (a, b) if gap > 0 else (b, a)
            texts = better["text"].strip(), worse["text"].strip()
            if texts[0] == texts[1]:
                counts["equal sides"] += 1
            elif not all(texts):
                counts["an empty side"] += 1
            elif abs(gap) <= config.min_gap:
                counts["scores too near"] += 1
            elif texts in found or texts[::-1] in found:
                counts["the same texts again"] += 1
            else:
                found[texts] = pair(prompts[name], better, worse, scores, config)
        best = sorted(found.values(), key=lambda record: -record["gap"])
        counts["beyond max_pairs"] += len(best[config.max_pairs :])
        pairs += best[: config.max_pairs]
    return pairs, +counts


def pair(
    prompt: Record, better: Record, worse: Record, scores: Scores, config: PairsConfig
) -> dict[str, Any]:
    """One comparison with its provenance."""
    kept = {key: prompt[key] for key in ("task", "lang", "tags") if key in prompt}
    ids = better["id"], worse["id"]
    return {
        "id": f"{ids[0]} > {ids[1]}",
        **kept,
        "messages": prompt["messages"],
        "chosen": better["text"],
        "rejected": worse["text"],
        "gap": scores.of[ids[0]] - scores.of[ids[1]],
        "judge": {"kind": config.judge, "who": sorted({who for name in ids for who in scores.judges[name]})},
        "chosen_from": {**better["from"], "score": scores.of[ids[0]], "finished": better["finished"]},
        "rejected_from": {**worse["from"], "score": scores.of[ids[1]], "finished": worse["finished"]},
    }


def held_out(pair: Record, config: PairsConfig) -> bool:
    """Whether a prompt's pairs are held out: by the hash of its messages alone."""
    found = hashlib.sha256(canonical(pair["messages"]).encode()).digest()
    return int.from_bytes(found[:8], "big") < config.heldout_share * 2**64


def _wins(pairs: Sequence[Record]) -> dict[str, float]:
    """Share of its pairs with another model that each model won."""
    won: Counter[str] = Counter()
    met: Counter[str] = Counter()
    for record in pairs:
        better, worse = record["chosen_from"]["model"], record["rejected_from"]["model"]
        if better != worse:
            won[better] += 1
            met.update((better, worse))
    return {name: won[name] / met[name] for name in sorted(met)}
