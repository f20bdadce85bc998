"""Does specialising pay? A model for code and one for mathematics beside the generalist they came from.

Report §4 and §5.1 at laptop scale: from one base model, pretraining goes on with code and then finetuning in two stages
(recipes/code-qwen-laptop.toml), or the base model is finetuned on mathematics (recipes/math-qwen-laptop.toml). Each has
two columns to beat: the generalist it came from, and the generalist that was given as many more steps of as many rows of
what generalists read (as many tokens in pretraining; those read are in the results). Everything is made and asked by
`openqwen` commands, a base model for each seed.

    python benchmarks/specialists.py [--quick] [--threads 1] [--jobs 2] [--shared FOLDER] [--code FOLDER] [--out FOLDER]

Code is that of ../shared/data/code, or the checkouts in a folder, or the standard library's packages; whole repositories
are held out. Programs run in the sandbox. With --out a finished step is not done again. The figure is
results/specialists.svg.

Two intervals of a difference, both 95 %: over seeds (Student's, paired), for what another training would give; and over
questions or documents (bootstrap; those of all seeds together), for what other questions would give.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from masking import STUDENT, openqwen
from safetensors.numpy import load_file

from openqwen.core.artifact import environment, find, read_jsonl, write_json, write_jsonl
from openqwen.core.intervals import bootstrap
from openqwen.data.primer import benchmarks, pages, tasks
from openqwen.data.primer.world import Lang
from openqwen.data.sources.standard_library import SKIPPED_FOLDERS, stdlib_folder
from openqwen.evals.tasks import humaneval
from openqwen.math_qwen import check
from openqwen.math_qwen.problems import make
from openqwen.report.figures import COLOURS, INK, canvas, picture

SHARED = Path(__file__).resolve().parents[2] / "shared"
RESULTS = Path(__file__).with_name("results")
# Another one, 0, served to choose the recipes' steps and the data, with the questions of the primer's benchmarks.
# 4 and 5 came after three had been seen, whose interval was wide where single trainings differ much.
SEEDS = (1, 2, 3, 4, 5)
# The primer's split that questions are of: no stage trains on it.
ASKED: tasks.Split = "heldout"
BASE_STEPS = 400  # of the tour's 2700: a base model that leaves its children something to learn
LANGS: tuple[Lang, ...] = ("en", "zh")
MIX = '{code = 0.8, "*" = 0.2}'
CONVERSATIONS = 1500  # about programs, for the code specialist's second finetuning
TABLE = 12  # largest addend of the sums that problems are made of; the primer's go to 6
HELD_OUT_SHARE = 6  # one in so many is held out: workings of several steps, sums beyond the primer's
SUMS, CHAINS = 120, 80  # questions
LARGE = 180  # of the stage's families with any numbers; those whose numbers go beyond 100 are asked
PROBLEMS = 3600  # drawn of the primer's world; those held out and repetitions are left out
SPOKEN: dict[Lang, dict[str, tuple[str, ...]]] = {
    "en": {
        "+": ("Add {b} to {a}.", "{a} plus {b} is what?", "What do {a} and {b} make together?"),
        "-": ("Take {b} from {a}.", "{a} minus {b} is what?", "What is left of {a} without {b}?"),
    },
    "zh": {
        "+": ("{a} 加 {b} 得几？", "把 {b} 加到 {a} 上。", "{a} 与 {b} 的和是几？"),
        "-": ("{a} 减 {b} 得几？", "从 {a} 中减去 {b}。", "{a} 与 {b} 的差是几？"),
    },
}
HELD_OUT = {  # of ../shared/data/code: for each of its languages a repository that nothing is trained on
    "axios-axios", "pallets-click", "spf13-cobra", "serde-rs-serde", "apache-commons-lang", "google-leveldb",
}  # fmt: skip
CODE, MATH = (
    ("--recipe", "tour", "--recipe", "code-qwen-laptop"),
    ("--recipe", "tour", "--recipe", "math-qwen-laptop"),
)
MODELS = {
    "base": "generalist, base",
    "base-more": "the same, more general text",
    "base-code": "code specialist, base",
    "chat": "generalist, chat",
    "chat-more": "the same, from more text",
    "chat-code": "code specialist, chat",
    "chat-math": "math specialist, chat",
}
SPECIALISTS = {"base-code", "chat-code", "chat-math"}
# What is measured: its words, and whether less is better.
MEASURES = {
    "code_bits": ("held-out code, bits a byte", True),
    "text_bits": ("held-out text, bits a byte", True),
    "docstring": ("programs from a docstring, %", False),
    "sentence": ("programs from a sentence, %", False),
    "known": ("sums to 12, new questions, %", False),
    "wide": ("sums to 24, new questions, %", False),
    "arithmetic": ("sums to 24, never trained, %", False),
    "chains": ("two of them in a row, %", False),
    "stories": ("word problems, one or two steps, %", False),
    "families": ("word problems, numbers to 20, %", False),
    "large": ("word problems, numbers to 900, %", False),
    "words": ("words, lookups, comparisons, %", False),
}
# A specialist and what it is compared with.
PAIRS = (
    ("base-code", "base"), ("base-code", "base-more"), ("chat-code", "chat"), ("chat-code", "chat-more"),
    ("chat-math", "base"), ("chat-math", "chat"),
)  # fmt: skip
GOALS = {  # what each is for
    "base-code": ("code_bits",),
    "chat-code": ("docstring", "sentence"),
    "chat-math": ("known", "wide", "arithmetic", "chains", "stories", "families", "large"),
}
SETS = {"humaneval": "programs", "mbpp": "programs", "gsm8k": "numbers", "math": "numbers", "bbh": "bbh"}
Scores = dict[str, float]  # question or document -> score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps and two seeds; nothing is written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, each with so many threads")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/code/code.jsonl.gz")
    parser.add_argument("--code", type=Path, help="a folder of checkouts, instead")
    parser.add_argument("--out", type=Path, help="keeps the runs there, and goes on with them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options.out or Path(scratch), options)
    found |= {
        "threads": options.threads,
        "machine": environment(),
    }
    print(json.dumps({"area": "specialists", "goals": found["goals"]}, indent=1))
    if not options.quick:
        write_json(RESULTS / "specialists.json", found)
        (RESULTS / "specialists.svg").write_bytes(picture(draw(found["models"]), "svg"))
    return 0


def measure(out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Makes and asks all models. Score of each seed, model, measure and question; what follows from them."""

    def run(*words: str) -> None:
        openqwen(out, options.threads, *words)

    prepare(out, options, run)

    def of_seed(seed: int) -> dict[str, dict[str, Scores]]:
        train(run, seed, options.quick)
        scores = ask(out, run, seed)
        print(f"seed {seed}: {json.dumps(means(scores))}", flush=True)
        return scores

    seeds = SEEDS[:2] if options.quick else SEEDS
    with ThreadPoolExecutor(options.jobs) as pool:
        scores = list(pool.map(of_seed, seeds))
    read = [tokens(out, seed) for seed in seeds]
    trained = {name: round(statistics.fmean(own[name] for own in read)) for name in MODELS}
    return summary(scores) | {
        "tokens": trained,
        "tables": published(out, run, options.shared / "data" / "eval"),
    }


