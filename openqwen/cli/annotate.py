"""`openqwen annotate`: people rank replies of several models blind, and what follows from it (report §3.3, A.2.2)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openqwen.cli.common import AsJson
from openqwen.cli.settings import print_json
from openqwen.core.console import console, note

if TYPE_CHECKING:
    from openqwen.report.tables import Sheet

Form = Literal["terminal", "markdown", "latex"]
PICTURES = ("png", "svg", "pdf")
app = App(name="annotate", help="§3.3  People rank replies of several models blind (Figure 4).")


@app.default
def page(
    samples: Path,
    *,
    db: Annotated[Path, Parameter(help="SQLite file of answers; made if it is not there.")],
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 8002,
    judges: Annotated[int, Parameter(help="Annotators that are to answer each instruction.")] = 3,
    seed: Annotated[int, Parameter(help="Of the orders; a file of answers keeps its own.")] = 0,
) -> int:
    """A page on this machine where annotators rank replies without knowing the models.

    SAMPLES: what `openqwen sample` made, or a file of {"instruction", "replies": {MODEL: TEXT}} records.
    """
    from openqwen.annotate.ballots import Ballots
    from openqwen.annotate.items import read_items
    from openqwen.annotate.server import Booth, serve
    from openqwen.core.errors import UsageError

    if judges < 1:
        raise UsageError(f"{judges} annotators answer nothing", where="--judges", fix="--judges 3")
    serve(Booth(Ballots.start(db, read_items(samples), seed), judges), port)
    return 0


@app.command
def results(
    db: Path,
    *,
    baseline: Annotated[
        str | None, Parameter(help="Model that others are held against; by default the first by name.")
    ] = None,
    form: Form = "terminal",
    to: Annotated[Path | None, Parameter(help="File for the form; left out: the terminal.")] = None,
    figure: Annotated[Path | None, Parameter(help="Write Figure 4 here: .png, .svg or .pdf.")] = None,
    out: Annotated[
        Path | None, Parameter(help="Folder for everything in every form: what `openqwen report` shows.")
    ] = None,
    pairs: Annotated[
        Path | None, Parameter(help="Write comparison pairs here: what `openqwen reward` reads.")
    ] = None,
    scores: Annotated[
        Path | None, Parameter(help="Write scores of 1 to 10 here: for `openqwen pairs --scores`.")
    ] = None,
    seed: Annotated[int, Parameter(help="Of the intervals.")] = 0,
    as_json: AsJson = False,
) -> int:
    """Wins, ties and losses against one model, ratings, agreement of annotators; pairs for the reward model."""
    from openqwen.annotate.ballots import Ballots
    from openqwen.annotate.results import export_pairs, export_scores, summarise
    from openqwen.annotate.sheets import keep

    ballots = Ballots(db)
    found = summarise(ballots, baseline, seed)
    if as_json:
        print_json(found)
    else:
        write(found, form, to)
    written = [(to, "results")]
    if figure is not None:
        write_figure(found, figure)
        written.append((figure, "Figure 4"))
    if out is not None:
        keep(ballots, found, seed, out)
        written.append((out, "results in every form; openqwen report shows them"))
    if pairs is not None:
        written.append((pairs, f"{export_pairs(ballots, pairs)} pairs"))
    if scores is not None:
        written.append((scores, f"{export_scores(ballots, scores)} scores"))
    piped = as_json or (form != "terminal" and to is None)  # nothing else may stand there
    for path, what in written:
        if path is not None and not piped:
            note(f"{what}: {path}")
    return 0


@app.command
def instructions(
    *,
    out: Annotated[Path, Parameter(help="JSON lines: what `openqwen sample --prompts` reads.")],
    language: Annotated[str | None, Parameter(name="--lang", help="Only these: en or zh.")] = None,
    topic: Annotated[str | None, Parameter(help="Only these, such as coding.")] = None,
) -> int:
    """Writes this project's own instructions in English and Chinese over the report's five topics."""
    from openqwen.annotate.instructions import select
    from openqwen.core.artifact import write_jsonl

    note(f"{write_jsonl(out, select(language, topic))} instructions: {out}")
    return 0


def write(found: Mapping[str, Any], form: Form, to: Path | None) -> None:
    """Prints results in a form, or writes them to a file."""
    from openqwen.annotate.sheets import sheets
    from openqwen.core.artifact import write_atomic
    from openqwen.core.errors import UsageError
    from openqwen.report.tables import latex, markdown

    if form == "terminal":
        if to is not None:
            raise UsageError("the terminal's form is no file's", where="--to", fix="--form markdown or latex")
        for sheet in sheets(found):
            show(sheet)
        return
    text = {"markdown": markdown, "latex": latex}[form](*sheets(found))
    if to is None:
        sys.stdout.write(text)
    else:
        write_atomic(to, text)


def write_figure(found: Mapping[str, Any], path: Path) -> None:
    """Writes Figure 4 in the form that the file's name ends with. UsageError for another than png, svg, pdf."""
    from openqwen.annotate.sheets import figure
    from openqwen.core.artifact import write_atomic
    from openqwen.core.errors import UsageError
    from openqwen.report.figures import picture

    kind = path.suffix[1:].lower()
    if kind not in PICTURES:
        raise UsageError(
            f"a figure's name ends with .{', .'.join(PICTURES)}",
            where=str(path),
            fix="--figure win-rates.png",
        )
    write_atomic(path, picture(figure(found).picture, kind))


def show(sheet: Sheet) -> None:
    """Prints a table and, below it, its notes."""
    table = Table(box=None, pad_edge=False, title=escape(sheet.heading), title_justify="left")
    for place, head in enumerate(sheet.head):
        table.add_column(escape(head), justify="left" if place < sheet.words else "right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*map(escape, row))
    if sheet.rows:
        # Wider than a narrow terminal rather than cut: a table is for reading, and pipes have no width.
        Console(width=max(console.width, 120), highlight=False).print(table, crop=False)
    for line in sheet.notes:
        note(line)
