"""The data stage: raw documents in, a corpus with an account of every document out.

Report §2.1, in its order: extraction, language, exact and fuzzy deduplication, rules and models for quality,
decontamination, up-sampling. Sources, limits and the account (stats.json, dropped/, verdicts/) are ours.

Documents are cut into shards; a step is one task or several over each of them (task.py, runner.py), and this module
only says which, and which files go from one to the next.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwen.core.artifact import (
    Artifact,
    Run,
    find,
    input_content,
    need_disk,
    open_inputs,
    sha256_file,
    stage_run,
    write_json,
    write_jsonl,
)
from openqwen.core.artifact import load as load_artifact
from openqwen.core.config import Resolved
from openqwen.core.console import note
from openqwen.core.errors import DataError, UsageError, did_you_mean
from openqwen.data import (
    classifier,
    classifier_stage,
    dedup,
    filters,
    leaks,
    lm,
    minhash,
    mix,
    output,
    read,
    truth,
)
from openqwen.data.config import DataConfig
from openqwen.data.documents import Bad
from openqwen.data.runner import Pipeline, make_runner
from openqwen.data.sources.files import File, find_files
from openqwen.data.sources.hub import parts_of
from openqwen.data.store import Output, Store, is_address, refuse_password
from openqwen.data.task import Facts, Record, Task, Work

KIND = "corpus"
PRIMER = "primer/"  # before the file names of the primer's pages
# Beginnings of ids that belong to built-in sources: an input's file of such a name gets "input/" before it.
_RESERVED = ("primer/", "pydoc/", "stdlib/", "input/")


@dataclass
class _Shard:
    """One shard: its documents, and what each step so far said about them."""

    number: int
    documents: Output
    verdicts: dict[str, Output]

    @property
    def inputs(self) -> dict[str, list[Output]]:
        """What a step reads."""
        return {"documents": [self.documents], "verdicts": [list(self.verdicts.values())[-1]]}


@dataclass
class _State:
    """What the steps share."""

    config: DataConfig
    run: Run
    pipeline: Pipeline
    bad: Bad
    shards: list[_Shard] = field(default_factory=list)
    funnel: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: dict[str, int] = field(default_factory=dict)  # texts of each that was looked for
    ignored: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_in: int = 0

    @property
    def left(self) -> int:
        """Documents that no step has dropped."""
        return self.funnel[-1]["out"]

    def each(
        self,
        name: str,
        function: Callable[[Work], Facts],
        settings: Mapping[str, Any],
        inputs: Callable[[_Shard], Mapping[str, Sequence[Output]]] = lambda shard: {},
    ) -> list[Record]:
        """One task for each shard, which reads the shard and `inputs`."""
        return self.pipeline.run(
            [
                Task(
                    f"{name}/{s.number:05d}",
                    function,
                    {**s.inputs, **inputs(s)},
                    {**settings, "shard": s.number},
                )
                for s in self.shards
            ]
        )

    def parts(
        self,
        name: str,
        function: Callable[[Work], Facts],
        inputs: Mapping[str, Sequence[Output]],
        settings: Mapping[str, Any],
        count: int,
    ) -> list[Record]:
        """One task for each part of an exchange."""
        return self.pipeline.run(
            [Task(f"{name}/{i:05d}", function, inputs, {**settings, "part": i}) for i in range(count)]
        )

    def step(
        self,
        name: str,
        function: Callable[[Work], Facts],
        settings: Mapping[str, Any],
        inputs: Callable[[_Shard], Mapping[str, Sequence[Output]]] = lambda shard: {},
    ) -> list[Record]:
        """A step that judges each shard: a line of the funnel, and verdicts for the next step."""
        records = self.each(name, function, settings, inputs)
        for shard, record in zip(self.shards, records):
            shard.verdicts[name] = record.outputs["verdicts"]
        self.note(name, [record.facts for record in records])
        return records

    def note(self, name: str, lines: Sequence[Facts]) -> None:
        """Adds a line to the funnel from those of the shards."""
        reasons: Counter[str] = Counter()
        for line in lines:
            reasons.update(line["dropped"])
        total = {key: sum(line[key] for line in lines) for key in ("in", "out", "bytes_out")}
        ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
        self.funnel.append({"step": name, **total, "dropped": ordered})


def run(resolved: Resolved[DataConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Builds a corpus from {"primer": artefact} and/or {"input": file or folder} and the sources of the settings."""
    opened = open_inputs(inputs, {"primer": "primer"})
    config = resolved.config
    if not opened and not any(
        (config.sources.pydoc, config.sources.stdlib, config.sources.addresses, config.sources.hub)
    ):
        raise DataError(
            "nothing to read",
            where="inputs of the data stage",
            fix="give --input PATH, a primer, or switch on --sources.pydoc or --sources.stdlib",
        )
    for address in (*config.sources.addresses, config.runner.store or ""):
        refuse_password(address)
    need_disk(out, 64 << 20)
    with stage_run(out, KIND, resolved, opened) as stage, closing(make_runner(config.runner)) as runner:
        began = time.monotonic()
        store = Store(config.runner.store or str((stage.checkpoints / "shards").absolute()))
        state = _State(config, stage, Pipeline(store, runner), Bad(config.bad_fraction))
        for name, step in STEPS.items():
            start = time.monotonic()
            step(state, opened)
            state.seconds[name] = round(time.monotonic() - start, 2)
        _write(state, _accuracy(state, opened.get("primer")), time.monotonic() - began)
        if not config.runner.store:
            shutil.rmtree(stage.checkpoints)
    artifact = find(out)
    assert artifact is not None  # stage_run has just written DONE
    return artifact


