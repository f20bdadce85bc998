"""The data stage: raw documents in, a corpus with an account of every document out.

Report §2.1, in its order: extraction, language, exact and fuzzy deduplication, rules and models for quality,
decontamination, up-sampling. Sources, limits and the account (stats.json, dropped/) are ours.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwen.core.artifact import (
    Artifact,
    Run,
    find,
    need_disk,
    open_inputs,
    stage_run,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.data import classifier, decontaminate, exact, language, minhash, mix, quality, truth
from openqwen.data.config import DataConfig
from openqwen.data.documents import Bad, Document, Dropped, Funnel, Raw
from openqwen.data.extract import extract, tidy
from openqwen.data.lm import filter_noise
from openqwen.data.pydoc_pages import pydoc_pages, stdlib_sources
from openqwen.data.sources import read_path

KIND = "corpus"
PRIMER = "primer/"  # before the file names of the primer's pages


@dataclass
class _State:
    """What the steps share."""

    config: DataConfig
    run: Run
    bad: Bad
    funnel: Funnel
    known: truth.Truth | None = None
    accuracy: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run(resolved: Resolved[DataConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Builds a corpus from {"primer": artefact} and/or {"input": file or folder} and the built-in sources."""
    opened = open_inputs(inputs, {"primer": "primer"})
    config = resolved.config
    _check_inputs(config, opened)
    need_disk(out, 64 << 20)
    with stage_run(out, KIND, resolved, opened) as stage:
        began = time.monotonic()
        state = _State(config, stage, Bad(config.bad_fraction), Funnel(out / "dropped"))
        primer = opened.get("primer")
        if isinstance(primer, Artifact):
            state.known = truth.Truth.read(primer.file("truth.jsonl"), PRIMER)
        raws = _read(state, opened)
        size_in = sum(len(r.html or b"") + len((r.text or "").encode("utf-8", "replace")) for r in raws)
        documents = _documents(state, raws)
        documents = _steps(state, documents, opened)
        if not documents:
            raise DataError(
                "no document is left: every one was dropped",
                where=str(out / "dropped"),
                fix="read the reasons there, then relax the settings or give other input",
            )
        _write(state, documents, size_in, time.monotonic() - began)
    artifact = find(out)
    assert artifact is not None  # stage_run has just written DONE
    return artifact


def _check_inputs(config: DataConfig, opened: dict[str, Any]) -> None:
    if not opened and not (config.sources.pydoc or config.sources.stdlib):
        raise DataError(
            "nothing to read",
            where="inputs of the data stage",
            fix="give --input PATH, a primer, or switch on --sources.pydoc or --sources.stdlib",
        )


def _read(state: _State, opened: dict[str, Any]) -> list[Raw]:
    """All raw documents with unique ids. DataError where there is nothing to read."""
    config, found = state.config, []
    began = time.monotonic()
    for raw in _all_sources(state, opened):
        found.append(raw)
        state.bad.seen += 1
    state.seconds["read"] = round(time.monotonic() - began, 2)
    write_jsonl(state.run.path / "skipped.jsonl", state.bad.records)
    if not found:
        first = state.bad.records[0] if state.bad.records else {"reason": "no files", "where": "inputs"}
        raise DataError(
            f"no readable document ({len(state.bad.records)} files or records skipped; the first: {first['reason']})",
            where=first["where"],
            fix="give a folder with HTML, text, JSONL, Parquet or WARC files",
        )
    state.bad.check()
    seen: Counter[str] = Counter()
    for raw in found:
        seen[raw.id] += 1
        if seen[raw.id] > 1:  # two records may claim one id; ours must tell them apart
            raw.id = f"{raw.id}~{seen[raw.id]}"
    if config.sources.pydoc_bytes and state.bad.records:
        state.run.log(f"skipped {len(state.bad.records)}: {state.bad.reasons}")
    return found


