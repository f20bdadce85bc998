"""Stage "code": source trees, or records of their files, to documents of code, each file kept or dropped with its reason.

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
from openqwen.code_qwen.find import Repository, one_line, record_files, repositories
from openqwen.code_qwen.languages import BY_ENDING, comment, language_of
from openqwen.code_qwen.licences import is_allowed, is_licence_file, licence_of_file, licence_of_text
from openqwen.code_qwen.order import in_order
from openqwen.core.artifact import Artifact, find, stage_run, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import note
from openqwen.core.errors import DataError
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.data import exact, minhash
from openqwen.data.config import DecontaminateConfig
from openqwen.data.decontaminate import Index, decontaminate, read_benchmarks
from openqwen.data.documents import Bad, Document, Dropped, is_text
from openqwen.data.encoding import decode_page
from openqwen.data.sources.files import binary_reason, kind_of, unreadable_skipped
from openqwen.data.sources.formats import json_lines

LICENCE_BYTES = 100_000
_LONGEST = {"id": 4096, "licence": 200}  # characters of a record's fields
_LANGUAGES = frozenset(BY_ENDING.values())


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
    """From "input" (a checkout or a file of records, or a folder of them) to a code artefact."""
    config = resolved.config
    with stage_run(out, "code", resolved, inputs) as stage:
        bad = Bad(config.bad_fraction)
        files: list[File] = []
        records = record_files(inputs["input"])
        for repository in repositories(inputs["input"], bool(records)):
            files += read_repository(repository, config, bad)
        files += read_records(records, config, bad, {f.id for f in files})
        for name, group in groupby(files, key=lambda f: f.repository):
            read = list(group)
            stage.log(f"{name}: {sum(not f.reason for f in read)} of {len(read)} programs")
        bad.check()
        drop_copies(files, config)
        benchmarks = drop_overlap(files, config)
        if not benchmarks:
            told = without_benchmarks(config.decontaminate)
            note(told)
            stage.log(told)
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
            noted=bad.noted,
            benchmarks=benchmarks,
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
        if language := language_of(path):
            file = File(repository.name, path, language)
            try:
                taken = _take(file, place, folders, config, bad, place)
            except OSError as error:
                bad.skip(place, f"unreadable: {error.__class__.__name__}")
                continue
            if taken:
                yield file


def read_records(
    paths: Sequence[Path], config: RepositoriesConfig, bad: Bad, known: Iterable[str] = ()
) -> list[File]:
    """The programs of files of records {"id": "owner/repo:path", "text", "licence", "lang"}, as from their checkouts.

    A record's licence is the file's, without one what the file itself says; so is its language, without one that of its
    ending. known: ids that are taken.
    """
    found: dict[str, File] = {}
    taken = set(known)
    for path in paths:
        # A line holds a file of the largest size with every byte escaped.
        lines = json_lines(path, kind_of(path)[1], 6 * config.max_file_bytes + 100_000, bad)
        with unreadable_skipped(path, bad):
            for number, record in lines:
                where = f"{path}:{number}"
                file = _of_record(record, bad, where)
                if file is None:
                    continue
                if file.id in taken:
                    bad.skip(where, "duplicate id")
                    continue
                taken.add(file.id)
                if _take(file, record["text"].encode(), {}, config, bad, where):
                    found[file.id] = file
    return sorted(found.values(), key=lambda f: (f.repository.split("/"), _as_walked(f.path)))


def _as_walked(path: str) -> list[tuple[bool, str]]:
    """The order in which a folder is read: its files before its folders."""
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def _of_record(record: Any, bad: Bad, where: str) -> File | None:
    """A record's file without its text. None where the record is no program's; then `bad` knows."""
    fields = record if isinstance(record, dict) else {}
    label, text = fields.get("id"), fields.get("text")
    name, colon, path = label.partition(":") if isinstance(label, str) else ("", "", "")
    parts = {*name.split("/"), *path.split("/")}
    inside = len(name) + len(path) < _LONGEST["id"] and not {"", ".", ".."} & parts
    if not colon or not inside or not isinstance(text, str):
        bad.skip(where, 'no "text" with an "id" of repository and path')
        return None
    if not is_text(text):
        bad.skip(where, "a lone surrogate: no text")
        return None
    language = fields.get("lang")
    if not isinstance(language, str) or language not in _LANGUAGES:
        language = language_of(path)
    if language is None:
        bad.note(where, "no program: neither its language nor its ending is known")
        return None
    licence = fields.get("licence")
    if not isinstance(licence, str) or not 0 < len(licence) <= _LONGEST["licence"]:
        licence = None
    return File(one_line(name), one_line(path), language, licence and one_line(licence))


def _take(
    file: File,
    content: Path | bytes,
    folders: dict[str, str | None],
    config: RepositoriesConfig,
    bad: Bad,
    where: Path | str,
) -> bool:
    """Reads a file and sets why it is dropped. False if it is binary; then `bad` knows."""
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    if config.languages and file.language not in config.languages:
        file.reason = "language"
    elif size > config.max_file_bytes:
        file.reason, file.detail = "too large", f"{size} bytes"
    else:
        data = content.read_bytes() if isinstance(content, Path) else content
        if why := binary_reason(data):
            bad.skip(where, why)
            return False
        bad.seen += 1
        text, encoding = decode_page(data)
        file.text = _unix(text)
        _judge(file, encoding, folders, config)
    return True


def text_of(data: bytes) -> str:
    """A program's text, its lines ended as Unix has it."""
    return _unix(decode_page(data)[0])


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _head(path: Path) -> str:
    """As much of a file as a licence is long; nothing of one that cannot be read."""
    try:
        with path.open("rb") as opened:
            return opened.read(LICENCE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _undecoded(text: str, encoding: str, config: RepositoriesConfig) -> str | None:
    """Why a text was read in no encoding of its own, or None: what did not fit, or bytes in which no spaces are.

    Nearly all bytes are some letter of cp1251; but all encodings that are guessed have ASCII's spaces and line ends.
    """
    lost = text.count("\ufffd") / max(1, len(text))
    if lost > config.max_undecoded:
        return f"{lost:.1%} U+FFFD"
    spaces = sum(map(str.isspace, text))
    if not encoding.startswith("utf") and spaces + 1 < config.min_spaces * len(
        text
    ):  # a short line may have none
        return f"{spaces} spaces and line ends in {len(text)} characters"
    return None


def _judge(file: File, encoding: str, folders: dict[str, str | None], config: RepositoriesConfig) -> None:
    """Sets a file's licence, if it has none yet, and why it is dropped, or replaces its secrets."""
    file.licence = file.licence or licence_of_file(file.path, file.text, folders)
    checks = (
        ("empty", lambda: None if file.text.strip() else "no text"),
        ("unknown encoding", lambda: _undecoded(file.text, encoding, config)),
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


def drop_overlap(files: Sequence[File], config: RepositoriesConfig) -> dict[str, int]:
    """Marks files that overlap with evaluation sets. The sets by name with their items; none where there are none."""
    paths = config.decontaminate.paths()
    if not config.decontaminate.enabled or not paths:
        return {}
    items = read_benchmarks(paths)
    index = Index(items, config.decontaminate)
    documents = [Document(f.id, f.text, "code", f.language) for f in files if not f.reason]
    whole = config.decontaminate.model_copy(update={"overlap": "drop"})  # half a program is none
    _mark(files, decontaminate(documents, index, whole)[1])
    return dict(sorted(Counter(item.benchmark for item in items).items()))


def without_benchmarks(config: DecontaminateConfig) -> str:
    """What is said where nothing was held against evaluation sets."""
    if not config.enabled:
        return "decontamination is off: nothing was held against evaluation sets"
    return (
        "no evaluation sets found, so nothing was held against any: "
        f"give --decontaminate.benchmarks FILES, or put them into {config.folder}"
    )


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
