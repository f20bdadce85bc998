"""`openqwen table N`: a table of the report, published rows and ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from openqwen.cli.common import Recipes
from openqwen.core import artifact
from openqwen.core.artifact import write_atomic
from openqwen.core.console import console, note
from openqwen.core.errors import DataError, UsageError
from openqwen.core.tables import numbers

if TYPE_CHECKING:
    from openqwen.evals.harness import Subject
    from openqwen.evals.task import Kind

Form = Literal["terminal", "markdown", "latex", "json", "svg", "png"]
# Tables that a stage of their own fills.
STAGES = {
    3: "openqwen extend",
    4: "openqwen reward",
    6: "openqwen agent-eval",
    7: "openqwen agent-eval",
    8: "openqwen agent-eval",
    9: "openqwen agent-eval",
}


def table(
    number: int,
    *,
    run: Annotated[Path, Parameter(help="A tour's folder, or one that a stage or --out wrote.")] = Path(
        "out/tour"
    ),
    model: Annotated[
        list[Path] | None, Parameter(help="A model to fill it with, asked as a base model; repeatable.")
    ] = None,
    chat: Annotated[list[Path] | None, Parameter(help="A model asked as a chat model; repeatable.")] = None,
    data: Annotated[
        Path | None,
        Parameter(
            help="Folder of published sets, or of TASK.jsonl(.gz) files as in out/tour/primer/benchmarks."
        ),
    ] = None,
    tokens: Annotated[
        Path | None, Parameter(help="What the models were trained on: its overlap with the items is told.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Folder for the table, cards and outputs; goes on where it stopped.")
    ] = None,
    form: Form = "terminal",
    to: Annotated[Path | None, Parameter(help="File for the form; left out: the terminal.")] = None,
    recipe: Recipes = None,
) -> int:
    """Prints Table N from the artefacts of a run, or fills it with models; what was not computed is a dash.

    Filled with several models it has paired tests between them. Sizes of subsets are [evals] in a recipe.
    """
    if number not in numbers():
        raise UsageError(
            f"the report has no Table {number} of scores",
            where="command line",
            fix=f"one of: {', '.join(map(str, numbers()))}",
        )
    if model or chat:
        found = fill_with(number, model or [], chat or [], data, tokens, out, recipe)
    else:
        found = of_run(number, run)
    write(found, form, to)
    return 0


def of_run(number: int, run: Path) -> dict[str, Any]:
    """The newest Table N below a folder. DataError if there is none.

    A cell that names no card of its own is vouched for by the finished artefact it is in.
    """
    files = [*run.glob(f"*/table_{number:02d}.json"), *run.glob(f"table_{number:02d}.json")]
    if not files:
        have = sorted({int(p.stem[6:]) for p in [*run.glob("*/table_*.json"), *run.glob("table_*.json")]})
        raise DataError(
            f"Table {number} was not computed there",
            where=str(run),
            fix=f"computed: {', '.join(map(str, have))}" if have else "run: openqwen tour",
        )
    newest = max(files, key=lambda path: path.stat().st_mtime)  # PMP and RM both fill Table 4
    data: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))
    made = artifact.find(newest.parent)
    if made is not None:
        for row in data["rows"]:
            for cell in row["cells"].values() if row["origin"] == "ours" else ():
                cell.setdefault("manifest", made.content)
    return data


# ------------------------------------------------------------------------------------------------ filling
def fill_with(
    number: int,
    base: Sequence[Path],
    chat: Sequence[Path],
    data: Path | None,
    tokens: Path | None,
    out: Path | None,
    recipe: Sequence[str] | None,
) -> dict[str, Any]:
    """Table N with a row for each model; written to `out` with cards, outputs and items, if that is given."""
    if number in STAGES:
        raise UsageError(
            f"Table {number} is filled by a stage of its own",
            where="--model",
            fix=f"{STAGES[number]} --help, then: openqwen table {number} --run OUT",
        )
    if data is None:
        raise UsageError("filling a table needs item sets", fix="--data FOLDER, see openqwen table --help")
    from openqwen.cli.settings import settings_of
    from openqwen.evals import contamination, fill, tables
    from openqwen.evals.tasks import TASKS

    config = settings_of("evals", recipe or (), {}).config
    wanted = list(dict.fromkeys(task for task, _ in tables.keys(number)))
    sets, missing, places = read_sets(data, wanted)
    if not sets:
        raise DataError(
            f"no set of Table {number} there",
            where=str(data),
            fix=f"files: {', '.join(wanted)} (.jsonl, .jsonl.gz)",
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    subjects = load_subjects(base, chat, config)
    results = fill.run_tasks(
        [(subject, key) for subject in subjects for key in tables.keys(number)],
        sets,
        config,
        f"{data.name}, {{}}",
        places,
        out / "journal.jsonl" if out else None,
    )
    notes = [
        "Our rows: at most "
        f"{config.choice_items} items of a set with options, {config.text_items} of one answered in text, "
        f"{config.code_items} of one answered in code, chosen by seed {config.seed}. Intervals are 95 %."
    ]
    if tokens is not None:
        titled = {TASKS[name].title: items for name, items in sets.items()}
        notes.append(contamination.footnote(titled, tokens))
    else:
        notes.append("Contamination: no corpus was given to compare the items with (--tokens).")
    if fewer := fill.fewer_shots(results):
        notes.append(fewer)
    made = tables.build(number, results, sets, notes, missing, config.seed)
    if out is not None:
        fill.keep(out, [made], results, sets)
        note(f"table, cards and outputs: {out}; openqwen eval verify {out} scores them again")
    return made


def read_sets(
    folder: Path, tasks: Sequence[str]
) -> tuple[dict[str, list[Any]], dict[str, str], dict[str, Mapping[str, Any]]]:
    """(items of each task there is, why each other one is missing, where the items came from).

    A file TASK.jsonl, as a primer has it, or the set's published form (sets.py). Rows that are no item of their task
    are left out and counted.
    """
    from openqwen.evals.sets import load
    from openqwen.evals.tasks import TASKS

    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), fix="give the folder of TASK.jsonl files")
    sets: dict[str, list[Any]] = {}
    missing: dict[str, str] = {}
    places: dict[str, Mapping[str, Any]] = {}
    for task in tasks:
        file = next((p for end in (".jsonl", ".jsonl.gz") if (p := folder / f"{task}{end}").is_file()), None)
        if file is None:
            found = load(TASKS[task], folder)
            if found.missing is None:
                sets[task], places[task] = found.items, found.data
            else:
                missing[task] = found.missing
            continue
        items, bad = TASKS[task].read_all(file)
        if not items:
            missing[task] = f"no readable row in {file}"
            continue
        sets[task] = items
        places[task] = {"file": file.name, "sha256": artifact.sha256_file(file), "unreadable": len(bad)}
    return sets, missing, places


def load_subjects(base: Sequence[Path], chat: Sequence[Path], config: Any) -> list[Subject]:
    """The models, named by their folders. UsageError for two of one name."""
    from openqwen.evals.stage import load_subject

    named: dict[str, Subject] = {}
    asked: list[tuple[Kind, Sequence[Path]]] = [("base", base), ("chat", chat)]
    for kind, paths in asked:
        for path in paths:
            name = path.name if path.name not in named else str(path)
            if name in named:
                raise UsageError(f"{path} is given twice", fix="once as --model or once as --chat")
            named[name] = load_subject(name, path, kind, config)
    return list(named.values())


# ------------------------------------------------------------------------------------------------ showing
def write(data: dict[str, Any], form: Form, to: Path | None) -> None:
    """Prints the table in a form, or writes it to a file."""
    from openqwen.evals.render import chart, latex, markdown

    if form in ("svg", "png"):
        if to is None:
            raise UsageError(
                f"a picture needs a file: --form {form}", fix=f"--to table{data['table']}.{form}"
            )
        write_atomic(to, chart(data, form))
    elif form == "terminal" and to is None:
        # Wider than a narrow terminal rather than cut: a table is for reading, and pipes have no width.
        width = max(console.width, 50 + 22 * len(data["columns"]))
        Console(width=width, highlight=False).print(render(data), crop=False)
    else:
        text = {"markdown": markdown, "latex": latex}.get(form, as_json)(data)
        if to is None:
            sys.stdout.write(text)
        else:
            write_atomic(to, text)
    if to is not None:
        note(f"Table {data['table']}: {to}")


def as_json(data: Mapping[str, Any]) -> str:
    """The table file itself."""
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def render(data: dict[str, Any]) -> Table:
    """A table artefact as rich shows it; the notes become the caption."""
    from openqwen.evals.render import cell_text

    columns = [c["name"] for c in data["columns"]]
    shown = Table("model", "origin", *columns, title=data["title"], caption="\n".join(data.get("notes", [])))
    for row in data["rows"]:
        shown.add_row(row["model"], row["origin"], *(cell_text(row, c) for c in columns))
    return shown