def _all_sources(state: _State, opened: dict[str, Any]) -> Iterator[Raw]:
    settings = state.config.sources
    primer = opened.get("primer")
    if isinstance(primer, Artifact):
        for raw in read_path(primer.file("pages"), settings, state.bad):
            raw.id = raw.file = f"{PRIMER}pages/{raw.file}"
            raw.source = "primer"
            yield raw
    if "input" in opened:
        path = opened["input"]
        yield from read_path(path.path if isinstance(path, Artifact) else path, settings, state.bad)
    if settings.pydoc:
        yield from pydoc_pages(settings)
    if settings.stdlib:
        yield from stdlib_sources(settings)


def _documents(state: _State, raws: Sequence[Raw]) -> list[Document]:
    """Text of every raw document: extraction for pages, tidying for the rest."""
    pages = [raw for raw in raws if raw.html is not None]
    plain = [raw for raw in raws if raw.html is None]
    began = time.monotonic()
    with Progress("extract", total=len(pages)) as bar:
        kept, dropped = extract(pages, state.config.extract, bar.update)
    kept = _within_budget(state, kept)
    for raw in plain:
        document = Document(raw.id, tidy(raw.text or ""), raw.source, raw.lang, raw.file)
        if document.text.strip():
            kept.append(document)
        else:
            dropped.append(Dropped(document, "no text"))
    state.seconds["extract"] = round(time.monotonic() - began, 2)
    state.funnel.note("extract", len(kept) + len(dropped), kept, dropped)
    if state.known:
        state.accuracy["extract"] = truth.extraction(state.known, kept)
    return kept


def _within_budget(state: _State, documents: list[Document]) -> list[Document]:
    """pydoc's pages are a supply, not an input: those beyond the budget were never asked for."""
    left, out = state.config.sources.pydoc_text_bytes, []
    for document in documents:
        if document.source == "docs" and document.id.startswith("pydoc/"):
            if left <= 0:
                continue
            left -= len(document.text.encode("utf-8", "replace"))
        out.append(document)
    return out


def _steps(state: _State, documents: list[Document], opened: dict[str, Any]) -> list[Document]:
    """Language to decontamination, in the report's order."""
    config = state.config
    documents, dropped = _step(state, "language", lambda d: language.identify(d, config.language), documents)
    _judge(state, "language", documents, dropped, "other-language")
    if config.dedup.exact:
        documents, dropped = _step(state, "exact", exact.deduplicate, documents)
        if state.known:
            state.accuracy["exact"] = truth.by_group(state.known, documents, dropped, ["exact-duplicate"])
    if config.dedup.fuzzy:
        documents, dropped = _step(
            state, "fuzzy", lambda d: minhash.deduplicate(d, config.dedup, config.seed), documents
        )
        if state.known:
            labels = ["exact-duplicate", "near-duplicate"]
            state.accuracy["fuzzy"] = truth.by_group(state.known, documents, dropped, labels)
    documents = _quality(state, documents)
    return _decontaminate(state, documents, opened)


def _step(
    state: _State, name: str, step: Any, documents: list[Document]
) -> tuple[list[Document], list[Dropped]]:
    began = time.monotonic()
    kept, dropped = state.funnel.apply(name, step, documents)
    state.seconds[name] = round(time.monotonic() - began, 2)
    return kept, dropped


def _judge(state: _State, name: str, kept: list[Document], dropped: list[Dropped], label: str) -> None:
    if state.known:
        state.accuracy[name] = truth.by_label(state.known, kept, dropped, label)


