"""Table 3's shape with models of our own: does plain attention explode beyond its training length, and what holds it?

Report §2.5, Table 3, at laptop scale: the recipe context-256 (recipes/context-256.toml) trains a model of bytes on real
long documents and reads held-out ones at 1 to 16 times the training length, plain and with each technique added. Here
it is run from nothing by `openqwen` commands for several seeds, and the report's pattern is asked of every one of them:

    plain explodes    its perplexity at 4x is ten times that at 1x or more
    NTK holds         at 4x less than 1.5 times, the most that the report's row loses (7B at 8x)
    LogN improves     less than NTK alone
    windows           no more than LogN without them

The first, third and fourth by the whole of their 95 % intervals over blocks of text, paired; LogN and windows at 4x and at
every greater length.

    python benchmarks/context.py [--quick] [--threads 1] [--jobs 2] [--shared FOLDER] [--out FOLDER]

With --out a finished step is not done again. The figures are results/context.json, context.svg and, for why, the first
seed's attention, context_entropy.svg.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from masking import openqwen

from openqwen.core.artifact import environment, find, write_json
from openqwen.model.extend import TECHNIQUES

SHARED = Path(__file__).resolve().parents[2] / "shared"
RESULTS = Path(__file__).with_name("results")
SEEDS = (0, 1, 2)
RECIPE = ("--recipe", "context-256")
WAYS = ("ours", *(f"ours {technique}" for technique in TECHNIQUES[1:]))  # rows: plain, NTK, LogN, windows
EXPLODES, HOLDS = 10.0, 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few steps; nothing is written")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/long")
    parser.add_argument("--out", type=Path, help="keeps the runs there, and goes on with them")
    options = parser.parse_args()
    documents = options.shared / "data/long/long_latex.jsonl.gz"
    if not documents.exists():
        parser.error(f"{documents} is absent: name another folder with --shared")
    with tempfile.TemporaryDirectory() as scratch:
        out = (options.out or Path(scratch)).absolute()
        found = measure(out, documents.absolute(), options)
        print(json.dumps({"pattern": found["pattern"], "summary": found["summary"]}, indent=2))
        if not options.quick:
            write_json(RESULTS / "context.json", found)
            shutil.copy(out / "table-0/context.svg", RESULTS / "context.svg")
            shutil.copy(out / "table-0/entropy_4x.svg", RESULTS / "context_entropy.svg")
    return 0


def measure(out: Path, documents: Path, options: argparse.Namespace) -> dict[str, Any]:
    seeds = SEEDS[:1] if options.quick else SEEDS

    def do(name: str, *words: str) -> None:
        if find(out / name) is None:
            openqwen(out, options.threads, *words, "--out", name)
            print(name, flush=True)

    do("corpus", "data", "build", "--input", str(documents), *RECIPE)
    do("tokenizer", "tokenizer", "train", "--corpus", "corpus", *RECIPE)
    do("tokens", "pack", "--corpus", "corpus", "--tokenizer", "tokenizer")
    few = ("--steps", "200") if options.quick else ()
    some = ("--blocks", "4", "--analysis-blocks", "1") if options.quick else ()

    def one(seed: int) -> dict[str, Any]:
        model, table = f"model-{seed}", f"table-{seed}"
        seeded = ("--seed", str(seed))
        do(model, "pretrain", "--tokens", "tokens", "--tokenizer", "tokenizer", *RECIPE, *seeded, *few)
        do(table, "extend", "--model", model, "--tokens", "tokens", *RECIPE, *some)
        return {"seed": seed, **json.loads((out / table / "table_03.json").read_text(encoding="utf-8"))}

    with ThreadPoolExecutor(options.jobs) as pool:
        tables = list(pool.map(one, seeds))
    return {
        "pattern": [{"seed": table["seed"], **pattern(table)} for table in tables],
        "summary": summary(tables),
        "tables": tables,
        "threads": options.threads,
        "jobs": options.jobs,
        "machine": environment(),
    }


def pattern(table: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a table has the report's shape: a truth for plain and for NTK, one for each length for LogN and windows.

    Raises KeyError where the table lacks a row or a change.
    """
    names = [column["name"] for column in table["columns"]]
    at_4x, beyond = names[2], names[2:]
    cells = {row["model"]: row["cells"] for row in table["rows"]}
    # Each over the one before, plain over itself at 1x.
    changes = {row["of"]: row["cells"] for row in table["changes"]}
    plain, _, logn, windows = (changes[technique] for technique in TECHNIQUES)
    return {
        "plain_explodes": plain[at_4x]["low"] >= EXPLODES,
        "ntk_holds": cells[WAYS[1]][at_4x]["value"] < HOLDS * cells[WAYS[0]][names[0]]["value"],
        "logn_improves": {name: logn[name]["high"] < 1 for name in beyond},
        "windows_no_worse": {name: windows[name]["high"] <= 1 for name in beyond},
    }


def summary(tables: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Perplexity over that of 1x, a list of the seeds' values for each way and length."""
    found: dict[str, dict[str, list[float]]] = {}
    for table in tables:
        rows = {row["model"]: row["cells"] for row in table["rows"] if row["origin"] == "ours"}
        first = table["columns"][0]["name"]
        for way in WAYS:
            for name, cell in rows[way].items():
                ratio = round(cell["value"] / rows[WAYS[0]][first]["value"], 4)
                found.setdefault(way, {}).setdefault(name, []).append(ratio)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
