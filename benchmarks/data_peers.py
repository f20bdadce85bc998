"""Near duplicates and a whole pipeline by other libraries, for data.py: run by an interpreter that has them.

    pip install "datatrove[io]" spacy jieba orjson xxhash rensa
    pip install warcio faust-cchardet python-magic trafilatura lxml_html_clean fasttext-numpy2-wheel fasteners zstandard
    python benchmarks/data_peers.py ARM LANGUAGE TEXTS.jsonl
    python benchmarks/data_peers.py datatrove.pipeline LANGUAGE FOLDER

For every line it reads it does the whole work once on one core, and prints processor seconds, its children's
included, seconds by the clock, and how many texts would go. FOLDER holds warc/*.warc.gz and lid.176.ftz.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

SHINGLE, BANDS, ROWS = 5, 14, 8  # datatrove's default


def main() -> None:
    arm, language, path = sys.argv[1:]
    run = ARMS[arm](Path(path), language)
    for _ in sys.stdin:
        began, clock = processor_seconds(), time.monotonic()
        found = run()
        spent = {"seconds": processor_seconds() - began, "wall": time.monotonic() - clock}
        print(json.dumps(spent | found), flush=True)


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def read(path: Path) -> list[str]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def datatrove(path: Path, language: str) -> Callable[[], dict[str, Any]]:
    """Its three steps on the local executor; words are cut as it does for the language."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Split(WordTokenizer):
        """Words as spaces cut them: the least that a tokenizer can cost."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    config = MinhashConfig(n_grams=SHINGLE, num_buckets=BANDS, hashes_per_bucket=ROWS)
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(read(path))]
    words = Split(language) if language == "split" else language

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            steps: list[tuple[int, list[Any]]] = [
                (1, [documents, MinhashDedupSignature(f"{folder}/signatures", config, words)]),
                (BANDS, [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)]),
                (1, [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)]),
            ]
            for number, (tasks, pipeline) in enumerate(steps):
                LocalPipelineExecutor(pipeline, tasks, 1, f"{folder}/log/{number}").run()
            sizes = (file.stat().st_size for file in Path(folder, "removed").glob("*.remove"))
            return {"removed": sum(size // 4 for size in sizes)}

    return run


def pipeline(path: Path, language: str) -> Callable[[], dict[str, Any]]:
    """Its recipe for web pages (FineWeb's), from WARC to JSONL with zstd, without the list of bad addresses.

    Only two things differ from the recipe's: the model for languages is the small one of the same family, which lies
    in the folder (the recipe's would be downloaded), and a page may take five seconds, as in ours.
    """
    import trafilatura  # noqa: F401 - before the clock runs, not in each child
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LanguageFilter,
    )
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.lid import FT176LID
    from fasttext.FastText import _FastText

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    loaded = _FastText(str(path / "lid.176.ftz"))

    class Small(FT176LID):
        """Its class with the model at hand."""

        @property
        def model(self) -> Any:
            return loaded

    config = MinhashConfig(n_grams=SHINGLE, num_buckets=BANDS, hashes_per_bucket=ROWS)

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:

            def kept(name: str) -> JsonlWriter:
                return JsonlWriter(f"{folder}/{name}", compression="zstd")

            languages = LanguageFilter([language], exclusion_writer=kept("dropped/language"))
            languages.model = Small([language])
            steps: list[tuple[int, list[Any]]] = [
                (
                    1,
                    [
                        WarcReader(str(path / "warc")),
                        Trafilatura(favour_precision=True, timeout=5),
                        languages,
                        GopherRepetitionFilter(exclusion_writer=kept("dropped/repetition")),
                        GopherQualityFilter(exclusion_writer=kept("dropped/gopher")),
                        C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=kept("dropped/c4")),
                        FineWebQualityFilter(exclusion_writer=kept("dropped/fineweb")),
                        kept("pages"),
                    ],
                ),
                (1, [JsonlReader(f"{folder}/pages"), MinhashDedupSignature(f"{folder}/signatures", config)]),
                (BANDS, [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)]),
                (1, [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)]),
                (
                    1,
                    [
                        JsonlReader(f"{folder}/pages"),
                        MinhashDedupFilter(f"{folder}/removed", kept("dropped/fuzzy")),
                        kept("corpus"),
                    ],
                ),
            ]
            shares: dict[str, float] = {}
            for number, (tasks, own) in enumerate(steps):
                logs = Path(folder, "log", str(number))
                LocalPipelineExecutor(own, tasks, 1, str(logs)).run()
                lines = json.loads((logs / "stats.json").read_text("utf-8"))
                for line in lines:  # "FILTER: + Name", + a picture
                    name = line["name"].rpartition(": ")[2].partition(" ")[2]
                    shares[name] = shares.get(name, 0.0) + total(line["time_stats"])
            return {"steps": shares, "left": total(lines[-1]["stats"].get("total", 0))}

    return run


def total(stats: dict[str, float] | float) -> float:
    """datatrove writes a number alone where it was met once or is zero."""
    return stats["total"] if isinstance(stats, dict) else stats


def rensa(path: Path, language: str) -> Callable[[], dict[str, Any]]:
    """Its signatures alone, from words as spaces cut them: nothing is removed."""
    from rensa import RMinHash

    texts = read(path)

    def run() -> dict[str, Any]:
        for text in texts:
            words = text.lower().split()
            signature = RMinHash(num_perm=BANDS * ROWS, seed=1)
            signature.update(
                [" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))]
            )
            signature.digest()
        return {"removed": None}

    return run


ARMS = {"datatrove": datatrove, "datatrove.pipeline": pipeline, "rensa": rensa}

if __name__ == "__main__":
    print(json.dumps(version(sys.argv[1].split(".")[0])), flush=True)
    main()