def _quality(state: _State, documents: list[Document]) -> list[Document]:
    """Rules, then the classifiers, then the language model."""
    settings = state.config.quality
    path = Path(settings.examples) if settings.examples else classifier.EXAMPLES
    if not path.is_file():
        raise DataError("no such file of examples", where=str(path), fix="mend quality.examples")
    examples = classifier.read_examples(path)
    for label, threshold in (("spam", settings.spam), ("offensive", settings.offensive)):
        model = classifier.train(examples, label)
        documents, dropped = _step(
            state,
            label,
            lambda d, m=model, n=label, t=threshold: classifier.filter_label(d, m, n, t),
            documents,
        )
        _judge(state, label, documents, dropped, label)
    if settings.rules:
        with Progress("rules", total=len(documents)) as bar:
            documents, dropped = _step(
                state, "rules", lambda d: quality.filter_rules(d, bar.update), documents
            )
        _judge(state, "rules", documents, dropped, "boilerplate")
    if settings.lm:
        documents, dropped = _step(
            state, "lm", lambda d: filter_noise(d, settings, state.config.seed), documents
        )
    return documents


def _decontaminate(state: _State, documents: list[Document], opened: dict[str, Any]) -> list[Document]:
    settings = state.config.decontaminate
    paths = [Path(p) for p in settings.benchmarks]
    primer = opened.get("primer")
    if isinstance(primer, Artifact):
        paths.append(primer.file("benchmarks"))
    if not settings.enabled or not paths:
        return documents
    index = decontaminate.Index(decontaminate.read_benchmarks(paths, settings.n), settings)
    documents, dropped = _step(
        state, "decontaminate", lambda d: decontaminate.decontaminate(d, index, settings), documents
    )
    _judge(state, "decontaminate", documents, dropped, "leak")
    state.run.fact(benchmark_items=len(index.items), benchmark_items_too_short=len(index.too_short))
    return documents


def _write(state: _State, documents: list[Document], size_in: int, seconds: float) -> None:
    """Mixes, splits, writes shards, samples, stats and facts."""
    config, out = state.config, state.run.path
    valid = [d for d in documents if mix.unit_hash(config.seed, "valid", d.id) < config.valid_fraction]
    held = {d.id for d in valid}
    train, table = mix.repeat([d for d in documents if d.id not in held], config.mix, config.seed)
    need_disk(out, 2 * sum(len(d.text.encode("utf-8", "replace")) for d in [*train, *valid]))
    for name, split in (("train", train), ("valid", valid)):
        _shards(out / name, split, config.shard_bytes)
    groups = Counter(f"{d.source}/{d.lang}" for d in train)
    bytes_out = sum(len(d.text.encode("utf-8", "replace")) for d in [*train, *valid])
    write_json(
        out / "stats.json",
        {
            "funnel": state.funnel.steps,
            "skipped": state.bad.reasons,
            "truth": state.accuracy,
            "mix": table,
            "groups": dict(sorted(groups.items())),
            "splits": {"train": len(train), "valid": len(valid)},
        },
    )
    write_jsonl(out / "samples.jsonl", _samples(documents))
    state.run.fact(
        read=state.funnel.steps[0]["in"],
        documents=len(documents), train=len(train), valid=len(valid), bytes_in=size_in, bytes_out=bytes_out,
        skipped=len(state.bad.records), steps=state.seconds, megabytes_per_second=round(size_in / 1e6 / seconds, 2),
        accuracy=state.accuracy,
    )  # fmt: skip


def _shards(folder: Path, documents: Sequence[Document], limit: int) -> None:
    """part-00000.jsonl.zst ... of about `limit` bytes of text each; at least one, if empty."""
    folder.mkdir()
    part: list[Document] = []
    number = size = 0
    for document in documents:
        part.append(document)
        size += len(document.text)
        if size >= limit:
            write_jsonl_zst(folder / f"part-{number:05d}.jsonl.zst", (d.record() for d in part))
            part, size, number = [], 0, number + 1
    if part or not number:
        write_jsonl_zst(folder / f"part-{number:05d}.jsonl.zst", (d.record() for d in part))


def _samples(documents: Sequence[Document]) -> list[dict[str, str]]:
    """The first kept document of every source and language."""
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(f"{document.source} ({document.lang})", document)
    return [{"label": label, "text": d.text[:2000]} for label, d in sorted(first.items())]
