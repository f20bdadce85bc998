"""Stage "evals": a family of models (base, chat, RLHF) on the primer's item sets: Tables 2, 5, 10-17 and Figure 4.

Report §2.6, §3.3, §4.3, §5.2, §A.2.1. The columns are the report's, the items are ours and said to be; held-out questions of
the fine-tuning kind are scored beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwen.core.artifact import (
    Artifact,
    digest,
    find,
    open_inputs,
    read_jsonl,
    sha256_file,
    stage_run,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.hub import local_folder
from openqwen.core.tables import share
from openqwen.data.primer import check, true_score
from openqwen.evals import code, contamination, fill, preference, tables
from openqwen.evals.config import EvalsConfig
from openqwen.evals.harness import Subject, converse
from openqwen.evals.stats import mcnemar, paired
from openqwen.evals.task import Item, Kind
from openqwen.evals.tasks import TASKS

KINDS: dict[str, Kind] = {"base": "base", "chat": "chat", "rlhf": "chat"}
NAMES = {"base": "base model", "chat": "chat model (SFT)", "rlhf": "chat model (RLHF)"}
# Table -> models of ours that get a row.
ROWS = {
    2: ("base",),
    5: ("chat", "rlhf"),
    10: ("base", "chat", "rlhf"),
    11: ("base", "chat", "rlhf"),
    12: ("chat", "rlhf"),
    **dict.fromkeys((13, 14, 15, 16, 17), ("base",)),
}


def run(resolved: Resolved[EvalsConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """inputs: base, chat, rlhf (models), reward, primer, tokens."""
    kinds = {"base": "model", "chat": "model", "rlhf": "model", "reward": "reward", "primer": "primer"}
    opened = open_inputs(inputs, {**kinds, "tokens": "tokens"})
    config = resolved.config
    with stage_run(out, "evals", resolved, opened) as stage:
        subjects = {name: load_subject(name, inputs[name], kind, config) for name, kind in KINDS.items()}
        sets = read_sets(inputs["primer"])
        wanted = [
            (subjects[m], key) for number, rows in ROWS.items() for m in rows for key in tables.keys(number)
        ]
        results = fill.run_tasks(wanted, sets, config, "primer, {}-shaped")
        fill.keep(out, make_tables(results, sets, inputs["tokens"], config), results, sets)
        heldout = heldout_questions(subjects, inputs["primer"], config)
        write_json(out / "sft_heldout.json", heldout["summary"])
        prefer = preferences(subjects, inputs["reward"], inputs["primer"], config)
        write_json(out / "figure_04.json", prefer["figure"])
        write_jsonl(out / "samples.jsonl", [*heldout["samples"], *prefer["samples"]])
        stage.fact(**heldout["facts"], **prefer["facts"], **task_facts(results))
    done = find(out)
    assert done is not None
    return done


def load_subject(name: str, path: Path, kind: Kind, config: EvalsConfig) -> Subject:
    """A model ready to be asked: an artefact, a folder as Hugging Face has it, or a name of the hub."""
    from openqwen.engine import Engine
    from openqwen.model import load_model
    from openqwen.model.config import Quantisation
    from openqwen.model.quantise import quantise
    from openqwen.tokenizer import load_tokenizer

    folder = local_folder(path)
    found = find(folder)
    weights = found.content if found else digest([[f.name, sha256_file(f)] for f in model_files(folder)])
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    if config.quantise is not None:
        quantise(model, Quantisation(weights=config.quantise))
    engine = Engine(model, tokenizer, max_batch=config.batch_size, cache=config.cache)
    return Subject(name, kind, engine, tokenizer, weights, model.config.max_length)


def model_files(folder: Path) -> list[Path]:
    """What of a folder that no stage wrote makes the model: weights, settings, tokenizer."""
    return sorted(p for pattern in ("*.safetensors", "*.json", "*.tiktoken") for p in folder.glob(pattern))


# ------------------------------------------------------------------------------------------------ tables
def read_sets(primer: Path) -> dict[str, list[Item]]:
    """The primer's item sets by task."""
    return {
        name: task.read(path)
        for name, task in TASKS.items()
        if (path := primer / "benchmarks" / f"{name}.jsonl").is_file()
    }


def make_tables(
    results: fill.Results, sets: Mapping[str, list[Item]], tokens: Path, config: EvalsConfig
) -> list[dict[str, Any]]:
    """Each table with the rows of ours that it has."""
    notes = table_notes(results, sets, tokens)
    missing = {task: "the primer has none of its kind" for task in TASKS if task not in sets}
    return [
        tables.build(number, {NAMES[m]: results[m] for m in rows}, sets, notes, missing, config.seed)
        for number, rows in ROWS.items()
    ]


def table_notes(results: fill.Results, sets: Mapping[str, list[Item]], tokens: Path) -> list[str]:
    """What a reader of our rows must know."""
    notes = [
        "Our rows are scores on the primer's item sets, which only have the shape of the published benchmarks;"
        " they do not compare with the published rows. Intervals are 95 % (Wilson; clustered by subject).",
        contamination.footnote({TASKS[name].title: items for name, items in sets.items()}, tokens),
    ]
    if fewer := fill.fewer_shots(results):
        notes.append(fewer)
    if code.available() is None:
        notes.append("No sandbox on this machine: generated code is not run, HumanEval and MBPP stay empty.")
    return notes


def task_facts(results: fill.Results) -> dict[str, float]:
    """`base_mmlu_5shot` and so on, as fractions."""
    return {
        f"{model}_{name}_{shots}shot": result.cell["value"] / 100
        for model, found in results.items()
        for (name, shots), result in found.items()
    }


