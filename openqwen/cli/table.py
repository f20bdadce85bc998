"""`openqwen table N`: a table of the report, published rows and ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from openqwen.evals.task import Kind, Protocol

if TYPE_CHECKING:
    from openqwen.evals.harness import Subject

Form = Literal["terminal", "markdown", "latex", "json", "svg", "png"]
# Tables that a stage of their own fills.
STAGES = {
    3: "openqwen extend",
    4: "openqwen reward",
    6: "openqwen agent-eval",
    7: "openqwen agent-bench",
    8: "openqwen agent-bench",
    9: "openqwen agent-bench",
}


HARNESS = (
    "Our rows have the prompts, extraction and scoring of lm-evaluation-harness 0.4, with as many examples as the "
    "report has, the first of each set; the published rows have not."
)


def table(
    number: int,
    *,
    run: Annotated[Path, Parameter(help="A tour's folder, or one that a stage or --out wrote.")] = Path(
        "out/tour"
    ),
    model: Annotated[
        list[str] | None,
        Parameter(help="A model to fill it with, asked as a base model, or an address; repeatable."),
    ] = None,
    chat: Annotated[
        list[str] | None,
        Parameter(help="A model asked as a chat model, or an address, http://HOST/v1#NAME; repeatable."),
    ] = None,
    protocol: Annotated[
        Protocol,
        Parameter(
            help="Prompts, extraction and scoring: the report's, or those of lm-evaluation-harness 0.4."
        ),
    ] = "report",
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
        found = fill_with(number, model or [], chat or [], data, tokens, out, recipe, protocol)
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
        computed = f"computed there: {', '.join(map(str, have)) or 'none'}"
        way = (
            f"{STAGES[number]} --help"
            if number in STAGES
            else f"openqwen table {number} --model M --data FOLDER"
        )
        raise DataError(f"Table {number} was not computed there", where=str(run), fix=f"{way} ({computed})")
    from openqwen.report.tables import read

    return read(max(files, key=lambda path: path.stat().st_mtime))  # PMP and RM both fill Table 4


# ------------------------------------------------------------------------------------------------ filling
def fill_with(
    number: int,
    base: Sequence[str],
    chat: Sequence[str],
    data: Path | None,
    tokens: Path | None,
    out: Path | None,
    recipe: Sequence[str] | None,
    protocol: Protocol,
) -> dict[str, Any]:
    """Table N with a row for each model; written to `out` with cards, outputs and items, if that is given.

    What a model cannot be asked in this protocol, or on this machine, is a dash and a line of the notes; UsageError if
    the harness' protocol leaves nothing.
    """
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
    asked = [(subject, key) for subject in subjects for key in tables.keys(number)]
    dashes = fill.dashes(asked, sets, protocol)
    if protocol == "harness" and all(
        fill.why_not(subject, task, protocol) for subject, (task, _) in asked if task in sets
    ):
        raise UsageError(
            f"nothing of Table {number} can be asked so: {' '.join(dashes)}",
            where="--protocol harness",
            fix="--protocol report, another model, or what is missing",
        )
    journal = out / "journal.jsonl" if out else None
    results = fill.run_tasks(asked, sets, config, f"{data.name}, {{}}", places, journal, protocol)
    notes = [
        *dashes,
        "Our rows: at most "
        f"{config.choice_items} items of a set with options, {config.text_items} of one answered in text, "
        f"{config.code_items} of one answered in code, chosen by seed {config.seed}. Intervals are 95 %.",
        *([HARNESS] if protocol == "harness" else []),
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


def load_subjects(base: Sequence[str], chat: Sequence[str], config: Any) -> list[Subject]:
    """The models, named by their folders or, at an address, as it names them. UsageError for two of one name."""
    from openqwen.evals.stage import load_subject

    named: dict[str, Subject] = {}
    asked: list[tuple[Kind, Sequence[str]]] = [("base", base), ("chat", chat)]
    for kind, places in asked:
        for place in places:
            name = place.partition("#")[2] if is_address(place) else Path(place).name
            name = name if name not in named else place
            if name in named:
                raise UsageError(f"{place} is given twice", fix="once as --model or once as --chat")
            if not is_address(place):
                named[name] = load_subject(name, Path(place), kind, config)
            else:
                named[name] = replace(at_address(place, kind, config), name=name)
    return list(named.values())


def is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def at_address(place: str, kind: Kind, config: Any) -> Subject:
    """A model behind an OpenAI-compatible address. UsageError unless it is ADDRESS#NAME."""
    from openqwen.annotate.config import RemoteConfig, checked_address
    from openqwen.annotate.models import Remote
    from openqwen.evals.remote import remote_subject

    try:
        address = checked_address(place)
    except ValueError as error:
        raise UsageError(str(error), where="--chat" if kind == "chat" else "--model") from error
    remote = Remote(address, RemoteConfig())
    return remote_subject(remote, config.address_bytes, config.address_parallel, kind)


# ------------------------------------------------------------------------------------------------ showing
def write(data: dict[str, Any], form: Form, to: Path | None) -> None:
    """Prints the table in a form, or writes it to a file."""
    from openqwen.report import charts, figures, tables

    if form in ("svg", "png"):
        if to is None:
            raise UsageError(
                f"a picture needs a file: --form {form}", fix=f"--to table{data['table']}.{form}"
            )
        write_atomic(to, figures.picture(charts.scores(data), form))
    elif form == "terminal" and to is None:
        # Wider than a narrow terminal rather than cut: a table is for reading, and pipes have no width.
        width = max(console.width, 50 + 22 * len(data["columns"]))
        Console(width=width, highlight=False).print(render(data), crop=False)
    else:
        forms = {"markdown": tables.markdown, "latex": tables.latex}
        text = forms[form](tables.sheet(data)) if form in forms else as_json(data)
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
    from openqwen.report.tables import cell_text, notes

    columns = [c["name"] for c in data["columns"]]
    shown = Table("model", "origin", *columns, title=data["title"], caption="\n".join(notes(data)))
    for row in data["rows"]:
        shown.add_row(row["model"], row["origin"], *(cell_text(row, c) for c in columns))
    return shown
