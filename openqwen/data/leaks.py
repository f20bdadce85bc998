"""Decontamination over shards: scan, count phrases over the whole corpus, judge.

Report §2.1; what counts as overlap is decontaminate.py's. The index of all benchmarks is built once in each process
and held there. How often a run occurs is counted over all shards, because a phrase shows only in the whole corpus.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from openqwen.data import shards
from openqwen.data.config import DecontaminateConfig
from openqwen.data.decontaminate import Hits, Index, judge, phrases, spread
from openqwen.data.items import Item, read_benchmarks
from openqwen.data.store import Output
from openqwen.data.task import Facts, Work


def items(work: Work) -> Facts:
    """Benchmark files -> their items, for all who build the index. settings: "paths", "content", "decontaminate"."""
    found = read_benchmarks([Path(path) for path in work.settings["paths"]])
    lines = (json.dumps(asdict(item), ensure_ascii=False) for item in found)
    work.write("items.jsonl", "\n".join(lines).encode("utf-8", "surrogatepass"))
    index = _built(tuple(found), _config(work))
    benchmarks = dict(sorted(Counter(item.benchmark for item in found).items()))
    return {"items": len(found), "too_short": len(index.too_short), "benchmarks": benchmarks}


def _config(work: Work) -> DecontaminateConfig:
    return DecontaminateConfig(**work.settings["decontaminate"])


@lru_cache(maxsize=1)
def _built(found: tuple[Item, ...], config: DecontaminateConfig) -> Index:
    return Index(found, config)


@lru_cache(maxsize=1)
def _items_of(data: bytes) -> tuple[Item, ...]:
    return tuple(Item(**json.loads(line)) for line in data.split(b"\n") if line)


def _index(work: Work) -> Index:
    return _built(_items_of(work.store.verified(work.inputs["items"][0])), _config(work))


def scan(work: Work) -> Facts:
    """Shard -> places where its documents hold a run of an item, and how many documents hold each run."""
    hits = _index(work).scan([d.text for d in shards.load(work)])
    shards.write(work, "hits", [pa.table(dict(zip(Hits._fields, hits)))])
    runs, counts = spread(hits)
    shards.write(work, "spread", [pa.table({"runs": runs, "documents": counts.astype(np.int64)})])
    return {"hits": len(hits.runs)}


def common(work: Work) -> Facts:
    """Counts of all shards -> runs that are phrases. One task; it holds the runs that were found anywhere."""
    counts = [_columns(work, output) for output in work.inputs["spread"]]
    found = phrases([(c["runs"], c["documents"]) for c in counts], _config(work))
    shards.write(work, "phrases", [pa.table({"runs": found})])
    return {"phrases": len(found)}


def drop_overlap(work: Work) -> Facts:
    """Shard -> verdicts on documents that overlap with an item."""
    index, config = _index(work), _config(work)
    hits = Hits(**_columns(work, work.inputs["hits"][0]))
    found = index.evidence(hits, _columns(work, work.inputs["phrases"][0])["runs"])
    return shards.judge(work, lambda documents: judge(documents, found, index, config))


def _columns(work: Work, output: Output) -> dict[str, np.ndarray]:
    table = shards.read(work.store, output)
    return {name: table[name].to_numpy() for name in table.column_names}