# ------------------------------------------------------------------------------------------------ data
def prepare(out: Path, options: argparse.Namespace, run: Callable[..., None]) -> None:
    """Texts, code, problems, conversations and questions, each with its held-out part."""
    records = options.shared / "data" / "code" / "code.jsonl.gz"
    given = options.code or (None if records.is_file() else stdlib_folder())
    if not (out / "repositories").is_dir():
        write_repositories(out, records, given)
    run("data", "primer", "--out", "primer", "--recipe", "tour")
    # The base model must not have read what is held out.
    tour = (
        ("--recipe", "tour", "--sources.stdlib", "false")
        if given == stdlib_folder()
        else ("--recipe", "tour")
    )
    run("data", "build", "--primer", "primer", "--out", "corpus", *tour)
    run("tokenizer", "train", "--corpus", "corpus", "--out", "tokenizer", "--recipe", "tour")
    run("pack", "--corpus", "corpus", "--tokenizer", "tokenizer", "--out", "tokens")
    for part, join in (("repositories", "true"), ("repositories-heldout", "false")):
        words = ("--licences", "[]", "--join", join)  # where there are licences, they stand in the records
        run("data", "code", "--input", part, "--out", f"{part}-code", *words)
    code = ("--input", "repositories-code/documents.jsonl.zst", "--mix.proportions", MIX)
    run("data", "build", "--primer", "primer", "--out", "code-corpus", *tour, *code)
    run("pack", "--corpus", "code-corpus", "--tokenizer", "tokenizer", "--out", "code-tokens")
    held = {"heldout-code": "repositories-heldout-code/documents.jsonl.zst", "heldout-text": "corpus/valid"}
    for name, path in held.items():
        run("data", "build", "--input", path, "--out", name, "--runner.how", "in-process")
    write_jsonl(out / "programming.jsonl", programming(CONVERSATIONS))
    write_jsonl(out / "problems.jsonl", problems(PROBLEMS))
    run("data", "math", "--problems", "problems.jsonl", "--out", "math", "--recipe", "math-qwen-laptop")
    write_sets(out)


