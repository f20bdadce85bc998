"""The account of a finished corpus, read back: what became of every document, and its text.

Report §2.1 leaves open how a corpus answers for itself; this is ours. output.py writes what is read here: a table of
verdicts with a row for every document, the kept ones in train/ and valid/, the others in dropped/STEP/.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from openqwen.core.artifact import Artifact
from openqwen.core.config import load_saved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError, MissingTool
from openqwen.core.jsonl import read_jsonl_zst
from openqwen.data.config import DataConfig
from openqwen.data.decontaminate import CUT

COPIES = ("exact", "fuzzy")  # steps whose `of` is a document; decontaminate's is an item of a benchmark
KEPT = ("train", "valid")


@dataclass(frozen=True, order=True)
class Place:
    """Where a document stands in a corpus: its part, and its row in the part's table of verdicts."""

    part: int
    row: int

    def __str__(self) -> str:
        return f"{self.part}:{self.row}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """`Place.parse("3:17")`. ValueError for anything else."""
        part, _, row = text.partition(":")
        return cls(int(part), int(row))


@dataclass(frozen=True)
class Written:
    """A document as it stands in one of the corpus's files."""

    part: int
    folder: str  # "train", "valid" or "dropped/STEP"
    record: dict[str, Any]
    copies: int  # how often it stands there: up-sampled documents are repeated


def _steps(stats: Path) -> list[str]:
    """The steps that the corpus's documents went through, in order."""
    try:
        return [line["step"] for line in json.loads(stats.read_text(encoding="utf-8"))["funnel"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"damaged: {error}", where=str(stats), fix="build the corpus again") from error


def _folders(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the document of a row of verdicts is."""
    return KEPT if row["step"] is None else (f"dropped/{row['step']}",)


class Account:
    """A corpus's verdicts and texts. Tables are read one part at a time, texts when they are asked for."""

    def __init__(self, corpus: Artifact) -> None:
        self.corpus = corpus
        self.steps = _steps(corpus.file("stats.json"))
        self._parts = sorted(corpus.file("verdicts").glob("part-*.parquet"))
        self._table = lru_cache(maxsize=2)(self._read)

    @cached_property
    def config(self) -> DataConfig:
        """The settings of the run that built the corpus."""
        return load_saved(DataConfig, self.corpus.file("config.toml"))

    @property
    def folders(self) -> list[str]:
        """All folders that hold documents."""
        return [*KEPT, *(f"dropped/{step}" for step in self.steps)]

    @property
    def evidence(self) -> list[str]:
        """Folders of documents that overlap with benchmarks: those dropped for it, and pages before they were cut."""
        if "decontaminate" not in self.steps:
            return []
        cut = [CUT] if self.config.decontaminate.overlap == "cut" else []
        return ["dropped/decontaminate", *cut]

    def tables(self, columns: Sequence[str]) -> Iterator[Any]:
        """Some columns of each part's table of verdicts, in order of parts and rows (pyarrow tables)."""
        for part in range(len(self._parts)):
            yield self._read(part, tuple(columns))

    def _read(self, part: int, columns: tuple[str, ...] | None = None) -> Any:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise MissingTool(
                "a corpus's account needs pyarrow", fix='pip install "openqwen[data]"'
            ) from error
        path = self._parts[part]
        try:
            return parquet.read_table(path, columns=list(columns) if columns else None, use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"damaged: {reason}", where=str(path), fix="build the corpus again") from error

    def verdict(self, place: Place) -> dict[str, Any]:
        """What the account says of a document: the columns of output.ACCOUNT, scores as a dict."""
        row = self._table(place.part).slice(place.row, 1).to_pylist()[0]
        return {**row, "scores": dict(row["scores"])}

    def find(self, ids: Collection[str]) -> dict[str, Place]:
        """The places of those documents that there are."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted, found = pa.array(sorted(ids), pa.string()), {}
        for part, table in enumerate(self.tables(["id"])):
            rows = pc.indices_nonzero(pc.is_in(table["id"], value_set=wanted)).to_pylist()
            found.update({table["id"][row].as_py(): Place(part, row) for row in rows})
        return found

    def copies(self, ident: str) -> list[dict[str, Any]]:
        """Every document that was dropped for this one, or for one that was: {"id", "step", "reason", "of"}."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found: list[dict[str, Any]] = []
        wanted = [ident]
        while wanted:
            new = []
            for table in self.tables(["id", "step", "reason", "of"]):
                own = pc.is_in(table["of"], value_set=pa.array(wanted, pa.string()))
                copied = pc.is_in(table["step"], value_set=pa.array(COPIES, pa.string()))
                new += table.filter(pc.and_(own, copied)).to_pylist()
            found += new
            wanted = [row["id"] for row in new]
        return found

    def text(self, place: Place) -> str:
        """A document's text as it was when the last step had seen it."""
        return self.written(place).record["text"]

    def texts(self, places: Collection[Place]) -> dict[Place, str]:
        """The texts of several documents; each file that holds some of them is read once. DataError as `written`."""
        wanted: dict[tuple[int, Sequence[str]], dict[str, Place]] = {}
        for place in sorted(places):
            row = self.verdict(place)
            wanted.setdefault((place.part, _folders(row)), {})[row["id"]] = place
        found = {
            own[document.record["id"]]: document.record["text"]
            for (part, folders), own in wanted.items()
            for document in self._documents(part, folders)
            if document.record["id"] in own
        }
        for lost in sorted(set(places) - found.keys()):
            raise self._lost(self.verdict(lost))
        return found

    def written(self, place: Place) -> Written:
        """A document in the file it ended in. DataError if it is not there."""
        row = self.verdict(place)
        for document in self._documents(place.part, _folders(row)):
            if document.record["id"] == row["id"]:
                return document
        raise self._lost(row)

    def _lost(self, row: Mapping[str, Any]) -> DataError:
        return DataError(
            f"document {row['id']} is in the table of verdicts and in no file",
            where=str(self.corpus.path),
            fix="build the corpus again",
        )

    def documents(self, folders: Sequence[str], label: str | None = None) -> Iterator[Written]:
        """All documents in some folders, each once. label: of a progress line; None shows nothing."""
        with Progress(label, len(self._parts)) if label else nullcontext() as bar:
            for part in range(len(self._parts)):
                if bar is not None:
                    bar.update(part)
                yield from self._documents(part, folders)

    def _documents(self, part: int, folders: Sequence[str]) -> Iterator[Written]:
        for folder in folders:
            last: dict[str, Any] | None = None
            copies = 0
            for record in read_jsonl_zst(self._file(part, folder)):
                if last is not None and record["id"] != last["id"]:
                    yield Written(part, folder, last, copies)
                    copies = 0
                last, copies = record, copies + 1
            if last is not None:
                yield Written(part, folder, last, copies)

    def _file(self, part: int, folder: str) -> Path:
        return self.corpus.file(f"{folder}/{self._parts[part].stem}.jsonl.zst")

    def benchmarks(self) -> list[Path]:
        """The benchmark files that the corpus was cleaned of, those of its primer among them; they may be gone."""
        paths = self.config.decontaminate.paths()
        if primer := self.corpus.manifest["inputs"].get("primer"):
            paths.append((self.corpus.path / primer["path"] / "benchmarks").resolve())
        return paths if "decontaminate" in self.steps else []
