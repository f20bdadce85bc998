"""The last step: what is left becomes the corpus, what is not is kept with its reason.

Report §2.1 ("selectively up-sample"); the files are ours. A task writes one part of everything: train, valid, what
each step dropped, and a table of verdicts with one row for each document that was read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from openqwen.data import mix, shards
from openqwen.data.config import MixConfig
from openqwen.data.decontaminate import CUT
from openqwen.data.documents import Document, Dropped
from openqwen.data.task import Facts, Work

ACCOUNT = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("lang", pa.string()),
        ("bytes", pa.int64()),
        ("step", pa.string()),  # where it was dropped; null: it is in the corpus
        ("reason", pa.string()),
        ("of", pa.string()),
        ("detail", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
    ]
)
SIZES = pa.schema(
    [
        ("source", pa.string()),
        ("lang", pa.string()),
        ("band", pa.string()),
        ("hash", pa.uint64()),
        ("bytes", pa.int64()),
    ]
)
_SAMPLE = 2000  # characters of a document that is shown


def sizes(work: Work) -> Facts:
    """Shard -> cell, hash and bytes of each document to train on. settings: "seed", "valid_fraction", "steps", "mix".

    inputs: "documents", and "verdicts" of each of the steps, whose scores say in which band a document is.
    """
    settings, config = work.settings, MixConfig(**work.settings["mix"])
    rows = []
    written = shards.read(work.store, work.inputs["documents"][0]).to_pydict()
    *_, (left, _) = _judged(work, written)
    for document in left:
        if not mix.is_valid(document.id, settings["valid_fraction"], settings["seed"]):
            cell = mix.Cell.of(document.source, document.lang, document.scores, config)
            size = shards.num_bytes(document.text)
            rows.append(
                (cell.source, cell.lang, cell.band, mix.hash64(settings["seed"], "mix", document.id), size)
            )
    columns = {name: [row[i] for row in rows] for i, name in enumerate(SIZES.names)}
    shards.write(work, "sizes", [pa.table(columns, SIZES)])
    return {"bytes": sum(row[-1] for row in rows)}


def plan(work: Work) -> Facts:
    """Sizes of all shards -> the plan of the mix. settings: "mix". One task; it holds 24 bytes a document."""
    tables = [shards.read(work.store, output) for output in work.inputs["sizes"]]
    cells: list[mix.Cell] = []
    number: dict[mix.Cell, int] = {}
    numbers, hashes, bytes_ = [], [], []
    for table in tables:
        for own in zip(*(table[name].to_pylist() for name in ("source", "lang", "band"))):
            cell = mix.Cell(*own)
            if number.setdefault(cell, len(cells)) == len(cells):
                cells.append(cell)
            numbers.append(number[cell])
        hashes.append(table["hash"].to_numpy())
        bytes_.append(table["bytes"].to_numpy())
    config = MixConfig(**work.settings["mix"])
    columns = np.array(numbers, np.int64), np.concatenate(hashes), np.concatenate(bytes_)
    return {"table": mix.plan(cells, *columns, config)}


def _judged(work: Work, written: shards.Columns) -> Iterator[tuple[list[Document], list[Dropped]]]:
    """What each step left and what it dropped of a shard, with the scores of all steps up to it."""
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    for output in work.inputs["verdicts"]:
        left: list[Document] = []
        gone: list[Dropped] = []
        for document, drop in shards.joined(written, shards.read(work.store, output)):
            document.scores = scores[document.row] = {**scores[document.row], **document.scores}
            if drop is None:
                left.append(document)
            else:
                gone.append(drop)
        yield left, gone


def write(work: Work) -> Facts:
    """Shard -> its parts of the corpus. settings: "seed", "valid_fraction", "steps", "mix", "plan" (rows), "cut".

    inputs: "documents", and "verdicts" of each of the steps.
    """
    settings, facts = work.settings, Facts(train=0, valid=0, bytes=0, groups={}, samples={})
    written = shards.read(work.store, work.inputs["documents"][0]).to_pydict()
    account: list[dict[str, Any]] = []
    left: list[Document] = []
    for step, judged in zip(settings["steps"], _judged(work, written)):
        left, gone = judged
        account += [_row(d.document, step, d.reason, d.kept, d.detail) for d in gone]
        work.write(f"dropped-{step}.jsonl.zst", shards.jsonl_zst(d.record() for d in gone))
    valid = [d for d in left if mix.is_valid(d.id, settings["valid_fraction"], settings["seed"])]
    train = list(_repeated(work, left, {d.id for d in valid}))
    if MixConfig(**settings["mix"]).is_set:
        taken = {d.id for d in (*train, *valid)}
        unused = [Dropped(d, mix.UNUSED) for d in left if d.id not in taken]
        left = [d for d in left if d.id in taken]
        work.write(f"dropped-{mix.STEP}.jsonl.zst", shards.jsonl_zst(d.record() for d in unused))
        account += [_row(d.document, mix.STEP, d.reason, None, None) for d in unused]
        facts["mix"] = shards.line(left, unused)
    if settings["cut"]:
        whole = (replace(d, text=written["text"][d.row]) for d in left if CUT in d.scores)
        work.write(f"{CUT}.jsonl.zst", shards.jsonl_zst(d.record() for d in whole))
    work.write("train.jsonl.zst", shards.jsonl_zst(d.record() for d in train))
    work.write("valid.jsonl.zst", shards.jsonl_zst(d.record() for d in valid))
    account += [_row(document, None, None, None, None) for document in left]
    account.sort(key=lambda row: row["row"])
    columns = {name: [row[name] for row in account] for name in ACCOUNT.names}
    shards.write(work, "verdicts", [pa.table(columns, ACCOUNT)])
    for document in train:
        group = f"{document.source}/{document.lang}"
        facts["groups"][group] = facts["groups"].get(group, 0) + 1
    for document in left:
        facts["samples"].setdefault(f"{document.source} ({document.lang})", document.text[:_SAMPLE])
    size = sum(shards.num_bytes(d.text) for d in [*train, *valid])
    return facts | {"left": len(left), "train": len(train), "valid": len(valid), "bytes": size}


def _repeated(work: Work, documents: list[Document], held: set[str]) -> Iterator[Document]:
    """Training documents, as often as the plan says (same id: they are the same document)."""
    settings, config = work.settings, MixConfig(**work.settings["mix"])
    rows = {mix.Cell(row["source"], row["lang"], row["band"]): row for row in settings["plan"]}
    for document in documents:
        if document.id not in held:
            row = rows[mix.Cell.of(document.source, document.lang, document.scores, config)]
            yield from [document] * mix.times(document.id, row, settings["seed"])


def _row(
    document: Document, step: str | None, reason: str | None, of: str | None, detail: str | None
) -> dict[str, Any]:
    return {
        "row": document.row, "id": document.id, "source": document.source, "lang": document.lang,
        "bytes": shards.num_bytes(document.text), "step": step, "reason": reason, "of": of, "detail": detail or None,
        "scores": list(document.scores.items()),
    }  # fmt: skip
