"""`openqwen data why`: whether and why a text is in a corpus, and when a model saw it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.markup import escape

from openqwen.cli.common import AsJson
from openqwen.cli.settings import print_json
from openqwen.core import artifact
from openqwen.core.console import console, note

_LISTED = 5  # copies that are named
_RANGES = 12  # runs of steps that are named


def why(
    corpus: Path,
    question: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True, help="An id, or a piece of text; - reads it from standard input."
        ),
    ],
    *,
    model: Annotated[
        Path | None,
        Parameter(
            help="A model, or a checkpoint of a run that goes on still: at which steps was the text seen?"
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Whether and why a text is in a corpus: the step that dropped it, what it stands for, when it was trained on.

    Text is found whatever its case, width, space and punctuation; if no document holds it, the nearest are shown.
    """
    from openqwen.data.account import Account
    from openqwen.data.why import explain, find

    account = Account(artifact.load(corpus, "corpus"))
    if question == "-":
        question = sys.stdin.read()
    runs = []
    if model is not None:
        from openqwen.cli.seen import runs_on

        runs = runs_on(account.corpus, model)
    found, count = find(account, question, None if as_json else "search")
    told = []
    for one in found:
        found_as = {"how": one.how, "held": one.held, "similarity": one.similarity}
        story = {"found": found_as, **explain(account, one.id)}
        if model is not None:
            from openqwen.cli.seen import seen

            story["seen"] = [seen(run, one.id) for run in runs]
        told.append(story)
    if as_json:
        print_json({"corpus": str(corpus), "found": count, "documents": told})
    else:
        show(told, count)
    return 0


def show(told: Sequence[Mapping[str, Any]], count: int) -> None:
    """Prints the documents' stories."""
    if not told:
        note("no document of this corpus, kept or dropped, holds this text or much of it")
    elif told[0]["found"]["how"] != "id":
        what = "hold this text" if told[0]["found"]["how"] == "text" else "hold some of this text"
        note(f"{count} documents {what}" + (f", the first {len(told)}:" if count > len(told) else ":"))
    for story in told:
        console.print(f"[bold]{escape(story['id'])}[/]")
        for line in lines(story):
            note(line)


def lines(story: Mapping[str, Any]) -> Iterator[str]:
    """What is said of a document, a line each."""
    yield f"{story['source']}, {story['lang'] or 'language unknown'}, {story['bytes']:,} bytes"
    if story["found"]["how"] == "near":
        yield f"holds {story['found']['held']:.0%} of the text; similarity {story['found']['similarity']:.2f}"
    yield fate(story)
    for other in story["instead"]:
        what = f"dropped by {other['step']}: {other['reason']}" if other["step"] else "in the corpus"
        alike = "" if other["similarity"] is None else f" (similarity {other['similarity']:.2f})"
        yield f"in its place stayed {other['id']}{alike}: {what}"
    if story["cut"] is not None:
        yield f"{story['cut']:.1%} of it was cut out: it overlapped with a benchmark"
    if story["stands_for"]:
        yield f"stands for {len(story['stands_for'])} more:"
        for copy in story["stands_for"][:_LISTED]:
            yield f"  {copy['id']} ({copy['reason']} of {copy['of']})"
        if len(story["stands_for"]) > _LISTED:
            yield f"  and {len(story['stands_for']) - _LISTED} more"
    scores = {name: value for name, value in story["scores"].items() if not name.startswith("rules.")}
    if scores:
        yield "scores: " + ", ".join(f"{name} {value:g}" for name, value in scores.items())
    for run in story.get("seen", ()):
        yield from _seen(run)


def fate(story: Mapping[str, Any]) -> str:
    """In the corpus or not, and why."""
    if story["split"] == "valid":
        return "in the corpus, held out for validation: never trained on"
    if story["in"]:
        times = "once" if story["copies"] == 1 else f"{story['copies']} times"
        return f"in the corpus, {times}: no step dropped it"
    more = f" ({story['detail']})" if story["detail"] else ""
    of = f" {story['of']}" if story["of"] and not story["instead"] else ""
    return f"not in the corpus: dropped by {story['step']}: {story['reason']}{of}{more}"


def _seen(run: Mapping[str, Any]) -> Iterator[str]:
    if not run["steps"]:
        yield f"{run['model']} ({run['stage']}): never seen"
        return
    yield f"{run['model']} ({run['stage']}): seen at {len(run['steps'])} steps"
    for epoch, steps in run["epochs"].items():
        yield f"  epoch {epoch}: step {ranges(steps)}"
    if run["skipped"]:
        yield f"  of these without effect, because loss or gradient was not finite: {ranges(run['skipped'])}"


def ranges(steps: Sequence[int]) -> str:
    """`ranges([1, 2, 3, 7])` -> `"1-3, 7"`; after some of them how many steps are left out."""
    grouped = [[step for _, step in group] for _, group in groupby(enumerate(steps), lambda p: p[1] - p[0])]
    shown = [f"{own[0]}-{own[-1]}" if len(own) > 1 else str(own[0]) for own in grouped[:_RANGES]]
    left = sum(map(len, grouped[_RANGES:]))
    return ", ".join(shown) + (f" and {left} more" if left else "")