def _extract(state: _State, opened: Mapping[str, Any]) -> None:
    """Reads all sources into shards. DataError where there is nothing to read, or too much that cannot be."""
    lines = []
    for record in state.pipeline.run(_read_tasks(state, opened)):
        state.bad.seen += record.facts["seen"]
        state.bytes_in += record.facts["bytes"]
        for line in state.pipeline.store.verified(record.outputs["skipped"]).split(b"\n"):
            if line:
                found = json.loads(line)
                (state.bad.odd if found.pop("read") else state.bad.records).append(found)
        for number, facts in enumerate(record.facts["shards"]):
            documents, verdicts = (
                record.outputs[f"{name}-{number:05d}"] for name in ("documents", "verdicts")
            )
            state.shards.append(_Shard(len(state.shards), documents, {"extract": verdicts}))
            lines.append(facts)
    write_jsonl(state.run.path / "skipped.jsonl", state.bad.records)
    write_jsonl(state.run.path / "odd.jsonl", state.bad.odd)
    if not lines:
        first = state.bad.records[0] if state.bad.records else {"reason": "no files", "where": "inputs"}
        raise DataError(
            f"no readable document ({len(state.bad.records)} files or records skipped; the first: {first['reason']})",
            where=first["where"],
            fix="give a folder with HTML, text, JSONL, Parquet or WARC files",
        )
    state.bad.check()
    state.note("extract", lines)


def _read_tasks(state: _State, opened: Mapping[str, Any]) -> list[Task]:
    """Tasks that read the sources, in their order."""
    sources = state.config.sources
    common = {
        "sources": sources.model_dump(mode="json", exclude={"addresses", "hub"}),
        "extract": state.config.extract.model_dump(mode="json"),
        "shard_bytes": state.config.shard_bytes,
        "source": None,
    }
    kinds: list[tuple[dict[str, Any], str]] = []
    for files, source in _file_groups(state, opened):
        kinds.append(
            (
                {"kind": "files", "files": read.packed(files), "source": source},
                f"{files[0].address} to {files[-1].address}",
            )
        )
    kinds += [
        ({"kind": "hub", "part": list(part)}, f"{part.name}, part {part.part}")
        for spec in sources.hub
        for part in parts_of(spec)
    ]
    kinds += [({"kind": name}, name) for name in ("pydoc", "stdlib") if getattr(sources, name)]
    return [
        Task(f"extract/{i:05d}", read.read, {}, {**common, **own}, about)
        for i, (own, about) in enumerate(kinds)
    ]


