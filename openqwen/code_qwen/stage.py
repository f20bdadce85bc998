"""Stage "code": source trees to documents of code, each file kept or dropped with its reason.

Ours; report §4.1 says only that the base model goes on with code. documents.jsonl.zst is an input of the data stage, where
it is mixed with text (--mix.proportions); files.jsonl says of every file what became of it. All files are in memory.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from openqwen.code_qwen import marks, secrets
from openqwen.code_qwen.config import RepositoriesConfig
from openqwen.code_qwen.find import Repository, repositories
from openqwen.code_qwen.languages import comment, language_of
from openqwen.code_qwen.licences import is_allowed, is_licence_file, licence_of_file, licence_of_text
from openqwen.code_qwen.order import in_order
from openqwen.core.artifact import Artifact, find, stage_run, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.data import exact, minhash
from openqwen.data.decontaminate import Index, decontaminate, read_benchmarks
from openqwen.data.documents import Bad, Document, Dropped
from openqwen.data.encoding import decode_page
from openqwen.data.sources.files import binary_reason

LICENCE_BYTES = 100_000


@dataclass(slots=True)
class File:
    """A program of a repository, or what is known of one that was dropped."""

    repository: str
    path: str
    language: str
    licence: str | None = None
    text: str = ""
    reason: str = ""  # why it was dropped; empty: kept
    detail: str = ""
    secrets: Counter[str] = field(default_factory=Counter)

    @property
    def id(self) -> str:
        return f"{self.repository}:{self.path}"

    def record(self) -> dict[str, Any]:
        """Its line in files.jsonl."""
        told = {
            "id": self.id,
            "language": self.language,
            "licence": self.licence,
            "characters": len(self.text),
        }
        more = {"reason": self.reason, "detail": self.detail, "secrets": dict(self.secrets)}
        return told | {name: value for name, value in more.items() if value}


def run(resolved: Resolved[RepositoriesConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """From "input" (a checkout, or a folder of them) to a code artefact."""
    config = resolved.config
    with stage_run(out, "code", resolved, inputs) as stage:
        bad = Bad(config.bad_fraction)
        files: list[File] = []
        for repository in repositories(inputs["input"]):
            read = list(read_repository(repository, config, bad))
            files += read
            stage.log(f"{repository.name}: {sum(not f.reason for f in read)} of {len(read)} programs")
        bad.check()
        drop_copies(files, config)
        drop_overlap(files, config)
        kept = [f for f in files if not f.reason]
        if not kept:
            raise DataError(
                f"all {len(files)} programs were dropped: {_most(f.reason for f in files)}",
                where=str(inputs["input"]),
                fix="see --licences, --languages and --limits",
            )
        documents = list(write(kept, config))
        write_jsonl_zst(out / "documents.jsonl.zst", documents)
        write_jsonl(out / "files.jsonl", [f.record() for f in files])
        write_jsonl(out / "skipped.jsonl", [*bad.records, *bad.odd])
        stage.fact(
            repositories=len({f.repository for f in files}),
            files=len(files),
            kept=len(kept),
            dropped=dict(Counter(f.reason for f in files if f.reason).most_common()),
            skipped=bad.reasons,
            languages=dict(Counter(f.language for f in kept).most_common()),
            licences=dict(Counter(f.licence or "none" for f in kept).most_common()),
            secrets=dict(sum((f.secrets for f in kept), Counter())),
            documents=len(documents),
            characters=sum(len(document["text"]) for document in documents),
        )
    done = find(out)
    assert done is not None
    return done


def _most(reasons: Iterable[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(reasons).most_common(3))


def read_repository(repository: Repository, config: RepositoriesConfig, bad: Bad) -> Iterator[File]:
    """The programs of a repository, those that are dropped with their reason. What cannot be read goes to `bad`."""
    listed = list(repository.files(bad))
    folders = {
        posixpath.dirname(path): licence_of_text(_head(place))
        for path, place in listed
        if is_licence_file(path)
    }
    for path, place in listed:
        language = language_of(path)
        if language is None:
            continue
        file = File(repository.name, path, language)
        if config.languages and language not in config.languages:
            file.reason = "language"
        elif (size := place.stat().st_size) > config.max_file_bytes:
            file.reason, file.detail = "too large", f"{size} bytes"
        else:
            data = place.read_bytes()
            if why := binary_reason(data):
                bad.skip(place, why)
                continue
            bad.seen += 1
            file.text = text_of(data)
            _judge(file, folders, config)
        yield file


def text_of(data: bytes) -> str:
    """A program's text, its lines ended as Unix has it."""
    return decode_page(data)[0].replace("\r\n", "\n").replace("\r", "\n")


