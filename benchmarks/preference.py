"""Preference models on real pairs: accuracy beside length alone, with and without PMP, at several numbers of clean pairs.

Report §3.2.1, Table 4. Goals: a reward model trained here ranks held-out pairs better than length alone does, and PMP
on rough pairs helps at equal finetuning data, both by intervals that do not hold 0. Everything is made by `openqwen`
commands from raw files: vocabulary, base model of 2.5M parameters, preference model, reward models.

    python benchmarks/preference.py [--quick] [--shared FOLDER] [--work FOLDER]

Clean sets: Anthropic's harmless-base pairs, judged by people, as they are; and AlpacaEval pairs of which GPT-4 Turbo was
sure. Rough: AlpacaEval pairs judged by an earlier GPT-4, or of which GPT-4 Turbo was not sure. In AlpacaEval the longer
reply wins nearly always, so its pairs are drawn such that it wins half of them, in training and in testing. Queries are
cut into folds by their hash, in all sets alike: each pair is held out once, from models (the preference model, too)
that saw none of its query, with an order and a scalar head of the fold's own. Intervals are bootstraps over queries.
With --work a finished step is not done again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.core.artifact import environment, write_json, write_jsonl
from openqwen.reward.accuracy import Accuracy, accuracy, difference, length_margins
from openqwen.reward.forms import comparisons

SHARED = Path(__file__).resolve().parents[2] / "shared"
RESULT = Path(__file__).with_name("results") / "preference.json"
FOLDS = 3
MAX_CHARACTERS = 1600  # of AlpacaEval's query and longer reply: nearly all fit into 512 tokens
SURE = 0.45  # how far from 1.5, which is a tie, GPT-4 Turbo's preference between 1 and 2 is
SIZES = {"helpful": (150, 520), "harmless": (250, 860)}
BASE = {
    "context": 512, "batch_tokens": 4096, "micro_batch": 4, "steps": 500, "model.hidden_size": 128,
    "model.num_layers": 2, "model.num_heads": 2, "model.init_std": 0.06, "optim.lr": 4e-3,
    "schedule.warmup_steps": 40, "eval_interval": 250, "eval_tokens": 50000, "checkpoint_interval": 250,
    "precision": "auto",
}  # fmt: skip
# The report's 3e-6 would not move a model of this size in tens of steps.
PAIRWISE = {
    "optim.lr": 3e-4, "batch_size": 32, "micro_batch": 16, "max_length": 512, "max_skipped": 0.2,
    "precision": "auto",
}  # fmt: skip
Record = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one fold, smallest sizes, nothing is written")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/align and data/text")
    parser.add_argument("--work", type=Path, help="folder to work in and to go on in; none: a temporary one")
    options = parser.parse_args()
    if not (data := options.shared / "data").is_dir():
        parser.error(f"{data} is absent: name another folder with --shared")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        base = base_model(data, work)
        files = pair_files(data / "align" / "pref", work)[: 1 if options.quick else FOLDS]
        rough = [
            command(
                "pmp",
                work / f"pmp-{fold}",
                PAIRWISE | {"label": "PMP", "seed": fold},
                model=base,
                **sets["rough"],
            )
            for fold, sets in enumerate(files)
        ]
        found = {
            (name, size): measure(name, size, [sets[name] for sets in files], base, rough, work)
            for name, sizes in SIZES.items()
            for size in (sizes[:1] if options.quick else reversed(sizes))
        }
        pmp = [facts(model) for model in rough]
    seconds = time.monotonic() - began
    curves = {
        name: [{"pairs": size} | summary(found[name, size]) for size in sizes if (name, size) in found]
        for name, sizes in SIZES.items()
    }
    largest = [max((key for key in found if key[0] == name), key=lambda key: key[1]) for name in SIZES]
    together = summary(Measured.joined([found[key] for key in largest]))
    goals = {
        f"{name}: {gain}": point[gain]
        for name, point in [*((name, points[-1]) for name, points in curves.items()), ("both", together)]
        for gain in ("rm_over_length", "pmp_over_rm")
    }
    for goal, gain in goals.items():
        print(f"{goal}: {json.dumps(gain)}")
    if not options.quick:
        out = {"area": "preference", "goals": goals, "curves": curves, "together": together, "pmp": pmp}
        settings = {"base": BASE, "pairwise": PAIRWISE, "seconds": round(seconds)}
        write_json(RESULT, {**out, **settings, "environment": environment()})
        draw(curves, RESULT.with_suffix(".png"))
    return 0


def base_model(data: Path, work: Path) -> Path:
    """A small language model of instructions with replies and of English texts."""
    texts = work / "texts.jsonl"
    write_jsonl(texts, list(documents(data)))
    corpus = command("data build", work / "corpus", {}, input=texts)
    tokenizer = command("tokenizer train", work / "tokenizer", {"vocab_size": 8192}, corpus=corpus)
    tokens = command("pack", work / "tokens", {}, corpus=corpus, tokenizer=tokenizer)
    return command("pretrain", work / "base", BASE, tokens=tokens, tokenizer=tokenizer)


def documents(data: Path) -> Iterator[Record]:
    for record in read(data / "align" / "sft" / "alpaca_en.jsonl.gz"):
        more = f"\n{record['input']}" if record["input"] else ""
        yield {"text": f"{record['instruction']}{more}\n\n{record['output']}"}
    for record in read(data / "text" / "en.jsonl.gz"):
        yield {"text": record["text"]}


def pair_files(folder: Path, work: Path) -> list[dict[str, dict[str, Path]]]:
    """For each fold, of each set its training and held-out pairs, in the form they are published in."""
    short = [
        pair
        for pair in read(folder / "alpacaeval_pairs.jsonl.gz")
        if len(pair["prompt"]) + max(len(pair["chosen"]), len(pair["rejected"])) <= MAX_CHARACTERS
    ]
    sure = [
        pair["annotator"].startswith("weighted") and abs(pair["preference"] - 1.5) > SURE for pair in short
    ]
    sets = {
        "harmless": list(read(folder / "hh_harmless_base_test.jsonl.gz")),
        "helpful": [pair for pair, yes in zip(short, sure, strict=True) if yes],
        "rough": [pair for pair, yes in zip(short, sure, strict=True) if not yes],
    }
    sets = {name: pairs if name == "harmless" else balanced(pairs) for name, pairs in sets.items()}
    made: list[dict[str, dict[str, Path]]] = []
    for fold in range(FOLDS):
        made.append({})
        for name, pairs in sets.items():
            paths = {part: work / f"{name}-{fold}-{part}.jsonl" for part in ("pairs", "heldout")}
            for part, path in paths.items():
                chosen = [pair for pair in pairs if (fold_of(pair) == fold) == (part == "heldout")]
                random.Random(fold).shuffle(chosen)
                write_jsonl(path, chosen)
            made[-1][name] = paths
    return made


def fold_of(pair: Record) -> int:
    """By the hash of the query; of a talk, all before the last reply."""
    query = pair.get("prompt") or pair["chosen"].rpartition("\n\nAssistant:")[0]
    return int(hashlib.sha256(query.encode()).hexdigest()[:8], 16) % FOLDS


def balanced(pairs: Sequence[Record]) -> list[Record]:
    """As many pairs that the longer reply wins as pairs that the shorter wins."""
    longer = [pair for pair in pairs if len(pair["chosen"]) > len(pair["rejected"])]
    shorter = [pair for pair in pairs if len(pair["chosen"]) < len(pair["rejected"])]
    count = min(len(longer), len(shorter))
    return random.Random(1).sample(longer, count) + random.Random(2).sample(shorter, count)


@dataclass(frozen=True)
class Measured:
    """What each way to rank says of held-out pairs, all folds end to end: its margins, right where positive."""

    margins: dict[str, list[float]]  # "rm", "pmp", "length"
    queries: list[str]
    folds: dict[str, list[float]]  # accuracies in per cent

    @classmethod
    def joined(cls, several: Sequence[Measured]) -> Measured:
        """Of several sets together."""
        margins = {arm: [m for one in several for m in one.margins[arm]] for arm in several[0].margins}
        return cls(margins, [query for one in several for query in one.queries], {})


def measure(
    name: str, size: int, files: Sequence[dict[str, Path]], base: Path, rough: Sequence[Path], work: Path
) -> Measured:
    """Reward models of one number of clean pairs, one for each fold, with PMP and without."""
    margins: dict[str, list[float]] = {"rm": [], "pmp": [], "length": []}
    folds: dict[str, list[float]] = {"rm": [], "pmp": []}
    queries: list[str] = []
    for fold, paths in enumerate(files):
        settings = PAIRWISE | {"max_pairs": size, "seed": fold}
        for arm, model in (("rm", base), ("pmp", rough[fold])):
            out = work / f"{name}-{size}-{fold}-{arm}"
            command("reward", out, settings, model=model, **paths)
            scores = list(read(out / "scores.jsonl"))
            own = [score["chosen"] - score["rejected"] for score in scores]
            margins[arm] += own
            folds[arm].append(round(100 * accuracy(own).value, 2))
        lines = dict(enumerate(read(paths["heldout"]), 1))
        heldout = [lines[score["line"]] for score in scores]
        training = list(read(paths["pairs"]))[:size]
        margins["length"] += length_margins(list(map(lengths, training)), list(map(lengths, heldout)))
        queries += [json.dumps(comparisons(pair)[0]["messages"]) for pair in heldout]
    measured = Measured(margins, queries, folds)
    print(name, size, json.dumps(summary(measured)), flush=True)
    return measured


def summary(measured: Measured) -> Record:
    """Accuracies and their differences, in per cent with intervals."""
    margins, queries = measured.margins, measured.queries
    gains = {
        "rm_over_length": ("rm", "length"),
        "pmp_over_length": ("pmp", "length"),
        "pmp_over_rm": ("pmp", "rm"),
    }
    return {
        "heldout": len(queries),
        **{arm: percent(over_queries(own, queries)) for arm, own in margins.items()},
        **{f"{arm}_folds": values for arm, values in measured.folds.items()},
        **{gain: percent(difference(margins[a], margins[b], queries)) for gain, (a, b) in gains.items()},
    }


def over_queries(margins: Sequence[float], queries: Sequence[str]) -> Accuracy:
    """An accuracy with the interval over queries: the gain over ranking every pair wrongly."""
    return difference(margins, [-1.0] * len(margins), queries)


def lengths(pair: Record) -> tuple[int, int]:
    """Characters of both sides; what they share counts in both."""
    return len(pair["chosen"]), len(pair["rejected"])


def percent(measured: Accuracy) -> dict[str, float]:
    return {name: round(100 * getattr(measured, name), 2) for name in ("value", "low", "high")}


def command(name: str, out: Path, settings: Record, **inputs: Path) -> Path:
    """Runs an `openqwen` command, which does nothing where its artefact is already made."""
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    words += [word for key, path in inputs.items() for word in (f"--{key}", str(path))]
    line = [sys.executable, "-m", "openqwen", *name.split(), *words, "--out", str(out)]
    if (done := subprocess.run(line, capture_output=True, text=True)).returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stderr}")
    return out


def facts(artefact: Path) -> Record:
    return json.loads((artefact / "manifest.json").read_text())["facts"]


def read(path: Path) -> Iterator[Record]:
    """The records of JSON lines, plain or gzip. Lines end with a newline byte only."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def draw(curves: dict[str, list[Record]], path: Path) -> None:
    """A panel for each clean set: accuracy against the number of pairs, with 95 % intervals over queries."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(curves), figsize=(4.5 * len(curves), 3.6), layout="constrained")
    names = {"pmp": "PMP, then RM", "rm": "RM alone", "length": "longer or shorter reply"}
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        for number, (arm, label) in enumerate(names.items()):
            x = [point["pairs"] * 1.02 ** (number - 1) for point in points]  # so that bars do not overlap
            y = [point[arm]["value"] for point in points]
            bars = [
                [abs(point[arm][end] - point[arm]["value"]) for point in points] for end in ("low", "high")
            ]
            axes.errorbar(x, y, bars, marker="o", capsize=3, label=label)
        axes.axhline(50, color="#c9c9d6", zorder=0)
        axes.set(
            title=name, xlabel="clean pairs trained on", ylabel="pairs ranked as judged, %", xscale="log"
        )
        axes.set_xticks([point["pairs"] for point in points], [str(point["pairs"]) for point in points])
        axes.minorticks_off()
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
