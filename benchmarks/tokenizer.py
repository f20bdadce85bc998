"""The tokenizer beside its peers in one run: encoding, training, and time on inputs made to be slow.

Report §2.2. Goals: encoding at least 4x tiktoken on English and code and 1.4x on Chinese with the released
vocabulary; training no slower than the fastest peer; no input takes more than linear time.

    python benchmarks/tokenizer.py [--quick] [--vocab FILE] [--text FOLDER]

Arms take turns; times are processor seconds of one thread, the best of the rounds, so that what else the machine
does counts as little as possible.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tiktoken
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from openqwen.core.artifact import environment
from openqwen.tokenizer import Tokenizer, load_tokenizer
from openqwen.tokenizer.count import count_pieces
from openqwen.tokenizer.pattern import QWEN_PATTERN
from openqwen.tokenizer.ranks import read_ranks
from openqwen.tokenizer.train import extended, train, without_digit_runs

SHARED = Path(__file__).resolve().parents[2] / "shared"
Arms = dict[str, Callable[[], Any]]


def main() -> int:
    options = arguments()
    texts = read_texts(options.text, 3_000_000 if options.quick else 6_000_000)
    result: dict[str, Any] = {"area": "tokenizer", "ratios": {}, "goals": {}}
    encoding(result, options.vocab, texts, rounds=2 if options.quick else 5)
    worst_cases(result, load_tokenizer(options.vocab), 1_000_000 if options.quick else 10_000_000)
    learning(result, texts, 3_000 if options.quick else 32_000, rounds=1 if options.quick else 2)
    augmenting(result, options.vocab.with_name("cl100k_base.tiktoken"), options.text, options.quick)
    result["machine"] = environment()
    print(json.dumps(result))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 50 s on two cores")
    parser.add_argument("--vocab", type=Path, default=SHARED / "vocab/qwen.tiktoken")
    parser.add_argument("--text", type=Path, default=SHARED / "data/text", help="folder of LANG.jsonl.gz")
    options = parser.parse_args()
    for path in (options.vocab, options.text):
        if not path.exists():
            parser.error(f"{path} is absent: name another with --vocab and --text")
    return options


def read_texts(folder: Path, size: int) -> dict[str, list[str]]:
    """About `size` bytes each of English, Chinese and code, as documents of 4,000 characters."""
    code = [p.read_text("utf-8", "replace") for p in sorted(Path(json.__file__).parents[1].glob("*.py"))]
    found = {"en": jsonl(folder / "en.jsonl.gz"), "zh": jsonl(folder / "zh.jsonl.gz"), "code": code}
    return {name: cut("".join(documents), size) for name, documents in found.items()}


def jsonl(path: Path, step: int = 1, start: int = 0) -> list[str]:
    with gzip.open(path, "rb") as file:
        return [json.loads(line)["text"] for line in islice(file, start, None, step)]


def cut(text: str, size: int) -> list[str]:
    text = text.encode()[:size].decode("utf-8", "ignore")
    return [text[i : i + 4000] for i in range(0, len(text), 4000)]


def interleave(arms: Arms, rounds: int) -> dict[str, float]:
    """The fewest processor seconds of each arm, the arms taking turns."""
    best = dict.fromkeys(arms, float("inf"))
    for _ in range(rounds):
        for name, arm in arms.items():
            began = time.process_time()
            arm()
            best[name] = min(best[name], time.process_time() - began)
    return best


def encoding(result: dict[str, Any], vocab: Path, texts: dict[str, list[str]], rounds: int) -> None:
    """Megabytes a second on one thread, every engine with the same vocabulary; a fresh engine for each text."""
    ranks = read_ranks(vocab)
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer(ranks).save(Path(folder))
        hugging = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    core = tiktoken.Encoding("qwen", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for name, documents in texts.items():
        size = sum(len(text.encode()) for text in documents) / 1e6
        ours = Tokenizer(ranks)
        expected = [core.encode_ordinary(text) for text in documents]
        fresh = [Tokenizer(ranks) for _ in range(rounds)]  # no engine of ours may know the text from before
        best = interleave(
            {
                "ours": partial(encode_once, fresh, documents),
                "tiktoken": partial(encode_all, core, documents),
            },
            rounds,
        )
        few = documents[: max(1, len(documents) // 4)]
        share = sum(len(text.encode()) for text in few) / 1e6 / size
        slow = interleave({"hf": partial(hugging.encode_batch_fast, few)}, 1)["hf"] / share
        same = sum(a == b for a, b in zip(ours.encode_batch(documents), expected))
        print(
            f"encode {name}: ours ({ours.encoder}) {size / best['ours']:.1f} MB/s, tiktoken "
            f"{size / best['tiktoken']:.1f}, Hugging Face {size / slow:.1f}; equal ids on {same} of {len(documents)}"
        )
        result["ratios"][f"encode_{name}_over_tiktoken"] = round(best["tiktoken"] / best["ours"], 2)
        result["ratios"][f"encode_{name}_over_hf"] = round(slow / best["ours"], 2)
        result["goals"][f"encode_{name}_equal"] = same / len(documents)


def encode_once(fresh: list[Tokenizer], documents: list[str]) -> None:
    fresh.pop().encode_batch(documents)


def encode_all(core: tiktoken.Encoding, documents: list[str]) -> None:
    for text in documents:
        core.encode_ordinary(text)


def worst_cases(result: dict[str, Any], tok: Tokenizer, size: int) -> None:
    """Seconds for `size` bytes, and how they grow when the text doubles."""
    cases: dict[str, Callable[[int], str]] = {
        "letter": lambda n: "a" * n,
        "spaces": lambda n: " " * n,
        "spaces then a word": lambda n: " " * n + "x",
        "marks": lambda n: "\u0301" * (n // 2),
        "marks out of order": lambda n: "a" + "\u0301\u0316" * (n // 4),
        "line ends": lambda n: "\n" * n,
    }
    engines = {"": tok, " (tiktoken fallback)": Tokenizer(tok.ranks, encoder="tiktoken")}
    for engine, tokenizer in engines.items():
        largest, growth = 0.0, 0.0
        for name, make in cases.items():
            half, whole = (timed(tokenizer, make(n)) for n in (size // 2, size))
            print(f"{name}{engine}: {size / 1e6:.0f} MB in {whole:.2f} s, x{whole / half:.2f} for twice")
            largest = max(largest, whole)
            growth = max(growth, whole / half if half > 0.02 else 0)  # shorter times are noise
        key = "worst_case" + ("_tiktoken" if engine else "")
        result["goals"][f"{key}_seconds_per_10MB"] = round(largest * 1e7 / size, 2)
        result["goals"][f"{key}_growth"] = round(growth, 2)


def timed(tokenizer: Tokenizer, text: str) -> float:
    """Processor seconds of one encoding, the first of this text: engines remember pieces."""
    began = time.process_time()
    tokenizer.encode(text)
    return time.process_time() - began


def learning(result: dict[str, Any], texts: dict[str, list[str]], merges: int, rounds: int) -> None:
    """Seconds for a vocabulary from scratch, counting included, on all the text."""
    documents = [text for group in texts.values() for text in group[:: 3 if merges < 32_000 else 1]]
    size = merges + 256
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text.txt")
        file.write_text("\n\n".join(documents), encoding="utf-8")
        arms: Arms = {
            "ours": lambda: train(count_pieces(documents), merges),
            "hf": lambda: learn_hugging_face(documents, size),
        }
        if find_spec("rustbpe"):
            module = import_module("rustbpe")
            arms["rustbpe"] = lambda: module.Tokenizer().train_from_iterator(
                iter(documents), size, pattern=QWEN_PATTERN
            )
        if find_spec("gigatoken"):
            learn = import_module("gigatoken").train_bpe
            arms["gigatoken"] = partial(learn, str(file), size, [], separator=b"\n\n")
        best = interleave(arms, rounds)
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    print(f"learn {merges} merges on {megabytes:.0f} MB:", {name: round(t, 2) for name, t in best.items()})
    for name in arms:
        if name != "ours":
            result["ratios"][f"train_over_{name}"] = round(best[name] / best["ours"], 2)


def learn_hugging_face(documents: Sequence[str], size: int) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(iter(documents), trainer)


def augmenting(result: dict[str, Any], base_file: Path, folder: Path, quick: bool) -> None:
    """cl100k_base augmented as the report did: tokens saved on held-out text of each language."""
    if not base_file.is_file():
        print(f"augmentation left out: {base_file} is absent")
        return
    original = read_ranks(base_file)
    base = without_digit_runs(original)
    chosen = {path.name.split(".")[0]: jsonl(path) for path in sorted(folder.glob("*.jsonl.gz"))}
    step = 8 if quick else 1
    seen = [text for texts in chosen.values() for i, text in enumerate(texts[::step]) if i % 10]
    began = time.process_time()
    merges = train(count_pieces(seen), 4_000 if quick else 151_643 - len(base), base)
    seconds = time.process_time() - began
    ours = Tokenizer(extended(base, merges))
    theirs = tiktoken.Encoding(
        "cl100k",
        pat_str=QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),
        mergeable_ranks=original,
        special_tokens={},
    )
    print(
        f"augment cl100k_base by {len(merges)} tokens in {seconds:.1f} s; tokens on held-out text, ours over base:"
    )
    for name, texts in chosen.items():
        held = texts[::step][::10]
        counts = [sum(map(len, ours.encode_batch(held))), sum(map(len, theirs.encode_ordinary_batch(held)))]
        print(f"  {name}: {counts[0] / counts[1]:.3f}")
        result["goals"][f"augmented_tokens_{name}"] = round(counts[0] / counts[1], 4)


if __name__ == "__main__":
    sys.exit(main())