def _file_groups(state: _State, opened: Mapping[str, Any]) -> list[tuple[list[File], str | None]]:
    """Files that one task reads, and the source label they all get."""
    limit = state.config.shard_bytes
    out: list[tuple[list[File], str | None]] = []
    primer = opened.get("primer")
    if isinstance(primer, Artifact):
        files = [
            File(f.address, f"{PRIMER}pages/{f.name}", f.size, f.modified)
            for f in _found(state, str(primer.file("pages")))
        ]
        out += [(group, "primer") for group in read.groups(files, limit)]
    if "input" in opened:
        path = opened["input"]
        files = [
            File(f.address, f"input/{f.name}" if f.name.startswith(_RESERVED) else f.name, f.size, f.modified)
            for f in _found(state, str(path.path if isinstance(path, Artifact) else path))
        ]
        out += [(group, None) for group in read.groups(files, limit)]
    for root in state.config.sources.addresses:
        files = _found(state, root)
        if not is_address(root):  # names within an address are whole addresses already
            files = [File(f.address, f"{root.rstrip('/')}/{f.name}", f.size, f.modified) for f in files]
        out += [(group, None) for group in read.groups(files, limit)]
    return out


def _found(state: _State, root: str) -> list[File]:
    files, ignored = find_files(root, state.bad)
    state.ignored.update(ignored)
    return files


def _language(state: _State, opened: Mapping[str, Any]) -> None:
    state.step("language", filters.identify, {"language": state.config.language.model_dump(mode="json")})


def _exact(state: _State, opened: Mapping[str, Any]) -> None:
    if state.config.dedup.exact:
        parts = _num_parts(state, 1)
        keys = [r.outputs["keys"] for r in state.each("exact.keys", dedup.exact_keys, {"parts": parts})]
        copies = state.parts("exact.copies", dedup.exact_copies, {"keys": keys}, {}, parts)
        _drop_copies(state, "exact", "exact duplicate", copies)


def _fuzzy(state: _State, opened: Mapping[str, Any]) -> None:
    config = state.config.dedup
    if config.fuzzy:
        parts = _num_parts(state, minhash.choose_bands(config.threshold, config.num_hashes)[0])
        made = config.model_dump(mode="json", include={"shingle", "num_hashes", "threshold"})
        settings = {"dedup": made, "seed": state.config.seed, "parts": parts}
        signed = state.each("fuzzy.signatures", dedup.signatures, settings)
        bands = [record.outputs["bands"] for record in signed]
        edges = state.parts("fuzzy.edges", dedup.edges, {"bands": bands}, {}, parts)
        inputs = {
            "edges": [record.outputs["edges"] for record in edges],
            "signatures": [record.outputs["signatures"] for record in signed],
        }
        judged = config.model_dump(mode="json", include={"num_hashes", "verify"})
        clusters = state.parts("fuzzy.clusters", dedup.clusters, inputs, {"dedup": judged}, 1)
        _drop_copies(state, "fuzzy", "near duplicate", clusters)


def _drop_copies(state: _State, name: str, reason: str, records: Sequence[Record]) -> None:
    copies = [record.outputs["copies"] for record in records]
    state.step(name, dedup.drop_copies, {"reason": reason}, lambda shard: {"copies": copies})