def _head(path: Path) -> str:
    """As much of a file as a licence is long."""
    with path.open("rb") as opened:
        return opened.read(LICENCE_BYTES).decode("utf-8", "replace")


def _judge(file: File, folders: dict[str, str | None], config: RepositoriesConfig) -> None:
    """Sets a file's licence and why it is dropped, or replaces its secrets."""
    file.licence = licence_of_file(file.path, file.text, folders)
    checks = (
        ("empty", lambda: None if file.text.strip() else "no text"),
        (
            "licence",
            lambda: None if is_allowed(file.licence, config.licences) else file.licence or "none found",
        ),
        ("vendored", lambda: marks.vendored(file.path) if config.vendored else None),
        ("generated", lambda: marks.generated(file.path, file.text) if config.generated else None),
        ("minified or data", lambda: marks.minified(file.path, file.text, config.limits)),
    )
    for reason, check in checks:
        if why := check():
            file.reason, file.detail = reason, why
            return
    if config.secrets:
        file.text, file.secrets = secrets.clean(file.text)


def drop_copies(files: Sequence[File], config: RepositoriesConfig) -> None:
    """Marks exact copies, then near ones (the longest stays), within each language."""
    left = sorted((f for f in files if not f.reason), key=lambda f: f.language)
    dropped: list[Dropped] = []
    for language, group in groupby(left, key=lambda f: f.language):
        documents = [Document(f.id, f.text, "code", language) for f in group]
        if config.dedup.exact:
            documents, copies = exact.deduplicate(documents)
            dropped += copies
        if config.dedup.fuzzy:
            dropped += minhash.deduplicate(documents, config.dedup, config.seed)[1]
    _mark(files, dropped)


def drop_overlap(files: Sequence[File], config: RepositoriesConfig) -> None:
    """Marks files that overlap with evaluation sets, as far as there are any."""
    paths = config.decontaminate.paths()
    if not config.decontaminate.enabled or not paths:
        return
    index = Index(read_benchmarks(paths), config.decontaminate)
    documents = [Document(f.id, f.text, "code", f.language) for f in files if not f.reason]
    whole = config.decontaminate.model_copy(update={"overlap": "drop"})  # half a program is none
    _mark(files, decontaminate(documents, index, whole)[1])


def _mark(files: Sequence[File], dropped: Sequence[Dropped]) -> None:
    by_id = {f.id: f for f in files}
    for drop in dropped:
        file = by_id[drop.document.id]
        file.reason, file.detail = drop.reason, f"of {drop.kept}" if drop.kept else drop.detail


def write(files: Sequence[File], config: RepositoriesConfig) -> Iterator[dict[str, Any]]:
    """Documents of kept files, as the data stage reads them: a repository's in order, cut between files."""
    for name, group in groupby(files, key=lambda f: f.repository):
        own = {f.path: f for f in group}
        order = in_order({path: (f.language, f.text) for path, f in own.items()})
        for part in _parts([own[path] for path in order], config):
            text = "\n".join(with_path(f) for f in part) if config.join else part[0].text
            yield {
                "id": part[0].id if len(part) == 1 else f"{part[0].id} to {part[-1].path}",
                "text": text,
                "source": "code",
                "repository": name,
                "files": [f.path for f in part],
                "languages": sorted({f.language for f in part}),
                "licences": sorted({f.licence or "none" for f in part}),
            }


def with_path(file: File) -> str:
    """A file below a comment that names it: the form of a repository in a prompt, too."""
    return f"{comment(file.language, file.path)}\n{file.text.rstrip()}\n"


def _parts(files: Sequence[File], config: RepositoriesConfig) -> Iterator[list[File]]:
    part: list[File] = []
    size = 0
    for file in files:
        if part and (not config.join or size + len(file.text) > config.max_characters):
            yield part
            part, size = [], 0
        part.append(file)
        size += len(file.text)
    if part:
        yield part