def write_repositories(out: Path, records: Path, given: Path | None) -> None:
    """Folders repositories/NAME to train on, and repositories-heldout/NAME."""
    every = out / "all-repositories"
    if given is None:
        with gzip.open(records, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                name, _, path = record["id"].partition(":")
                file = every / name.replace("/", "-") / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(record["text"], encoding="utf-8")
    else:
        ignored = shutil.ignore_patterns(".git", *SKIPPED_FOLDERS)
        for folder in sorted(given.iterdir()):
            if folder.is_dir() and folder.name not in SKIPPED_FOLDERS:
                shutil.copytree(folder, every / folder.name, ignore=ignored, dirs_exist_ok=True)
    names = sorted(folder.name for folder in every.iterdir())
    heldout = sorted(HELD_OUT.intersection(names)) or names[::3]
    (out / "repositories-heldout").mkdir(exist_ok=True)
    for name in heldout:
        (every / name).rename(out / "repositories-heldout" / name)
    every.rename(out / "repositories")


def programming(count: int) -> list[dict[str, Any]]:
    """Conversations of some programs, asked by sentences or by docstrings; none is held out or a benchmark's."""
    rng = random.Random("specialists")
    programs = [
        (operation, number)
        for operation in tasks.OPERATIONS
        for number in tasks.CODE_NUMBERS
        if tasks.split_of(tasks.code_key(operation, number)) == "train"
    ]
    found = []
    for _ in range(count):
        messages = []
        docstrings = rng.random() < 0.5
        for operation, number in rng.sample(programs, rng.choice((1, 2, 3) if docstrings else (1, 2, 4))):
            item = tasks.code(rng, rng.choice(("en", "en", "zh")), operation, number)
            asked, told = item.question, item.reply
            if docstrings:
                head, says, body = pages.documented(operation, number).split("\n")
                name = item.answer.partition(" ")[2].partition("(")[0]
                asked = humaneval.chat_query({"entry_point": name, "prompt": f"{head}\n{says}\n"})
                told = tasks.fence(f"{head}\n{says}\n{body}")
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        found.append({"messages": messages})
    return found


def problems(count: int) -> list[dict[str, str]]:
    """Problems of the primer's world and larger sums in GSM8K's form, none of which is held out or a benchmark's."""
    rng = random.Random("specialists")
    makers: tuple[Callable[[], tasks.Item], ...] = (
        lambda: tasks.word_problem(rng, "en"),
        lambda: tasks.word_problem(rng, "zh"),
        lambda: tasks.arithmetic(rng, rng.choice(LANGS)),
        lambda: tasks.arithmetic(rng, rng.choice(LANGS), table()),
        lambda: spoken(rng),
        lambda: chain(rng),
    )
    drawn = [rng.choice(makers)() for _ in range(count)]
    made = [form(item) for item in {item.question: item for item in drawn if item.split == "train"}.values()]
    return [problem for problem in made if may_be_trained(problem["answer"])]


def table() -> list[tuple[int, str, int]]:
    """All sums of addends to TABLE, and the differences that undo them."""
    sums = [(a, "+", b) for a in range(1, TABLE + 1) for b in range(1, TABLE + 1)]
    return sums + [(a + b, "-", b) for a, _, b in sums]


def path(working: str) -> tuple[str, ...]:
    """The steps of a working, whatever the words and the language; 3 + 4 is 4 + 3."""
    return tuple("+".join(sorted(step.split("=")[0].split("+"))) for step in check.path_of(working))


def drawn_out(steps: Sequence[str]) -> bool:
    """Whether steps, one after the other, are of the part that is held out."""
    return int(tasks.question_hash(" ".join(steps))[:8], 16) % HELD_OUT_SHARE == 0


@cache
def held_sums() -> tuple[tuple[int, str, int], ...]:
    """Sums and differences beyond the primer's that are no step of `problems`."""
    beyond = [pair for pair in table() if pair not in tasks.sum_pairs()]
    return tuple(pair for pair in beyond if drawn_out(path(tasks.equation(*pair)[0])))


def may_be_trained(working: str) -> bool:
    """Several steps that nobody is asked for one after the other, and no step that is a held-out sum.

    One step of a small table is learnt by heart, so of these only questions are held out.
    """
    steps = path(working)
    sums = {step for pair in held_sums() for step in path(tasks.equation(*pair)[0])}
    return sums.isdisjoint(steps) and not (len(steps) > 1 and drawn_out(steps))


def spoken(rng: random.Random) -> tasks.Item:
    """A sum or a difference in words that the primer does not use, so that there are more of them to learn from."""
    a, sign, b = rng.choice(table())
    text, value = tasks.equation(a, sign, b)
    lang = rng.choice(LANGS)
    question = rng.choice(SPOKEN[lang][sign]).format(a=a, b=b)
    return tasks.Item("spoken", lang, question, str(value), text, ())


def form(item: tasks.Item) -> dict[str, str]:
    """A question about numbers in GSM8K's form: its equations, then "#### answer"."""
    working = ". ".join(re.findall(r"\d+ [-+] \d+ = \d+", item.reply))
    return {"id": item.question, "question": item.question, "answer": f"{working}.\n#### {item.answer}"}


def chain(rng: random.Random) -> tasks.Item:
    """A sum and a difference one after the other, as the primer's benchmark asks them."""
    a, b = rng.randint(1, 10), rng.randint(1, 10)
    first, value = tasks.equation(a, "+", b)
    c = rng.randint(1, min(10, value))
    second, value = tasks.equation(value, "-", c)
    return tasks.Item("chain", "en", f"Compute {a} + {b} - {c}.", str(value), f"{first}. {second}.", ())


def write_sets(out: Path) -> None:
    """Folders of questions in the published sets' forms: programs, problems, words, and the held-out families."""
    rng = random.Random("questions")
    functions = benchmarks.programs(rng, ASKED)
    drawn = {
        "humaneval": benchmarks.humaneval(functions, rng),
        "mbpp": benchmarks.mbpp(functions, rng),
        "gsm8k": new(benchmarks.gsm8k(rng, 250, ASKED)),
        "math": benchmarks.math(rng, 1, ASKED)[:-1] + rng.sample(new(several(lambda: chain(rng))), CHAINS),
        "bbh": benchmarks.bbh(rng, 30, ASKED),
    }
    for name, records in drawn.items():
        folder = out / "sets" / SETS[name]
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / f"{name}.jsonl", records)
    families = [
        {
            "id": record["id"],
            "question": record["messages"][0]["content"],
            "answer": record["messages"][1]["content"],
        }
        for record in read_jsonl(out / "math" / "heldout.jsonl")
        if "/" not in record["answer"]  # the set's form has no fractions
    ]
    large = [
        {"id": problem.id, "question": problem.question, "answer": problem.solutions[0]}
        for problem in make(LARGE, LANGS, seed=0, max_tries=20)
        if problem.largest() > 100 and problem.answer.denominator == 1
    ]
    known = asked(lambda: tasks.arithmetic(rng, rng.choice(LANGS)))
    # The stage's own families may hold some of them.
    trained = {
        step for r in read_jsonl(out / "math" / "train.jsonl") for step in path(r["messages"][1]["content"])
    }
    drawn_sums = rng.sample(several(lambda: tasks.arithmetic(rng, rng.choice(LANGS), held_sums())), SUMS)
    sums = [record for record in drawn_sums if trained.isdisjoint(path(record["answer"]))]
    wide = asked(lambda: tasks.arithmetic(rng, rng.choice(LANGS), table()))
    wide = [record for record in wide if may_be_trained(record["answer"])]
    for name, records in (
        ("families", families),
        ("large", large),
        ("known", known),
        ("sums", sums),
        ("wide", rng.sample(wide, SUMS)),
    ):
        (out / "sets" / name).mkdir(exist_ok=True)
        write_jsonl(out / "sets" / name / "gsm8k.jsonl", records)


