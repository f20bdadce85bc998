"""Near duplicates by other libraries, for data.py: run by an interpreter that has them.

    pip install "datatrove[io]" spacy jieba orjson xxhash rensa
    python benchmarks/data_peers.py ARM LANGUAGE TEXTS.jsonl

For every line it reads it does the whole work once on one core, and prints processor seconds and how many texts
would go.
"""

from __future__ import annotations

import json
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
    texts = [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]
    run = ARMS[arm](texts, language)
    for _ in sys.stdin:
        began = time.process_time()
        removed = run()
        print(json.dumps({"seconds": time.process_time() - began, "removed": removed}), flush=True)


def datatrove(texts: list[str], language: str) -> Callable[[], int]:
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
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    words = Split(language) if language == "split" else language

    def run() -> int:
        with tempfile.TemporaryDirectory() as folder:
            steps: list[tuple[int, list[Any]]] = [
                (1, [documents, MinhashDedupSignature(f"{folder}/signatures", config, words)]),
                (BANDS, [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)]),
                (1, [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)]),
            ]
            for number, (tasks, pipeline) in enumerate(steps):
                LocalPipelineExecutor(pipeline, tasks, 1, f"{folder}/log/{number}").run()
            return sum(file.stat().st_size // 4 for file in Path(folder, "removed").glob("*.remove"))

    return run


def rensa(texts: list[str], language: str) -> Callable[[], None]:
    """Its signatures alone, from words as spaces cut them."""
    from rensa import RMinHash

    def run() -> None:
        for text in texts:
            words = text.lower().split()
            signature = RMinHash(num_perm=BANDS * ROWS, seed=1)
            signature.update(
                [" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))]
            )
            signature.digest()

    return run


ARMS = {"datatrove": datatrove, "rensa": rensa}

if __name__ == "__main__":
    print(json.dumps(version(sys.argv[1])), flush=True)
    main()
