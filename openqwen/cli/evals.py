"""`openqwen eval`: fill the tables of a family of models; `openqwen eval verify`: score kept outputs again."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from openqwen.cli.training import evaluate
from openqwen.core.console import note

app = App(name="eval", default_command=evaluate)


@app.command
def verify(card: Path) -> int:
    """Scores kept outputs again without a model; says which number differs and why. Exit code 1 if one does.

    Parameters
    ----------
    card
        The folder that openqwen eval or openqwen table --out wrote, or a file in it.
    """
    from openqwen.evals.verify import verify as verify_folder

    checks, wrong = verify_folder(card)
    for check in checks:
        for problem in check.problems:
            note(f"differs: {check.name} ({check.manifest[:12]}): {problem}")
        if check.skipped:
            note(f"not checked: {check.name}: {check.skipped}")
    for problem in wrong:
        note(f"differs: {problem}")
    same = sum(not check.problems and not check.skipped for check in checks)
    note(f"{same} of {len(checks)} numbers are the same from their kept outputs")
    return 1 if wrong or any(check.problems for check in checks) else 0