def several(make: Callable[[], tasks.Item]) -> list[dict[str, str]]:
    """All different questions of many draws."""
    return [form(item) for item in {item.question: item for item in (make() for _ in range(20_000))}.values()]


def asked(make: Callable[[], tasks.Item]) -> list[dict[str, str]]:
    """Of these the questions of the split that is asked."""
    return [record for record in several(make) if tasks.split_of(record["question"]) == ASKED]


def new(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of one step, or of several that nothing is trained on; examples before questions stay."""
    return [
        record
        for record in records
        if record.get("split") == "dev" or len(steps := path(record["answer"])) == 1 or drawn_out(steps)
    ]


# ------------------------------------------------------------------------------------------------ models
def train(run: Callable[..., None], seed: int, quick: bool) -> None:
    """The seven models of a seed; each recipe's settings serve a specialist and its control alike."""
    few = ("--steps", "30") if quick else ()
    words = ("--seed", str(seed))
    steps = str(60 if quick else BASE_STEPS)
    pace = ("--steps", steps, "--eval-interval", steps, "--checkpoint-interval", steps)
    made = f"{seed}/"
    run(
        "pretrain",
        "--tokens",
        "tokens",
        "--tokenizer",
        "tokenizer",
        "--out",
        f"{made}base",
        "--recipe",
        "tour",
        *pace,
        *words,
    )
    for name, tokens in (("base-code", "code-tokens"), ("base-more", "tokens")):
        start = ("--model", f"{made}base", "--tokenizer", f"{made}base", "--tokens", tokens)
        run("pretrain", *start, "--out", made + name, *CODE, *few, *words)
    general = "primer/sft.train.jsonl"
    for name, data in (("chat", general), ("chat-math", "math/train.jsonl")):
        run("sft", "--model", f"{made}base", "--data", data, "--out", made + name, *MATH, *few, *words)
    for name, base, data in (
        ("chat-code", "base-code", "programming.jsonl"),
        ("chat-more", "base-more", general),
    ):
        stages = ("--data", f"general={general}", "--data", f"code={data}")
        run("sft", "--model", made + base, *stages, "--out", made + name, *CODE, *few, *words)


def tokens(out: Path, seed: int) -> dict[str, int]:
    """Model -> tokens that it was trained on beyond the model that it began from, in all its stages."""
    found = {}
    for name in MODELS:
        stages = filter(None, (find(out / str(seed) / f"{name}{part}") for part in ("-general", "")))
        found[name] = sum(
            # Of a finetuning each step is in its records, of a pretraining the sum is a fact.
            stage.manifest["facts"].get("tokens_seen")
            or sum(record.get("tokens", 0) for record in stage.metrics)
            for stage in stages
        )
    return found


def ask(out: Path, run: Callable[..., None], seed: int) -> dict[str, dict[str, Scores]]:
    """Model -> measure -> question or document -> score in per cent, or bits a byte."""
    found: dict[str, dict[str, Scores]] = {name: {} for name in MODELS}
    bases = [name for name in MODELS if name.startswith("base")]
    for measure, corpus, names in (
        ("code_bits", "heldout-code", bases),
        ("text_bits", "heldout-text", MODELS),
    ):
        for name in names:
            scored = f"{seed}/asked/{measure}-{name}"
            run("data", "score", "--corpus", corpus, "--model", f"{seed}/{name}", "--out", scored)
            file = load_file(out / scored / "scores.safetensors")
            found[name][measure] = dict(zip(map(str, file["keys"]), map(float, file["bits"])))
    chats = [name for name in MODELS if name not in bases]
    tables = (  # set, table, recipe, models, task -> measure
        ("programs", 10, CODE, [*bases, *chats], {"humaneval": "docstring", "mbpp": "sentence"}),
        ("numbers", 12, MATH, ["base", *chats], {"gsm8k": "stories", "math": "chains"}),
        ("families", 12, MATH, ["base", *chats], {"gsm8k": "families"}),
        ("large", 12, MATH, ["base", *chats], {"gsm8k": "large"}),
        ("known", 12, MATH, ["base", *chats], {"gsm8k": "known"}),
        ("wide", 12, MATH, ["base", *chats], {"gsm8k": "wide"}),
        ("sums", 12, MATH, ["base", *chats], {"gsm8k": "arithmetic"}),
        ("bbh", 5, MATH, chats, {"bbh": "words"}),
    )
    for name, number, recipe, names, measures in tables:
        folder = f"{seed}/asked/{name}"
        models = [w for n in names for w in ("--model" if n in bases else "--chat", f"{seed}/{n}")]
        kept = ("--data", f"sets/{name}", "--out", folder, "--form", "json", "--to", f"{folder}.json")
        run("table", str(number), *models, *kept, *recipe)
        for record in read_jsonl(out / folder / "outputs.jsonl"):
            if number == 5 and record["shots"]:  # Table 5 asks twice
                continue
            own = found[record["model"]].setdefault(measures[record["task"]], {})
            own[record["id"]] = 100.0 * record["right"]
    return found


def published(out: Path, run: Callable[..., None], sets: Path) -> dict[str, Any]:
    """Tables 10 to 12: cells of the first seed's models on what is there of the published sets, and notes; {} without."""
    if not sets.is_dir():
        return {}
    seed = SEEDS[0]
    models = ("--model", f"{seed}/base", "--model", f"{seed}/base-code")
    chats = [word for name in ("chat", "chat-code", "chat-math") for word in ("--chat", f"{seed}/{name}")]
    found = {}
    for number in (10, 11, 12):
        file = out / f"table-{number}.json"
        kept = ("--data", str(sets), "--out", f"published-{number}", "--form", "json", "--to", file.name)
        run("table", str(number), *models, *chats, *kept)
        table = json.loads(file.read_text(encoding="utf-8"))
        rows = {row["model"]: row["cells"] for row in table["rows"] if row["origin"] == "ours"}
        notes = [note for note in table["notes"] if "McNemar" not in note]  # of each two models of all
        found[f"Table {number}"] = {"rows": rows, "notes": notes}
    return found


# ------------------------------------------------------------------------------------------------ figures
def means(models: Mapping[str, Mapping[str, Scores]]) -> dict[str, dict[str, float]]:
    """Model -> measure -> mean over questions or documents."""
    return {
        model: {measure: round(statistics.fmean(own.values()), 3) for measure, own in measures.items()}
        for model, measures in models.items()
    }


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean."""
    mean, half = (
        statistics.fmean(values),
        STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5,
    )
    return mean - half, mean + half


def difference(ours: Sequence[Scores], theirs: Sequence[Scores]) -> dict[str, Any]:
    """How much more ours is, by pairs: scores of each seed, of the same questions."""
    each = [{key: own[key] - other[key] for key in own} for own, other in zip(ours, theirs, strict=True)]
    runs = [statistics.fmean(own.values()) for own in each]
    questions = [statistics.fmean(own[key] for own in each) for key in each[0]]
    return {
        "difference": statistics.fmean(runs),
        "over_seeds": over_seeds(runs),
        "over_questions": bootstrap(questions, 1),
        "questions": len(questions),
    }


def summary(scores: Sequence[Mapping[str, Mapping[str, Scores]]]) -> dict[str, Any]:
    """The table, differences with intervals, and which goals are met by both of them."""
    models: dict[str, Any] = {}
    for model in MODELS:
        models[model] = {}
        for measure in [m for m in MEASURES if m in scores[0][model]]:
            runs = [means(one)[model][measure] for one in scores]
            low, high = over_seeds(runs)
            row = {"mean": statistics.fmean(runs), "low": low, "high": high, "seeds": runs}
            models[model][measure] = row | {"questions": len(scores[0][model][measure])}
    differences = {
        f"{ours} - {theirs}": {
            measure: difference([s[ours][measure] for s in scores], [s[theirs][measure] for s in scores])
            for measure in MEASURES
            if measure in models[ours] and measure in models[theirs]
        }
        for ours, theirs in PAIRS
    }
    goals = {}
    for ours, theirs in PAIRS:
        for measure in GOALS[ours]:
            found = differences[f"{ours} - {theirs}"].get(measure)
            goals[f"{ours} beats {theirs}, {MEASURES[measure][0]}"] = found and wins(
                found, MEASURES[measure][1]
            )
    return {"models": models, "differences": differences, "goals": goals}


def wins(found: Mapping[str, Any], less_is_better: bool) -> bool:
    """Whether both intervals lie on the better side of 0."""
    ends = [*found["over_seeds"], *found["over_questions"]]
    return max(ends) < 0 if less_is_better else min(ends) > 0


def draw(models: Mapping[str, Any]) -> Any:
    """A panel for each measure, a line for each model: mean and interval over seeds, and the seeds as dots."""
    names = list(MODELS)
    figure, axes = canvas(13, 8, 3, 4, sharey=True)
    for place in axes.flat[len(MEASURES) :]:
        place.set_axis_off()
    for place, (measure, (label, less)) in zip(axes.flat, MEASURES.items()):
        for row, name in enumerate(names):
            if (cell := models[name].get(measure)) is None:
                continue
            colour = COLOURS[0] if name in SPECIALISTS else COLOURS[5]
            off = [[cell["mean"] - cell["low"]], [cell["high"] - cell["mean"]]]
            place.errorbar(
                cell["mean"], row, xerr=off, fmt="D", color=colour, ecolor=colour, capsize=2, markersize=5
            )
            place.plot(cell["seeds"], [row] * len(cell["seeds"]), ".", color=INK, markersize=3)
        place.set_title(f"{label}{' (less is better)' if less else ''}", fontsize=8)
        if not less:
            place.set_xlim(-4, 104)
        place.set_yticks(range(len(names)), [MODELS[name] for name in names], fontsize=8)
        place.set_ylim(len(names) - 0.5, -0.5)
    seeds = len(models["base"]["code_bits"]["seeds"])
    figure.suptitle(
        f"Specialists and the generalist they came from, at equal steps: mean of {seeds} seeds, 95 % interval, each seed",
        fontsize=9,
    )
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
