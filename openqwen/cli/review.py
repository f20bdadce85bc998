"""`openqwen data review`: people look at random documents of a corpus (report §2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openqwen.cli.common import AsJson
from openqwen.cli.settings import print_json
from openqwen.core import artifact
from openqwen.core.console import console, note


def review(
    corpus: Path,
    *,
    summary: Annotated[
        bool, Parameter(negative="", help="Print what the judgements so far say, serve nothing.")
    ] = False,
    as_json: AsJson = False,
    judgements: Annotated[
        Path | None, Parameter(help="SQLite file; by default CORPUS.review.sqlite, beside the corpus.")
    ] = None,
    dropped: Annotated[int, Parameter(help="Documents to look at of each reason for dropping.")] = 20,
    kept: Annotated[int, Parameter(help="Documents to look at of what each source keeps.")] = 50,
    seed: Annotated[int, Parameter(help="Another number is another sample.")] = 0,
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 8001,
) -> int:
    """A page on this machine with random documents, kept and dropped; people say keep or drop.

    From that it estimates how right each filter is and how much of what was kept is bad, with 95 % intervals.
    """
    from openqwen.data.account import Account
    from openqwen.data.review.estimate import summary as summarise
    from openqwen.data.review.judgements import Judgements
    from openqwen.data.review.sample import strata

    found = artifact.load(corpus, "corpus")
    account = Account(found)
    path = judgements or corpus.resolve().with_name(f"{corpus.resolve().name}.review.sqlite")
    said = Judgements(path, found.content)
    sampled = strata(account, dropped, kept, seed)
    if not summary and not as_json:
        from openqwen.data.review.server import Desk, serve

        serve(Desk(account, sampled, said), port)
        return 0
    result = summarise(account, sampled, said.all())
    if as_json:
        print_json(result)
    else:
        show(result)
    return 0


def show(result: Mapping[str, Any]) -> None:
    """Prints a summary as a table: of the filters how right they are, of what was kept how much is bad."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "documents", "judged", "people would drop", "95 % interval", "covered"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    groups = [result["kept"]] if result["kept"] else []
    for group in [*groups, *result["filters"]]:
        table.add_row(*_cells(group, f"[bold]{escape(group['name'])}[/]"))
        for part in group["parts"]:
            table.add_row(*_cells(part, f"  {escape(part['name'])}"))
    # Wider than a narrow terminal rather than cut: a table is for reading, and pipes have no width.
    Console(width=max(console.width, 120), highlight=False).print(table, crop=False)
    said = ", ".join(f"{name} {count}" for name, count in result["reviewers"].items())
    note(f"judgements: {said or 'none yet'}")
    if (agreed := result["agreement"])["pairs"]:
        note(
            f"two people agreed on {agreed['share']:.1%} of {agreed['pairs']} pairs "
            f"({agreed['low']:.1%} to {agreed['high']:.1%})"
        )


def _cells(line: Mapping[str, Any], name: str) -> list[str]:
    share = "-" if line["share"] is None else f"{line['share']:.1%}"
    interval = "-" if line["share"] is None else f"{line['low']:.1%} to {line['high']:.1%}"
    return [name, f"{line['size']:,}", str(line["judged"]), share, interval, f"{line['covered']:.0%}"]
