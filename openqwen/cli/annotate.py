"""`openqwen annotate`: people rank replies of several models blind, and what follows from it (report §3.3, A.2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openqwen.cli.common import AsJson
from openqwen.cli.settings import print_json
from openqwen.core.console import console, note

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
    figure: Annotated[Path | None, Parameter(help="Write Figure 4 here: .png, .svg or .pdf.")] = None,
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

    ballots = Ballots(db)
    found = summarise(ballots, baseline, seed)
    if as_json:
        print_json(found)
    else:
        show(found)
    if figure is not None:
        from openqwen.annotate.figure import draw

        draw(found["shares"], found["baseline"], figure)
    written = [(figure, "Figure 4")]
    if pairs is not None:
        written.append((pairs, f"{export_pairs(ballots, pairs)} pairs"))
    if scores is not None:
        written.append((scores, f"{export_scores(ballots, scores)} scores"))
    for path, what in written:
        if path is not None and not as_json:
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


def show(found: Mapping[str, Any]) -> None:
    """Prints results as tables."""
    counted = found["instructions"]
    people = ", ".join(f"{escape(name)} {count}" for name, count in found["annotators"].items())
    note(f"{counted['answered']} of {counted['all']} instructions answered; answers: {people}")
    rows = [
        [name if first else "", escape(s["model"]), str(s["instructions"]), *_percent(s)]
        for name, own in found["shares"].items()
        for first, s in ((n == 0, s) for n, s in enumerate(own))
    ]
    heads = ("topic", "model", "instructions", "win", "tie", "loss", "win + tie/2", "95 % interval")
    _print(f"Against {escape(found['baseline'])} (Figure 4)", heads, rows)
    ratings = [
        [escape(r["model"]), *_rating(r, "bradley_terry"), *_rating(r, "elo")] for r in found["ratings"]
    ]
    _print("Ratings", ("model", "Bradley-Terry", "95 % interval", "Elo", "95 % interval"), ratings)
    marked = [
        [escape(m["model"]), str(m["marks"]), str(m["broken"]), str(m["unsafe"]), _number(m["score"])]
        for m in found["models"]
    ]
    _print("Marks", ("model", "replies ranked", "broken", "unsafe", "mean score"), marked)
    agreed = found["agreement"]
    note(
        f"agreement: Krippendorff's alpha {_number(agreed['alpha'])}, Cohen's kappa {_number(agreed['kappa'])}"
    )
    for pair in agreed["pairs"]:
        note(
            f"  {escape(' and '.join(pair['annotators']))}: kappa {_number(pair['kappa'])}, the same in"
            f" {pair['same']:.1%} of {pair['comparisons']} comparisons"
        )


def _percent(share: Mapping[str, Any]) -> list[str]:
    middle = share["win"] + share["tie"] / 2
    parts = [f"{value:.1%}" for value in (share["win"], share["tie"], share["loss"], middle)]
    return [*parts, f"{share['low']:.1%} to {share['high']:.1%}"]


def _rating(rating: Mapping[str, Any], kind: str) -> list[str]:
    low, high = rating[f"{kind}_interval"]
    return [f"{rating[kind]:.0f}", f"{low:.0f} to {high:.0f}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print(title: str, heads: tuple[str, ...], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in ("topic", "model") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Wider than a narrow terminal rather than cut: a table is for reading, and pipes have no width.
    Console(width=max(console.width, 120), highlight=False).print(table, crop=False)