# ------------------------------------------------------------------------------------------------ chat models
def heldout_questions(subjects: Mapping[str, Subject], primer: Path, config: EvalsConfig) -> dict[str, Any]:
    """Share of held-out questions that SFT and RLHF models answer rightly, and of replies that end by themselves."""
    items = list(read_jsonl(primer / "sft.heldout.jsonl"))[: config.heldout_items]
    questions = [item["messages"][:-1] for item in items]
    models: dict[str, Any] = {}
    rights: dict[str, list[bool]] = {}
    samples: list[dict[str, Any]] = []
    for name in ("chat", "rlhf"):
        done = converse(subjects[name], questions, config.max_tokens)
        right = rights[name] = [check(item, c.text) for item, c in zip(items, done, strict=True)]
        ended = [completion.finish_reason == "stop" for completion in done]
        by_task = {
            task: share([r for r, item in zip(right, items, strict=True) if item["task"] == task])
            for task in sorted({item["task"] for item in items})
        }
        models[name] = {"right": share(right), "ends": share(ended), "by_task": by_task}
        samples += [
            {
                "label": f"{NAMES[name]}, {'right' if r else 'wrong'}",
                "prompt": question[-1]["content"],
                "text": completion.text,
                "gold": item["answer"],
            }
            for question, item, completion, r in list(zip(questions, items, done, right, strict=True))
        ]
    summary = {
        "title": "Held-out questions of the primer, greedy replies",
        "models": models,
        "rlhf_against_sft_p": mcnemar(rights["rlhf"], rights["chat"]),
        "manifest": digest([[s.weights for s in subjects.values()], items, config.max_tokens]),
    }
    facts = {
        "sft_accuracy": models["chat"]["right"]["value"] / 100,
        "sft_stops": models["chat"]["ends"]["value"] / 100,
        "rlhf_accuracy": models["rlhf"]["right"]["value"] / 100,
        "rlhf_stops": models["rlhf"]["ends"]["value"] / 100,
    }
    return {"summary": summary, "facts": facts, "samples": mixed(samples, len(items))}


def mixed(samples: Sequence[dict[str, Any]], per_model: int, shown: int = 20) -> list[dict[str, Any]]:
    """The first questions, each with the replies of both models one after the other."""
    return [samples[i + offset] for i in range(min(shown, per_model)) for offset in (0, per_model)]


def preferences(
    subjects: Mapping[str, Subject], reward: Path, primer: Path, config: EvalsConfig
) -> dict[str, Any]:
    """Figure 4's data for the RLHF model against the SFT model."""
    items = list(read_jsonl(primer / "prompts.heldout.jsonl"))[: config.preference_items]
    questions = [item["messages"] for item in items]
    replies = {
        name: [c.text for c in converse(subjects[name], questions, config.max_tokens)]
        for name in ("chat", "rlhf")
    }
    true = {n: [true_score(i, t) for i, t in zip(items, texts, strict=True)] for n, texts in replies.items()}
    rewards = {n: score_replies(reward, questions, texts, config.batch_size) for n, texts in replies.items()}
    against = {"model": NAMES["rlhf"], "against": NAMES["chat"]}
    known = preference.bar(true["rlhf"], true["chat"], config.margin)
    bars = [
        {**against, "judge": "known true score", **known},
        {**against, "judge": "reward model", **preference.bar(rewards["rlhf"], rewards["chat"], 0.0)},
    ]
    gain, low, high = paired(true["rlhf"], true["chat"], config.seed, config.resamples)
    manifest = digest([[s.weights for s in subjects.values()], items, config.max_tokens, config.margin])
    data = preference.figure_4(bars, manifest)
    data["true_score"] = {
        **{name: sum(values) / len(values) for name, values in true.items()},
        "gain": {"value": gain, "low": low, "high": high, "n": len(items)},
    }
    samples = [
        {
            "label": f"prompt to {NAMES[name]}",
            "prompt": q[-1]["content"],
            "text": texts[i],
            "score": true[name][i],
        }
        for i, q in enumerate(questions[:20])
        for name, texts in replies.items()
    ]
    facts = {"wins": known["win"], "ties": known["tie"], "losses": known["loss"], "true_score_gain": gain}
    return {"figure": data, "facts": facts, "samples": samples}


def score_replies(
    reward: Path, questions: Sequence[Sequence[dict[str, str]]], replies: Sequence[str], batch: int
) -> list[float]:
    """The reward model's value at the token that ends each reply."""
    import torch

    from openqwen.chat import chatml
    from openqwen.model import load_scalar
    from openqwen.tokenizer import load_tokenizer

    model, tokenizer = load_scalar(reward), load_tokenizer(reward)
    model.eval()
    values: list[float] = []
    rows = [
        reply_ids([*question, {"role": "assistant", "content": reply}], tokenizer, chatml)
        for question, reply in zip(questions, replies, strict=True)
    ]
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            width = max(map(len, part))
            ids = torch.tensor([row + [tokenizer.eos_id] * (width - len(row)) for row in part])  # (B, T)
            lengths = torch.tensor([len(row) for row in part])  # (B,)
            mask = torch.arange(width)[None] < lengths[:, None]  # (B, T)
            scores = model(ids, mask)  # (B, T)
            values += scores[torch.arange(len(part)), lengths - 1].tolist()
    return values


def reply_ids(messages: Sequence[dict[str, str]], tokenizer: Any, chatml: Any) -> list[int]:
    """Ids up to and with the <|im_end|> that closes the reply: where a reward model reads its score."""
    ids: list[int] = chatml.render(messages, tokenizer)[0]
    return ids[: len(ids) - ids[::-1].index(tokenizer.im_end_id)]
