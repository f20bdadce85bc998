"""Stage "sample": responses to annotate, of several models and sampling settings.

Report §3.2.1: diverse responses, from models of different sizes and by different sampling strategies, make annotation easier
and the reward model better. Ours: everything about how. Work goes in batches, each written when it is whole: a run that was
killed goes on with the first that is not, and ends with the same file, since every reply has its own seed.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openqwen.annotate.batches import batched, open_batches
from openqwen.annotate.config import SampleConfig
from openqwen.annotate.models import Answer, Answerer, Decoding, Local, Remote
from openqwen.annotate.prompts import Prompt, read_prompts
from openqwen.annotate.select import balanced
from openqwen.annotate.tags import by_rules, normalise
from openqwen.core.artifact import Artifact, Run, digest, find, open_inputs, stage_run, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError, UsageError
from openqwen.core.metrics import read_metrics

FILE = "replies.jsonl"


@dataclass(frozen=True)
class Job:
    """One reply to be drawn."""

    prompt: Prompt
    setting: dict[str, float]
    number: int  # among those with the same prompt, model and setting


def run(resolved: Resolved[SampleConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "prompts" (a file) and any number of models ("model-1", "model-2", ...) to a replies artefact."""
    config = resolved.config
    paths = [path for name, path in inputs.items() if name.startswith("model")]
    if not paths and not config.every_address:
        raise UsageError(
            "no model is to answer", where="--model", fix="--model ARTEFACT, or --address ADDRESS#NAME"
        )
    opened = open_inputs(inputs, {name: "model" for name in inputs if name.startswith("model")})
    with stage_run(out, "replies", resolved, opened) as stage:
        prompts, skipped = read_prompts(inputs["prompts"], config.max_bad_share)
        prompts = choose(prompts, config)
        write_jsonl(out / "prompts.jsonl", [prompt.record() for prompt in prompts])
        write_jsonl(out / "skipped.jsonl", [asdict(record) for record in skipped])
        draw(prompts, paths, config, stage)
        report(prompts, len(skipped), stage)
    done = find(out)
    assert done is not None
    return done


def choose(prompts: Sequence[Prompt], config: SampleConfig) -> list[Prompt]:
    """All prompts, or `max_prompts` that cover the most tags: those they have, else those of the rules."""
    if config.max_prompts is None:
        return list(prompts)
    tags = [
        frozenset(filter(None, map(normalise, found)))
        if isinstance(found := prompt.extra.get("tags"), list) and all(isinstance(t, str) for t in found)
        else by_rules(prompt.text)
        for prompt in prompts
    ]
    return [prompts[i] for i in balanced(tags, config.max_prompts, config.seed)]


def draw(prompts: Sequence[Prompt], paths: Sequence[Path], config: SampleConfig, stage: Run) -> None:
    """All replies, batch after batch, from the first that is not written yet."""
    file, start = open_batches(stage, FILE)
    batches = list(batched(jobs(prompts, config), config.batch_size))
    names = unique([path.name for path in paths] + [a.partition("#")[2] for a in config.every_address])
    with Progress("replies", len(batches) * len(names)) as bar:
        for turn, name in enumerate(names):
            first = turn * len(batches)
            if start > first + len(batches):
                continue  # this model has answered all
            model = _open(turn, paths, config)
            for number, batch in enumerate(batches, first + 1):
                if number >= start:
                    for record in answered(model, name, batch, config):
                        file.write(number, **record)
                    bar.update(number)
            del model  # before the next one is loaded
            gc.collect()
    file.sync()


def _open(turn: int, paths: Sequence[Path], config: SampleConfig) -> Answerer:
    if turn < len(paths):
        return Local(paths[turn], config.batch_size)
    return Remote(config.every_address[turn - len(paths)], config.remote)


def unique(names: Sequence[str]) -> list[str]:
    """The same names; the second of one name has -2 behind it. `unique(["a", "a"])` -> `["a", "a-2"]`."""
    found: list[str] = []
    for name in names:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name}-{number}"
        found.append(free)
    return found


def jobs(prompts: Sequence[Prompt], config: SampleConfig) -> Iterator[Job]:
    """What each model is asked, prompt by prompt."""
    for prompt in prompts:
        for temperature in config.temperatures:
            for top_p in config.top_ps if temperature > 0 else (1.0,):
                setting = {"temperature": temperature, "top_p": top_p}
                for number in range(config.replies if temperature > 0 else 1):
                    yield Job(prompt, setting, number)


def answered(model: Answerer, name: str, batch: Sequence[Job], config: SampleConfig) -> list[dict[str, Any]]:
    """The records of a batch: replies with where they are from, or the reason why there is none."""
    how = [
        Decoding(
            config.max_tokens,
            job.setting["temperature"],
            job.setting["top_p"],
            seed_of(name, job, config.seed),
        )
        for job in batch
    ]
    answers = model.answer([job.prompt.messages for job in batch], how)
    return [
        _record(name, model.identity, job, decoding.seed, answer)
        for job, decoding, answer in zip(batch, how, answers, strict=True)
    ]


def seed_of(name: str, job: Job, seed: int) -> int:
    """31 bits, other for each reply."""
    return int(digest([seed, name, job.prompt.id, job.setting, job.number])[:8], 16) >> 1


def _record(name: str, identity: dict[str, str], job: Job, seed: int, answer: Answer) -> dict[str, Any]:
    setting = f"t{job.setting['temperature']:g}-p{job.setting['top_p']:g}"
    record: dict[str, Any] = {
        "id": f"{job.prompt.id}/{name}/{setting}/{job.number}",
        "prompt": job.prompt.id,
        "line": job.prompt.line,
        "from": {**identity, "model": name, **job.setting, "seed": seed},
    }
    if answer.problem is not None:
        return {**record, "problem": answer.problem}
    return {**record, "text": answer.text, "finished": answer.finished}


def report(prompts: Sequence[Prompt], skipped: int, stage: Run) -> None:
    """Counts, in the manifest. DataError if no prompt has a reply."""
    records = read_metrics(stage.path / FILE)
    whole = [record for record in records if "text" in record]
    if not whole:
        what = records[0]["problem"] if records else "nothing was asked"
        raise DataError(f"no prompt has a reply: {what}", fix="shorter prompts, or a smaller --max_tokens")
    texts: dict[str, list[str]] = {}
    for record in whole:
        texts.setdefault(record["prompt"], []).append(record["text"])
    several = [found for found in texts.values() if len(found) > 1]
    samples = [
        {"label": record["from"]["model"], "prompt": prompt.text, "text": record["text"]}
        for prompt in prompts[:2]
        for record in whole
        if record["prompt"] == prompt.id
    ]
    write_jsonl(stage.path / "samples.jsonl", samples)
    stage.fact(
        prompts=len(prompts),
        skipped=skipped,
        replies=len(whole),
        by_model=dict(Counter(record["from"]["model"] for record in whole)),
        problems=dict(Counter(record["problem"] for record in records if "problem" in record)),
        finished=sum(record["finished"] for record in whole) / len(whole),
        distinct=sum(len(set(found)) / len(found) for found in several) / len(several) if several else 1.0,
    )