def _num_parts(state: _State, rows: int) -> int:
    """Parts of an exchange to which every document gives some rows."""
    return max(1, -(-state.left * rows // state.config.runner.exchange_rows))


def _spam(state: _State, opened: Mapping[str, Any]) -> None:
    _classify(state, "spam", state.config.quality.spam)


def _offensive(state: _State, opened: Mapping[str, Any]) -> None:
    _classify(state, "offensive", state.config.quality.offensive)


def _quality(state: _State, opened: Mapping[str, Any]) -> None:
    _classify(state, "quality", state.config.quality.quality)


def _classify(state: _State, name: str, threshold: float) -> None:
    config = state.config.quality
    if unknown := sorted(set(config.models) - set(classifier.JUDGEMENTS)):
        raise UsageError(
            f"no step asks a classifier {unknown[0]!r}.{did_you_mean(unknown[0], classifier.JUDGEMENTS)}",
            where="quality.models",
            fix=f"name one of {', '.join(classifier.JUDGEMENTS)}",
        )
    label = classifier.JUDGEMENTS[name].label
    if name in config.models:
        path = classifier_stage.model_of(Path(config.models[name]), label)
        task = Task(
            f"{name}.model/00000",
            filters.bring,
            {},
            {"path": str(path), "content": sha256_file(path)},
            str(path),
        )
    else:
        path = classifier.EXAMPLES
        settings = {"label": label, "content": sha256_file(path)}
        task = Task(f"{name}.model/00000", filters.train, {}, settings, str(path))
    model = [state.pipeline.run([task], here=True)[0].outputs["model"]]
    judged = {"name": name, "threshold": threshold, "drop": config.drop}
    state.step(name, filters.classify, judged, lambda shard: {"model": model})


def _rules(state: _State, opened: Mapping[str, Any]) -> None:
    config = state.config.quality
    if config.rules:
        state.step(
            "rules", filters.rules, {"limits": config.limits.model_dump(mode="json"), "drop": config.drop}
        )


def _lm(state: _State, opened: Mapping[str, Any]) -> None:
    config = state.config.quality
    if config.lm and config.scores:
        path = load_artifact(Path(config.scores), lm.SCORES).file(lm.FILE)
        made = {"path": str(path), "content": sha256_file(path)}
        brought = state.pipeline.run([Task("lm.scores/00000", lm.bring, {}, made, str(path))], here=True)
        scores = [brought[0].outputs["scores"]]
        judged = {"max_bits": config.lm_max_bits, "drop": config.drop}
        records = state.step("lm", lm.drop_scored, judged, lambda shard: {"scores": scores})
        if missing := sum(record.facts["unscored"] for record in records):
            note(f"lm: {missing:,} documents have no score in {config.scores}; they stay")
    elif config.lm:
        budget, seed = {"bytes": config.lm_train_bytes}, {"seed": state.config.seed}
        models: list[Output] = []
        if state.left >= lm.ENOUGH:
            samples = [r.outputs["sample"] for r in state.each("lm.sample", lm.sample, {**budget, **seed})]
            order = {"order": config.lm_order}
            trained = state.parts("lm.models", lm.models, {"samples": samples}, {**budget, **order}, 1)
            models = [trained[0].outputs["models"]]
        settings = {"max_bits": config.lm_max_bits, "drop": config.drop, **seed}
        state.step("lm", lm.drop_noise, settings, lambda shard: {"models": models})


def _decontaminate(state: _State, opened: Mapping[str, Any]) -> None:
    config = state.config.decontaminate
    paths = config.paths()
    primer = opened.get("primer")
    if isinstance(primer, Artifact):
        paths.append(primer.file("benchmarks"))
    if not config.enabled or not paths:
        return
    settings = {"decontaminate": config.model_dump(mode="json")}
    content = {str(path): input_content(path) if path.exists() else None for path in paths}
    own = {**settings, "paths": [str(path) for path in paths], "content": content}
    about = ", ".join(map(str, paths))
    found = state.pipeline.run([Task("decontaminate.items/00000", leaks.items, {}, own, about)], here=True)[0]
    items = [found.outputs["items"]]
    scanned = state.each("decontaminate.hits", leaks.scan, settings, lambda shard: {"items": items})
    spread = [record.outputs["spread"] for record in scanned]
    counted = state.parts("decontaminate.phrases", leaks.common, {"spread": spread}, settings, 1)
    phrases = [counted[0].outputs["phrases"]]
    state.step(
        "decontaminate",
        leaks.drop_overlap,
        settings,
        lambda shard: {"items": items, "hits": [scanned[shard.number].outputs["hits"]], "phrases": phrases},
    )
    state.benchmarks = found.facts["benchmarks"]
    state.run.fact(benchmark_items=found.facts["items"], benchmark_items_too_short=found.facts["too_short"])


# The report's order. Each step takes what the one before it left.
STEPS: dict[str, Callable[[_State, Mapping[str, Any]], None]] = {
    "extract": _extract,
    "language": _language,
    "exact": _exact,
    "fuzzy": _fuzzy,
    "spam": _spam,
    "offensive": _offensive,
    "rules": _rules,
    "quality": _quality,
    "lm": _lm,
    "decontaminate": _decontaminate,
}


def _accuracy(state: _State, primer: Artifact | Path | None) -> dict[str, Any]:
    """How right each step was, by the primer's truth if there is a primer."""
    if not isinstance(primer, Artifact):
        return {}
    known = truth.Truth.read(primer.file("truth.jsonl"), PRIMER)
    store = state.pipeline.store
    return truth.judge(known, store, [(shard.documents, shard.verdicts) for shard in state.shards])


def _write(state: _State, accuracy: Mapping[str, Any], seconds: float) -> None:
    """Mixes, writes the corpus and its account. DataError if nothing is left."""
    config, path = state.config, state.run.path
    settings = {
        "seed": config.seed,
        "valid_fraction": config.valid_fraction,
        "steps": [line["step"] for line in state.funnel],
        "mix": config.mix.model_dump(mode="json"),
    }
    sized = state.each("mix.sizes", output.sizes, settings, _every_verdict)
    sizes = [record.outputs["sizes"] for record in sized]
    planned = state.parts("mix.plan", output.plan, {"sizes": sizes}, {"mix": settings["mix"]}, 1)
    table = planned[0].facts["table"]
    if config.mix.is_set:
        for line in mix.lines(table):
            note(line)
    for sentence in mix.missed(table):
        if config.mix.missed == "stop":
            raise DataError(
                f"a share cannot be reached: {sentence}",
                where="mix.proportions",
                fix="lower it, raise mix.max_epochs, or let the run go on with --mix.missed 'go on'",
            )
        note(f"mix: {sentence}")
    need_disk(path, 2 * sum(round(row["bytes"] * max(1.0, row["epochs"])) for row in table))
    cut = config.decontaminate.overlap == "cut" and state.funnel[-1]["step"] == "decontaminate"
    written = state.each("corpus", output.write, {**settings, "plan": table, "cut": cut}, _every_verdict)
    _fetch(state, written)
    facts = [record.facts for record in written]
    if config.mix.is_set:
        state.note(mix.STEP, [fact["mix"] for fact in facts])
    groups: Counter[str] = Counter()
    samples: dict[str, str] = {}
    for fact in facts:
        groups.update(fact["groups"])
        samples = {**fact["samples"], **samples}
    train, valid, left, bytes_out = (
        sum(f[key] for f in facts) for key in ("train", "valid", "left", "bytes")
    )
    write_json(
        path / "stats.json",
        {
            "funnel": state.funnel,
            "skipped": state.bad.reasons,
            "odd": dict(Counter(record["reason"] for record in state.bad.odd)),
            "ignored": dict(sorted(state.ignored.items())),
            "benchmarks": state.benchmarks,
            "truth": accuracy,
            "mix": table,
            "groups": dict(sorted(groups.items())),
            "splits": {"train": train, "valid": valid},
        },
    )
    if not left:
        raise DataError(
            "no document is left: every one was dropped",
            where=str(path / "dropped"),
            fix="read the reasons there, then relax the settings or give other input",
        )
    write_jsonl(
        path / "samples.jsonl", [{"label": label, "text": text} for label, text in sorted(samples.items())]
    )
    state.run.fact(
        read=state.funnel[0]["in"],
        documents=left, train=train, valid=valid, bytes_in=state.bytes_in, bytes_out=bytes_out,
        skipped=len(state.bad.records), shards=len(state.shards), tasks=dict(state.pipeline.counts),
        steps=state.seconds, megabytes_per_second=round(state.bytes_in / 1e6 / seconds, 2), accuracy=accuracy,
    )  # fmt: skip


def _every_verdict(shard: _Shard) -> dict[str, list[Output]]:
    return {"verdicts": list(shard.verdicts.values())}


def _fetch(state: _State, written: Sequence[Record]) -> None:
    """Brings the parts of the corpus into the artefact: `train` of shard 3 becomes train/part-00003.jsonl.zst."""
    for shard, record in zip(state.shards, written):
        for part, found in record.outputs.items():
            ending = found.name.rpartition(f".{part}.")[2]
            path = state.run.path / part.replace("-", "/") / f"part-{shard.number:05d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            state.pipeline.store.fetch(found, path)
