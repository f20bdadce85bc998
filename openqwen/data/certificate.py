"""A statement of how much of a benchmark is in a corpus, which anybody who has both files can check.

Report §2.1 removes overlap with test sets; that a corpus certifies it is ours. Made by another pass over the finished
corpus, with the settings it was built with: which of its documents still overlap, and which were dropped for it.
Verifying recomputes every hash; `again` scans once more. The seal shows accidents and careless edits. It is no
signature: whoever makes a certificate can make another.
"""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from openqwen.core import artifact
from openqwen.core.artifact import Artifact, damage, digest, sha256_file, write_json
from openqwen.core.errors import DataError
from openqwen.data import leaks
from openqwen.data.account import KEPT, Account
from openqwen.data.decontaminate import CUT, Hits, Index, phrases, read_benchmarks, spread
from openqwen.data.items import ENDINGS
from openqwen.data.task import code_of

FORM = "openqwen contamination certificate 2"
NAMED = 100  # documents that are named
_AT_ONCE = 256  # documents that are scanned together
# Folder of a document -> what a certificate says of it if it overlaps.
_TOLD = {**dict.fromkeys(KEPT, "hits"), "dropped/decontaminate": "removed", CUT: "cut"}


def certify(corpus: Artifact, benchmark: Path, out: Path, label: str | None = None) -> dict[str, Any]:
    """Writes the certificate of one benchmark, a file or a folder of files. label: of a progress line."""
    account = Account(corpus)
    stated = {
        "form": FORM,
        "benchmark": {"path": _relative(benchmark, out), "files": _files(benchmark)},
        "corpus": {"path": _relative(corpus.path, out), **_identity(corpus)},
        "code": code_of(leaks.__name__),
        "settings": account.config.decontaminate.model_dump(mode="json", exclude={"benchmarks", "folder"}),
        **_measured(account, benchmark, label),
    }
    stated["seal"] = digest(stated)
    write_json(out, stated)
    return stated


def _relative(path: Path, out: Path) -> str:
    return os.path.relpath(path.resolve(), out.resolve().parent)


def _files(benchmark: Path) -> dict[str, str]:
    """sha256 of the files that `read_benchmarks` reads, by name."""
    if benchmark.is_file():
        return {benchmark.name: sha256_file(benchmark)}
    found = (p for p in sorted(benchmark.rglob("*")) if p.is_file() and p.name.lower().endswith(ENDINGS))
    return {path.relative_to(benchmark).as_posix(): sha256_file(path) for path in found}


def _identity(corpus: Artifact) -> dict[str, Any]:
    """What a corpus is: its manifest names the hash of each result file, the rest is hashed here."""
    beside = ("DONE", "STARTED", "manifest.json", "origin.json")
    return {"content": corpus.content, "files": {name: sha256_file(corpus.file(name)) for name in beside}}


def _measured(account: Account, benchmark: Path, label: str | None) -> dict[str, Any]:
    """{"items", "too_short", "documents", "hits", "removed", "cut"} of a corpus and of what it took out for overlap.

    hits: documents that are in and overlap. removed: those dropped for overlap that overlap with this benchmark. cut:
    those that are in and overlapped with it only before a part was cut out. Phrases are counted in all of these as
    they were before the cut, as the stage counts them.
    """
    config = account.config.decontaminate
    index = Index(read_benchmarks([benchmark]), config)
    folders = [*KEPT, *account.evidence]
    documents, counts = account.documents(folders, label), []
    scanned: list[tuple[list[tuple[str, str]], Hits]] = []  # with (folder, id) of each document of a batch
    seen = 0
    while batch := list(islice(documents, _AT_ONCE)):
        hits = index.scan([document.record["text"] for document in batch])
        whole = np.array([d.folder not in KEPT or CUT not in d.record["scores"] for d in batch])
        counts.append(spread(hits.where(whole[hits.documents])))
        if len(hits.runs):
            scanned.append(([(d.folder, d.record["id"]) for d in batch], hits))
        seen += sum(d.folder in KEPT for d in batch)
    common = phrases(counts, config)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _TOLD.values()}
    for names, hits in scanned:
        own = index.evidence(hits, common)
        for number in np.unique(own.documents).tolist():
            folder, ident = names[number]
            items = {index.items[i].id for i in own.items[own.documents == number].tolist()}
            found[_TOLD[folder]].append({"document": ident, "items": sorted(items)[:NAMED]})
    still = {one["document"] for one in found["hits"]}
    found["cut"] = [one for one in found["cut"] if one["document"] not in still]
    return {
        "items": len(index.items),
        "too_short": len(index.too_short),
        "documents": seen,
        **{name: {"documents": len(those), "named": those[:NAMED]} for name, those in found.items()},
    }


def verify(path: Path, corpus: Path | None, benchmark: Path | None, again: bool = False) -> dict[str, Any]:
    """The certificate, if everything it speaks of is what it was. corpus, benchmark: where they are now.

    again: scan the corpus once more too. DataError names what is different.
    """
    stated = _read(path)
    here = path.resolve().parent
    found = artifact.load(corpus or Path(os.path.normpath(here / stated["corpus"]["path"])), "corpus")
    known = benchmark or Path(os.path.normpath(here / stated["benchmark"]["path"]))
    _check_benchmark(known, stated["benchmark"]["files"])
    _check_corpus(found, stated["corpus"])
    if again:
        if code_of(leaks.__name__) != stated["code"]:
            raise DataError(
                "this certificate was made by other code, which may count otherwise",
                where=str(path),
                fix="scan with the version that made it, or make a new certificate",
            )
        account = Account(found)
        if (
            account.config.decontaminate.model_dump(mode="json", exclude={"benchmarks", "folder"})
            != stated["settings"]
        ):
            raise _different(path, "settings")
        for name, value in _measured(account, known, None).items():
            if stated[name] != value:
                raise _different(path, name)
    return stated


def _read(path: Path) -> dict[str, Any]:
    """A certificate whose every byte is as it was written."""
    try:
        data = path.read_bytes()
        stated = json.loads(data)
        body = {name: value for name, value in stated.items() if name != "seal"}
        whole = json.dumps(stated, indent=2, ensure_ascii=False) + "\n"
        intact = stated["form"] == FORM and stated["seal"] == digest(body) and whole.encode() == data
    except OSError as error:
        raise DataError(f"cannot read the certificate: {error.strerror}", where=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise DataError("the certificate was changed after it was made", where=str(path), fix="make it again")
    return stated


def _check_benchmark(path: Path, files: dict[str, str]) -> None:
    if not path.exists():
        raise DataError("the benchmark is not there", where=str(path), fix="say where it is with --benchmark")
    now = _files(path)
    if path.is_file() and len(files) == 1:  # it may be called otherwise here
        now = dict(zip(files, now.values()))
    wrong = sorted(name for name in files.keys() | now.keys() if files.get(name) != now.get(name))
    if wrong:
        raise DataError(f"the benchmark is not the certified one: {', '.join(wrong)}", where=str(path))


def _check_corpus(found: Artifact, stated: dict[str, Any]) -> None:
    now = _identity(found)
    wrong = [name for name, known in stated["files"].items() if now["files"][name] != known]
    if not wrong:  # so the manifest can be trusted
        wrong = list(damage(found))
    if wrong or now["content"] != stated["content"]:
        raise DataError(
            f"the corpus is not the certified one: {', '.join(wrong) or 'another content'}",
            where=str(found.path),
        )


def _different(path: Path, name: str) -> DataError:
    return DataError(f"another scan finds other {name} than the certificate states", where=str(path))
