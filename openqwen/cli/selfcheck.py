"""`openqwen selfcheck`: proof on this machine that loss and gradients do not depend on how they are computed.

Ours. Exit code 0 if everything that could be checked holds, 1 otherwise.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from openqwen.core.artifact import environment, write_json
from openqwen.core.console import console, note
from openqwen.core.errors import UsageError, did_you_mean
from openqwen.selfcheck.result import COMPILER_SECONDS, Comparison, Result

WIDTH = 120  # a table is for reading: wider than a narrow terminal rather than cut
_COLOURS = {"ok": "green", "FAILED": "bold red", "skipped": "yellow"}


def selfcheck(
    *names: Annotated[str, Parameter(help="Checks to make; none: all.")],
    as_json: Annotated[Path | None, Parameter(name="--json", help="File for the result as JSON.")] = None,
    compiler_seconds: Annotated[
        float, Parameter(help="Longest time for torch.compile to generate code; then its graphs are checked.")
    ] = COMPILER_SECONDS,
) -> int:
    """Trains a tiny model in many ways and compares losses and gradients with the same computed plainly.

    Micro-batches, processes, packing, padding, recomputed activations, chunked loss, compilation, saving and
    loading, transformers. Every line has its bound; takes less than a minute.
    """
    begun = time.monotonic()
    results = run(names, compiler_seconds)
    seconds = round(time.monotonic() - begun, 1)
    failed = [result for result in results if result.status == "FAILED"]
    for result in failed:
        note(f"FAILED {result.name}: {_reason(result)}")
        note(f"  look at {result.look}")
    counts = {status: sum(r.status == status for r in results) for status in _COLOURS}
    note("  ".join(f"{count} {status}" for status, count in counts.items() if count) + f"  {seconds:.0f} s")
    if as_json is not None:
        record = {"ok": not failed, "seconds": seconds, "checks": [r.record() for r in results]}
        write_json(as_json, _finite({**record, "environment": environment()}))
    return 1 if failed else 0


def run(names: Sequence[str], compiler_seconds: float) -> list[Result]:
    """Makes the checks of these names (none: all) and shows each as it ends."""
    from openqwen.selfcheck.bed import Bed
    from openqwen.selfcheck.checks import CHECKS, start_compiler, start_processes
    from openqwen.selfcheck.result import make

    known = [check.name for check in CHECKS]
    for name in names:
        if name not in known:
            raise UsageError(
                f"no check '{name}'.{did_you_mean(name, known)}",
                where="command line",
                fix=f"the checks are: {', '.join(known)}",
            )
    chosen = [check for check in CHECKS if not names or check.name in names]
    results: list[Result] = []
    # Checks turn away what the stages print; the table goes to where output went before.
    screen = Console(file=sys.stdout, highlight=False, width=max(WIDTH, console.width))
    live = Live(console=screen, auto_refresh=False, transient=True)
    with tempfile.TemporaryDirectory() as folder, live:
        bed = Bed(Path(folder), compiler_seconds=compiler_seconds)
        try:
            for name, start in (("compile", start_compiler), ("number of processes", start_processes)):
                if any(check.name == name for check in chosen):
                    start(bed)  # they work while the others are made
            for number, check in enumerate(chosen, 1):
                doing = f"{number}/{len(chosen)} {check.name} ..."
                if screen.is_terminal:
                    live.update(table(results, doing), refresh=True)
                else:
                    screen.print(f"  {doing}", markup=False)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of libraries; they would break the table
                    results.append(make(check, bed))
        finally:
            bed.stop()
    screen.print(table(results))
    return results


def table(results: Sequence[Result], doing: str | None = None) -> Table:
    """A row a comparison: what was compared, the greatest difference, its bound."""
    columns = ("check", "compared", "difference", "bound", "")
    shown = Table(*columns, box=None, pad_edge=False, caption=doing, caption_justify="left")
    shown.columns[2].justify = shown.columns[3].justify = "right"
    for result in results:
        name = escape(result.name)
        for comparison in result.comparisons:
            status = "ok" if comparison.ok else "FAILED"
            shown.add_row(name, escape(comparison.what), *_numbers(comparison), _coloured(status))
            name = ""
        if result.skipped is not None or result.error is not None or not result.comparisons:
            shown.add_row(name, escape(_reason(result)), "", "", _coloured(result.status))
    return shown


def _numbers(comparison: Comparison) -> tuple[str, str]:
    bound = "same bits" if comparison.bound == 0 else f"{comparison.bound:.0e}"
    return (f"{comparison.difference:.1e}" if comparison.difference else "0"), bound


def _coloured(status: str) -> str:
    return f"[{_COLOURS[status]}]{status}[/]"


def _reason(result: Result) -> str:
    """What is wrong with a check, or why it was not made, in one line."""
    if result.skipped is not None:
        return f"skipped: {result.skipped}"
    if result.error is not None:
        return result.error
    worst = [c for c in result.comparisons if not c.ok]
    if not worst:
        return "nothing was compared"
    first = worst[0]
    place = f" in {first.place}" if first.place else ""
    return f"{first.what}: {first.difference:.1e}{place}, the bound is {first.bound:.0e}"


def _finite(value: Any) -> Any:
    """JSON has no infinity: it becomes null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
