"""Stage "agent": a chat model answers held-out questions with tools it may call; Table 6 is made of it.

Report §3.4, Table 6. The report's benchmark is in-house; our questions are the primer's, and the table says so. Published
sets of a folder are run beside them (benchmarks.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openqwen.agent import arithmetic, benchmarks, scoring, unseen
from openqwen.agent.config import AgentEvalConfig
from openqwen.agent.loop import Conversation, Model
from openqwen.agent.loop import run as converse
from openqwen.agent.models import speaker
from openqwen.agent.tools import Toolbox, tools_for
from openqwen.annotate.models import Local, only_model
from openqwen.chat import react
from openqwen.core.artifact import Artifact, find, open_inputs, read_jsonl, stage_run, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress, note
from openqwen.core.errors import DataError
from openqwen.core.tables import average, published, share
from openqwen.sandbox import backend
from openqwen.sandbox.run import required

Item = dict[str, Any]


def run(resolved: Resolved[AgentEvalConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """inputs: model (unless an address is set), tools (jsonl of recorded tool conversations; left out: unseen tools of
    ours), data (a folder with published sets)."""
    opened = open_inputs(inputs, {"model": "model"})
    config = resolved.config
    asked = read_items(inputs["tools"]) if "tools" in inputs else unseen.items()
    sets = benchmarks.load(inputs["data"], config.sets) if "data" in inputs else None
    if sets is not None and sets.runs_code:
        required()  # before the model is loaded
    with stage_run(out, "agent-eval", resolved, opened) as stage:
        items = choose(asked, config)
        answerer = only_model(inputs.get("model"), config, "agent-eval")
        model = speaker(answerer, config.max_tokens)
        tokenize = scoring.words_of(answerer.tokenizer) if isinstance(answerer, Local) else None
        records = play(model, items, config, tokenize)
        scores = summarise(records, config)
        sums = arithmetic.questions(items, config.arithmetic)
        measured = bool(sums) and backend() is not None
        if measured:
            found = arithmetic.measure(model, sums, config)
            scores |= found["cells"]
            write_jsonl(out / "arithmetic.jsonl", found["records"])
        elif sums:
            note(NO_SANDBOX)
        who = "ours: chat model" if isinstance(answerer, Local) else answerer.identity["model"]
        filled = table(scores, stage.fingerprint, "tools" in inputs, who)
        if sums:
            filled["notes"].append(_arithmetic_note(scores) if measured else NO_SANDBOX)
        write_json(out / "table_06.json", filled)
        if sets is not None:
            more = benchmarks.measure(speaker(answerer, config.sets.max_tokens), sets, config, out)
            write_json(out / "sets.json", {"cells": more, "notes": sets.notes, "manifest": stage.fingerprint})
            scores |= more
        write_jsonl(out / "traces.jsonl", records)
        write_jsonl(out / "samples.jsonl", [sample(record) for record in pick(records)])
        stage.fact(**{name: cell["value"] / 100 for name, cell in scores.items()}, questions=len(records))
    done = find(out)
    assert done is not None
    return done


def read_items(path: Path) -> list[Item]:
    """Recorded tool conversations; DataError names the one that lacks a field."""
    items = list(read_jsonl(path))
    for number, item in enumerate(items, 1):
        lacking = [name for name in ("id", "query", "tools", "gold", "final") if name not in item]
        if lacking:
            raise DataError(f"tool question without {', '.join(lacking)}", where=f"{path}, record {number}")
    if not items:
        raise DataError("no tool questions there", where=str(path))
    return items


def choose(items: Sequence[Item], config: AgentEvalConfig) -> list[Item]:
    """A seeded part of the items, in their order."""
    if config.limit is None or config.limit >= len(items):
        return list(items)
    kept = sorted(random.Random(config.seed).sample(range(len(items)), config.limit))
    return [items[i] for i in kept]


def play(
    model: Model, items: Sequence[Item], config: AgentEvalConfig, tokenize: scoring.Tokenize | None
) -> list[dict[str, Any]]:
    """Runs every question to its end; one record each with scores and the full trace."""
    records = []
    with Progress("tool questions", total=len(items)) as bar:
        for start in range(0, len(items), config.batch_size):
            part = items[start : start + config.batch_size]
            conversations = [begin(item, config) for item in part]
            converse(model, conversations)
            records += [judge(item, c, tokenize) for item, c in zip(part, conversations, strict=True)]
            bar.update(len(records))
    return records


def begin(item: Item, config: AgentEvalConfig) -> Conversation:
    """The conversation about one item, its tools ready to run."""
    box = Toolbox(tools_for(item), config.tool_seconds, config.max_observation)
    return Conversation(item["query"], box, config.max_steps, config.max_repeats)


def judge(item: Item, done: Conversation, tokenize: scoring.Tokenize | None) -> dict[str, Any]:
    """Scores of one conversation. Only the first step is compared, as in the report's benchmark.

    Rouge-L is over the model's own tokens: without its tokenizer there is none.
    """
    first = done.turns[0].text
    record: dict[str, Any] = {
        "id": item["id"],
        "lang": item.get("lang"),
        "gold": item["gold"],
        "candidates": len(item["tools"]),
        "answered": done.ended in ("answered", "plain"),
        "same_answer": react.clean(done.answer or "").strip() == react.clean(item["final"]).strip(),
        "trace": done.trace(),
    }
    if item["gold"] is None:
        return {**record, "false_positive": scoring.calls_tool(first)}
    gold = react.call_text("", item["gold"]["name"], item["gold"]["arguments"])
    return {
        **record,
        "tool_selection": scoring.right_tool(gold, first),
        **({"rouge_l": scoring.input_score(gold, first, tokenize)} if tokenize is not None else {}),
        "same_arguments": scoring.arguments(gold) == scoring.arguments(first),
    }


def summarise(records: Sequence[dict[str, Any]], config: AgentEvalConfig) -> dict[str, dict[str, Any]]:
    """Cells in percent by fact name; a score without any item is left out."""
    needed = [r for r in records if r["gold"] is not None]
    needless = [r for r in records if r["gold"] is None]
    cells: dict[str, dict[str, Any]] = {}
    if needed:
        chance = sum(1 / r["candidates"] for r in needed) / len(needed)
        cells["tool_selection"] = {**share([r["tool_selection"] for r in needed]), "chance": 100 * chance}
        if "rouge_l" in needed[0]:
            cells["rouge_l"] = average([r["rouge_l"] for r in needed], config.seed)
        cells["same_arguments"] = share([r["same_arguments"] for r in needed])
    if needless:
        cells["false_positive"] = share([r["false_positive"] for r in needless])
    cells["same_answer"] = share([r["same_answer"] for r in records])
    return cells


NO_SANDBOX = (
    "Arithmetic with the interpreter was not measured: no sandbox works here, or no question is for it."
)


def _arithmetic_note(scores: dict[str, dict[str, Any]]) -> str:
    """One sentence on what the interpreter is worth."""
    with_it, own = scores["arithmetic_interpreter"], scores["arithmetic_own"]
    return (
        f"Arithmetic, {with_it['n']} questions: {with_it['value']:.1f} % right with the interpreter "
        f"({with_it['low']:.1f} to {with_it['high']:.1f}), {own['value']:.1f} % without it "
        f"({own['low']:.1f} to {own['high']:.1f})."
    )


COLUMNS = {
    "Tool Selection": "tool_selection",
    "Tool Input": "rouge_l",
    "False Positive Error": "false_positive",
}


def table(
    scores: dict[str, dict[str, Any]], manifest: str, recorded: bool = True, who: str = "ours: chat model"
) -> dict[str, Any]:
    """Table 6: the published rows and ours. recorded: on a file of tool conversations, else on unseen tools of ours."""
    data = published(6)
    cells = {
        column: {**scores[fact], "manifest": manifest} for column, fact in COLUMNS.items() if fact in scores
    }
    asked = "primer's tool questions" if recorded else "tools it has never seen"
    data["rows"].append({"model": f"{who}, {asked}", "origin": "ours", "cells": cells})
    data["notes"] += [
        "Our row: held-out questions of the primer with the primer's tools, not the report's benchmark."
        if recorded
        else "Our row: questions of our own for tools that are in no training data of ours, not the report's benchmark.",
        "Rouge-L is over the tokens of each model's own tokenizer and does not compare across models; a model behind"
        " an address has none that is known here.",
    ]
    return data


def pick(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few telling records first (a call, one without need of a tool, a failure), then all others."""
    kinds = [
        lambda r: r["gold"] is not None and r["same_answer"],
        lambda r: r["gold"] is None and r["same_answer"],
        lambda r: not r["same_answer"],
    ]
    first = [found for kind in kinds if (found := next(filter(kind, records), None)) is not None]
    return first + [r for r in records if all(r is not f for f in first)]


def sample(record: dict[str, Any]) -> dict[str, Any]:
    """How a record is shown to people."""
    trace = record["trace"]
    label = "uses a tool" if trace["turns"][0].get("action") else "answers directly"
    good = "as recorded" if record["same_answer"] else "otherwise than recorded"
    return {"label": f"{label}, {good}", "prompt": trace["query"], "text": trace["reply"], "id": record["id"]}
